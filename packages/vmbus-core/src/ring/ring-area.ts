import type { GuestMemory } from "../guest-memory.js";
import { PAGE_SIZE, RING_MIN_PAGES } from "../protocol/index.js";

/**
 * Where a ring lies in guest memory: its control page and its data area.
 *
 * Data offsets are bytes below `sizeBytes`. A guest allocates rings in one piece; a GPADL may also name
 * scattered pages, which costs a table look-up per access and a split per page.
 */
export class RingArea {
  readonly memory: GuestMemory;
  /** GPA of the control page. */
  readonly controlAddress: number;
  /** Bytes of the data area: whole pages. */
  readonly sizeBytes: number = 0;
  readonly #base: number = 0;
  /** GPA of each data page, when they are not contiguous. */
  readonly #pages: Float64Array | undefined;

  /** @param pages - GPA of each page of the ring, control page first; all inside guest memory. */
  constructor(memory: GuestMemory, pages: ArrayLike<number>) {
    if (pages.length < RING_MIN_PAGES)
      throw new RangeError("a ring is a control page and at least one more");
    this.memory = memory;
    this.controlAddress = pages[0]!;
    this.sizeBytes = (pages.length - 1) * PAGE_SIZE;
    this.#base = pages[1]!;
    let contiguous = true;
    for (let index = 0; index < pages.length; index++) {
      const page = pages[index]!;
      if (page % PAGE_SIZE !== 0 || !memory.contains(page, PAGE_SIZE))
        throw new RangeError("ring page outside guest memory");
      if (index > 0 && page !== this.#base + (index - 1) * PAGE_SIZE) contiguous = false;
    }
    this.#pages = contiguous ? undefined : Float64Array.from(pages).subarray(1);
  }

  /** The area of `pages` contiguous pages from `address` on, control page included. */
  static at(memory: GuestMemory, address: number, pages: number): RingArea {
    return new RingArea(
      memory,
      Array.from({ length: pages }, (_, index) => address + index * PAGE_SIZE),
    );
  }

  /** True if the data area is one piece of guest memory. */
  get isContiguous(): boolean {
    return this.#pages === undefined;
  }

  /** GPA of the data byte at `offset`. */
  address(offset: number): number {
    if (this.#pages === undefined) return this.#base + offset;
    return this.#pages[offset >>> 12]! + (offset & 4095);
  }

  /** Bytes from `offset` on that are contiguous in guest memory, at most `lengthBytes`. */
  run(offset: number, lengthBytes: number): number {
    const end = this.#pages === undefined ? this.sizeBytes : (offset | 4095) + 1;
    const there = end - offset;
    return there < lengthBytes ? there : lengthBytes;
  }
}
