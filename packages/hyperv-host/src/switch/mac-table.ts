/** Slots for each address that a table may have: searches stay short. */
const SLOTS_PER_ADDRESS = 2;

/** Values of a slot besides the number of a port. */
const FREE = -1;
const GONE = -2;

/**
 * Which port an address is at, for each VLAN by itself. Bounded, and nothing is allocated per look-up: a guest may
 * send frames from as many addresses as it likes.
 */
export class MacTable {
  readonly #capacity: number;
  readonly #mask: number;
  /** Upper 16 bits of the address, and the VLAN id above them. */
  readonly #highs: Int32Array;
  readonly #lows: Int32Array;
  readonly #ports: Int32Array;
  readonly #seenMs: Float64Array;
  /** Slots that are not free. */
  #used = 0;
  #size = 0;

  /** @param capacity - addresses; rounded up to a power of two. */
  constructor(capacity: number) {
    const slots = 1 << (32 - Math.clz32(capacity * SLOTS_PER_ADDRESS - 1));
    this.#capacity = slots / SLOTS_PER_ADDRESS;
    this.#mask = slots - 1;
    this.#highs = new Int32Array(slots);
    this.#lows = new Int32Array(slots);
    this.#ports = new Int32Array(slots).fill(FREE);
    this.#seenMs = new Float64Array(slots);
  }

  /** Addresses in the table. */
  get size(): number {
    return this.#size;
  }

  /** The port of an address; -1 if it is not known, or was not seen since `sinceMs`. */
  find(vlan: number, high: number, low: number, sinceMs: number): number {
    const slot = this.#slotOf((vlan << 16) | high, low);
    if (slot < 0 || this.#seenMs[slot]! < sinceMs) return -1;
    return this.#ports[slot]!;
  }

  /**
   * Notes where an address was seen.
   *
   * @param sinceMs - what was not seen since then makes room. @returns False if there is none.
   */
  learn(
    vlan: number,
    high: number,
    low: number,
    port: number,
    nowMs: number,
    sinceMs: number,
  ): boolean {
    const first = (vlan << 16) | high;
    const known = this.#slotOf(first, low);
    if (known >= 0) {
      this.#ports[known] = port;
      this.#seenMs[known] = nowMs;
      return true;
    }
    if (this.#used === this.#capacity) this.#rebuild(sinceMs);
    if (this.#used === this.#capacity) return false;
    this.#insert(first, low, port, nowMs);
    return true;
  }

  /** Forgets all addresses of a port. */
  forgetPort(port: number): void {
    for (let slot = 0; slot <= this.#mask; slot++)
      if (this.#ports[slot] === port) {
        this.#ports[slot] = GONE;
        this.#size--;
      }
  }

  #slotOf(first: number, low: number): number {
    for (let slot = this.#hash(first, low); ; slot = (slot + 1) & this.#mask) {
      const port = this.#ports[slot]!;
      if (port === FREE) return -1;
      if (port !== GONE && this.#highs[slot] === first && this.#lows[slot] === low) return slot;
    }
  }

  #insert(first: number, low: number, port: number, seenMs: number): void {
    let slot = this.#hash(first, low);
    while (this.#ports[slot] !== FREE) slot = (slot + 1) & this.#mask;
    this.#highs[slot] = first;
    this.#lows[slot] = low;
    this.#ports[slot] = port;
    this.#seenMs[slot] = seenMs;
    this.#used++;
    this.#size++;
  }

  /** Drops what is gone, or was not seen since. */
  #rebuild(sinceMs: number): void {
    const [highs, lows] = [this.#highs.slice(), this.#lows.slice()];
    const [ports, seenMs] = [this.#ports.slice(), this.#seenMs.slice()];
    this.#ports.fill(FREE);
    this.#used = 0;
    this.#size = 0;
    for (let slot = 0; slot <= this.#mask; slot++)
      if (ports[slot]! >= 0 && seenMs[slot]! >= sinceMs)
        this.#insert(highs[slot]!, lows[slot]!, ports[slot]!, seenMs[slot]!);
  }

  #hash(first: number, low: number): number {
    const mixed = Math.imul(first ^ (low >>> 15) ^ low, 0x9e37_79b1);
    return (mixed ^ (mixed >>> 15)) & this.#mask;
  }
}
