const NEWLINE = 0x0a;

/** Takes a stream of bytes apart at its newlines, and keeps no more of a line than it may have. */
export class LineSplitter {
  readonly #limitBytes: number;
  /** Of the line that has not ended yet. */
  #chunks: Uint8Array[] = [];
  #pendingBytes = 0;
  #isTooLong = false;

  /** @param limitBytes - that a line may have, its newline not counted. */
  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** True once a line had more bytes than it may have: nothing that follows is taken any more. */
  get isTooLong(): boolean {
    return this.#isTooLong;
  }

  /** Takes bytes, which are the splitter's from now on. @returns The lines that they end, without newlines. */
  push(bytes: Uint8Array): Uint8Array[] {
    const lines: Uint8Array[] = [];
    for (let start = 0; ;) {
      const end = bytes.indexOf(NEWLINE, start);
      const fits = this.#take(bytes.subarray(start, end < 0 ? bytes.byteLength : end));
      if (!fits || end < 0) return lines;
      lines.push(this.#line());
      start = end + 1;
    }
  }

  /** @returns False if the line is too long. */
  #take(bytes: Uint8Array): boolean {
    if (this.#isTooLong) return false;
    this.#pendingBytes += bytes.byteLength;
    this.#isTooLong = this.#pendingBytes > this.#limitBytes;
    if (this.#isTooLong) this.#chunks = [];
    else if (bytes.byteLength > 0) this.#chunks.push(bytes);
    return !this.#isTooLong;
  }

  #line(): Uint8Array {
    const line = new Uint8Array(this.#pendingBytes);
    let at = 0;
    for (const chunk of this.#chunks) {
      line.set(chunk, at);
      at += chunk.byteLength;
    }
    this.#chunks = [];
    this.#pendingBytes = 0;
    return line;
  }
}
