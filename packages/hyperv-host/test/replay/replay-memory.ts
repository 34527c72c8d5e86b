import { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  GpaDirect,
  GpaRangeHeader,
  PAGE_SIZE,
  PFN_SIZE,
  gpaRangePages,
} from "@hyperv-is/vmbus-core/protocol";

/** Where the guest's pages lie in a replay: where they were, or each somewhere else. */
export type PagePlacement = "kept" | "relocated";

/**
 * The guest memory of a replay: as large as the recorded guest's, and a page behind it for the replay's own
 * hypercalls.
 *
 * Relocated pages are handed out from the top down in the order of their first use, so that no two neighbours
 * stay neighbours. A page has one place for the whole replay: a guest that uses it again finds it again.
 */
export class ReplayMemory {
  readonly memory: GuestMemory;
  /** GPA of the page of the replay's own. */
  readonly ownPage: number;
  readonly #pages: number;
  readonly #placement: PagePlacement;
  readonly #places = new Map<number, number>();

  constructor(recordedBytes: number, placement: PagePlacement) {
    this.memory = new GuestMemory(new ArrayBuffer(recordedBytes + PAGE_SIZE));
    this.ownPage = recordedBytes;
    this.#pages = recordedBytes / PAGE_SIZE;
    this.#placement = placement;
  }

  /** Place of a page. What was no guest memory is none here either. */
  page(pfn: number): number {
    if (this.#placement === "kept" || pfn >= this.#pages) return pfn;
    let place = this.#places.get(pfn);
    if (place === undefined) {
      place = this.#pages - 1 - this.#places.size;
      this.#places.set(pfn, place);
    }
    return place;
  }

  /** Place of an address. */
  address(gpa: number): number {
    return this.page(Math.floor(gpa / PAGE_SIZE)) * PAGE_SIZE + (gpa % PAGE_SIZE);
  }

  /** Puts the places of an address at `offset`, unless it says that there is none (0). */
  placeAddress(bytes: Uint8Array, offset: number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const gpa = Number(view.getBigUint64(offset, true));
    if (gpa !== 0) view.setBigUint64(offset, BigInt(this.address(gpa)), true);
  }

  /**
   * Puts the places of the pages of `count` ranges, one behind the other. Stops where they contradict
   * themselves: what is wrong stays wrong.
   */
  placeRanges(bytes: Uint8Array, count: number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    for (let range = 0; range < count; range++) {
      if (at + GpaRangeHeader.SIZE > bytes.byteLength) return;
      const pages = gpaRangePages(
        view.getUint32(at + GpaRangeHeader.byteCount, true),
        view.getUint32(at + GpaRangeHeader.byteOffset, true),
      );
      at += GpaRangeHeader.SIZE;
      for (let page = 0; page < pages; page++, at += PFN_SIZE) {
        if (at + PFN_SIZE > bytes.byteLength) return;
        const pfn = view.getBigUint64(at, true);
        if (pfn < BigInt(this.#pages)) view.setBigUint64(at, BigInt(this.page(Number(pfn))), true);
      }
    }
  }

  /** A GPA-direct packet with its pages in their places. */
  placePacket(packet: Uint8Array, headerBytes: number): Uint8Array {
    const placed = packet.slice();
    const view = new DataView(placed.buffer);
    if (headerBytes >= GpaDirect.ranges)
      this.placeRanges(
        placed.subarray(GpaDirect.ranges, headerBytes),
        view.getUint32(GpaDirect.rangeCount, true),
      );
    return placed;
  }
}
