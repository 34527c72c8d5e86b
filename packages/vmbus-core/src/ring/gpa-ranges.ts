import type { GuestMemory } from "../guest-memory.js";
import {
  GpaDirect,
  GpaRangeHeader,
  PAGE_SIZE,
  PFN_SIZE,
  gpaRangePages,
} from "../protocol/index.js";
import type { IncomingRing } from "./incoming-ring.js";
import type { OutgoingRing } from "./outgoing-ring.js";

/** Outcome of `GpaRanges.load`. */
export const GpaRangesResult = {
  Ok: 0,
  /** The header contradicts itself: the sender broke the ring protocol, close the channel. */
  Corrupt: 1,
  /** A page is not in guest memory: fail the request, the channel lives. */
  OutsideMemory: 2,
} as const;
export type GpaRangesResult = (typeof GpaRangesResult)[keyof typeof GpaRangesResult];

/** Guest memory as runs of contiguous bytes, in order: the data of one request. A run is never empty. */
export interface GpaRuns {
  /** How many runs there are. */
  readonly runs: number;
  /** Bytes of all runs together. */
  readonly lengthBytes: number;
  /** GPA of the first byte of a run. */
  runAddress(index: number): number;
  /** Bytes of a run. */
  runLength(index: number): number;
}

/**
 * The guest memory that a GPA-direct packet names, as runs of contiguous bytes.
 *
 * One object is filled again for every packet. Every page number is read once, checked against guest
 * memory, and kept as an address; neighbouring pages are joined into one run.
 */
export class GpaRanges implements GpaRuns {
  readonly bytes: Uint8Array;
  /** Ranges of the packet. */
  count = 0;
  /** Bytes of all ranges together. */
  lengthBytes = 0;
  /** Contiguous runs that the ranges consist of. */
  runs = 0;
  readonly #memory: GuestMemory;
  #addresses = new Float64Array(64);
  #lengths = new Float64Array(64);

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.bytes = memory.bytes;
  }

  runAddress(index: number): number {
    return this.#addresses[index]!;
  }

  runLength(index: number): number {
    return this.#lengths[index]!;
  }

  /** No ranges: a packet without data. */
  clear(): void {
    this.count = 0;
    this.lengthBytes = 0;
    this.runs = 0;
  }

  /** Appends a run that the caller has checked. */
  add(address: number, lengthBytes: number): void {
    const last = this.runs - 1;
    const end = last < 0 ? -1 : this.#addresses[last]! + this.#lengths[last]!;
    if (end === address) {
      this.#lengths[last]! += lengthBytes;
    } else {
      if (this.runs === this.#addresses.length) this.#grow();
      this.#addresses[this.runs] = address;
      this.#lengths[this.runs++] = lengthBytes;
    }
    this.lengthBytes += lengthBytes;
  }

  /** Forgets what lies behind the first `lengthBytes`. */
  truncate(lengthBytes: number): void {
    if (lengthBytes >= this.lengthBytes) return;
    let rest = lengthBytes;
    let runs = 0;
    for (; rest > 0; runs++) {
      const length = Math.min(rest, this.#lengths[runs]!);
      this.#lengths[runs] = length;
      rest -= length;
    }
    this.runs = runs;
    this.lengthBytes = lengthBytes;
  }

  /** Reads the ranges of the current packet of `ring`, which is of type GPA direct. */
  load(ring: IncomingRing): GpaRangesResult {
    this.clear();
    const end = ring.headerBytes;
    const count = ring.u32(GpaDirect.rangeCount) >>> 0;
    // Each range takes a header and at least one page number.
    const least = GpaRangeHeader.SIZE + PFN_SIZE;
    if (count === 0 || count > (end - GpaDirect.ranges) / least) return GpaRangesResult.Corrupt;
    let at: number = GpaDirect.ranges;
    let outside = false;
    for (let range = 0; range < count; range++) {
      if (at + least > end) return GpaRangesResult.Corrupt;
      let rest = ring.u32(at) >>> 0;
      let offset = ring.u32(at + 4) >>> 0;
      at += GpaRangeHeader.SIZE;
      const pages = gpaRangePages(rest, offset);
      if (pages < 0 || pages > (end - at) / PFN_SIZE) return GpaRangesResult.Corrupt;
      for (let page = 0; page < pages; page++, at += PFN_SIZE) {
        const address = (ring.u32(at) >>> 0) * PAGE_SIZE;
        const length = Math.min(rest, PAGE_SIZE - offset);
        if (ring.u32(at + 4) !== 0 || !this.#memory.contains(address, PAGE_SIZE)) outside = true;
        else this.add(address + offset, length);
        rest -= length;
        offset = 0;
      }
    }
    this.count = count;
    return outside ? GpaRangesResult.OutsideMemory : GpaRangesResult.Ok;
  }

  #grow(): void {
    const addresses = new Float64Array(this.#addresses.length * 2);
    addresses.set(this.#addresses);
    this.#addresses = addresses;
    const lengths = new Float64Array(addresses.length);
    lengths.set(this.#lengths);
    this.#lengths = lengths;
  }
}

/** Header bytes of a GPA-direct packet with one range of `lengthBytes` starting at `address`. */
export function gpaDirectHeaderBytes(address: number, lengthBytes: number): number {
  return singleRangeHeaderBytes(gpaRangePages(lengthBytes, address % PAGE_SIZE));
}

/**
 * Puts the single range of contiguous guest memory behind a GPA-direct descriptor that `begin` has just
 * put with `gpaDirectHeaderBytes`.
 */
export function putGpaRange(ring: OutgoingRing, address: number, lengthBytes: number): void {
  putRangeHeader(ring, address, lengthBytes);
  putPages(ring, Math.floor(address / PAGE_SIZE), address + lengthBytes);
}

/**
 * Page numbers of the one range that describes all of `list`, or 0 when no single range does (or the list is
 * empty): where two runs meet they either touch, or both lie at a page boundary, for a range is whole pages
 * but for the start of its first page and the end of its last.
 */
export function singleRangePages(list: GpaRuns): number {
  let pages = 0;
  let end = 0;
  for (let run = 0; run < list.runs; run++) {
    const address = list.runAddress(run);
    const offset = address & (PAGE_SIZE - 1);
    if (run > 0 && offset !== 0 && address === end) pages--;
    else if (run > 0 && (offset | (end & (PAGE_SIZE - 1))) !== 0) return 0;
    const length = list.runLength(run);
    pages += Math.ceil((offset + length) / PAGE_SIZE);
    end = address + length;
  }
  return pages;
}

/** Header bytes of a GPA-direct packet with one range of `pages` page numbers. */
export function singleRangeHeaderBytes(pages: number): number {
  return GpaDirect.ranges + GpaRangeHeader.SIZE + PFN_SIZE * pages;
}

/**
 * Puts all of `list` as one range behind a GPA-direct descriptor that `begin` has just put with
 * `singleRangeHeaderBytes`; `singleRangePages` has said that one range describes it.
 */
export function putSingleRange(ring: OutgoingRing, list: GpaRuns): void {
  putRangeHeader(ring, list.runAddress(0), list.lengthBytes);
  let end = 0;
  for (let run = 0; run < list.runs; run++) {
    const address = list.runAddress(run);
    let page = Math.floor(address / PAGE_SIZE);
    // Runs that touch inside a page share it.
    if (run > 0 && address === end && address % PAGE_SIZE !== 0) page++;
    end = address + list.runLength(run);
    putPages(ring, page, end);
  }
}

/** Puts what precedes the page numbers of a single range that starts at `address`. */
function putRangeHeader(ring: OutgoingRing, address: number, lengthBytes: number): void {
  ring.putU32(0);
  ring.putU32(1);
  ring.putU32(lengthBytes);
  ring.putU32(address & (PAGE_SIZE - 1));
}

/** Puts the numbers of the pages from `page` on that begin below the address `end`. */
function putPages(ring: OutgoingRing, page: number, end: number): void {
  for (; page * PAGE_SIZE < end; page++) {
    ring.putU32(page);
    ring.putU32(page > 0xffff_ffff ? Math.floor(page / 0x1_0000_0000) : 0);
  }
}
