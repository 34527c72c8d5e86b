import { crc32c } from "../crc32c.js";
import { emitGuid, readGuid } from "../guid.js";
import { emitText, hasText } from "../text-field.js";
import { emitU64, PAGE_BYTES, readU64, roundUp, viewOf } from "./layout.js";

/** Byte offsets in the header of a log entry. Little-endian; the CRC covers the whole entry. */
export const LogEntryLayout = {
  signature: 0, // 4 characters
  checksum: 4, // u32
  length: 8, // u32, bytes of the whole entry
  tail: 12, // u32, log offset of the oldest entry still needed
  sequence: 16, // u64
  descriptorCount: 24, // u32
  logGuid: 32, // 16 bytes
  flushedFileBytes: 48, // u64
  lastFileBytes: 56, // u64
  descriptors: 64,
} as const;

/** Byte offsets in a zero descriptor: a range of the file to be zeroed. */
export const ZeroDescriptorLayout = {
  signature: 0, // 4 characters
  length: 8, // u64, bytes
  fileOffset: 16, // u64
  sequence: 24, // u64
  SIZE: 32,
} as const;

/** Byte offsets in a data descriptor: a page of the file, whose ends are kept here. */
export const DataDescriptorLayout = {
  signature: 0, // 4 characters
  trailing: 4, // last 4 bytes of the page
  leading: 8, // first 8 bytes of the page
  fileOffset: 16, // u64
  sequence: 24, // u64
  SIZE: 32,
} as const;

/** Byte offsets in a data sector: bytes 8 to 4091 of the page between two halves of the sequence number. */
export const DataSectorLayout = {
  signature: 0, // 4 characters
  sequenceHigh: 4, // u32
  body: 8,
  sequenceLow: 4092, // u32
} as const;

/** How the parts of the log start. */
export const LogSignature = { Entry: "loge", Zero: "zero", Data: "desc", Sector: "data" } as const;

const BODY_END = DataSectorLayout.sequenceLow;

/** Data descriptors that fit into the first sector of an entry, beside its header. */
export const DESCRIPTORS_IN_FIRST_SECTOR =
  (PAGE_BYTES - LogEntryLayout.descriptors) / DataDescriptorLayout.SIZE;

/** Bytes of the part of an entry that holds its header and descriptors. */
export function descriptorAreaBytes(count: number): number {
  return roundUp(LogEntryLayout.descriptors + count * DataDescriptorLayout.SIZE, PAGE_BYTES);
}

/** The header of a log entry, copied out. */
export interface LogEntryHeader {
  readonly lengthBytes: number;
  readonly tail: number;
  readonly sequence: bigint;
  readonly descriptorCount: number;
  readonly logGuid: string;
  /** Size that the file is known to have had on stable storage: a smaller file was cut. */
  readonly flushedFileBytes: number;
  /** Size that the file must have after replay. */
  readonly lastFileBytes: number;
}

/** Reads the header at the start of a sector; `undefined` when no entry starts there. */
export function readEntryHeader(sector: Uint8Array): LogEntryHeader | undefined {
  if (!hasText(sector, LogEntryLayout.signature, LogSignature.Entry)) return undefined;
  const view = viewOf(sector);
  return {
    lengthBytes: view.getUint32(LogEntryLayout.length, true),
    tail: view.getUint32(LogEntryLayout.tail, true),
    sequence: view.getBigUint64(LogEntryLayout.sequence, true),
    descriptorCount: view.getUint32(LogEntryLayout.descriptorCount, true),
    logGuid: readGuid(sector, LogEntryLayout.logGuid),
    flushedFileBytes: readU64(view, LogEntryLayout.flushedFileBytes),
    lastFileBytes: readU64(view, LogEntryLayout.lastFileBytes),
  };
}

/**
 * Puts the page into which `sector` (4096 bytes) belongs together again, in place: its ends come from
 * the data descriptor at `at` in `descriptors`.
 */
export function restorePage(sector: Uint8Array, descriptors: Uint8Array, at: number): void {
  const { leading, trailing } = DataDescriptorLayout;
  sector.set(descriptors.subarray(at + leading, at + leading + 8));
  sector.set(descriptors.subarray(at + trailing, at + trailing + 4), BODY_END);
}

/**
 * Makes one log entry in `buffer`, of `descriptorAreaBytes(pages.length)` plus a page for each page.
 *
 * @param offsets - Where in the file each of the pages belongs.
 * @returns The bytes of the entry, from the start of `buffer`.
 */
export function emitEntry(
  buffer: Uint8Array,
  entry: Omit<LogEntryHeader, "lengthBytes" | "descriptorCount">,
  offsets: readonly number[],
  pages: readonly Uint8Array[],
): number {
  const area = descriptorAreaBytes(pages.length);
  const lengthBytes = area + pages.length * PAGE_BYTES;
  const view = viewOf(buffer);
  buffer.fill(0, 0, area);
  emitText(buffer, LogEntryLayout.signature, LogSignature.Entry);
  view.setUint32(LogEntryLayout.length, lengthBytes, true);
  view.setUint32(LogEntryLayout.tail, entry.tail, true);
  view.setBigUint64(LogEntryLayout.sequence, entry.sequence, true);
  view.setUint32(LogEntryLayout.descriptorCount, pages.length, true);
  emitGuid(buffer, LogEntryLayout.logGuid, entry.logGuid);
  emitU64(view, LogEntryLayout.flushedFileBytes, entry.flushedFileBytes);
  emitU64(view, LogEntryLayout.lastFileBytes, entry.lastFileBytes);
  for (const [index, page] of pages.entries()) {
    const at = LogEntryLayout.descriptors + index * DataDescriptorLayout.SIZE;
    emitText(buffer, at + DataDescriptorLayout.signature, LogSignature.Data);
    buffer.set(page.subarray(BODY_END), at + DataDescriptorLayout.trailing);
    buffer.set(page.subarray(0, DataSectorLayout.body), at + DataDescriptorLayout.leading);
    emitU64(view, at + DataDescriptorLayout.fileOffset, offsets[index]!);
    view.setBigUint64(at + DataDescriptorLayout.sequence, entry.sequence, true);

    const sector = area + index * PAGE_BYTES;
    buffer.set(page, sector);
    emitText(buffer, sector + DataSectorLayout.signature, LogSignature.Sector);
    view.setUint32(sector + DataSectorLayout.sequenceHigh, Number(entry.sequence >> 32n), true);
    view.setUint32(
      sector + DataSectorLayout.sequenceLow,
      Number(entry.sequence & 0xffff_ffffn),
      true,
    );
  }
  view.setUint32(LogEntryLayout.checksum, crc32c(buffer, 0, lengthBytes), true);
  return lengthBytes;
}
