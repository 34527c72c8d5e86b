import type { PcError } from "./pc-error.js";

/** Characters of the transcript that are kept. */
const TRANSCRIPT_LIMIT = 8 * 2 ** 20;

interface Waiter {
  readonly wanted: string | RegExp;
  readonly resolve: (text: string) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The serial console of a guest: bytes both ways, and a transcript in which a program can wait for text.
 *
 * Waiting works like a reader with a finger on the page: each match moves the finger behind itself, so that
 * the next wait does not find the same text again.
 */
export class SerialConsole {
  readonly #send: (bytes: Uint8Array) => void;
  readonly #decoder = new TextDecoder("utf-8");
  readonly #listeners = new Set<(bytes: Uint8Array) => void>();
  readonly #waiters: Waiter[] = [];
  /** Called when nothing will come any more. */
  readonly #readers = new Set<() => void>();
  #transcript = "";
  /** Index of the transcript behind the last match. */
  #finger = 0;
  #closed: Error | undefined;

  /** @param send - takes bytes to the guest. */
  constructor(send: (bytes: Uint8Array) => void) {
    this.#send = send;
  }

  /** Everything that the guest has written, as UTF-8; of very long sessions the newest part. */
  get transcript(): string {
    return this.#transcript;
  }

  /** Types into the console. Nothing is added: a line ends in `\n`, or `\r` for a program that reads raw. */
  write(input: string | Uint8Array): void {
    if (this.#closed !== undefined) return;
    this.#send(typeof input === "string" ? new TextEncoder().encode(input) : input);
  }

  /** Calls back with what the guest writes from now on. @returns Ends it. */
  subscribe(listener: (bytes: Uint8Array) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * What the guest writes from now on, in pieces as they come; ends with the machine.
   * `Readable.from(serial)` makes a stream of Node of it.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    const pieces: Uint8Array[] = [];
    let wake = (): void => undefined;
    const woken = (): void => wake();
    const unsubscribe = this.subscribe((bytes) => {
      pieces.push(bytes);
      wake();
    });
    this.#readers.add(woken);
    const isClosed = (): boolean => this.#closed !== undefined;
    const forget = (): void => {
      unsubscribe();
      this.#readers.delete(woken);
    };
    return (async function* () {
      try {
        for (;;) {
          const piece = pieces.shift();
          if (piece !== undefined) yield piece;
          else if (isClosed()) return;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      } finally {
        forget();
      }
    })();
  }

  /**
   * Resolves when the guest has written the text, perhaps already, after the last match.
   * Rejects when the machine ends first. One wait at a time, or the order of their matches is that of the text.
   *
   * @returns What stands between the last match and the end of this one.
   */
  waitFor(wanted: string | RegExp): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ wanted, resolve, reject });
      this.#match();
      if (this.#closed !== undefined) this.#rejectAll(this.#closed);
    });
  }

  /** The machine's side: the guest has written bytes. */
  received(bytes: Uint8Array): void {
    for (const listener of this.#listeners) listener(bytes);
    this.#transcript += this.#decoder.decode(bytes, { stream: true });
    this.#match();
    const excess = this.#transcript.length - 2 * TRANSCRIPT_LIMIT;
    if (excess <= 0) return;
    this.#transcript = this.#transcript.slice(-TRANSCRIPT_LIMIT);
    this.#finger = Math.max(0, this.#finger - excess - TRANSCRIPT_LIMIT);
  }

  /** Puts the finger back to the start of the transcript. */
  rewind(): void {
    this.#finger = 0;
  }

  /** The machine's side: the guest goes on, and had written this. */
  restore(transcript: string): void {
    this.#transcript = transcript;
    this.#finger = 0;
    this.#match();
  }

  /** The machine's side: nothing will come any more. */
  closed(error: PcError): void {
    this.#closed ??= error;
    this.#rejectAll(this.#closed);
    for (const wake of this.#readers) wake();
  }

  #match(): void {
    for (let first = this.#waiters[0]; first !== undefined; first = this.#waiters[0]) {
      const end = this.#find(first.wanted);
      if (end < 0) return;
      this.#waiters.shift();
      const text = this.#transcript.slice(this.#finger, end);
      this.#finger = end;
      first.resolve(text);
    }
  }

  /** Index behind the first match after the finger; -1 without one. */
  #find(wanted: string | RegExp): number {
    if (typeof wanted === "string") {
      const at = this.#transcript.indexOf(wanted, this.#finger);
      return at < 0 ? -1 : at + wanted.length;
    }
    const match = new RegExp(wanted.source, wanted.flags.replace(/[gy]/g, "")).exec(
      this.#transcript.slice(this.#finger),
    );
    return match === null ? -1 : this.#finger + match.index + match[0].length;
  }

  #rejectAll(error: Error): void {
    for (const { reject } of this.#waiters.splice(0)) reject(error);
  }
}
