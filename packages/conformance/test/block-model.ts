import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

/** Contents of a block that was never written, or was given up. */
const ZEROS = 0;

/** A change of blocks that the disk has, or may have, or may yet make. */
export interface Change {
  readonly lba: number;
  readonly blocks: number;
  /** What each of the blocks holds afterwards: a stamp, from which all of its words follow. */
  readonly stamp: number;
  /** By block: what changes hold that were under way at the same time, and so may have come later. */
  readonly rivals: readonly Set<number>[];
}

/** A look at blocks that is under way. */
export interface Look {
  readonly lba: number;
  readonly blocks: number;
  /** By block: every stamp that it may find. */
  readonly allowed: readonly Set<number>[];
}

/** The word at `index` of block `lba` under a stamp: another one for every place, so that data in the wrong place shows. */
function wordAt(stamp: number, lba: number, index: number): number {
  if (stamp === ZEROS) return 0;
  if (index === 0) return stamp | 0;
  return Math.imul(stamp ^ Math.imul(lba + 1, 0x9e37_79b1), 2 * index + 1) ^ index;
}

/**
 * What a disk may hold, block by block, while any number of operations overlap.
 *
 * A change that succeeded rules out all that had ended before it began. One that failed, or of which nothing
 * is known, may or may not have happened: old or new, for each block alone.
 */
export class BlockModel {
  readonly blockBytes: number;
  /** Blocks that the model covers, from 0 on. */
  readonly blocks: number;
  readonly #settled: Set<number>[];
  readonly #changes = new Set<Change>();
  readonly #looks = new Set<Look>();
  #lastStamp = 0;

  constructor(blockBytes: number, blocks: number) {
    this.blockBytes = blockBytes;
    this.blocks = blocks;
    this.#settled = Array.from({ length: blocks }, () => new Set([ZEROS]));
  }

  /** Begins a write of new contents. */
  write(lba: number, blocks: number): Change {
    return this.#begin(lba, blocks, ++this.#lastStamp);
  }

  /** Begins an UNMAP, of which the disk takes whole pages only. */
  unmap(lba: number, blocks: number): readonly Change[] {
    const perPage = PAGE_SIZE / this.blockBytes;
    const first = Math.ceil(lba / perPage) * perPage;
    const end = Math.floor((lba + blocks) / perPage) * perPage;
    return end > first ? [this.#begin(first, end - first, ZEROS)] : [];
  }

  /** The bytes of a write. */
  contents({ lba, blocks, stamp }: Change): Uint8Array {
    const words = new Int32Array((blocks * this.blockBytes) / 4);
    const perBlock = this.blockBytes / 4;
    for (let at = 0; at < words.length; at++)
      words[at] = wordAt(stamp, lba + Math.floor(at / perBlock), at % perBlock);
    return new Uint8Array(words.buffer);
  }

  /** Ends a change. @param done - False if it may or may not have happened. */
  end(change: Change, done: boolean): void {
    this.#changes.delete(change);
    for (let block = 0; block < change.blocks; block++) {
      const settled = this.#settled[change.lba + block]!;
      if (done) {
        settled.clear();
        for (const rival of change.rivals[block]!) settled.add(rival);
      }
      settled.add(change.stamp);
    }
  }

  /** Begins a read. */
  read(lba: number, blocks: number): Look {
    const allowed = Array.from(
      { length: blocks },
      (_, block) => new Set(this.#settled[lba + block]),
    );
    const look = { lba, blocks, allowed };
    for (const change of this.#changes) this.#allow(look, change);
    this.#looks.add(look);
    return look;
  }

  /** Ends a read that found nothing out. */
  abandon(look: Look): void {
    this.#looks.delete(look);
  }

  /** Ends a read; throws if it found what it could not. @param data - The blocks, or the first of them. */
  check(look: Look, data: Uint8Array): void {
    this.#looks.delete(look);
    const { lba, allowed } = look;
    const words = new Int32Array(data.slice().buffer);
    const perBlock = this.blockBytes / 4;
    for (let block = 0; (block + 1) * this.blockBytes <= data.byteLength; block++) {
      const stamp = words[block * perBlock]!;
      if (!allowed[block]!.has(stamp))
        throw new Error(
          `block ${lba + block} holds ${stamp}, and can hold ${[...allowed[block]!].join(" or ")}`,
        );
      for (let index = 0; index < perBlock; index++)
        if (words[block * perBlock + index] !== wordAt(stamp, lba + block, index))
          throw new Error(`block ${lba + block}: word ${index} does not belong to ${stamp}`);
    }
  }

  #begin(lba: number, blocks: number, stamp: number): Change {
    const rivals = Array.from({ length: blocks }, () => new Set<number>());
    const change = { lba, blocks, stamp, rivals };
    for (const other of this.#changes)
      for (
        let block = Math.max(lba, other.lba);
        block < Math.min(lba + blocks, other.lba + other.blocks);
        block++
      ) {
        rivals[block - lba]!.add(other.stamp);
        other.rivals[block - other.lba]!.add(stamp);
      }
    this.#changes.add(change);
    for (const look of this.#looks) this.#allow(look, change);
    return change;
  }

  #allow(look: Look, { lba, blocks, stamp }: Change): void {
    for (
      let block = Math.max(lba, look.lba);
      block < Math.min(lba + blocks, look.lba + look.blocks);
      block++
    )
      look.allowed[block - look.lba]!.add(stamp);
  }
}
