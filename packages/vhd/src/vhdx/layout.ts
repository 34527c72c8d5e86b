/** What every part of a VHDX shares: its file map, its units, its limits. Source: [MS-VHDX] 2.1 to 2.6. */

/** Metadata changes, and travels through the log, in pages of this size. */
export const PAGE_BYTES = 4096;
/** Everything beyond the first of these starts and ends at a multiple of it. */
export const MIB = 1024 * 1024;

/** File offsets of the fixed structures in the first MiB. */
export const FileMap = {
  identifier: 0,
  header1: 64 * 1024,
  header2: 128 * 1024,
  regionTable1: 192 * 1024,
  regionTable2: 256 * 1024,
} as const;

/** Byte offsets of the file type identifier. */
export const IdentifierLayout = {
  signature: 0, // 8 characters
  creator: 8, // 512 bytes, UTF-16LE
  SIZE: 64 * 1024,
} as const;
/** How the file starts. */
export const IDENTIFIER_SIGNATURE = "vhdxfile";

/** Bounds that are checked before anything is allocated or walked. */
export const Limit = {
  /** Largest virtual disk. */
  diskBytes: 64 * 1024 ** 4,
  minBlockBytes: MIB,
  maxBlockBytes: 256 * MIB,
  minLogBytes: MIB,
  maxLogBytes: 1024 * MIB,
  metadataBytes: 128 * MIB,
  metadataItemBytes: MIB,
  batBytes: 513 * MIB,
  /** Largest image file: a block's place is held in 28 bits of MiB. */
  fileBytes: 2 ** 28 * MIB,
} as const;

/** `value` rounded up to a multiple of `unit`; exact for file positions. */
export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/**
 * A little-endian u64 as a number. Values from 2^53 on lose low bits but stay above every limit, so
 * compare before use.
 */
export function readU64(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
}

/** Writes an integer below 2^53 as a little-endian u64. */
export function emitU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 2 ** 32, true);
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
}

/** Whether two arrays have the same length and content. */
export function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  if (one.byteLength !== other.byteLength) return false;
  for (let at = 0; at < one.byteLength; at++) if (one[at] !== other[at]) return false;
  return true;
}

/** A view of exactly the array's bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
