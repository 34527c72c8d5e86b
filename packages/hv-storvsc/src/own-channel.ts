import { ownChannelContext, type OwnChannel } from "@hyperv-is/vmbus-core";
import { StorageClassId } from "./protocol/index.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import { StorvscQueueHalf } from "./queue-half.js";
import { attachStorvsc, type StorvscOptions } from "./storvsc-control.js";
import type { StorvscController } from "./storvsc-controller.js";

/** Attaches a SCSI controller to a channel of your own, without a bus; rejects as `attachStorvsc` does. */
export function attachOverChannel(
  own: OwnChannel,
  options?: StorvscOptions,
): Promise<StorvscController> {
  const context = ownChannelContext(
    own,
    (cpu, plain, told) => new StorvscQueueHalf(cpu, plain as StorvscQueueDescription, told),
  );
  const instanceId = "00000000-0000-0000-0000-000000000000";
  const device = { ...context.device, classId: StorageClassId.scsi, instanceId };
  return attachStorvsc({ ...context, device }, options);
}
