import type {
  ChannelClosedReason,
  QueueContext,
  QueueHalf,
  TellControl,
} from "@hyperv-is/vmbus-core";
import { NetvscQueue } from "./netvsc-queue.js";
import type { NetvscQueueDescription, QueueTuning } from "./queue-description.js";

/** What the control half says to a queue half: plain data. */
export type QueueMessage =
  /** No more frames; answered when nothing that was sent is at the host any more. */
  | { readonly kind: "drain" }
  /** The user is done: `NetvscQueue.endUse`. */
  | { readonly kind: "endUse" }
  /** What can be changed of the tuning is changed. */
  | { readonly kind: "tune"; readonly tuning: QueueTuning }
  /** Answered with the channel's `NetvscQueueCounters`. */
  | { readonly kind: "counters" }
  /** Answered with what there is to know about the queue, as plain JSON. */
  | { readonly kind: "inspect" };

/** What a queue half says to the control half: plain data. */
export interface QueueNews {
  readonly kind: "closed";
  readonly reason: ChannelClosedReason;
}

/** The half of the driver that lives on the CPU of a channel. `port` is for code on that CPU. */
export class NetvscQueueHalf implements QueueHalf {
  readonly port: NetvscQueue;

  /** Binds the channel to the CPU of `context`. Throws `ERR_NETVSC_MEMORY`. */
  constructor(context: QueueContext, description: NetvscQueueDescription, tell: TellControl) {
    this.port = new NetvscQueue(context, description, (reason) =>
      tell({ kind: "closed", reason } satisfies QueueNews),
    );
  }

  answer(message: unknown): unknown {
    const asked = message as QueueMessage;
    switch (asked.kind) {
      case "drain":
        return this.port.drain();
      case "endUse":
        this.port.endUse();
        return undefined;
      case "tune":
        this.port.tune(asked.tuning);
        return undefined;
      case "counters":
        return { ...this.port.counters };
      case "inspect":
        return this.port.inspect();
    }
  }

  stop(reason?: ChannelClosedReason): void {
    this.port.stop(reason);
  }
}
