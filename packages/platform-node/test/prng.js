/**
 * A deterministic generator of 32-bit numbers (the mulberry32 step) with one integer of state. Workers draw
 * from it between two looks, where it must cost nothing, and load it as it is: so it is this small, and JavaScript.
 */
export class Prng {
  #state;

  /** @param {number} seed */
  constructor(seed) {
    this.#state = seed >>> 0;
  }

  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) >>> 0;
  }

  /** @param {number} limit */
  below(limit) {
    return this.next() % limit;
  }
}
