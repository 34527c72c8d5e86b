import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { NicStats } from "../netvsp/nic-config.js";
import type { CaptureConfig, NetworkConfig } from "../network-config.js";
import type { HostThreadData, HostThreadStats } from "./host-thread-messages.js";
import type { DeviceKind } from "./host-thread-body.js";
import { NetworkError, NetworkSet, type AdapterChange } from "./network-set.js";

/** What a network worker is told when it starts. */
export interface NetworkWorkerData extends HostThreadData {
  readonly network: NetworkConfig;
}

/** What the machine asks of a network worker, beside the server's requests. */
export type NetworkRequest =
  | { readonly kind: "adapter"; readonly instanceId: Guid; readonly change: AdapterChange }
  | { readonly kind: "start-capture"; readonly capture: CaptureConfig }
  | { readonly kind: "stop-capture"; readonly instanceId: Guid };

/** What a network worker has done. */
export interface NetworkWorkerStats extends HostThreadStats {
  readonly adapters: readonly NicStats[];
}

/** The switches of a machine and the network adapters at them. */
export const networkDevices: DeviceKind<NetworkWorkerData, NetworkWorkerStats> = {
  async open({ data, timers, faults, watch }) {
    const network = await NetworkSet.open(data.network, timers, faults);
    for (const file of network.files) watch(file);
    return {
      serve: (worker) => network.serve(worker),
      drain: () => network.poll(),
      stats: () => ({ adapters: network.stats() }),
      request(message, done) {
        const request = message as NetworkRequest;
        switch (request.kind) {
          case "adapter":
            network.change(request.instanceId, request.change);
            break;
          case "start-capture":
            network.startCapture(request.capture);
            break;
          case "stop-capture":
            done(undefined, network.stopCapture(request.instanceId));
            return;
        }
        done(undefined);
      },
      close: () => network.close(),
    };
  },
  failureOf(error) {
    if (!(error instanceof NetworkError)) return undefined;
    return { code: error.code, message: error.message };
  },
};
