import type { GuestMemory } from "./guest-memory.js";

/**
 * A bitmap of signals that two sides share: the event-flags area of a SINT, or half an interrupt page.
 *
 * Bit numbers are relids; flag `f` is bit `f % 32` of word `f / 32`. Every access is one atomic
 * read-modify-write. The taker clears a flag before it looks at what the flag stands for, otherwise a
 * signal between the look and the clearing is lost. The simulation derives from this class.
 */
export class EventFlags {
  readonly #words: Int32Array;
  readonly #first: number;
  /** Words of the bitmap. */
  readonly wordCount: number;

  /** @param words - the memory. @param first - word index of the bitmap. @param wordCount - its length. */
  constructor(words: Int32Array, first: number, wordCount: number) {
    this.#words = words;
    this.#first = first;
    this.wordCount = wordCount;
  }

  /** The bitmap of `lengthBytes` at a GPA. */
  static at(memory: GuestMemory, address: number, lengthBytes: number): EventFlags {
    return new EventFlags(memory.words, address >>> 2, lengthBytes >>> 2);
  }

  /** Sets a flag; true if it was clear before. */
  set(flag: number): boolean {
    const bit = 1 << (flag & 31);
    return (Atomics.or(this.#words, this.#first + (flag >>> 5), bit) & bit) === 0;
  }

  /** Clears a flag; true if it was set before. */
  clear(flag: number): boolean {
    const bit = 1 << (flag & 31);
    return (Atomics.and(this.#words, this.#first + (flag >>> 5), ~bit) & bit) !== 0;
  }

  /** Takes all flags of a word, leaving it clear. */
  take(word: number): number {
    const at = this.#first + word;
    // Most words are empty most of the time, and a load costs half of an exchange.
    return Atomics.load(this.#words, at) === 0 ? 0 : Atomics.exchange(this.#words, at, 0);
  }
}
