export { GuestMemory } from "./guest-memory.js";
export { PageAllocator } from "./page-allocator.js";
export { RingControl, ringControl, type RingControlFactory } from "./ring/ring-control.js";
export { RingArea } from "./ring/ring-area.js";
export { OutgoingRing, SendResult } from "./ring/outgoing-ring.js";
export { IncomingRing, ReceiveResult, type RingCorruption } from "./ring/incoming-ring.js";
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
  type PrepareChannelOptions,
  type QueueContext,
  type SubChannel,
  type VmbusDevice,
} from "./driver.js";
export { VmbusError } from "./errors.js";
export { EventFlags } from "./event-flags.js";
export type { CpuidResult, HypervisorPort } from "./hypervisor-port.js";
