/** Whether a count of bytes below 2^32 is a power of two, as the blocks of both formats are. */
export function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}
