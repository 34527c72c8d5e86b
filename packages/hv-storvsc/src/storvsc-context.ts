import type { ControlContext, VmbusDevice } from "@hyperv-is/vmbus-core";
import type { StorvscQueue } from "./storvsc-queue.js";

/** What the driver's control half uses of what a kernel offers: a `ControlContext` is one. */
export interface StorvscContext extends Pick<
  ControlContext<StorvscQueue>,
  "timers" | "log" | "startQueue"
> {
  readonly device: Pick<
    VmbusDevice,
    | "classId"
    | "instanceId"
    | "rescinded"
    | "prepareChannel"
    | "openChannel"
    | "closeChannel"
    | "onSubChannel"
  >;
}
