export { attachStorvsc, type StorvscOptions } from "./storvsc-control.js";
export type { OwnChannel } from "@hyperv-is/vmbus-core";
export { attachOverChannel } from "./own-channel.js";
export type { StorvscContext } from "./storvsc-context.js";
export { StorvscController, type BusLayout, type DiskChange } from "./storvsc-controller.js";
export type { StorvscChannel } from "./storvsc-channel.js";
export { StorvscQueueHalf } from "./queue-half.js";
export type { SubChannelRule } from "./sub-channel-rule.js";
export { ScsiDisk, type DiskDescription } from "./scsi-disk.js";
export type { DiskCapacity, DiskIdentity, UnmapLimits } from "./disk-properties.js";
export { DiskOperation, type DiskCompletions, type DiskQueue } from "./disk-queue.js";
export { Outcome, outcomeOf } from "./outcome.js";
export type { UnitCommand } from "./logical-unit.js";
export type { BlockTransfer, ScsiResult } from "./command-executor.js";
export type { FoundUnit } from "./scan.js";
export { StorvscQueue, type StorvscQueueEvents } from "./storvsc-queue.js";
export type { StorvscQueueCounters } from "./queue-counters.js";
export type { StorvscQueueDescription } from "./queue-description.js";
export {
  Negotiation,
  type NegotiationEffect,
  type NegotiationInput,
  type NegotiationOptions,
  type NegotiationState,
  type StorvscParameters,
} from "./negotiation.js";
export {
  ScsiError,
  StorvscError,
  type ScsiErrorCode,
  type ScsiErrorDetails,
  type StorvscErrorCode,
} from "./errors.js";
export { senseText } from "./sense-text.js";
