import type { ChannelDescription } from "@hyperv-is/vmbus-core";
import type { StorvscParameters } from "./negotiation.js";

/**
 * Everything that one CPU needs to serve one channel of a controller: plain data, which the control half
 * sends to the CPU that the channel is bound to.
 */
export interface StorvscQueueDescription {
  readonly channel: ChannelDescription;
  /** Requests that can be in flight. */
  readonly slots: number;
  /** Buffers for transfers that have to be copied, at most. */
  readonly bounceBuffers: number;
  /** Shortest CDB for READ and WRITE: 6, 10, 12 or 16. */
  readonly minimumCdbBytes: number;
  /** SCSI bus in every request: 0, but for the disks of the IDE controller. */
  readonly pathId: number;
  /** What was agreed; absent on the primary channel, which is there to agree on it. */
  readonly parameters?: StorvscParameters;
}
