// Entry of a host worker that owns SCSI controllers: the only writer of their images.
import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import { runHostWorker, type HostWorkerData } from "@hyperv-is/platform-node";
import type { VirtualDisk } from "@hyperv-is/vhd";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import { openImageFile } from "@hyperv-is/vhd/node";
import { FaultPlan, type FaultPlanData } from "../faults.js";
import { HostWorker } from "../host-worker.js";
import { HypervisorState } from "../hypervisor/hypervisor-state.js";
import type {
  ControllerConfig,
  ControllerStats,
  DiskSource,
} from "../storvsp/controller-config.js";
import type { DiskBackend } from "../storvsp/disk-backend.js";
import { RamDisk } from "../storvsp/ram-disk.js";
import { ScsiDisk } from "../storvsp/scsi-disk.js";
import { StorvspController } from "../storvsp/storvsp-controller.js";
import type { WorkerReply, WorkerRequest } from "../vmbus/worker-link.js";
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
export type DiskWorkerRequest = WorkerRequest | { readonly kind: "stats"; readonly id: number };

/** What a disk worker tells the machine. */
export type DiskWorkerReply =
  | WorkerReply
  /** All images are open; no other message comes first. */
  | { readonly kind: "ready" }
  /** An image could not be opened; the worker ends. */
  | {
      readonly kind: "failed";
      readonly path: string;
      readonly code: string | undefined;
      readonly message: string;
    }
  | { readonly kind: "stats"; readonly id: number; readonly controllers: ControllerStats[] };

/** An image that could not be opened. */
class OpenFailure extends Error {
  readonly path: string;

  constructor(path: string, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.path = path;
  }
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
  const images: VirtualDisk[] = [];
  const controllers = new Map<Guid, StorvspController>();

  async function open(source: DiskSource): Promise<DiskBackend> {
    if (source.kind === "ram") return new RamDisk(source);
    const { path, readOnly = false } = source;
    try {
      const image = await openImageFile(path, { readOnly });
      images.push(image);
      return image;
    } catch (error) {
      throw new OpenFailure(path, error);
    }
  }

  /** Closes every image; throws the first error after all were tried. */
  function closeImages(): void {
    const errors: unknown[] = [];
    for (const image of images.splice(0)) {
      try {
        image.close();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  try {
    for (const { instanceId, disks, ...options } of data.controllers) {
      const controller = new StorvspController(options);
      for (const { source, ...address } of disks)
        controller.attach(address, new ScsiDisk(await open(source)));
      controllers.set(instanceId, controller);
      worker.serve({ classId: StorageClassId.scsi, instanceId }, controller);
    }
    reply({ kind: "ready" });
  } catch (error) {
    closeImages();
    if (!(error instanceof OpenFailure)) throw error;
    const { cause, message, path } = error;
    const code = (cause as { readonly code?: string }).code;
    reply({ kind: "failed", path, code, message });
  }

  return {
    drain: () => worker.run(),
    rung(causes) {
      if ((causes & HostCause.eventFlags) !== 0) worker.interrupt();
    },
    message(message) {
      const request = message as DiskWorkerRequest;
      if (request.kind === "stats") {
        const stats = Array.from(controllers, ([id, controller]) => controller.stats(id));
        reply({ kind: "stats", id: request.id, controllers: stats });
      } else worker.receive(request);
    },
    stopped() {
      try {
        closeImages();
      } finally {
        trace?.close();
      }
    },
  };
});
