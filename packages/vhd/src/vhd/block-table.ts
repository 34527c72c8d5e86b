import { type BlockFile } from "../block-file.js";
import { type ImageErrorCode } from "../errors.js";
import { type Reporter } from "../reporter.js";
import {
  type DynamicHeader,
  DynamicHeaderLayout,
  NOT_ALLOCATED,
  sectorBitmapBytes,
} from "./dynamic-header.js";
import { type Footer, FooterLayout } from "./footer.js";

/** The blocks of a dynamic disk. */
export interface BlockTable {
  readonly blockBytes: number;
  /** Bytes of the sector bitmap that precedes each block. */
  readonly bitmapBytes: number;
  /** File offset of the table. */
  readonly offset: number;
  /** For each block the sector of the file at which its bitmap starts, or `NOT_ALLOCATED`. */
  readonly sectors: Uint32Array;
  /** Where the last of headers, table and blocks ends; what follows belongs to nothing but the footer. */
  readonly endOffset: number;
}

/** What is known of the blocks before it is known where the last of them ends. */
type Entries = Omit<BlockTable, "endOffset">;

/** A range of the file: its first byte, and the byte after its last. */
type Extent = readonly [start: number, end: number];

/** A disk of more blocks is refused: it is either damage or made of absurdly small blocks. */
export const MAX_BLOCKS = 1 << 24;
/** A table full of garbage is told by its first entries. */
const MAX_ENTRY_ERRORS = 100;

/** Blocks start where their data lies on a page of the host's cache. */
const DATA_ALIGNMENT = 4096;

/** Where the next block starts, bitmap first, when everything before `offset` is taken. */
export function nextBlockOffset(offset: number, bitmapBytes: number): number {
  return Math.ceil((offset + bitmapBytes) / DATA_ALIGNMENT) * DATA_ALIGNMENT - bitmapBytes;
}

/**
 * Reads the table and judges every entry: inside the file, off headers and table, over no other block.
 * Undefined when there is no table to speak of; the reporter knows why.
 */
export function readBlockTable(
  file: BlockFile,
  reporter: Reporter,
  footer: Footer,
  header: DynamicHeader,
): BlockTable | undefined {
  const { blockBytes, maxTableEntries } = header;
  const sizeBytes = Number(footer.currentSize);
  const blocks = Math.ceil(sizeBytes / blockBytes);
  const headerOffset = Number(footer.dataOffset);
  const entriesField = headerOffset + DynamicHeaderLayout.maxTableEntries;
  if (blocks > MAX_BLOCKS) {
    const text = `a disk of ${blocks} blocks is above the limit of ${MAX_BLOCKS}`;
    reporter.error("ERR_IMAGE_UNSUPPORTED", "dynamic header", entriesField, text);
    return undefined;
  }
  if (maxTableEntries < blocks) {
    const text = `the table has ${maxTableEntries} entries, the disk ${blocks} blocks`;
    reporter.error("ERR_IMAGE_CORRUPT", "dynamic header", entriesField, text);
    return undefined;
  }
  if (maxTableEntries > blocks) {
    const text = `the table has ${maxTableEntries} entries for ${blocks} blocks, which Azure refuses`;
    reporter.warning("dynamic header", entriesField, text);
  }
  const offset = Number(header.tableOffset);
  const headerExtent: Extent = [headerOffset, headerOffset + DynamicHeaderLayout.SIZE];
  const tableExtent: Extent = [offset, offset + blocks * 4];
  if (offset % 512 !== 0 || offset < FooterLayout.SIZE || overlap(tableExtent, headerExtent)) {
    const text = `the table offset ${header.tableOffset} is unaligned or inside the headers`;
    const field = headerOffset + DynamicHeaderLayout.tableOffset;
    reporter.error("ERR_IMAGE_CORRUPT", "dynamic header", field, text);
    return undefined;
  }
  if (tableExtent[1] > file.sizeBytes) {
    const text = `the file of ${file.sizeBytes} bytes ends before or inside it`;
    reporter.error("ERR_IMAGE_TRUNCATED", "block allocation table", offset, text);
    return undefined;
  }
  const bitmapBytes = sectorBitmapBytes(blockBytes);
  const entries = { blockBytes, bitmapBytes, offset, sectors: readEntries(file, offset, blocks) };
  const lastBytes = sizeBytes - (blocks - 1) * blockBytes;
  const reserved: readonly Extent[] = [[0, FooterLayout.SIZE], headerExtent, tableExtent];
  judgeEntries(file, reporter, entries, lastBytes, reserved);
  let endOffset = Math.max(headerExtent[1], Math.ceil(tableExtent[1] / 512) * 512);
  for (const sector of entries.sectors)
    if (sector !== NOT_ALLOCATED)
      endOffset = Math.max(endOffset, sector * 512 + bitmapBytes + blockBytes);
  return { ...entries, endOffset };
}

function readEntries(file: BlockFile, offset: number, count: number): Uint32Array {
  const entries = new Uint32Array(count);
  const chunk = new Uint8Array(Math.min(count * 4, 1 << 20));
  const view = new DataView(chunk.buffer);
  for (let first = 0; first < count; first += chunk.byteLength / 4) {
    const here = Math.min(chunk.byteLength / 4, count - first);
    file.read(offset + first * 4, chunk, 0, here * 4);
    for (let index = 0; index < here; index++) entries[first + index] = view.getUint32(index * 4);
  }
  return entries;
}

/** `lastBytes` are the bytes of the disk in its last block: the file may end behind them. */
function judgeEntries(
  file: BlockFile,
  reporter: Reporter,
  entries: Entries,
  lastBytes: number,
  reserved: readonly Extent[],
): void {
  const { sectors, bitmapBytes, blockBytes } = entries;
  let errors = 0;
  const report = (block: number, code: ImageErrorCode, text: string): void => {
    errors++;
    reporter.error(
      code,
      `block allocation table entry ${block}`,
      entries.offset + block * 4,
      `the block at file offset ${sectors[block]! * 512} ${text}`,
    );
  };
  for (let block = 0; block < sectors.length && errors < MAX_ENTRY_ERRORS; block++) {
    const sector = sectors[block]!;
    if (sector === NOT_ALLOCATED) continue;
    const start = sector * 512;
    const end = start + bitmapBytes + blockBytes;
    const usedEnd = block === sectors.length - 1 ? start + bitmapBytes + lastBytes : end;
    if (reserved.some((extent) => overlap([start, end], extent)))
      report(block, "ERR_IMAGE_CORRUPT", "overlaps the headers or the table");
    else if (usedEnd > file.sizeBytes) {
      const text = `ends at ${usedEnd}, the file at ${file.sizeBytes}`;
      report(block, "ERR_IMAGE_TRUNCATED", text);
    }
  }
  const sorted = sectors.slice().sort();
  for (let index = 1; index < sorted.length && errors < MAX_ENTRY_ERRORS; index++) {
    const before = sorted[index - 1]!;
    const here = sorted[index]!;
    if (here === NOT_ALLOCATED) break;
    if ((here - before) * 512 >= bitmapBytes + blockBytes) continue;
    const text = `overlaps block ${sectors.indexOf(before)}`;
    report(sectors.lastIndexOf(here), "ERR_IMAGE_CORRUPT", text);
  }
}

function overlap(a: Extent, b: Extent): boolean {
  return a[0] < b[1] && a[1] > b[0];
}
