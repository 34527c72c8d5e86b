import { type BlockFile } from "../block-file.js";
import { type Reporter } from "../reporter.js";
import { type FileSpace } from "./file-space.js";
import { Limit, MIB, PAGE_BYTES, viewOf } from "./layout.js";
import { type DiskParameters } from "./metadata.js";
import { type Region } from "./region-table.js";

/** States of a payload block, bits 0 to 2 of its BAT entry. */
export const BlockState = {
  NotPresent: 0,
  Undefined: 1,
  Zero: 2,
  Unmapped: 3,
  /** Unmapped in the 0.95 draft of the format. */
  DraftUnmapped: 5,
  FullyPresent: 6,
  PartiallyPresent: 7,
} as const;

/** States of a sector bitmap block. */
const BITMAP_NOT_PRESENT = 0;

/** Sectors that one sector bitmap block (1 MiB of bits) covers: a chunk. */
const CHUNK_SECTORS = 2 ** 23;
const BAT_ENTRY_BYTES = 8;

/** How a BAT is laid out for a disk. */
export interface BatGeometry {
  readonly payloadBlocks: number;
  /** Payload blocks per chunk; a sector bitmap slot follows each full chunk. */
  readonly chunkRatio: number;
  /** Entries that the disk needs, bitmap slots included. */
  readonly entries: number;
}

/** The geometry of the BAT of a disk. */
export function batGeometry(
  disk: Pick<DiskParameters, "blockBytes" | "hasParent" | "logicalSectorBytes" | "sizeBytes">,
): BatGeometry {
  const chunkRatio = (CHUNK_SECTORS * disk.logicalSectorBytes) / disk.blockBytes;
  const payloadBlocks = Math.ceil(disk.sizeBytes / disk.blockBytes);
  const entries = disk.hasParent
    ? Math.ceil(payloadBlocks / chunkRatio) * (chunkRatio + 1)
    : payloadBlocks + Math.floor((payloadBlocks - 1) / chunkRatio);
  return { payloadBlocks, chunkRatio, entries };
}

/** Bytes of a BAT with that many entries. */
export function batBytes(geometry: BatGeometry): number {
  return geometry.entries * BAT_ENTRY_BYTES;
}

/** A block's word in memory: bits 0 to 2 the state, the rest its place in the file in MiB, 0 for none. */
export function blockWord(state: number, mib: number): number {
  return ((mib << 3) | state) >>> 0;
}

/** Whether a block without content keeps its place in the file, for when it gets content again. */
export function isAnchor(word: number): boolean {
  return word >>> 3 !== 0 && (word & 7) < BlockState.FullyPresent;
}

/**
 * The block allocation table in memory: one word per payload block (`blockWord`).
 *
 * The words are what the disk's reads and writes look up; the pages of the BAT in the file are made
 * from them. Sector bitmap slots are not kept: outside differencing images they are always empty.
 */
export class BlockMap {
  readonly geometry: BatGeometry;
  readonly region: Region;
  /** Indexed by payload block. */
  readonly words: Uint32Array;
  /** Some entry is in the state that only the draft of the format had: to be read, not to be written. */
  hasDraftStates = false;
  /** Blocks that keep a place in the file though they have no content (`isAnchor`). */
  anchors = 0;

  constructor(geometry: BatGeometry, region: Region) {
    this.geometry = geometry;
    this.region = region;
    this.words = new Uint32Array(geometry.payloadBlocks);
  }

  /** File offset of the BAT entry of a payload block. */
  entryOffset(block: number): number {
    const index = block + Math.floor(block / this.geometry.chunkRatio);
    return this.region.offset + index * BAT_ENTRY_BYTES;
  }

  /** File offset of the page that holds the entry of a payload block. */
  pageOffset(block: number): number {
    const offset = this.entryOffset(block);
    return offset - (offset % PAGE_BYTES);
  }

  /** Fills `page` (4096 bytes) with what the BAT should hold at file offset `pageOffset`. */
  renderPage(pageOffset: number, page: Uint8Array): void {
    const view = viewOf(page);
    const { chunkRatio } = this.geometry;
    let index = (pageOffset - this.region.offset) / BAT_ENTRY_BYTES;
    let chunk = Math.floor(index / (chunkRatio + 1));
    for (let at = 0; at < PAGE_BYTES; at += BAT_ENTRY_BYTES, index++) {
      const inChunk = index - chunk * (chunkRatio + 1);
      const word = inChunk === chunkRatio ? 0 : (this.words[index - chunk] ?? 0);
      if (inChunk === chunkRatio) chunk++;
      const mib = word >>> 3;
      view.setUint32(at, (word & 7) | (mib << 20), true);
      view.setUint32(at + 4, mib >>> 12, true);
    }
  }

  /** Blocks that lie in the file. */
  presentCount(): number {
    let count = 0;
    for (const word of this.words) if ((word & 7) >= BlockState.FullyPresent) count++;
    return count;
  }

  /**
   * Reads the BAT, checks every entry, and claims the space of every block.
   *
   * Errors: reserved bits or states, blocks outside the file, blocks that share space. A place that
   * a block without content still holds is dropped when it cannot be true.
   */
  static read(
    file: BlockFile,
    region: Region,
    disk: DiskParameters,
    space: FileSpace,
    reporter: Reporter,
  ): BlockMap | undefined {
    const geometry = batGeometry(disk);
    if (batBytes(geometry) > region.lengthBytes) {
      reporter.error(
        "ERR_IMAGE_CORRUPT",
        "BAT",
        region.offset,
        `the region has ${region.lengthBytes} bytes, the disk needs ${batBytes(geometry)}`,
      );
      return undefined;
    }
    const map = new BlockMap(geometry, region);
    new BatReader(file, map, disk, space, reporter).read();
    return map;
  }
}

/** One pass over the BAT in the file, and one over the places that blocks without content keep. */
class BatReader {
  readonly #file: BlockFile;
  readonly #map: BlockMap;
  readonly #disk: DiskParameters;
  readonly #space: FileSpace;
  readonly #reporter: Reporter;
  #anchorsSeen = false;

  constructor(
    file: BlockFile,
    map: BlockMap,
    disk: DiskParameters,
    space: FileSpace,
    reporter: Reporter,
  ) {
    this.#file = file;
    this.#map = map;
    this.#disk = disk;
    this.#space = space;
    this.#reporter = reporter;
  }

  read(): void {
    const { geometry, region } = this.#map;
    const total = batBytes(geometry);
    const piece = new Uint8Array(Math.min(total, MIB));
    const view = viewOf(piece);
    let index = 0;
    let block = 0;
    let untilBitmap = geometry.chunkRatio;
    for (let done = 0; done < total; done += piece.byteLength) {
      const length = Math.min(piece.byteLength, total - done);
      this.#file.read(region.offset + done, piece, 0, length);
      for (let at = 0; at < length; at += BAT_ENTRY_BYTES, index++) {
        const low = view.getUint32(at, true);
        const mib = view.getUint32(at + 4, true) * 2 ** 12 + (low >>> 20);
        if (low & 0xf_fff8)
          this.#fault("ERR_IMAGE_CORRUPT", index, "its reserved bits are not zero");
        if (untilBitmap === 0) {
          untilBitmap = geometry.chunkRatio;
          this.#bitmapSlot(index, low & 7, mib);
        } else {
          untilBitmap--;
          // A differencing image has slots for the blocks up to the end of the last chunk.
          if (block < geometry.payloadBlocks) this.#payloadEntry(index, block, low & 7, mib);
          block++;
        }
      }
    }
    if (this.#anchorsSeen) this.#keepAnchors();
  }

  #payloadEntry(index: number, block: number, state: number, mib: number): void {
    switch (state) {
      case BlockState.FullyPresent:
      case BlockState.PartiallyPresent:
        if (this.#present(index, block, mib)) {
          // Only a differencing image can hold part of a block.
          const kept = this.#disk.hasParent ? state : BlockState.FullyPresent;
          this.#map.words[block] = blockWord(kept, mib);
        }
        return;
      case BlockState.Zero:
        if (mib !== 0) this.#warn(index, "a block of zeros must not have a place in the file");
        this.#map.words[block] = blockWord(state, 0);
        return;
      case BlockState.Undefined:
      case BlockState.Unmapped:
        // The place is kept for the block, but counts only if nothing else is there: second pass.
        if (mib * MIB >= Limit.fileBytes) this.#warn(index, "its place is outside any file");
        this.#map.words[block] = blockWord(state, mib * MIB < Limit.fileBytes ? mib : 0);
        this.#anchorsSeen = true;
        return;
      case BlockState.DraftUnmapped:
        this.#map.hasDraftStates = true;
        this.#warn(index, "state 5 was dropped from the format; it is read as zeros");
        return;
      case BlockState.NotPresent:
        return;
      default:
        this.#fault("ERR_IMAGE_CORRUPT", index, `state ${state} does not exist`);
    }
  }

  /** Whether a block with content lies inside the file; claims its space. */
  #present(index: number, block: number, mib: number): boolean {
    const { blockBytes, sizeBytes } = this.#disk;
    const fileBytes = this.#file.sizeBytes;
    if (mib === 0 || mib * MIB + blockBytes > Limit.fileBytes) {
      this.#fault(
        "ERR_IMAGE_CORRUPT",
        index,
        `block ${block} cannot lie at MiB ${mib} of the file`,
      );
      return false;
    }
    // The last block may stick out past the end of the file, as far as the disk does not use it.
    const used = Math.min(blockBytes, sizeBytes - block * blockBytes);
    if (mib * MIB + used > fileBytes) {
      this.#fault(
        "ERR_IMAGE_TRUNCATED",
        index,
        `block ${block} ends at ${mib * MIB + used}, the file at ${fileBytes}`,
      );
      return false;
    }
    if (!this.#space.claim(mib, blockBytes / MIB))
      this.#fault(
        "ERR_IMAGE_CORRUPT",
        index,
        `block ${block} at ${mib * MIB} overlaps another block, the log or a region`,
      );
    return true;
  }

  #bitmapSlot(index: number, state: number, mib: number): void {
    if (!this.#disk.hasParent) {
      if (state !== BITMAP_NOT_PRESENT || mib !== 0)
        this.#warn(index, "a sector bitmap belongs to differencing images only");
      return;
    }
    if (state < BlockState.FullyPresent) return;
    if (mib === 0 || (mib + 1) * MIB > this.#file.sizeBytes)
      this.#fault("ERR_IMAGE_TRUNCATED", index, "the sector bitmap is not inside the file");
    else if (!this.#space.claim(mib, 1))
      this.#fault("ERR_IMAGE_CORRUPT", index, "the sector bitmap overlaps something else");
  }

  /** Lets blocks without content keep their place where it is inside the file and nobody else's. */
  #keepAnchors(): void {
    const { words } = this.#map;
    const count = this.#disk.blockBytes / MIB;
    for (let block = 0; block < words.length; block++) {
      const word = words[block]!;
      if (!isAnchor(word)) continue;
      const mib = word >>> 3;
      if ((mib + count) * MIB <= this.#file.sizeBytes && this.#space.isFree(mib, count)) {
        this.#space.claim(mib, count);
        this.#map.anchors++;
        continue;
      }
      words[block] = word & 7;
      this.#warn(
        block + Math.floor(block / this.#map.geometry.chunkRatio),
        `block ${block} has no content, and its place at ${mib * MIB} is not free`,
      );
    }
  }

  #fault(code: "ERR_IMAGE_CORRUPT" | "ERR_IMAGE_TRUNCATED", index: number, text: string): void {
    this.#reporter.error(code, `BAT entry ${index}`, this.#offsetOf(index), text);
  }

  #warn(index: number, text: string): void {
    this.#reporter.warning(`BAT entry ${index}`, this.#offsetOf(index), text);
  }

  #offsetOf(index: number): number {
    return this.#map.region.offset + index * BAT_ENTRY_BYTES;
  }
}
