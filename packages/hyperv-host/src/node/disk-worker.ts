// Entry of a host worker that owns SCSI controllers: the only writer of their images.
import { runHostWorker, type HostWorkerData } from "@hyperv-is/platform-node";
import { FaultPlan, type FaultPlanData } from "../faults.js";
import { HostWorker, type WorkerChannelStats } from "../host-worker.js";
import { HypervisorState } from "../hypervisor/hypervisor-state.js";
import type { ControllerConfig, ControllerStats } from "../storvsp/controller-config.js";
import type { WorkerReply, WorkerRequest } from "../vmbus/worker-link.js";
import { DiskError, DiskSet } from "./disk-set.js";
import { DoorbellBells, HostCause } from "./doorbell-bells.js";
import { TraceFile, type JoinTraceOptions } from "./trace-file.js";

/** What a disk worker is told when it starts. */
export interface DiskWorkerData extends HostWorkerData {
  /** Number of the worker among the host's. */
  readonly index: number;
  readonly state: ArrayBufferLike;
  readonly controllers: readonly ControllerConfig[];
  readonly faults: FaultPlanData;
  /** The trace to take part in. */
  readonly trace?: JoinTraceOptions;
}

/** What the machine asks of a disk worker, beside the server's requests. */
export type DiskWorkerRequest =
  | WorkerRequest
  | { readonly kind: "stats"; readonly id: number }
  /** Misbehave in another way. */
  | { readonly kind: "faults"; readonly faults: FaultPlanData };

/** What a disk worker tells the machine. */
export type DiskWorkerReply =
  | WorkerReply
  /** All images are open; no other message comes first. */
  | { readonly kind: "ready" }
  /** An image could not be opened; the worker ends. */
  | {
      readonly kind: "failed";
      readonly path: string;
      readonly code: string;
      readonly message: string;
    }
  | ({ readonly kind: "stats"; readonly id: number } & DiskWorkerStats);

/** What a disk worker has done. */
export interface DiskWorkerStats {
  readonly controllers: readonly ControllerStats[];
  /** Its open channels. */
  readonly channels: readonly WorkerChannelStats[];
  /** Of its fault plan. */
  readonly faultCounts: readonly number[];
}

await runHostWorker<DiskWorkerData>(async ({ data, memory, timers, starter }) => {
  const state = new HypervisorState(data.state);
  const bells = new DoorbellBells(state);
  const reply = (message: DiskWorkerReply): void => starter.send(message);
  const faults = new FaultPlan(data.faults, timers);
  const trace = data.trace && TraceFile.join(data.trace, timers);
  trace?.follow(timers);
  const worker = new HostWorker({
    index: data.index,
    state,
    memory,
    bells,
    timers,
    reply,
    faults,
    ...(trace && { trace: trace.recorder }),
  });
  let disks: DiskSet | undefined;
  try {
    disks = await DiskSet.open(data.controllers, timers);
    disks.serve(worker);
    reply({ kind: "ready" });
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    const { code, message, path } = error;
    reply({ kind: "failed", path, code, message });
  }

  return {
    drain: () => worker.run() || disks?.keepsAwake === true,
    rung(causes) {
      if ((causes & HostCause.eventFlags) !== 0) worker.interrupt();
    },
    message(message) {
      const request = message as DiskWorkerRequest;
      if (request.kind === "stats") {
        reply({
          kind: "stats",
          id: request.id,
          controllers: disks?.stats() ?? [],
          channels: worker.stats(),
          faultCounts: faults.counts,
        });
      } else if (request.kind === "faults") faults.replace(request.faults);
      else worker.receive(request);
    },
    async stopped() {
      try {
        await disks?.close();
      } finally {
        trace?.close();
      }
    },
  };
});
