import { type Random } from "../src/random.js";

/**
 * A deterministic generator of 32-bit numbers (the mulberry32 step) with one integer of state. Another one
 * would make the seeds that are kept in `crash.test.ts` mean other rounds than those that caught something.
 */
export class Prng implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 to 2^32 - 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  below(limit: number): number {
    return this.next() % limit;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  fill(target: Uint8Array): void {
    for (let at = 0; at < target.byteLength; at++) target[at] = this.next() >>> 24;
  }
}
