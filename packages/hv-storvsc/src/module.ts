import {
  KERNEL_INTERFACE,
  type ControlContext,
  type DriverModule,
  type QueueContext,
  type TellControl,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import manifest from "../package.json" with { type: "json" };
import { StorageClassId } from "./protocol/index.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import { StorvscQueueHalf } from "./queue-half.js";
import { attachStorvsc } from "./storvsc-control.js";
import type { StorvscController } from "./storvsc-controller.js";

// The driver as a kernel loads it from a file: the exports are those of a `DriverModule`.

/** FreeBSD's name of the module. */
export const name = "hv_storvsc";

/** Version of the package. */
export const version: string = manifest.version;

/** The contract that the module was built for. */
export const kernelInterface: number = KERNEL_INTERFACE;

/** Controllers are `storvsc0`, `storvsc1`, ..., those of the IDE accelerator among them. */
export const deviceName = "storvsc";

/** What FreeBSD 11 and later say of a device of this class; undefined for a class that is another driver's. */
export function probe(classId: string): string | undefined {
  if (classId === StorageClassId.scsi) return "Hyper-V SCSI";
  if (classId === StorageClassId.ide) return "Hyper-V IDE";
  return undefined;
}

/** Attaches a controller as the kernel's tunables want it: FreeBSD's `hw.storvsc.*`, and `hw.storvsc.chan_extra`. */
export function control(context: ControlContext<StorvscQueueHalf>): Promise<StorvscController> {
  const ringBytes = context.tunable("hw.storvsc.ringbuffer_size");
  const slots = context.tunable("hw.storvsc.max_io");
  const channelLimit = context.tunable("hw.storvsc.chan_cnt");
  return attachStorvsc(context, {
    ...(ringBytes !== undefined && { ringPages: Math.max(2, Math.floor(ringBytes / PAGE_SIZE)) }),
    ...(slots !== undefined && { slots }),
    ...(channelLimit !== undefined && { channelLimit }),
    subChannelRule: context.tunable("hw.storvsc.chan_extra") === 1 ? "freebsd-10.2" : "one-per-cpu",
  });
}

/** Makes the queue half from a `StorvscQueueDescription`. */
export function queue(
  context: QueueContext,
  description: unknown,
  tell: TellControl,
): StorvscQueueHalf {
  return new StorvscQueueHalf(context, description as StorvscQueueDescription, tell);
}

/** The same as one object, for a kernel that has the driver in tree. */
export const driver: DriverModule<StorvscQueueHalf, StorvscController> = {
  name,
  version,
  kernelInterface,
  deviceName,
  probe,
  control,
  queue,
};
