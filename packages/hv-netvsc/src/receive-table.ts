/**
 * The transfer-page packets of a channel whose ranges somebody still uses, or whose completions are still to be
 * sent. One completion gives all ranges of a packet back to the host, so they are counted. Everything is
 * preallocated.
 */
export class ReceiveTable {
  readonly size: number;
  /** The host's transaction id. */
  readonly idLow: Int32Array;
  readonly idHigh: Int32Array;
  /** NVSP status to complete with; 0: the host wants no completion. */
  readonly status: Uint8Array;
  readonly #users: Int32Array;
  readonly #free: Int32Array;
  #freeCount = 0;
  readonly #line: Int32Array;
  #lineHead = 0;
  #lineCount = 0;

  constructor(size: number) {
    this.size = size;
    this.idLow = new Int32Array(size);
    this.idHigh = new Int32Array(size);
    this.status = new Uint8Array(size);
    this.#users = new Int32Array(size);
    this.#free = new Int32Array(size);
    this.#line = new Int32Array(size);
    for (let index = size - 1; index >= 0; index--) this.#free[this.#freeCount++] = index;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** Packets whose completion is to be sent. */
  get lineCount(): number {
    return this.#lineCount;
  }

  /** An entry with one user; there must be a free one. */
  take(idLow: number, idHigh: number): number {
    const index = this.#free[--this.#freeCount]!;
    this.idLow[index] = idLow;
    this.idHigh[index] = idHigh;
    this.#users[index] = 1;
    return index;
  }

  /** One user more. */
  hold(index: number): void {
    this.#users[index]!++;
  }

  /** One user less; the last one puts the packet in line for its completion. Throws if there was none. */
  release(index: number): void {
    const users = this.#users[index];
    if (users === undefined || users === 0) throw new Error(`frame ${index} was released already`);
    this.#users[index] = users - 1;
    if (users > 1) return;
    let at = this.#lineHead + this.#lineCount;
    if (at >= this.size) at -= this.size;
    this.#line[at] = index;
    this.#lineCount++;
  }

  /** The packet that has waited longest; the line is not empty. */
  firstInLine(): number {
    return this.#line[this.#lineHead]!;
  }

  /** The first packet in line is completed. */
  dequeue(): void {
    this.#free[this.#freeCount++] = this.#line[this.#lineHead]!;
    if (++this.#lineHead === this.size) this.#lineHead = 0;
    this.#lineCount--;
  }
}
