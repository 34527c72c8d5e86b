export { attachNetvsc, type NetvscOptions } from "./netvsc-control.js";
export type { OwnChannel } from "@hyperv-is/vmbus-core";
export { attachOverChannel } from "./own-channel.js";
export type { NetvscContext } from "./netvsc-context.js";
export { NetvscInterface, type InterfaceEvents } from "./netvsc-interface.js";
export type { NetvscChannel } from "./netvsc-channel.js";
export type { Link } from "./link-monitor.js";
export {
  ChecksumVerdict,
  TransmitOffload,
  TransmitResult,
  type EthernetPort,
  type EthernetUser,
  type ReceivedFrame,
} from "./ethernet-port.js";
export { NetvscQueueHalf } from "./queue-half.js";
export { NetvscQueue } from "./netvsc-queue.js";
export type { Aggregation } from "./aggregation.js";
export type { NetvscQueueCounters } from "./queue-counters.js";
export {
  Offload,
  ReceiveTrust,
  type NetvscQueueDescription,
  type QueueTuning,
  type RunTuning,
  type ReceiveSide,
  type TransmitSide,
} from "./queue-description.js";
export type {
  AgreedOffloads,
  AgreedScaling,
  NetvscParameters,
  ReceiveBuffer,
  SendBuffer,
} from "./parameters.js";
export type { OffloadWishes } from "./offload-choice.js";
export { transmitChannelOf, type ScalingChoice } from "./scaling.js";
export { Attachment } from "./attachment.js";
export type {
  AttachmentEffect,
  AttachmentInput,
  AttachmentOptions,
  AttachmentState,
} from "./attachment-io.js";
export {
  RndisConversation,
  type ConversationCounters,
  type ConversationEvents,
  type RndisAnswer,
  type RndisQuestion,
} from "./rndis-conversation.js";
export { NetvscError, type NetvscErrorCode } from "./errors.js";
