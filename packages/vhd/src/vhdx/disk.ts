import { assertRange, assertTransfer } from "../assertion.js";
import { type BlockFile } from "../block-file.js";
import { finishFlush, type FlushSteps } from "../flush-steps.js";
import { ImageState } from "../image-state.js";
import { type ImageFormat, type MappedDisk } from "../virtual-disk.js";
import { zeroBytes } from "../zero-bytes.js";
import { type BlockMap, BlockState, blockWord, isAnchor } from "./block-map.js";
import { type FileSpace } from "./file-space.js";
import { type Journal } from "./journal.js";
import { FileMap, MIB, PAGE_BYTES, roundUp } from "./layout.js";
import { type DiskParameters } from "./metadata.js";
import { type RegionTable, RegionTableLayout } from "./region-table.js";
import { type WriteSession } from "./write-session.js";

/** The file grows by an eighth at a time, up to this much, to change its size seldom. */
const MAX_GROWTH_BYTES = 32 * MIB;
const zeros = new Uint8Array(256 * 1024);

/** What `openVhdx` found in the file. */
export interface VhdxParts {
  readonly file: BlockFile;
  readonly readOnly: boolean;
  readonly session: WriteSession;
  readonly regions: RegionTable;
  readonly parameters: DiskParameters;
  readonly blocks: BlockMap;
  readonly space: FileSpace;
}

/**
 * An open VHDX, fixed or dynamic; `openVhdx` makes it.
 *
 * The file is not changed before the first `write`, or `unmap` that has an effect, except for what
 * opening had to repair. Errors: those of `VirtualDisk`; a failed write of payload throws what the
 * file threw and leaves the image usable, a failed change of metadata or a failed flush poisons it.
 */
export class VhdxDisk implements MappedDisk {
  readonly format: ImageFormat;
  readonly sizeBytes: number;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
  readonly identity: Uint8Array;
  /** Bytes per block, a power of two: the unit of allocation and of `unmap`. */
  readonly blockBytes: number;
  /** As replaying the log left it. */
  readonly file: BlockFile;
  /** A plain field, because every transfer asks. */
  resolvedPosition = -1;

  readonly #words: Uint32Array;
  readonly #blockMib: number;
  readonly #blocks: BlockMap;
  readonly #space: FileSpace;
  readonly #regions: RegionTable;
  readonly #session: WriteSession;
  readonly #state: ImageState;
  /** The journal once the guest may change data: what `write` checks first. */
  #journal: Journal | undefined;
  /** Something was written since the last flush. */
  #unflushed = false;
  readonly #fileBytesAtOpen: number;
  /** Blocks whose place in the file is kept though they have no content. */
  #anchors: number;
  /** Where the search for an anchor goes on. */
  #anchorCursor = 0;
  /** Blocks were unmapped since the last flush, so their old content may still count after a crash. */
  #unflushedUnmap = false;

  constructor(parts: VhdxParts) {
    const { parameters, blocks, file } = parts;
    this.format = parameters.leaveBlocksAllocated ? "vhdx-fixed" : "vhdx-dynamic";
    this.sizeBytes = parameters.sizeBytes;
    this.logicalSectorBytes = parameters.logicalSectorBytes;
    this.physicalSectorBytes = parameters.physicalSectorBytes;
    this.identity = parameters.identity;
    this.blockBytes = parameters.blockBytes;
    this.#state = new ImageState(parts.readOnly);
    this.file = file;
    this.#blocks = blocks;
    this.#words = blocks.words;
    this.#blockMib = parameters.blockBytes / MIB;
    this.#space = parts.space;
    this.#regions = parts.regions;
    this.#session = parts.session;
    this.#anchors = blocks.anchors;
    this.#fileBytesAtOpen = file.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#state.readOnly;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.readSectors(position / this.logicalSectorBytes, target, targetOffset, lengthBytes);
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    this.writeSectors(position / this.logicalSectorBytes, source, sourceOffset, lengthBytes);
  }

  readSectors(sector: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertTransfer(this, sector, target, targetOffset, lengthBytes);
    for (let left = lengthBytes; left > 0;) {
      const run = this.resolve(sector, left);
      if (this.resolvedPosition < 0) zeroBytes(target, targetOffset, targetOffset + run);
      else this.file.read(this.resolvedPosition, target, targetOffset, run);
      sector += run / this.logicalSectorBytes;
      targetOffset += run;
      left -= run;
    }
  }

  writeSectors(
    sector: number,
    source: Uint8Array,
    sourceOffset: number,
    lengthBytes: number,
  ): void {
    this.#state.assertUsable();
    assertTransfer(this, sector, source, sourceOffset, lengthBytes);
    const journal = this.#journal ?? this.#beginWriting();
    this.#unflushed = true;
    for (let left = lengthBytes; left > 0;) {
      let run = this.resolve(sector, left);
      if (this.resolvedPosition >= 0)
        this.file.write(this.resolvedPosition, source, sourceOffset, run);
      else run = this.#writeNewBlock(journal, sector, source, sourceOffset, run);
      sector += run / this.logicalSectorBytes;
      sourceOffset += run;
      left -= run;
    }
  }

  flush(): void {
    finishFlush(this.flushSteps(), this.file);
  }

  *flushSteps(): FlushSteps {
    this.#state.assertUsable();
    if (this.#journal === undefined || !this.#unflushed) return;
    // Data that are written while the steps go on are for the next flush.
    this.#unflushed = false;
    yield* this.#state.flushing(this.#journal.steps());
    this.#unflushedUnmap = false;
  }

  assertUsable(): void {
    this.#state.assertUsable();
  }

  beginWrite(): void {
    this.#state.assertUsable();
    if (this.#journal === undefined) this.#beginWriting();
  }

  endWrite(): void {
    this.#unflushed = true;
  }

  unmap(position: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertRange(this, position, lengthBytes);
    this.#state.assertWritable();
    this.#state.assertNotFlushing();
    if (this.format === "vhdx-fixed") return;
    const end = position + lengthBytes;
    const first = Math.ceil(position / this.blockBytes);
    // The last block ends with the disk.
    const last = end === this.sizeBytes ? this.#words.length : Math.floor(end / this.blockBytes);
    for (let block = first; block < last; block++) {
      const word = this.#words[block]!;
      if ((word & 7) !== BlockState.FullyPresent) continue;
      const journal = this.#journal ?? this.#beginWriting();
      this.#state.orPoison(() => journal.touch(this.#blocks.pageOffset(block)));
      this.#words[block] = blockWord(BlockState.Unmapped, word >>> 3);
      this.#anchors++;
      this.#unflushed = true;
      this.#unflushedUnmap = true;
    }
  }

  nextData(position: number): number {
    this.#state.assertUsable();
    let block = Math.floor(position / this.blockBytes);
    if ((this.#words[block]! & 7) === BlockState.FullyPresent) return position;
    do block++;
    while (block < this.#words.length && (this.#words[block]! & 7) !== BlockState.FullyPresent);
    return Math.min(block * this.blockBytes, this.sizeBytes);
  }

  nextHole(position: number): number {
    this.#state.assertUsable();
    const first = Math.floor(position / this.blockBytes);
    let block = first;
    while (block < this.#words.length && (this.#words[block]! & 7) === BlockState.FullyPresent)
      block++;
    return block === first ? position : Math.min(block * this.blockBytes, this.sizeBytes);
  }

  close(): void {
    this.#state.close(
      () => {
        this.#session.end();
        if (this.#journal !== undefined) this.#cutUnusedTail();
      },
      () => this.file.close(),
    );
  }

  resolve(sector: number, lengthBytes: number): number {
    const { blockBytes } = this;
    const words = this.#words;
    const position = sector * this.logicalSectorBytes;
    let block = Math.floor(position / blockBytes);
    const inBlock = position - block * blockBytes;
    let run = blockBytes - inBlock;
    let word = words[block]!;
    if ((word & 7) === BlockState.FullyPresent) {
      this.resolvedPosition = (word >>> 3) * MIB + inBlock;
      const step = this.#blockMib << 3;
      while (run < lengthBytes && words[++block] === (word += step)) run += blockBytes;
    } else {
      this.resolvedPosition = -1;
      while (run < lengthBytes && (words[++block]! & 7) !== BlockState.FullyPresent)
        run += blockBytes;
    }
    return run < lengthBytes ? run : lengthBytes;
  }

  /** Writes both region tables anew, as one batch of the log. */
  repairRegionTables(): void {
    this.#state.orPoison(() => {
      const journal = this.#begin(false);
      for (let at = 0; at < RegionTableLayout.SIZE; at += PAGE_BYTES) {
        journal.touch(FileMap.regionTable1 + at);
        journal.touch(FileMap.regionTable2 + at);
      }
      journal.commit();
      journal.flush();
    });
  }

  /** Writes the part of one block, which has no content yet, and gives it a place in the file. */
  #writeNewBlock(
    journal: Journal,
    sector: number,
    source: Uint8Array,
    sourceOffset: number,
    lengthBytes: number,
  ): number {
    this.#state.assertNotFlushing();
    const { blockBytes } = this;
    const position = sector * this.logicalSectorBytes;
    const block = Math.floor(position / blockBytes);
    const inBlock = position - block * blockBytes;
    const length = Math.min(lengthBytes, blockBytes - inBlock);
    const word = this.#words[block]!;
    const own = word >>> 3;
    const frontier = this.#space.frontier;
    const mib = own === 0 ? this.#allocate(journal) : own;
    const start = mib * MIB;
    try {
      if (mib < frontier) {
        this.#zero(start, inBlock);
        this.#zero(start + inBlock + length, blockBytes - inBlock - length);
      }
      this.file.write(start + inBlock, source, sourceOffset, length);
    } catch (error) {
      if (own === 0) this.#space.release(mib, this.#blockMib);
      throw error;
    }
    if (mib < frontier) journal.requirePayload();
    this.#state.orPoison(() => journal.touch(this.#blocks.pageOffset(block)));
    if (own !== 0) this.#anchors--;
    this.#words[block] = blockWord(BlockState.FullyPresent, mib);
    return length;
  }

  /** MiB of the file where a new block goes: space that was freed, or kept for nothing, or new space. */
  #allocate(journal: Journal): number {
    const count = this.#blockMib;
    let mib = this.#space.reuse(count);
    if (mib >= 0) return mib;
    const needs = (this.#space.frontier + count) * MIB;
    if (needs > this.file.sizeBytes) {
      mib = this.#takeAnchor(journal);
      if (mib >= 0) return mib;
      const growth = Math.min(this.file.sizeBytes / 8, MAX_GROWTH_BYTES);
      this.file.truncate(Math.max(needs, roundUp(this.file.sizeBytes + growth, MIB)));
    }
    return this.#space.extend(count);
  }

  /**
   * Takes the place of some block that was unmapped; -1 when none may be taken. Until the unmap is
   * durable a crash brings the block back, with whatever lies in its place.
   */
  #takeAnchor(journal: Journal): number {
    if (this.#anchors === 0 || this.#unflushedUnmap) return -1;
    const words = this.#words;
    while (!isAnchor(words[this.#anchorCursor]!))
      this.#anchorCursor = (this.#anchorCursor + 1) % words.length;
    const word = words[this.#anchorCursor]!;
    // The owner loses its place in this batch or an earlier one than that which gives it away.
    this.#state.orPoison(() => journal.touch(this.#blocks.pageOffset(this.#anchorCursor)));
    words[this.#anchorCursor] = blockWord(word & 7, 0);
    this.#anchors--;
    return word >>> 3;
  }

  #zero(position: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes; done += zeros.byteLength) {
      const piece = Math.min(zeros.byteLength, lengthBytes - done);
      this.file.write(position + done, zeros, 0, piece);
    }
  }

  /** The disk is about to change for the first time since it was opened. */
  #beginWriting(): Journal {
    this.#state.assertWritable();
    this.#state.orPoison(() => {
      this.#journal = this.#begin(true);
    });
    this.#space.settle(this.file.sizeBytes / MIB);
    return this.#journal!;
  }

  #begin(guestVisible: boolean): Journal {
    return this.#session.begin(guestVisible, this.#space.usedBytes(), (pageOffset, page) =>
      this.#render(pageOffset, page),
    );
  }

  #cutUnusedTail(): void {
    // A fixed image keeps the size that its maker gave it.
    const keep = this.format === "vhdx-fixed" ? this.#fileBytesAtOpen : 0;
    const sizeBytes = Math.max(this.#space.usedBytes(), keep);
    if (sizeBytes >= this.file.sizeBytes) return;
    try {
      this.file.truncate(sizeBytes);
      this.file.flush();
    } catch {
      // The image is whole and clean; it only stays longer than it needs to be.
    }
  }

  #render(pageOffset: number, page: Uint8Array): void {
    const table = pageOffset >= FileMap.regionTable2 ? FileMap.regionTable2 : FileMap.regionTable1;
    const inTable = pageOffset - table;
    if (inTable < RegionTableLayout.SIZE)
      page.set(this.#regions.bytes.subarray(inTable, inTable + PAGE_BYTES));
    else this.#blocks.renderPage(pageOffset, page);
  }
}
