/** Reflected form of the Castagnoli polynomial 0x1EDC6F41. */
const POLYNOMIAL = 0x82f63b78;

/** Eight tables of 256 words: table k advances a byte that is k bytes before the end of an 8-byte step. */
const tables = new Uint32Array(8 * 256);
for (let value = 0; value < 256; value++) {
  let crc = value;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
  tables[value] = crc;
}
for (let at = 256; at < tables.length; at++) {
  const before = tables[at - 256]!;
  tables[at] = (before >>> 8) ^ tables[before & 0xff]!;
}

/**
 * CRC-32C of `bytes` from `start` up to `end`: initial value and final XOR all ones, bits reflected;
 * the nine characters "123456789" give 0xE3069283.
 *
 * @param previous - The CRC of what came before, to go on from piece to piece; 0 to begin.
 */
export function crc32c(
  bytes: Uint8Array,
  start = 0,
  end: number = bytes.byteLength,
  previous = 0,
): number {
  let crc = ~previous;
  let at = start;
  for (; at + 8 <= end; at += 8) {
    const low =
      crc ^ (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24));
    crc =
      tables[0x700 | (low & 0xff)]! ^
      tables[0x600 | ((low >>> 8) & 0xff)]! ^
      tables[0x500 | ((low >>> 16) & 0xff)]! ^
      tables[0x400 | (low >>> 24)]! ^
      tables[0x300 | bytes[at + 4]!]! ^
      tables[0x200 | bytes[at + 5]!]! ^
      tables[0x100 | bytes[at + 6]!]! ^
      tables[bytes[at + 7]!]!;
  }
  for (; at < end; at++) crc = (crc >>> 8) ^ tables[(crc ^ bytes[at]!) & 0xff]!;
  return ~crc >>> 0;
}

const zeroField = new Uint8Array(4);

/** CRC-32C of all of `bytes` with the four bytes of the checksum field at `field` taken as zero. */
export function crc32cWithoutField(bytes: Uint8Array, field: number): number {
  const crc = crc32c(zeroField, 0, 4, crc32c(bytes, 0, field));
  return crc32c(bytes, field + 4, bytes.byteLength, crc);
}
