import {
  GpaRanges,
  type GpaRuns,
  type GuestMemory,
  type PageAllocator,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

interface FrameBuffer {
  readonly address: number;
  readonly runs: GpaRanges;
  state: "idle" | "lent" | "lost";
}

/** Guest memory for frames to send: a buffer for each frame that the driver has not let go of yet. */
export class FrameBuffers {
  readonly #memory: GuestMemory;
  readonly #allocator: PageAllocator;
  readonly #pages: number;
  readonly #countMax: number;
  readonly #buffers: FrameBuffer[] = [];

  /** @param frameBytes - Longest frame. @param countMax - Buffers at most. */
  constructor(memory: GuestMemory, allocator: PageAllocator, frameBytes: number, countMax: number) {
    this.#memory = memory;
    this.#allocator = allocator;
    this.#pages = Math.ceil(frameBytes / PAGE_SIZE);
    this.#countMax = countMax;
  }

  /** Copies a frame, not longer than agreed, into a buffer. @returns The buffer's number; -1 if none is to be had. */
  put(frame: Uint8Array): number {
    let at = this.#buffers.findIndex(({ state }) => state === "idle");
    if (at < 0) at = this.#add();
    if (at < 0) return -1;
    const buffer = this.#buffers[at]!;
    this.#memory.bytes.set(frame, buffer.address);
    buffer.runs.clear();
    buffer.runs.add(buffer.address, frame.byteLength);
    buffer.state = "lent";
    return at;
  }

  /** Where the frame in a buffer lies. */
  runs(buffer: number): GpaRuns {
    return this.#buffers[buffer]!.runs;
  }

  /** The driver is done with a buffer. @param released - False if the host may still read it, for ever. */
  give(buffer: number, released: boolean): void {
    const given = this.#buffers[buffer]!;
    given.state = released ? "idle" : "lost";
    if (!released) this.#allocator.leak(given.address);
  }

  /** Gives all memory back that the driver does not use. */
  close(): void {
    for (const { state, address } of this.#buffers.splice(0)) {
      if (state === "idle") this.#allocator.free(address);
      else if (state === "lent") this.#allocator.leak(address);
    }
  }

  #add(): number {
    if (this.#buffers.length === this.#countMax) return -1;
    const address = this.#allocator.allocate(this.#pages);
    if (address === undefined) return -1;
    return this.#buffers.push({ address, runs: new GpaRanges(this.#memory), state: "idle" }) - 1;
  }
}
