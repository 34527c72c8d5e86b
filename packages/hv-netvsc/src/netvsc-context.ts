import type { ControlContext, VmbusDevice } from "@hyperv-is/vmbus-core";
import type { NetvscQueueHalf } from "./queue-half.js";

/** What the driver's control half uses of what a kernel offers: a `ControlContext` is one. */
export interface NetvscContext extends Pick<
  ControlContext<NetvscQueueHalf>,
  "timers" | "cpus" | "log" | "startQueue"
> {
  readonly device: Pick<
    VmbusDevice,
    | "busVersion"
    | "rescinded"
    | "prepareChannel"
    | "openChannel"
    | "closeChannel"
    | "createGpadl"
    | "tearDownGpadl"
    | "onSubChannel"
  >;
}
