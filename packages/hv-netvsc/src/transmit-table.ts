import type { GpaRuns } from "@hyperv-is/vmbus-core";

/** Where the send of a descriptor is. */
export const SendState = {
  free: 0,
  /** Being filled. */
  open: 1,
  /** In line for room in the ring. */
  waiting: 2,
  /** At the host. */
  sent: 3,
} as const;

/** What a descriptor sends. */
export const SendKind = {
  /** Frames that were copied into a section of the send buffer. */
  section: 0,
  /** One frame in the caller's memory. */
  pages: 1,
} as const;

/** Stands for "no section" where an index is expected. */
export const NO_SECTION = -1;

/**
 * The sends of a channel by descriptor, and the line of those that wait. Everything is preallocated, and the
 * fields of one descriptor lie in arrays of their own: a send costs no object.
 *
 * The transaction id of a descriptor is its index + 1, with a generation in the upper half, by which a completion
 * that comes twice, or too late, is recognised.
 */
export class TransmitTable {
  readonly size: number;
  readonly state: Uint8Array;
  readonly kind: Uint8Array;
  /** Upper half of the id of the present send. */
  readonly generation: Int32Array;
  /** Section index, or `NO_SECTION`. */
  readonly section: Int32Array;
  /** Bytes of the section that are used, or of the message in the descriptor's header area. */
  readonly bytes: Int32Array;
  /** The caller's name of the frame. */
  readonly tag: Int32Array;
  /** The caller's memory. */
  readonly frame: (GpaRuns | undefined)[];
  /** Bytes of it that are in the header area. */
  readonly copied: Int32Array;
  readonly #free: Int32Array;
  #freeCount = 0;
  readonly #line: Int32Array;
  #lineHead = 0;
  #lineCount = 0;

  /** @param reserved - Descriptors, from 0 on, that `take` never hands out. */
  constructor(size: number, reserved: number) {
    this.size = size;
    this.state = new Uint8Array(size);
    this.kind = new Uint8Array(size);
    this.generation = new Int32Array(size);
    this.section = new Int32Array(size).fill(NO_SECTION);
    this.bytes = new Int32Array(size);
    this.tag = new Int32Array(size);
    this.frame = new Array<GpaRuns | undefined>(size).fill(undefined);
    this.copied = new Int32Array(size);
    this.#free = new Int32Array(size);
    this.#line = new Int32Array(size);
    for (let index = size - 1; index >= reserved; index--) this.#free[this.#freeCount++] = index;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  /** Sends in line. */
  get lineCount(): number {
    return this.#lineCount;
  }

  /** A descriptor, or -1 when all are taken. */
  take(kind: number): number {
    if (this.#freeCount === 0) return -1;
    const index = this.#free[--this.#freeCount]!;
    this.kind[index] = kind;
    this.state[index] = SendState.open;
    return index;
  }

  /** Gives a descriptor of `take` back; its id will not come again. */
  give(index: number): void {
    this.end(index);
    this.#free[this.#freeCount++] = index;
  }

  /** The send of a descriptor is over. */
  end(index: number): void {
    this.state[index] = SendState.free;
    this.generation[index]!++;
    this.section[index] = NO_SECTION;
    this.frame[index] = undefined;
  }

  /** Puts a descriptor at the end of the line. */
  enqueue(index: number): void {
    this.state[index] = SendState.waiting;
    let at = this.#lineHead + this.#lineCount;
    if (at >= this.size) at -= this.size;
    this.#line[at] = index;
    this.#lineCount++;
  }

  /** The descriptor that has waited longest; the line is not empty. */
  firstInLine(): number {
    return this.#line[this.#lineHead]!;
  }

  /** Takes the first descriptor out of the line. */
  dequeue(): void {
    if (++this.#lineHead === this.size) this.#lineHead = 0;
    this.#lineCount--;
  }
}
