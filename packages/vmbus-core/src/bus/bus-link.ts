import type { Timers } from "../clock.js";
import type { PageAllocator } from "../page-allocator.js";
import type { Negotiated } from "../protocol/index.js";
import type { ChannelToBind } from "./channel-binding.js";
import type { GpadlTable } from "./gpadl-table.js";
import type { SignalPages } from "./host-signal.js";
import type { PostFailure } from "./post-queue.js";

/** Running totals of the control plane. */
export interface VmbusCounters {
  /** Channel messages received. */
  messages: number;
  /** Messages that are too short, of an unknown type, or not the host's to send. */
  malformed: number;
  /** Answers to nothing, rescinds of nothing, whatever comes while there is no connection. */
  unmatched: number;
  /** Offers that were not taken. */
  offersRefused: number;
  /** Relids that were given back to the host. */
  relidsReleased: number;
  /** Requests that the hypervisor did not take. */
  postFailures: number;
  /** Pages that the host may still use, and nobody else ever again. */
  leakedPages: number;
}

/** What the channels of a connection, and the memory they share, need of the bus. */
export interface BusLink {
  readonly timers: Timers;
  readonly allocator: PageAllocator;
  readonly counters: VmbusCounters;
  readonly gpadls: GpadlTable;
  readonly signalPages: SignalPages;
  /** How long the host may take for an answer, in milliseconds. */
  readonly answerMs: number;
  /** What was agreed on. */
  readonly negotiated: Negotiated;
  /** Posts the messages of a request. Does nothing once UNLOAD was sent. */
  send(messages: readonly Uint8Array[], failed: (failure: PostFailure) => void): void;
  /** The hypervisor's number of a processor. */
  vpIndexOf(cpu: number): number;
  /** Decides where a channel goes. */
  assignCpu(channel: ChannelToBind): number;
  /** The channel was rescinded and nothing of it is left: tell the host. */
  release(channel: { readonly relid: number }): void;
}
