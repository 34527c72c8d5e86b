import { assertRange, assertTransfer } from "../assertion.js";
import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { finishFlush, type FlushSteps } from "../flush-steps.js";
import { ImageState } from "../image-state.js";
import { type MappedDisk } from "../virtual-disk.js";
import { zeroBytes } from "../zero-bytes.js";
import { type BlockTable, nextBlockOffset } from "./block-table.js";
import { NOT_ALLOCATED } from "./dynamic-header.js";
import { FooterLayout } from "./footer.js";

const SECTOR = 512;
/** So many blocks are at most outside the table on disk, when nobody flushes. */
const MAX_PENDING_BLOCKS = 64;

/** What is known of a block's sector bitmap. */
const BitmapState = { Unread: 0, Full: 1, Partial: 2 } as const;

/**
 * A dynamic VHD.
 *
 * The format has no log, so safety lies in an order: a new block's footer, bitmap and data are written
 * past everything that the table on disk knows, made durable at the next flush, and only then entered
 * in the table, which the same flush makes durable as well. Whatever is cut off on the way, the table
 * never names a block that is not whole; what it does not name reads as before.
 */
export class DynamicVhd implements MappedDisk {
  readonly format = "vhd-dynamic";
  readonly sizeBytes: number;
  readonly logicalSectorBytes = SECTOR;
  readonly physicalSectorBytes = SECTOR;
  readonly identity: Uint8Array;
  readonly file: BlockFile;
  resolvedPosition = -1;
  readonly #table: BlockTable;
  readonly #footerBytes: Uint8Array;
  /** File offset of the trailing footer: where the next block goes. */
  #trailerOffset: number;
  /** Blocks that are in `#table` and not yet in the table on disk. */
  #pendingBlocks: number[] = [];
  /** A `BitmapState` per block. */
  readonly #bitmapStates: Uint8Array;
  /** The bitmaps of blocks that other programs have filled in part. */
  readonly #bitmaps = new Map<number, Uint8Array>();
  /** Blocks whose bitmap has bits that are not on disk yet. */
  readonly #pendingBitmaps = new Set<number>();
  readonly #state: ImageState;

  /**
   * Takes over `file`, whose structures have been found good and repaired.
   *
   * @param footerBytes - The footer, which is written anew behind each new block.
   * @param trailerOffset - Where the trailing footer lies; whatever a read-only image has there.
   */
  constructor(
    file: BlockFile,
    readOnly: boolean,
    sizeBytes: number,
    identity: Uint8Array,
    table: BlockTable,
    footerBytes: Uint8Array,
    trailerOffset: number,
  ) {
    this.file = file;
    this.#state = new ImageState(readOnly);
    this.sizeBytes = sizeBytes;
    this.identity = identity;
    this.#table = table;
    this.#footerBytes = footerBytes;
    this.#trailerOffset = trailerOffset;
    this.#bitmapStates = new Uint8Array(table.sectors.length);
  }

  get readOnly(): boolean {
    return this.#state.readOnly;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.readSectors(position / SECTOR, target, targetOffset, lengthBytes);
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    this.writeSectors(position / SECTOR, source, sourceOffset, lengthBytes);
  }

  readSectors(sector: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertTransfer(this, sector, target, targetOffset, lengthBytes);
    for (let left = lengthBytes; left > 0;) {
      const run = this.resolve(sector, left);
      if (this.resolvedPosition < 0) zeroBytes(target, targetOffset, targetOffset + run);
      else this.file.read(this.resolvedPosition, target, targetOffset, run);
      sector += run / SECTOR;
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
    this.#state.assertWritable();
    for (let left = lengthBytes; left > 0;) {
      const run = this.resolve(sector, left);
      if (this.resolvedPosition >= 0)
        this.file.write(this.resolvedPosition, source, sourceOffset, run);
      else this.#writeNew(sector, source, sourceOffset, run);
      sector += run / SECTOR;
      sourceOffset += run;
      left -= run;
    }
  }

  resolve(diskSector: number, lengthBytes: number): number {
    const { blockBytes, bitmapBytes, sectors } = this.#table;
    const block = Math.floor((diskSector * SECTOR) / blockBytes);
    const within = diskSector * SECTOR - block * blockBytes;
    const count = Math.min(lengthBytes, blockBytes - within);
    const sector = sectors[block]!;
    this.resolvedPosition = -1;
    if (sector === NOT_ALLOCATED) return count;
    let run = count;
    let isPresent = true;
    if (this.#bitmapState(block) === BitmapState.Partial) {
      // Sectors without their bit read as zero, whatever the file holds there.
      const bitmap = this.#bitmaps.get(block)!;
      const first = within / SECTOR;
      isPresent = nextBit(bitmap, first, first + 1, true) === first;
      run = nextBit(bitmap, first, first + count / SECTOR, !isPresent) * SECTOR - within;
    }
    if (isPresent) this.resolvedPosition = sector * SECTOR + bitmapBytes + within;
    return run;
  }

  assertUsable(): void {
    this.#state.assertUsable();
  }

  beginWrite(): void {
    this.#state.assertUsable();
    this.#state.assertWritable();
  }

  endWrite(): void {
    // Every flush flushes the file.
  }

  flush(): void {
    finishFlush(this.flushSteps(), this.file);
  }

  *flushSteps(): FlushSteps {
    this.#state.assertUsable();
    if (!this.readOnly) yield* this.#state.flushing(this.#committing());
  }

  unmap(position: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertRange(this, position, lengthBytes);
    this.#state.assertWritable();
  }

  nextData(position: number): number {
    this.#state.assertUsable();
    const { blockBytes, sectors } = this.#table;
    let block = Math.floor(position / blockBytes);
    if (position >= this.sizeBytes) return this.sizeBytes;
    if (sectors[block] !== NOT_ALLOCATED) return position;
    while (block < sectors.length && sectors[block] === NOT_ALLOCATED) block++;
    return Math.min(block * blockBytes, this.sizeBytes);
  }

  nextHole(position: number): number {
    this.#state.assertUsable();
    const { blockBytes, sectors } = this.#table;
    const first = Math.floor(position / blockBytes);
    let block = first;
    while (block < sectors.length && sectors[block] !== NOT_ALLOCATED) block++;
    return block === first ? position : Math.min(block * blockBytes, this.sizeBytes);
  }

  close(): void {
    this.#state.close(
      () => this.flush(),
      () => this.file.close(),
    );
  }

  /** Writes sectors of one block that read as zero so far. */
  #writeNew(diskSector: number, source: Uint8Array, sourceOffset: number, count: number): void {
    this.#state.assertNotFlushing();
    const { blockBytes, bitmapBytes, sectors } = this.#table;
    const block = Math.floor((diskSector * SECTOR) / blockBytes);
    const within = diskSector * SECTOR - block * blockBytes;
    const sector = sectors[block]!;
    if (sector === NOT_ALLOCATED) {
      this.#allocate(block, within, source, sourceOffset, count);
      return;
    }
    this.file.write(sector * SECTOR + bitmapBytes + within, source, sourceOffset, count);
    this.#markWritten(block, within, count);
  }

  /** Puts a new block, holding the given bytes at `within` and zeros, at the end of the file. */
  #allocate(
    block: number,
    within: number,
    source: Uint8Array,
    sourceOffset: number,
    count: number,
  ): void {
    if (this.#pendingBlocks.length >= MAX_PENDING_BLOCKS) this.flush();
    const { blockBytes, bitmapBytes, sectors } = this.#table;
    const start = nextBlockOffset(this.#trailerOffset, bitmapBytes);
    const end = start + bitmapBytes + blockBytes;
    if (start / SECTOR >= NOT_ALLOCATED)
      throw new ImageError("ERR_IMAGE_NO_SPACE", {
        structure: "block allocation table",
        offset: this.#table.offset + block * 4,
        text: "the file has reached the 2 TiB that a 32-bit sector number can address",
        advice: "Convert the image to VHDX.",
      });
    try {
      // The footer first: it extends the file, and everything below it is zero without being written.
      this.file.write(end, this.#footerBytes, 0, FooterLayout.SIZE);
      this.file.write(start, new Uint8Array(bitmapBytes).fill(0xff), 0, bitmapBytes);
      this.file.write(start + bitmapBytes + within, source, sourceOffset, count);
    } catch (error) {
      this.#retract(error);
      throw error;
    }
    this.#trailerOffset = end;
    sectors[block] = start / SECTOR;
    this.#bitmapStates[block] = BitmapState.Full;
    this.#pendingBlocks.push(block);
  }

  /** After a failed allocation: the file ends as it did before, so that the image can go on. */
  #retract(cause: unknown): void {
    try {
      this.file.write(this.#trailerOffset, this.#footerBytes, 0, FooterLayout.SIZE);
      this.file.truncate(this.#trailerOffset + FooterLayout.SIZE);
    } catch {
      this.#state.poison(cause);
    }
  }

  /** Makes all that was written durable: data and bitmaps of new blocks first, then what points to them. */
  *#committing(): FlushSteps {
    yield;
    if (this.#pendingBlocks.length === 0 && this.#pendingBitmaps.size === 0) return;
    this.#writeTable();
    for (const block of this.#pendingBitmaps) {
      const bitmap = this.#bitmaps.get(block)!;
      this.file.write(this.#table.sectors[block]! * SECTOR, bitmap, 0, bitmap.byteLength);
    }
    yield;
    this.#pendingBlocks = [];
    this.#pendingBitmaps.clear();
  }

  /** Writes the table's sectors that have pending blocks, each whole and once. */
  #writeTable(): void {
    const { offset, sectors } = this.#table;
    const perSector = SECTOR / 4;
    const bytes = new Uint8Array(SECTOR);
    const view = new DataView(bytes.buffer);
    for (const index of new Set(
      this.#pendingBlocks.map((block) => Math.floor(block / perSector)),
    )) {
      for (let entry = 0; entry < perSector; entry++)
        view.setUint32(entry * 4, sectors[index * perSector + entry] ?? NOT_ALLOCATED);
      const length = Math.min(SECTOR, (sectors.length - index * perSector) * 4);
      this.file.write(offset + index * SECTOR, bytes, 0, length);
    }
  }

  #bitmapState(block: number): number {
    const known = this.#bitmapStates[block]!;
    return known === BitmapState.Unread ? this.#readBitmap(block) : known;
  }

  #readBitmap(block: number): number {
    const { blockBytes, bitmapBytes, sectors } = this.#table;
    const bitmap = new Uint8Array(bitmapBytes);
    this.file.read(sectors[block]! * SECTOR, bitmap, 0, bitmapBytes);
    const used = Math.min(blockBytes, this.sizeBytes - block * blockBytes) / SECTOR;
    const isFull = nextBit(bitmap, 0, used, false) === used;
    if (!isFull) this.#bitmaps.set(block, bitmap);
    return (this.#bitmapStates[block] = isFull ? BitmapState.Full : BitmapState.Partial);
  }

  /** Sets the bits of written sectors; they reach the disk at the next flush, after the data. */
  #markWritten(block: number, within: number, count: number): void {
    const bitmap = this.#bitmaps.get(block)!;
    const end = (within + count) / SECTOR;
    for (let sector = within / SECTOR; sector < end; sector++)
      bitmap[sector >> 3]! |= 0x80 >> (sector & 7);
    this.#pendingBitmaps.add(block);
  }
}

/** The first bit in [from, end) that is `value`, else `end`; the most significant bit comes first. */
function nextBit(bitmap: Uint8Array, from: number, end: number, value: boolean): number {
  const skip = value ? 0x00 : 0xff;
  let at = from;
  while (at < end) {
    if ((at & 7) === 0 && bitmap[at >> 3] === skip) at += 8;
    else if (((bitmap[at >> 3]! & (0x80 >> (at & 7))) !== 0) === value) return at;
    else at++;
  }
  return end;
}
