import type { GpaRuns, GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { StorvscError } from "./errors.js";

/**
 * Buffers in guest memory for transfers whose own memory the host cannot be shown: each holds the largest
 * transfer. Made when needed, kept for the next; one exists from the start, so that a transfer that waits
 * for a buffer always gets one in the end.
 */
export class BouncePool {
  readonly bufferBytes: number;
  readonly #allocator: PageAllocator;
  readonly #limit: number;
  readonly #free: number[] = [];
  #made = 0;

  /** Throws `ERR_STORVSC_MEMORY` when the CPU's arena has no room for the first buffer. */
  constructor(allocator: PageAllocator, bufferBytes: number, limit: number) {
    this.bufferBytes = bufferBytes;
    this.#allocator = allocator;
    this.#limit = limit;
    const first = this.take();
    if (first < 0)
      throw new StorvscError("ERR_STORVSC_MEMORY", `no room for a buffer of ${bufferBytes} bytes`);
    this.give(first);
  }

  /** Buffers that exist and that nobody orphaned. */
  get size(): number {
    return this.#made;
  }

  /** GPA of a buffer, or -1 when there is none now. */
  take(): number {
    const kept = this.#free.pop();
    if (kept !== undefined) return kept;
    if (this.#made >= this.#limit) return -1;
    const address = this.#allocator.allocate(this.bufferBytes / PAGE_SIZE);
    if (address === undefined) return -1;
    this.#made++;
    return address;
  }

  give(address: number): void {
    this.#free.push(address);
  }

  /** A taken buffer may not come back for long, because the host is late: another may take its place. */
  orphan(): void {
    this.#made--;
  }

  /** An orphaned buffer came back. */
  reclaim(address: number): void {
    this.#allocator.free(address);
  }

  /** A taken buffer that the host may write to for ever: it is never used again. */
  leak(address: number): void {
    this.#made--;
    this.#allocator.leak(address);
  }

  /** Gives back to the arena what nobody has taken. */
  close(): void {
    for (const address of this.#free.splice(0)) {
      this.#made--;
      this.#allocator.free(address);
    }
  }
}

/** Copies the first `lengthBytes` of `runs` to a buffer, or from it. */
export function copyRuns(
  memory: GuestMemory,
  runs: GpaRuns,
  buffer: number,
  lengthBytes: number,
  intoBuffer: boolean,
): void {
  const { bytes } = memory;
  let at = buffer;
  let rest = lengthBytes;
  for (let run = 0; run < runs.runs && rest > 0; run++) {
    const address = runs.runAddress(run);
    const length = Math.min(runs.runLength(run), rest);
    if (intoBuffer) bytes.copyWithin(at, address, address + length);
    else bytes.copyWithin(address, at, at + length);
    at += length;
    rest -= length;
  }
}
