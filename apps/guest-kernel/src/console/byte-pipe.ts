/** Where a command writes bytes. */
export interface ByteSink {
  /** Resolves when the chunk was taken, so that a fast writer waits for a slow reader. Rejects with `BrokenPipe`. */
  write(chunk: Uint8Array): Promise<void>;
}

/** The reader of a pipe has ended. */
export class BrokenPipe extends Error {
  constructor() {
    super("Broken pipe");
    this.name = "BrokenPipe";
  }
}

/** Bytes from one command to the next, one chunk at a time. */
export class BytePipe implements ByteSink, AsyncIterable<Uint8Array> {
  #chunk: Uint8Array | undefined;
  #ended = false;
  #closed = false;
  #changed: (() => void)[] = [];

  async write(chunk: Uint8Array): Promise<void> {
    // The writer may use its buffer again as soon as this resolves.
    const copy = chunk.slice();
    while (this.#chunk !== undefined && !this.#closed) await this.#change();
    if (this.#closed) throw new BrokenPipe();
    if (copy.byteLength > 0) this.#chunk = copy;
    this.#notify();
  }

  /** No more chunks come. */
  end(): void {
    this.#ended = true;
    this.#notify();
  }

  /** Nobody reads any more. */
  close(): void {
    this.#closed = true;
    this.#notify();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    try {
      for (;;) {
        while (this.#chunk === undefined && !this.#ended) await this.#change();
        const chunk = this.#chunk;
        if (chunk === undefined) return;
        this.#chunk = undefined;
        this.#notify();
        yield chunk;
      }
    } finally {
      this.close();
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed.push(resolve));
  }

  #notify(): void {
    for (const wake of this.#changed.splice(0)) wake();
  }
}

/** A source without bytes. */
export const noBytes: AsyncIterable<Uint8Array> = {
  [Symbol.asyncIterator]: () => ({
    next: () => Promise.resolve({ done: true, value: undefined }),
  }),
};

/** The lines of a stream, without their ends; the last one need not have one. */
export async function* linesOf(source: AsyncIterable<Uint8Array>): AsyncIterable<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of source) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  rest += decoder.decode();
  if (rest !== "") yield rest;
}
