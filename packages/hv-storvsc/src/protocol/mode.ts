/** Mode pages: the low six bits of byte 2 of MODE SENSE. */
export const ModePage = { caching: 0x08, control: 0x0a, all: 0x3f } as const;
/** Which values MODE SENSE asks for: the high two bits of its byte 2. */
export const PageControl = { current: 0x00, changeable: 0x40, default: 0x80, saved: 0xc0 } as const;
/** The page is in the low six bits, the page control above. */
export const MODE_PAGE_MASK = 0x3f;

/** Flags in the device-specific byte of a mode parameter header. */
export const ModeFlag = { dpoFua: 0x10, writeProtected: 0x80 } as const;

/** Byte offsets in the mode parameter header of the 6-byte commands. */
export const ModeHeader6 = {
  dataLength: 0, // u8: bytes after this one
  mediumType: 1, // u8
  deviceSpecific: 2, // u8
  blockDescriptorLength: 3, // u8
  SIZE: 4, // bytes
} as const;

/** Byte offsets in the mode parameter header of the 10-byte commands. Big-endian. */
export const ModeHeader10 = {
  dataLength: 0, // u16: bytes after this field
  mediumType: 2, // u8
  deviceSpecific: 3, // u8
  blockDescriptorLength: 6, // u16
  SIZE: 8, // bytes
} as const;

/** Byte offsets in the caching page. */
export const CachingPage = {
  pageCode: 0, // u8: low six bits
  pageLength: 1, // u8: bytes after this one
  flags: 2, // u8: bit 2 is the write cache
  SIZE: 12, // bytes, as a Hyper-V disk sends it
} as const;

/** WCE, in the flags of the caching page: the disk has a write cache, and a guest must flush. */
export const WRITE_CACHE_ENABLED = 0x04;

/** What MODE SENSE told about a disk. */
export interface ModeData {
  readonly writeProtected: boolean;
  /** FUA and DPO are supported. */
  readonly dpoFua: boolean;
  /** From the caching page; undefined when it was not among the pages. */
  readonly writeCacheEnabled: boolean | undefined;
}

/** Parses the answer to MODE SENSE(6); undefined without a whole header. */
export function parseModeSense6(bytes: Uint8Array): ModeData | undefined {
  if (bytes.byteLength < ModeHeader6.SIZE) return undefined;
  const end = 1 + bytes[ModeHeader6.dataLength]!;
  const pages = ModeHeader6.SIZE + bytes[ModeHeader6.blockDescriptorLength]!;
  return modeData(bytes, bytes[ModeHeader6.deviceSpecific]!, pages, end);
}

/** Parses the answer to MODE SENSE(10); undefined without a whole header. */
export function parseModeSense10(bytes: Uint8Array): ModeData | undefined {
  if (bytes.byteLength < ModeHeader10.SIZE) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = 2 + view.getUint16(ModeHeader10.dataLength);
  const pages = ModeHeader10.SIZE + view.getUint16(ModeHeader10.blockDescriptorLength);
  return modeData(bytes, bytes[ModeHeader10.deviceSpecific]!, pages, end);
}

function modeData(bytes: Uint8Array, specific: number, pages: number, end: number): ModeData {
  const limit = Math.min(end, bytes.byteLength);
  let writeCacheEnabled: boolean | undefined;
  for (let at = pages; at + CachingPage.flags < limit; at += 2 + bytes[at + 1]!) {
    if ((bytes[at]! & MODE_PAGE_MASK) !== ModePage.caching) continue;
    writeCacheEnabled = (bytes[at + CachingPage.flags]! & WRITE_CACHE_ENABLED) !== 0;
  }
  return {
    writeProtected: (specific & ModeFlag.writeProtected) !== 0,
    dpoFua: (specific & ModeFlag.dpoFua) !== 0,
    writeCacheEnabled,
  };
}

/** Writes header and caching page as a Hyper-V disk answers MODE SENSE(6); returns the length, 16. */
export function emitModeSense6(
  target: Uint8Array,
  deviceSpecific: number,
  cachingFlags: number,
): number {
  const length = ModeHeader6.SIZE + CachingPage.SIZE;
  target.fill(0, 0, length);
  target[ModeHeader6.dataLength] = length - 1;
  target[ModeHeader6.deviceSpecific] = deviceSpecific;
  emitCachingPage(target, ModeHeader6.SIZE, cachingFlags);
  return length;
}

/** Writes header and caching page as a Hyper-V disk answers MODE SENSE(10); returns the length, 20. */
export function emitModeSense10(
  target: Uint8Array,
  deviceSpecific: number,
  cachingFlags: number,
): number {
  const length = ModeHeader10.SIZE + CachingPage.SIZE;
  target.fill(0, 0, length);
  target[ModeHeader10.dataLength + 1] = length - 2;
  target[ModeHeader10.deviceSpecific] = deviceSpecific;
  emitCachingPage(target, ModeHeader10.SIZE, cachingFlags);
  return length;
}

function emitCachingPage(target: Uint8Array, at: number, flags: number): void {
  target[at + CachingPage.pageCode] = ModePage.caching;
  target[at + CachingPage.pageLength] = CachingPage.SIZE - 2;
  target[at + CachingPage.flags] = flags;
}
