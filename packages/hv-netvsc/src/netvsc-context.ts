import type { OwnChannelContext } from "@hyperv-is/vmbus-core";
import type { NetvscQueueHalf } from "./queue-half.js";

/** What the driver's control half uses of what a kernel offers: a `ControlContext` is one, and a channel of one's own has it all. */
export type NetvscContext = OwnChannelContext<NetvscQueueHalf>;
