/** Where a trace goes. */
export interface TraceSink {
  /**
   * Takes whole records, one or more, or the header. The bytes are the writer's again when this returns.
   * Must not throw: whoever traces goes on without.
   */
  write(bytes: Uint8Array): void;
}

/** Keeps a trace in memory. */
export class MemorySink implements TraceSink {
  readonly #chunks: Uint8Array[] = [];

  write(bytes: Uint8Array): void {
    this.#chunks.push(bytes.slice());
  }

  /** The trace so far, as a file would have it. */
  get bytes(): Uint8Array {
    const total = this.#chunks.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const all = new Uint8Array(total);
    let at = 0;
    for (const chunk of this.#chunks) {
      all.set(chunk, at);
      at += chunk.byteLength;
    }
    return all;
  }
}
