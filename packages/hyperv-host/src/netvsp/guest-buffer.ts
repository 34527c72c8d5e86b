import type { GpaRanges, GuestMemory } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, type GpaRange } from "@hyperv-is/vmbus-core/protocol";
import type { Frame } from "../switch/frame.js";
import { copyFrameBytes, type FrameMemory } from "../switch/frame-memory.js";

/** Memory that a guest has lent by a GPADL, addressed from its start. A GPADL may name scattered pages. */
export class GuestBuffer {
  readonly gpadlId: number;
  readonly sizeBytes: number;
  readonly #memory: GuestMemory;
  readonly #written: ((address: number, lengthBytes: number) => void) | undefined;
  /** Address of the whole, if it is one piece. */
  readonly #base: number;
  /** Address of each page, if it is not. */
  readonly #pages: Float64Array | undefined;

  /** @param written - is told what was put into the guest's memory. */
  private constructor(
    gpadlId: number,
    { pfns }: GpaRange,
    memory: GuestMemory,
    written: ((address: number, lengthBytes: number) => void) | undefined,
  ) {
    this.gpadlId = gpadlId;
    this.sizeBytes = pfns.length * PAGE_SIZE;
    this.#memory = memory;
    this.#written = written;
    this.#base = (pfns[0] ?? 0) * PAGE_SIZE;
    const isOnePiece = pfns.every((pfn, index) => pfn === pfns[0]! + index);
    this.#pages = isOnePiece ? undefined : Float64Array.from(pfns, (pfn) => pfn * PAGE_SIZE);
  }

  /** Undefined if the GPADL is not one range of whole pages, which is all that OpenVMM takes. */
  static of(
    gpadlId: number,
    ranges: readonly GpaRange[],
    memory: GuestMemory,
    written: ((address: number, lengthBytes: number) => void) | undefined,
  ): GuestBuffer | undefined {
    const [range, ...more] = ranges;
    if (range === undefined || more.length > 0) return undefined;
    // So many bytes of so many pages begin at the first one's start.
    if (range.byteCount !== range.pfns.length * PAGE_SIZE) return undefined;
    return new GuestBuffer(gpadlId, range, memory, written);
  }

  /** Appends a range that lies inside to a list of runs. */
  addRuns(list: GpaRanges, offset: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;) {
      const piece = this.#piece(offset + done, lengthBytes - done);
      list.add(this.#address(offset + done), piece);
      done += piece;
    }
  }

  /** Writes bytes to a range that lies inside. */
  write(offset: number, source: FrameMemory, from: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;) {
      const piece = this.#piece(offset + done, lengthBytes - done);
      const address = this.#address(offset + done);
      copyFrameBytes(this.#memory, address, source, from + done, piece);
      this.#written?.(address, piece);
      done += piece;
    }
  }

  /** Writes bytes `from` to `from + lengthBytes` of a frame to a range that lies inside. */
  writeFrame(offset: number, frame: Frame, from: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;) {
      const piece = this.#piece(offset + done, lengthBytes - done);
      const address = this.#address(offset + done);
      frame.copyPart(this.#memory, address, from + done, piece);
      this.#written?.(address, piece);
      done += piece;
    }
  }

  #address(offset: number): number {
    if (this.#pages === undefined) return this.#base + offset;
    return this.#pages[Math.floor(offset / PAGE_SIZE)]! + (offset % PAGE_SIZE);
  }

  #piece(offset: number, lengthBytes: number): number {
    if (this.#pages === undefined) return lengthBytes;
    return Math.min(lengthBytes, PAGE_SIZE - (offset % PAGE_SIZE));
  }
}
