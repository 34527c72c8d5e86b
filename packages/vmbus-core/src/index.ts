export { GuestMemory } from "./guest-memory.js";
export { PageAllocator } from "./page-allocator.js";
export {
  RingControl,
  ringControl,
  type RingControlFactory,
  type RingState,
} from "./ring/ring-control.js";
export { ringCore, type RingCore, type WasmMemory } from "./ring/ring-core.js";
export { copyWithinMemory } from "./ring/copy.js";
export { RingArea } from "./ring/ring-area.js";
export { OutgoingRing } from "./ring/outgoing-ring.js";
export { IncomingRing, type RingCorruption } from "./ring/incoming-ring.js";
export { ReceiveResult, SendResult } from "./ring/ring-results.js";
export {
  GpaRanges,
  GpaRangesResult,
  gpaDirectHeaderBytes,
  putGpaRange,
  putSingleRange,
  singleRangeHeaderBytes,
  singleRangePages,
  type GpaRuns,
} from "./ring/gpa-ranges.js";
export {
  Channel,
  PollResult,
  type ChannelClosedReason,
  type ChannelCounters,
  type ChannelHandler,
  type Signal,
} from "./channel.js";
export type { ChannelDescription, HostSignal } from "./channel-description.js";
export { ChannelDispatcher } from "./channel-dispatcher.js";
export type { Clock, Timer, Timers } from "./clock.js";
export {
  KERNEL_INTERFACE,
  type ControlContext,
  type DriverModule,
  type Gpadl,
  type OfferedChannel,
  type PrepareChannelOptions,
  type QueueContext,
  type RealTimeClock,
  type ShutdownAction,
  type SubChannel,
  type SystemServices,
  type VmbusDevice,
} from "./driver.js";
export { CallLink, RemoteError, type Procedures } from "./call-link.js";
export {
  QueueTable,
  RemoteQueues,
  localQueue,
  type ControlProcedures,
  type QueueHalf,
  type QueueHandle,
  type QueueProcedures,
  type StartQueue,
  type TellControl,
} from "./queue-handle.js";
export { ownChannelContext, type OwnChannel, type OwnChannelContext } from "./own-channel.js";
export { SubChannelSet, type OpenSubChannel, type SubChannelUser } from "./sub-channel-set.js";
export { VmbusError } from "./errors.js";
export { EventFlags } from "./event-flags.js";
export { MessageSlotControl, messageSlotControl, type MessageSlotFactory } from "./message-slot.js";
export {
  GuestCpu,
  type EventFlagsFactory,
  type GuestCpuCounters,
  type GuestCpuOptions,
} from "./guest-cpu.js";
export { FREEBSD_OS_ID, HypercallPage } from "./hypercall-page.js";
export { Vmbus } from "./bus/vmbus.js";
export type { VmbusOptions, VmbusTimeouts } from "./bus/vmbus-options.js";
export type { VmbusCounters } from "./bus/bus-link.js";
export type { BusChannelInspection, VmbusInspection } from "./bus/inspection.js";
export { BusError, type BusErrorCode } from "./bus/bus-error.js";
export {
  bindChannelCpu,
  type BindingEra,
  type ChannelBinding,
  type ChannelToBind,
} from "./bus/channel-binding.js";
export { freebsdPostRetries, linuxPostRetries, type PostRetryPolicy } from "./bus/post-queue.js";
export { Machine, prepend, step, type MachineState, type Step, type Tick } from "./bus/machine.js";
export { messageLinkPair, type MessageLink, type MessageLinkPair } from "./message-link.js";
export type { CpuidResult, HypervisorPort } from "./hypervisor-port.js";
