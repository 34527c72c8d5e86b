import {
  DiskOperation,
  Outcome,
  type DiskCompletions,
  type DiskQueue,
  type ScsiDisk,
} from "@hyperv-is/hv-storvsc";
import { GpaRanges, type GuestMemory, type PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

/** What to read, as often as told, with so many requests in flight on each channel. */
export interface ReadPlan {
  /** Bytes of a request, whole blocks and whole pages. */
  readonly requestBytes: number;
  readonly depth: number;
  /** Bytes on the disk at which each request begins; after the last comes the first again. Shared memory. */
  readonly positions: Float64Array;
  readonly requests: number;
  /** What of the data goes into the sum: the first 4 bytes of each request, or all of them. */
  readonly sum: "first-words" | "all-words";
}

/**
 * Keeps a disk busy with reads by its driver's fast path: each completion submits the next request, and
 * nothing is allocated per request. Used on the CPU of the disk's channel.
 */
export class ReadLoad implements DiskCompletions {
  readonly #plan: ReadPlan;
  readonly #words: Int32Array;
  readonly #queue: DiskQueue;
  readonly #allocator: PageAllocator;
  readonly #buffers: number;
  readonly #data: GpaRanges[] = [];
  readonly #blockBytes: number;
  #submitted = 0;
  #completed = 0;
  #sum = 0;
  #done: () => void = () => undefined;
  #failed: (error: Error) => void = () => undefined;

  constructor(disk: ScsiDisk, memory: GuestMemory, allocator: PageAllocator, plan: ReadPlan) {
    const { depth, requestBytes } = plan;
    this.#plan = plan;
    this.#words = memory.words;
    this.#allocator = allocator;
    this.#blockBytes = disk.blockBytes;
    const buffers = allocator.allocate((depth * requestBytes) / PAGE_SIZE);
    if (buffers === undefined) throw new Error("the guest has too little memory for the load");
    this.#buffers = buffers;
    for (let slot = 0; slot < depth; slot++) {
      const ranges = new GpaRanges(memory);
      ranges.add(buffers + slot * requestBytes, requestBytes);
      ranges.count = 1;
      this.#data.push(ranges);
    }
    this.#queue = disk.openQueue(depth, this);
  }

  /** Requests that have completed. */
  get completed(): number {
    return this.#completed;
  }

  /** Sum of the words that the plan names, 32 bits. */
  get sum(): number {
    return this.#sum >>> 0;
  }

  /** Carries the plan out; resolves after the last completion. Rejects when a request fails. */
  run(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#done = resolve;
      this.#failed = reject;
      const first = Math.min(this.#plan.depth, this.#plan.requests);
      for (let slot = 0; slot < first; slot++) this.#submit(slot);
      this.#queue.flush();
    });
  }

  /** Gives slots and memory back; nothing is in flight any more. */
  close(): void {
    this.#queue.close();
    this.#allocator.free(this.#buffers);
  }

  complete(slot: number, outcome: Outcome, transferredBytes: number): void {
    const { requestBytes, requests, sum } = this.#plan;
    if (outcome !== Outcome.ok || transferredBytes !== requestBytes) {
      this.#failed(new Error(`a read ended with outcome ${outcome}, ${transferredBytes} bytes`));
      return;
    }
    let at = (this.#buffers + slot * requestBytes) >>> 2;
    const end = at + (sum === "all-words" ? requestBytes >>> 2 : 1);
    for (; at < end; at++) this.#sum = (this.#sum + this.#words[at]!) | 0;
    this.#completed++;
    if (this.#submitted < requests) this.#submit(slot);
    else if (this.#completed === requests) this.#done();
  }

  #submit(slot: number): void {
    const { positions, requestBytes } = this.#plan;
    const lba = positions[this.#submitted++ % positions.length]! / this.#blockBytes;
    const blocks = requestBytes / this.#blockBytes;
    if (!this.#queue.submit(DiskOperation.read, lba, blocks, this.#data[slot], slot))
      this.#failed(new Error("the disk is gone"));
  }
}
