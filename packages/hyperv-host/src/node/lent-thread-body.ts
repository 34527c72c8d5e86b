import { CpuLink, Doorbell, DoorbellCause, type Vcpu } from "@hyperv-is/platform-node";
import { HypervisorState } from "../hypervisor/hypervisor-state.js";
import type { DiskWorkerData } from "./disk-devices.js";
import type { HostThreadData } from "./host-thread-messages.js";
import {
  beginHostThread,
  type HostThreadBody,
  type HostThreadContext,
} from "./host-thread-body.js";
import type { LentThreadData } from "./lent-thread.js";
import type { NetworkWorkerData } from "./network-devices.js";

/** What a virtual processor lends of its thread. */
export type Lender = Pick<
  Vcpu,
  "memory" | "timers" | "doorbell" | "watch" | "listen" | "drive" | "during"
>;

/**
 * Opens devices of the host on the thread of a virtual processor, whose pump drives them from then on; the processor's
 * program hands causes of its doorbell to `rung`, and awaits `stopped` in the end. When it resolves the host has been
 * told, so that it offers them before it hears of anything that the processor does later.
 */
export async function serveDevices(
  lender: Lender,
  { devices, data, port }: LentThreadData,
): Promise<HostThreadBody> {
  const state = new HypervisorState(data.state);
  const starter = new CpuLink(port, new Doorbell(state.words, state.controlDoorbell));
  const body = await lender.during(begin(devices, { ...lender, data, starter }));
  lender.listen(starter, (message) => body.message(message));
  // For what has come before it was listened to.
  lender.doorbell.ring(DoorbellCause.message);
  lender.drive(body);
  return body;
}

/** Loads the code of these devices only. */
async function begin(
  devices: string,
  context: HostThreadContext<HostThreadData>,
): Promise<HostThreadBody> {
  if (devices === "disks") {
    const { diskDevices } = await import("./disk-devices.js");
    return beginHostThread(context as HostThreadContext<DiskWorkerData>, diskDevices);
  }
  const { networkDevices } = await import("./network-devices.js");
  return beginHostThread(context as HostThreadContext<NetworkWorkerData>, networkDevices);
}
