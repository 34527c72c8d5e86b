/** The u32 at `at`, which need not be aligned: for structures in memory that others wrote. */
export function get32(bytes: Uint8Array, at: number): number {
  return getInt32(bytes, at) >>> 0;
}

/** The same 32 bits as an int32, which costs no object, whatever they are. */
export function getInt32(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}

/** Writes a u32 at `at`, which need not be aligned. */
export function put32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** `bytes` with zeros behind them, or without their end, so that they are `size`. */
export function resized(bytes: Uint8Array, size: number): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(size);
  copy.set(bytes.subarray(0, size));
  return copy;
}
