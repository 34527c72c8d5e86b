import type { GpaRuns } from "@hyperv-is/vmbus-core";
import { SENSE_AREA_BYTES } from "./protocol/index.js";

/** Whoever claimed a slot is told how its requests end: each exactly once, by one of these two. */
export interface SlotOwner {
  /**
   * The host is done with the request and its memory. The slot is idle again: the next request may be
   * submitted right here, and is published with the batch.
   *
   * @param tag - What the owner calls the slot. @param srbStatus - Raw, flags included.
   * @param transferred - Bytes moved, by the rules of `transferredBytes`.
   */
  complete(tag: number, srbStatus: number, scsiStatus: number, transferred: number): void;
  /** The channel closed before the host answered; `sent` says that the host may still use the memory. */
  abandoned(tag: number, sent: boolean): void;
}

/** Where the request of a slot is. */
export const SlotState = {
  /** The slot is nobody's. */
  free: 0,
  /** The slot is claimed, and has no request. */
  idle: 1,
  /** In line, for room in the ring or for a buffer. */
  waiting: 2,
  /** At the host. */
  sent: 3,
} as const;

/** Stands for "no buffer" where an address is expected. */
export const NO_BUFFER = -1;

/**
 * The requests of a channel by slot, and the line of those that wait. Everything is preallocated, and the
 * fields of one slot lie in arrays of their own: a request costs no object.
 *
 * The transaction id of a slot is its index + 1 (0 is what the host uses unasked), with a generation in the
 * upper half, by which a completion that comes twice, or too late, is recognised.
 */
export class RequestTable {
  readonly size: number;
  readonly state: Uint8Array;
  /** Upper half of the id of the slot's present request. */
  readonly generation: Int32Array;
  readonly tag: Int32Array;
  readonly owner: (SlotOwner | undefined)[];
  /** Memory of the present request. */
  readonly data: (GpaRuns | undefined)[];
  /** GPA of the buffer that stands in for that memory, or `NO_BUFFER`. */
  readonly buffer: Float64Array;
  readonly #free: Int32Array;
  #freeCount = 0;
  readonly #line: Int32Array;
  #lineHead = 0;
  #lineCount = 0;
  readonly #sense: Uint8Array;
  readonly #senseLength: Uint8Array;

  /** Slot 0 is never handed out: the control half has it. */
  constructor(slots: number) {
    this.size = slots;
    this.state = new Uint8Array(slots);
    this.generation = new Int32Array(slots);
    this.tag = new Int32Array(slots);
    this.owner = new Array<SlotOwner | undefined>(slots).fill(undefined);
    this.data = new Array<GpaRuns | undefined>(slots).fill(undefined);
    this.buffer = new Float64Array(slots).fill(NO_BUFFER);
    this.#free = new Int32Array(slots);
    this.#line = new Int32Array(slots);
    this.#sense = new Uint8Array(slots * SENSE_AREA_BYTES);
    this.#senseLength = new Uint8Array(slots);
    this.state[0] = SlotState.idle;
    for (let slot = slots - 1; slot > 0; slot--) this.#free[this.#freeCount++] = slot;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** Requests in line. */
  get lineCount(): number {
    return this.#lineCount;
  }

  /** A slot for `owner`, or -1 when all are taken. */
  claim(owner: SlotOwner, tag: number): number {
    if (this.#freeCount === 0) return -1;
    const slot = this.#free[--this.#freeCount]!;
    this.state[slot] = SlotState.idle;
    this.owner[slot] = owner;
    this.tag[slot] = tag;
    return slot;
  }

  /** Takes a slot back. */
  release(slot: number): void {
    this.checkIdle(slot);
    this.state[slot] = SlotState.free;
    this.owner[slot] = undefined;
    this.#free[this.#freeCount++] = slot;
  }

  /** Throws unless the slot is claimed and has no request. */
  checkIdle(slot: number): void {
    if (slot === 0 || this.state[slot] !== SlotState.idle)
      throw new Error(`slot ${slot} is not idle`);
  }

  /** Puts a slot at the end of the line. */
  enqueue(slot: number): void {
    this.state[slot] = SlotState.waiting;
    this.#senseLength[slot] = 0;
    let at = this.#lineHead + this.#lineCount;
    if (at >= this.size) at -= this.size;
    this.#line[at] = slot;
    this.#lineCount++;
  }

  /** The slot that has waited longest; the line is not empty. */
  firstInLine(): number {
    return this.#line[this.#lineHead]!;
  }

  /** Takes the first slot out of the line. */
  dequeue(): void {
    if (++this.#lineHead === this.size) this.#lineHead = 0;
    this.#lineCount--;
  }

  /** The request of a slot is over; its id will not come again. */
  finish(slot: number): void {
    this.state[slot] = SlotState.idle;
    this.generation[slot]!++;
    this.data[slot] = undefined;
    this.buffer[slot] = NO_BUFFER;
  }

  /** Keeps the sense data of a slot: `length` bytes of `source` from `from` on, as many as there is room. */
  keepSense(slot: number, source: Uint8Array, from: number, length: number): void {
    const kept = length < SENSE_AREA_BYTES ? length : SENSE_AREA_BYTES;
    const at = slot * SENSE_AREA_BYTES;
    for (let index = 0; index < kept; index++) this.#sense[at + index] = source[from + index]!;
    this.#senseLength[slot] = kept;
  }

  /** A copy of the sense data that came with a slot's last completion; empty when there was none. */
  sense(slot: number): Uint8Array {
    const at = slot * SENSE_AREA_BYTES;
    return this.#sense.slice(at, at + this.#senseLength[slot]!);
  }
}
