/** Words of an entry of readv and writev: an address and a length, 64 bits each. */
export const VECTOR_WORDS = 4;

/** Writes a number below 2^53 as 64 bits. */
export function putWords64(words: Uint32Array, at: number, value: number): void {
  words[at] = value % 0x1_0000_0000;
  words[at + 1] = Math.floor(value / 0x1_0000_0000);
}
