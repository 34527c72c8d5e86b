import {
  KERNEL_INTERFACE,
  type ControlContext,
  type DriverModule,
  type QueueContext,
  type TellControl,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import manifest from "../package.json" with { type: "json" };
import { attachNetvsc } from "./netvsc-control.js";
import type { NetvscInterface } from "./netvsc-interface.js";
import { NETWORK_CLASS_ID } from "./protocol/index.js";
import type { NetvscQueueDescription } from "./queue-description.js";
import { NetvscQueueHalf } from "./queue-half.js";

// The driver as a kernel loads it from a file: the exports are those of a `DriverModule`.

/** FreeBSD's name of the module. */
export const name = "hv_netvsc";

/** Version of the package. */
export const version: string = manifest.version;

/** The contract that the module was built for. */
export const kernelInterface: number = KERNEL_INTERFACE;

/** Interfaces are `hn0`, `hn1`, ... */
export const deviceName = "hn";

/** What FreeBSD 11 and later say of a device of this class; undefined for a class that is another driver's. */
export function probe(classId: string): string | undefined {
  return classId === NETWORK_CLASS_ID ? "Hyper-V Network Interface" : undefined;
}

/** A size of which less than a page is nothing. */
function wholePages(bytes: number | undefined): number | undefined {
  return bytes === undefined ? undefined : Math.floor(bytes / PAGE_SIZE) * PAGE_SIZE;
}

/**
 * Attaches an interface as the kernel's tunables want it: FreeBSD's `hw.hn.*`, and the sizes of the buffers, which are
 * fixed there (`rxbuf_size`, `chim_size`).
 */
export function control(context: ControlContext<NetvscQueueHalf>): Promise<NetvscInterface> {
  const tunable = (tunableName: string): number | undefined =>
    context.tunable(`hw.hn.${tunableName}`);
  const channelLimit = tunable("chan_cnt");
  const copyBytesMax = tunable("tx_chimney_size");
  const aggregationBytes = tunable("tx_agg_size");
  const aggregationPackets = tunable("tx_agg_pkts");
  const udpChecksumBytesMax = tunable("udpcs_fixup_mtu");
  const largeSendBytesMax = tunable("tso_maxlen");
  const receiveBufferBytes = wholePages(tunable("rxbuf_size"));
  const sendBufferBytes = wholePages(tunable("chim_size"));
  return attachNetvsc(context, {
    ...(channelLimit !== undefined && { channelLimit }),
    ...(copyBytesMax !== undefined && { copyBytesMax }),
    ...(aggregationBytes !== undefined && { aggregationBytes }),
    ...(aggregationPackets !== undefined && { aggregationPackets }),
    ...(udpChecksumBytesMax !== undefined && { udpChecksumBytesMax }),
    ...(receiveBufferBytes !== undefined && { receiveBufferBytes }),
    ...(sendBufferBytes !== undefined && { sendBufferBytes }),
    trustTcp: tunable("trust_hosttcp") !== 0,
    trustUdp: tunable("trust_hostudp") !== 0,
    trustIp: tunable("trust_hostip") !== 0,
    offloads: {
      udp4Checksum: tunable("enable_udp4cs") !== 0,
      udp6Checksum: tunable("enable_udp6cs") !== 0,
      ...(largeSendBytesMax !== undefined && { largeSendBytesMax }),
    },
  });
}

/** Makes the queue half from a `NetvscQueueDescription`. */
export function queue(
  context: QueueContext,
  description: unknown,
  tell: TellControl,
): NetvscQueueHalf {
  return new NetvscQueueHalf(context, description as NetvscQueueDescription, tell);
}

/** The same as one object, for a kernel that has the driver in tree. */
export const driver: DriverModule<NetvscQueueHalf, NetvscInterface> = {
  name,
  version,
  kernelInterface,
  deviceName,
  probe,
  control,
  queue,
};
