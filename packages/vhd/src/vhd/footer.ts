import { emitText, hasText, readText } from "../text-field.js";
import { type Geometry } from "./geometry.js";

/** Byte offsets in the 512-byte footer (and its copy at file offset 0). All fields big-endian. */
export const FooterLayout = {
  cookie: 0, // 8 characters
  features: 8, // u32
  version: 12, // u32, major in the high half
  dataOffset: 16, // u64, of the dynamic header; all ones in a fixed disk
  timestamp: 24, // u32, seconds since 2000-01-01 00:00:00 UTC
  creatorApplication: 28, // 4 characters
  creatorVersion: 32, // u32
  creatorHostOs: 36, // 4 characters
  originalSize: 40, // u64
  currentSize: 48, // u64
  cylinders: 56, // u16
  heads: 58, // u8
  sectorsPerTrack: 59, // u8
  diskType: 60, // u32
  checksum: 64, // u32
  uniqueId: 68, // 16 bytes
  savedState: 84, // u8
  SIZE: 512, // bytes; the rest is reserved
} as const;

/** The disk types that are still in use; 0, 1, 5 and 6 are deprecated. */
export const DiskType = { Fixed: 2, Dynamic: 3, Differencing: 4 } as const;

/** The footer's u32; the known values have names. */
export type DiskType = (typeof DiskType)[keyof typeof DiskType] | (number & {});

/** Reserved bit that is always set in `features`. */
export const FEATURES_RESERVED = 2;
/** Version 1.0 of the footer and of the dynamic header. */
export const VHD_VERSION = 0x0001_0000;
/** All 64 bits set: no such structure. */
export const NO_OFFSET = 0xffff_ffff_ffff_ffffn;
/** Seconds from the Unix epoch to the epoch of VHD time stamps, 2000-01-01 00:00:00 UTC. */
export const VHD_EPOCH_SECONDS = 946_684_800;

/** A VHD footer, copied out of the file. */
export interface Footer {
  readonly features: number;
  /** File offset of the dynamic header, `NO_OFFSET` in a fixed disk. */
  readonly dataOffset: bigint;
  /** Seconds since 2000-01-01 00:00:00 UTC. */
  readonly timestamp: number;
  /** Four characters: `win `, `vpc `, `qemu`, ... */
  readonly creatorApplication: string;
  readonly creatorVersion: number;
  /** Four characters: `Wi2k` Windows, `Mac `. */
  readonly creatorHostOs: string;
  readonly originalSize: bigint;
  /** Size of the virtual disk in bytes. */
  readonly currentSize: bigint;
  readonly geometry: Geometry;
  readonly diskType: DiskType;
  /** 16 bytes. */
  readonly uniqueId: Uint8Array;
  readonly savedState: number;
}

/** One's complement of the sum of all bytes, with the checksum field at `checksumOffset` taken as zero. */
export function vhdChecksum(bytes: Uint8Array, checksumOffset: number): number {
  let sum = 0;
  for (let at = 0; at < bytes.byteLength; at++)
    if (at < checksumOffset || at >= checksumOffset + 4) sum += bytes[at]!;
  return ~sum >>> 0;
}

/** Whether a footer seems to have been at this place at all, sound or not. */
export function hasFooterCookie(bytes: Uint8Array): boolean {
  return hasText(bytes, FooterLayout.cookie, "conectix");
}

/** Parses 512 bytes; a string says which rule they break. */
export function parseFooter(bytes: Uint8Array): Footer | string {
  if (bytes.byteLength !== FooterLayout.SIZE) return "the file is shorter than a footer";
  if (!hasFooterCookie(bytes)) return "the cookie 'conectix' is missing";
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const checksum = view.getUint32(FooterLayout.checksum);
  const expected = vhdChecksum(bytes, FooterLayout.checksum);
  if (checksum !== expected)
    return `the checksum is 0x${checksum.toString(16)}, its bytes give 0x${expected.toString(16)}`;
  const version = view.getUint32(FooterLayout.version);
  if (version !== VHD_VERSION) return `version 0x${version.toString(16)} is not 1.0`;
  return {
    features: view.getUint32(FooterLayout.features),
    dataOffset: view.getBigUint64(FooterLayout.dataOffset),
    timestamp: view.getUint32(FooterLayout.timestamp),
    creatorApplication: readText(bytes, FooterLayout.creatorApplication, 4),
    creatorVersion: view.getUint32(FooterLayout.creatorVersion),
    creatorHostOs: readText(bytes, FooterLayout.creatorHostOs, 4),
    originalSize: view.getBigUint64(FooterLayout.originalSize),
    currentSize: view.getBigUint64(FooterLayout.currentSize),
    geometry: {
      cylinders: view.getUint16(FooterLayout.cylinders),
      heads: view.getUint8(FooterLayout.heads),
      sectorsPerTrack: view.getUint8(FooterLayout.sectorsPerTrack),
    },
    diskType: view.getUint32(FooterLayout.diskType),
    uniqueId: bytes.slice(FooterLayout.uniqueId, FooterLayout.uniqueId + 16),
    savedState: view.getUint8(FooterLayout.savedState),
  };
}

/** The 512 bytes of a footer, checksum included. */
export function emitFooter(footer: Footer): Uint8Array {
  const bytes = new Uint8Array(FooterLayout.SIZE);
  const view = new DataView(bytes.buffer);
  emitText(bytes, FooterLayout.cookie, "conectix");
  view.setUint32(FooterLayout.features, footer.features);
  view.setUint32(FooterLayout.version, VHD_VERSION);
  view.setBigUint64(FooterLayout.dataOffset, footer.dataOffset);
  view.setUint32(FooterLayout.timestamp, footer.timestamp);
  emitText(bytes, FooterLayout.creatorApplication, footer.creatorApplication);
  view.setUint32(FooterLayout.creatorVersion, footer.creatorVersion);
  emitText(bytes, FooterLayout.creatorHostOs, footer.creatorHostOs);
  view.setBigUint64(FooterLayout.originalSize, footer.originalSize);
  view.setBigUint64(FooterLayout.currentSize, footer.currentSize);
  view.setUint16(FooterLayout.cylinders, footer.geometry.cylinders);
  view.setUint8(FooterLayout.heads, footer.geometry.heads);
  view.setUint8(FooterLayout.sectorsPerTrack, footer.geometry.sectorsPerTrack);
  view.setUint32(FooterLayout.diskType, footer.diskType);
  bytes.set(footer.uniqueId, FooterLayout.uniqueId);
  view.setUint8(FooterLayout.savedState, footer.savedState);
  view.setUint32(FooterLayout.checksum, vhdChecksum(bytes, FooterLayout.checksum));
  return bytes;
}
