import type { ControlContext, VmbusDevice } from "@hyperv-is/vmbus-core";
import type { StorvscQueueHalf } from "./queue-half.js";

/** What the driver's control half uses of what a kernel offers: a `ControlContext` is one. */
export interface StorvscContext extends Pick<
  ControlContext<StorvscQueueHalf>,
  "timers" | "cpus" | "log" | "startQueue"
> {
  readonly device: Pick<
    VmbusDevice,
    | "classId"
    | "instanceId"
    | "busVersion"
    | "rescinded"
    | "prepareChannel"
    | "openChannel"
    | "closeChannel"
    | "onSubChannel"
  >;
}
