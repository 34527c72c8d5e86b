import { isPowerOfTwo } from "../power-of-two.js";
import { emitText, hasText } from "../text-field.js";
import { NO_OFFSET, VHD_VERSION, vhdChecksum } from "./footer.js";

/** Byte offsets in the 1024-byte header of dynamic and differencing disks. All fields big-endian. */
export const DynamicHeaderLayout = {
  cookie: 0, // 8 characters
  dataOffset: 8, // u64, all ones
  tableOffset: 16, // u64, of the block allocation table
  version: 24, // u32
  maxTableEntries: 28, // u32
  blockSize: 32, // u32, bytes, without the sector bitmap
  checksum: 36, // u32
  parentUniqueId: 40, // 16 bytes
  parentTimestamp: 56, // u32
  parentName: 64, // 512 bytes UTF-16BE, padded with zeros
  parentLocators: 576, // 8 entries of 24 bytes
  SIZE: 1024, // bytes; the last 256 are reserved
} as const;

/** A block allocation table entry of a block that is not in the file. */
export const NOT_ALLOCATED = 0xffff_ffff;

/** The header of a dynamic disk, copied out of the file. */
export interface DynamicHeader {
  /** File offset of the block allocation table. */
  readonly tableOffset: bigint;
  readonly maxTableEntries: number;
  /** Data bytes of a block. */
  readonly blockBytes: number;
  /** Differencing disks: the parent's name or path; otherwise empty. */
  readonly parentName: string;
}

/** Bytes of the sector bitmap before each block: a bit per sector, padded to whole sectors. */
export function sectorBitmapBytes(blockBytes: number): number {
  return Math.ceil(blockBytes / 512 / 8 / 512) * 512;
}

/** Parses 1024 bytes; a string says which rule they break. */
export function parseDynamicHeader(bytes: Uint8Array): DynamicHeader | string {
  if (!hasText(bytes, DynamicHeaderLayout.cookie, "cxsparse"))
    return "the cookie 'cxsparse' is missing";
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const checksum = view.getUint32(DynamicHeaderLayout.checksum);
  const expected = vhdChecksum(bytes, DynamicHeaderLayout.checksum);
  if (checksum !== expected)
    return `the checksum is 0x${checksum.toString(16)}, its bytes give 0x${expected.toString(16)}`;
  const version = view.getUint32(DynamicHeaderLayout.version);
  if (version !== VHD_VERSION) return `version 0x${version.toString(16)} is not 1.0`;
  const blockBytes = view.getUint32(DynamicHeaderLayout.blockSize);
  if (blockBytes < 512 || !isPowerOfTwo(blockBytes))
    return `the block size of ${blockBytes} bytes is not a power of two from 512 on`;
  let parentName = "";
  for (let at = 0; at < 512; at += 2) {
    const unit = view.getUint16(DynamicHeaderLayout.parentName + at);
    if (unit === 0) break;
    parentName += String.fromCharCode(unit);
  }
  return {
    tableOffset: view.getBigUint64(DynamicHeaderLayout.tableOffset),
    maxTableEntries: view.getUint32(DynamicHeaderLayout.maxTableEntries),
    blockBytes,
    parentName,
  };
}

/** The 1024 bytes of a dynamic disk's header, checksum included; no parent, no locators. */
export function emitDynamicHeader(header: Omit<DynamicHeader, "parentName">): Uint8Array {
  const bytes = new Uint8Array(DynamicHeaderLayout.SIZE);
  const view = new DataView(bytes.buffer);
  emitText(bytes, DynamicHeaderLayout.cookie, "cxsparse");
  view.setBigUint64(DynamicHeaderLayout.dataOffset, NO_OFFSET);
  view.setBigUint64(DynamicHeaderLayout.tableOffset, header.tableOffset);
  view.setUint32(DynamicHeaderLayout.version, VHD_VERSION);
  view.setUint32(DynamicHeaderLayout.maxTableEntries, header.maxTableEntries);
  view.setUint32(DynamicHeaderLayout.blockSize, header.blockBytes);
  view.setUint32(DynamicHeaderLayout.checksum, vhdChecksum(bytes, DynamicHeaderLayout.checksum));
  return bytes;
}
