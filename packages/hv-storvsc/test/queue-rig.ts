import { GpaRanges, type GpaRuns } from "@hyperv-is/vmbus-core";
import {
  StorvscQueue,
  type StorvscParameters,
  type StorvscQueueDescription,
} from "../src/index.js";
import type { SlotOwner } from "../src/request-table.js";
import { Rig, type RigOptions } from "./rig.js";

/** What 6.0 agrees on. */
export const parameters: StorvscParameters = {
  version: 0x0600,
  packetBytes: 64,
  requestBytes: 52,
  senseBytes: 20,
  maxTransferBytes: 0x40000,
  subChannelCountMax: 0,
};

/** What 4.2 agrees on. */
export const legacyParameters: StorvscParameters = {
  ...parameters,
  version: 0x0402,
  packetBytes: 48,
  requestBytes: 36,
  senseBytes: 18,
};

/** How a request ended. */
export type Ending =
  | readonly [tag: number, srbStatus: number, scsiStatus: number, transferred: number]
  | readonly [tag: number, abandoned: "sent" | "unsent"];

/** A queue that is configured from its description, as that of a sub-channel, and an owner that takes notes. */
export class QueueRig extends Rig implements SlotOwner {
  readonly queue: StorvscQueue;
  readonly endings: Ending[] = [];
  /** Called with each tag that completes. */
  whenComplete: ((tag: number) => void) | undefined;

  constructor(
    options: RigOptions & { readonly description?: Partial<StorvscQueueDescription> } = {},
  ) {
    super(options);
    this.queue = new StorvscQueue(this.queueContext, {
      channel: this.description,
      slots: 64,
      bounceBuffers: 2,
      minimumCdbBytes: 10,
      pathId: 0,
      parameters,
      ...options.description,
    });
  }

  complete(tag: number, srbStatus: number, scsiStatus: number, transferred: number): void {
    this.endings.push([tag, srbStatus, scsiStatus, transferred]);
    this.whenComplete?.(tag);
  }

  abandoned(tag: number, sent: boolean): void {
    this.endings.push([tag, sent ? "sent" : "unsent"]);
  }

  /** Claims `count` slots, with tags from 0 on; returns the slots. */
  claim(count: number): number[] {
    return Array.from({ length: count }, (_, tag) => this.queue.claim(this, tag));
  }

  /** A scatter list. */
  list(...runs: readonly (readonly [address: number, lengthBytes: number])[]): GpaRuns {
    const ranges = new GpaRanges(this.memory);
    for (const [address, lengthBytes] of runs) ranges.add(address, lengthBytes);
    return ranges;
  }

  /** Pages of the arena, as an address. */
  pages(count: number): number {
    const address = this.allocator.allocate(count);
    if (address === undefined) throw new Error("the test's memory is used up");
    return address;
  }
}
