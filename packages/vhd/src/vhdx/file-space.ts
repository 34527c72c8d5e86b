import { MIB } from "./layout.js";

const INITIAL_WORDS = 64;

/**
 * Which MiB of the image file belong to something, one bit each.
 *
 * Space below the frontier has an unknown past: it may hold what another block once held. Space from
 * the frontier on was never written and reads as zero. The frontier only grows.
 */
export class FileSpace {
  #bits = new Uint32Array(INITIAL_WORDS);
  /** One past the highest MiB ever claimed. */
  #end = 0;
  #frontier = 0;
  /** Set when no free run was long enough, until something is released. */
  #exhausted = false;

  /** First MiB from which on everything reads as zero and belongs to nobody. */
  get frontier(): number {
    return this.#frontier;
  }

  /** Declares everything below `frontier` (MiB) and below the last claim to have a past. */
  settle(frontier: number): void {
    this.#frontier = Math.max(frontier, this.#end);
    this.#exhausted = false;
  }

  /** Takes `count` MiB from `start` on; false when some of it was taken before. */
  claim(start: number, count: number): boolean {
    const end = start + count;
    if (end > this.#bits.length * 32) this.#grow(end);
    if (end > this.#end) this.#end = end;
    let free = true;
    for (let mib = start; mib < end; mib++) {
      const bit = 1 << (mib & 31);
      if (this.#bits[mib >>> 5]! & bit) free = false;
      this.#bits[mib >>> 5]! |= bit;
    }
    return free;
  }

  /** Whether all of `count` MiB from `start` on are free. */
  isFree(start: number, count: number): boolean {
    for (let mib = start; mib < start + count; mib++) if (this.#taken(mib)) return false;
    return true;
  }

  /** Gives `count` MiB back; they have a past now. */
  release(start: number, count: number): void {
    for (let mib = start; mib < start + count; mib++) this.#bits[mib >>> 5]! &= ~(1 << (mib & 31));
    this.#exhausted = false;
  }

  /** Claims the first free run of `count` MiB below the frontier; -1 when there is none. */
  reuse(count: number): number {
    if (this.#exhausted) return -1;
    let run = 0;
    for (let mib = 1; mib < this.#frontier; mib++) {
      // A word of ones ends any run: full parts of the file are skipped 32 MiB at a time.
      if ((mib & 31) === 0 && this.#bits[mib >>> 5] === 0xffff_ffff) {
        run = 0;
        mib += 31;
        continue;
      }
      run = this.#taken(mib) ? 0 : run + 1;
      if (run === count) {
        const start = mib - count + 1;
        this.claim(start, count);
        return start;
      }
    }
    this.#exhausted = true;
    return -1;
  }

  /** Claims `count` MiB at the frontier, which moves behind them. */
  extend(count: number): number {
    const start = this.#frontier;
    this.claim(start, count);
    this.#frontier = start + count;
    return start;
  }

  /** Bytes up to the end of the last MiB that belongs to something. */
  usedBytes(): number {
    let end = this.#end;
    while (end > 0 && !this.#taken(end - 1)) end--;
    return end * MIB;
  }

  /** MiB below the end of the used space that belong to nothing. */
  unownedMib(): number {
    let free = 0;
    const end = this.usedBytes() / MIB;
    for (let mib = 0; mib < end; mib++) if (!this.#taken(mib)) free++;
    return free;
  }

  #taken(mib: number): boolean {
    return ((this.#bits[mib >>> 5] ?? 0) & (1 << (mib & 31))) !== 0;
  }

  #grow(end: number): void {
    const words = Math.max(Math.ceil(end / 32), this.#bits.length * 2);
    const bits = new Uint32Array(words);
    bits.set(this.#bits);
    this.#bits = bits;
  }
}
