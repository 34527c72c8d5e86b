import type { GuestMemory } from "./guest-memory.js";
import { PAGE_SIZE } from "./protocol/index.js";

interface Extent {
  first: number;
  count: number;
}

/**
 * Hands out runs of guest pages from an arena that belongs to one CPU.
 *
 * Single-threaded by design: a page is freed by the CPU that allocated it. Memory whose release by the
 * host was never confirmed is `leak`ed: it stays counted and is never handed out again.
 */
export class PageAllocator {
  readonly #memory: GuestMemory;
  readonly #free: Extent[];
  readonly #taken = new Map<number, number>();
  #leakedPages = 0;

  /** Owns the pages from `address` on; both arguments in bytes, multiples of the page size. */
  constructor(memory: GuestMemory, address: number, lengthBytes: number) {
    if (address % PAGE_SIZE !== 0 || lengthBytes % PAGE_SIZE !== 0)
      throw new RangeError("an arena is whole pages");
    if (!memory.contains(address, lengthBytes)) throw new RangeError("arena outside guest memory");
    this.#memory = memory;
    this.#free = [{ first: address / PAGE_SIZE, count: lengthBytes / PAGE_SIZE }];
  }

  /** Pages that could be allocated, not necessarily in one run. */
  get freePages(): number {
    return this.#free.reduce((sum, extent) => sum + extent.count, 0);
  }

  get leakedPages(): number {
    return this.#leakedPages;
  }

  /** Address of `pages` contiguous zeroed pages, or `undefined` when no run is long enough. */
  allocate(pages: number): number | undefined {
    if (!Number.isInteger(pages) || pages <= 0) throw new RangeError("at least one page");
    const index = this.#free.findIndex((candidate) => candidate.count >= pages);
    const extent = this.#free[index];
    if (extent === undefined) return undefined;
    const address = extent.first * PAGE_SIZE;
    extent.first += pages;
    extent.count -= pages;
    if (extent.count === 0) this.#free.splice(index, 1);
    this.#taken.set(address, pages);
    this.#memory.clear(address, pages * PAGE_SIZE);
    return address;
  }

  /** Gives back a run by the address that `allocate` returned. */
  free(address: number): void {
    const count = this.#take(address);
    const first = address / PAGE_SIZE;
    let at = this.#free.findIndex((extent) => extent.first > first);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { first, count });
    this.#join(at);
    if (at > 0) this.#join(at - 1);
  }

  /** Withdraws a run for good, because the host may still write to it. */
  leak(address: number): void {
    this.#leakedPages += this.#take(address);
  }

  #take(address: number): number {
    const pages = this.#taken.get(address);
    if (pages === undefined) throw new Error(`0x${address.toString(16)} was not allocated here`);
    this.#taken.delete(address);
    return pages;
  }

  #join(index: number): void {
    const here = this.#free[index];
    const next = this.#free[index + 1];
    if (here === undefined || next?.first !== here.first + here.count) return;
    here.count += next.count;
    this.#free.splice(index + 1, 1);
  }
}
