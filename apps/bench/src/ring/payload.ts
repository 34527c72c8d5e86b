/** What both rings carry: a byte at index `i` is this, so that a payload that was cut or moved shows. */
export function payloadByte(index: number): number {
  return (index * 7 + (index >>> 8) * 13 + 1) & 0xff;
}

/** Checksum of a payload, FNV-1a of 32 bits: by which the two sides show what arrived last. */
export function checksum(bytes: Uint8Array, from: number, lengthBytes: number): number {
  let hash = 0x811c_9dc5;
  for (let at = from; at < from + lengthBytes; at++)
    hash = Math.imul(hash ^ bytes[at]!, 0x0100_0193);
  return hash >>> 0;
}

/** The checksum that a whole payload has. */
export function payloadChecksum(lengthBytes: number): number {
  const bytes = Uint8Array.from({ length: lengthBytes }, (_, index) => payloadByte(index));
  return checksum(bytes, 0, lengthBytes);
}
