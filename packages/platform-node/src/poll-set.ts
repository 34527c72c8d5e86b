import { FixedMemory } from "./fixed-memory.js";
import { libc, type LibC } from "./libc.js";

/** What is asked of a file: that it can be read, that it can be written. */
export const PollEvent = { input: 1, output: 4 } as const;
const EVENTS = PollEvent.input | PollEvent.output;
/** A `struct pollfd`: the file, what is asked, and what is answered in the upper half of the second word. */
const ENTRY_WORDS = 2;
/** poll leaves such an entry out. */
const NO_FILE = -1;
const TIMESPEC_BYTES = 16;
/** What is longer is for ever. */
const LONGEST_MS = 2 ** 31;

/** Files that a thread waits for at once, until one can be read, or what else is asked of it. Nothing here allocates per wait. */
export class PollSet {
  readonly #libc: LibC = libc();
  readonly #timeout = new FixedMemory(new Uint8Array(TIMESPEC_BYTES));
  readonly #timeoutWords = new Int32Array(this.#timeout.bytes.buffer);
  readonly #fds: number[] = [];
  readonly #events: number[] = [];
  #entries = new FixedMemory(new Uint8Array(0));
  #words: Int32Array = new Int32Array(0);

  /** Appends a file. */
  add(fd: number): void {
    this.#fds.push(fd);
    this.#events.push(PollEvent.input);
    this.#renew();
  }

  /** Changes what is asked of a file. @param events - Of `PollEvent`, as bits; 0 for none. */
  ask(fd: number, events: number): void {
    const at = this.#fds.indexOf(fd);
    if (at < 0) return;
    this.#events[at] = events;
    this.#words[at * ENTRY_WORDS] = fd;
    this.#words[at * ENTRY_WORDS + 1] = events;
  }

  /** Takes a file out; those behind it move up. */
  remove(fd: number): void {
    const at = this.#fds.indexOf(fd);
    if (at < 0) return;
    this.#fds.splice(at, 1);
    this.#events.splice(at, 1);
    this.#renew();
  }

  /** Blocks the thread until a file has news, for `timeoutMs` at most, which may have a fraction. @returns True if one has. */
  wait(timeoutMs: number): boolean {
    const { address } = this.#entries;
    if (timeoutMs > LONGEST_MS) return this.#libc.ppoll(address, this.#fds.length, 0, 0) > 0;
    const seconds = Math.floor(timeoutMs / 1e3);
    this.#timeoutWords[0] = seconds;
    this.#timeoutWords[2] = (timeoutMs - seconds * 1e3) * 1e6;
    return this.#libc.ppoll(address, this.#fds.length, this.#timeout.address, 0) > 0;
  }

  /** True if the file at this place can do what is asked of it, or is broken, as the last `wait` found. */
  hasNews(index: number): boolean {
    return this.#words[index * ENTRY_WORDS + 1]! >>> 16 !== 0;
  }

  /** Leaves out the files that the last `wait` found to be broken: they would never be silent again. */
  leaveOutBroken(): void {
    const words = this.#words;
    for (let index = 0; index < this.#fds.length; index++) {
      const news = words[index * ENTRY_WORDS + 1]! >>> 16;
      if ((news & ~EVENTS) !== 0) words[index * ENTRY_WORDS] = NO_FILE;
    }
  }

  #renew(): void {
    const entries = new FixedMemory(new Uint8Array(this.#fds.length * ENTRY_WORDS * 4));
    this.#entries = entries;
    this.#words = new Int32Array(entries.bytes.buffer);
    for (const [index, fd] of this.#fds.entries()) {
      this.#words[index * ENTRY_WORDS] = fd;
      this.#words[index * ENTRY_WORDS + 1] = this.#events[index]!;
    }
  }
}
