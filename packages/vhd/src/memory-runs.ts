/** Where the data of a transfer are in memory: runs of one array, in order. Other threads may change them. */
export interface MemoryRuns {
  readonly bytes: Uint8Array;
  readonly runs: number;
  /** Index in `bytes` of a run's first byte. */
  runAddress(index: number): number;
  /** Bytes of a run. A sector may lie in several. */
  runLength(index: number): number;
}

/** Goes through runs from their start, in pieces of any length. */
export class RunCursor {
  readonly #memory: MemoryRuns;
  #run = 0;
  #offset = 0;

  constructor(memory: MemoryRuns) {
    this.#memory = memory;
  }

  /** Views of the next `lengthBytes`; the runs hold them. */
  take(lengthBytes: number): Uint8Array[] {
    const { bytes } = this.#memory;
    const views: Uint8Array[] = [];
    for (let left = lengthBytes; left > 0;) {
      const from = this.#memory.runAddress(this.#run) + this.#offset;
      const rest = this.#memory.runLength(this.#run) - this.#offset;
      const piece = Math.min(rest, left);
      if (piece > 0) views.push(bytes.subarray(from, from + piece));
      left -= piece;
      this.#offset += piece;
      if (piece < rest) continue;
      this.#run++;
      this.#offset = 0;
    }
    return views;
  }
}
