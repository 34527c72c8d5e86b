import type { HostWorkerData } from "@hyperv-is/platform-node";
import type { FaultPlanData } from "../faults.js";
import type { WorkerChannelStats } from "../host-worker.js";
import type { WorkerReply, WorkerRequest } from "../vmbus/worker-link.js";
import type { JoinTraceOptions } from "./trace-file.js";

/** What every thread that serves devices is told when it starts. */
export interface HostThreadData extends HostWorkerData {
  /** Number of the worker among the host's. */
  readonly index: number;
  readonly state: ArrayBufferLike;
  readonly faults: FaultPlanData;
  /** The trace to take part in. */
  readonly trace?: JoinTraceOptions;
}

/** What the machine asks of such a thread, beside the server's requests. */
export type HostThreadRequest =
  | WorkerRequest
  | { readonly kind: "stats"; readonly id: number }
  /** Misbehave in another way. */
  | { readonly kind: "faults"; readonly faults: FaultPlanData };

/** What every such thread has done. */
export interface HostThreadStats {
  /** Its open channels. */
  readonly channels: readonly WorkerChannelStats[];
  /** Of its fault plan. */
  readonly faultCounts: readonly number[];
}

/** Something could not be done. */
export interface HostThreadFailure {
  readonly code: string;
  readonly message: string;
  /** Of the file that it was about, where there is one. */
  readonly path?: string;
}

/** What such a thread tells the machine. */
export type HostThreadReply<Stats extends HostThreadStats> =
  | WorkerReply
  /** Its devices are there; no other message comes first. */
  | { readonly kind: "ready" }
  /** They could not be made; the worker ends. */
  | ({ readonly kind: "failed" } & HostThreadFailure)
  | ({ readonly kind: "stats"; readonly id: number } & Stats)
  | HostThreadAnswer;

/** A request of a thread's own kind has been carried out, or not. */
export interface HostThreadAnswer {
  readonly kind: "done";
  readonly id: number;
  /** Plain data. */
  readonly result?: unknown;
  readonly failure?: HostThreadFailure;
}
