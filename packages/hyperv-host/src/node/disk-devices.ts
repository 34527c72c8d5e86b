import {
  GuestError,
  IntegrationServices,
  carryOutRequest,
  type IntegrationRequest,
  type IntegrationStats,
} from "../integration/index.js";
import type { ControllerConfig, ControllerStats } from "../storvsp/controller-config.js";
import { DiskError, DiskSet } from "./disk-set.js";
import type {
  HostThreadData,
  HostThreadReply,
  HostThreadRequest,
  HostThreadStats,
} from "./host-thread-messages.js";
import { realTime } from "./real-time.js";
import type { DeviceKind } from "./host-thread-body.js";

/** What a disk worker is told when it starts. */
export interface DiskWorkerData extends HostThreadData {
  readonly controllers: readonly ControllerConfig[];
}

/** What the machine asks of a disk worker, beside the server's requests. */
export type DiskWorkerRequest = HostThreadRequest | (IntegrationRequest & { readonly id: number });

/** What a disk worker tells the machine. */
export type DiskWorkerReply = HostThreadReply<DiskWorkerStats>;

/** What a disk worker has done. */
export interface DiskWorkerStats extends HostThreadStats {
  readonly controllers: readonly ControllerStats[];
  /** Absent once the worker has ended. */
  readonly integration?: IntegrationStats;
}

/** SCSI controllers, the only writer of their images, and the integration components. */
export const diskDevices: DeviceKind<DiskWorkerData, DiskWorkerStats> = {
  async open({ data, timers }) {
    const disks = await DiskSet.open(data.controllers, timers);
    const components = new IntegrationServices({ timers, realTime });
    return {
      serve: (worker) => {
        disks.serve(worker);
        components.serve(worker);
      },
      stats: () => ({ controllers: disks.stats(), integration: components.stats }),
      request: (request, done) => carryOutRequest(components, request as IntegrationRequest, done),
      get keepsAwake() {
        return disks.keepsAwake;
      },
      close: () => disks.close(),
    };
  },
  failureOf(error) {
    if (error instanceof GuestError) return { code: error.code, message: error.message };
    if (!(error instanceof DiskError)) return undefined;
    const { code, message, path } = error;
    return { code, message, path };
  },
};
