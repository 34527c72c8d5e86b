export type { Bells } from "./hypervisor/bells.js";
export {
  FaultCounters,
  guestFaultRules,
  type GuestFaultRule,
} from "./hypervisor/fault-counters.js";
export {
  DOORBELL_WORDS,
  HypervisorState,
  VP_LIMIT,
  type HypervisorOptions,
} from "./hypervisor/hypervisor-state.js";
export { HostSignals } from "./hypervisor/host-signals.js";
export { MessageSlots } from "./hypervisor/message-slots.js";
export { SyntheticInterrupts, type EventFlagsFactory } from "./hypervisor/synic.js";
export {
  GeneralProtectionFault,
  VirtualProcessor,
  type VirtualProcessorOptions,
} from "./hypervisor/virtual-processor.js";
export type {
  ChannelOpening,
  GuestInterrupt,
  HostWorkerLink,
  WorkerReply,
  WorkerRequest,
} from "./vmbus/worker-link.js";
export type {
  HostChannelHandler,
  HostService,
  ServiceContext,
  ServiceMatch,
} from "./host-service.js";
export { HostWorker, type HostWorkerOptions, type WorkerChannelStats } from "./host-worker.js";
export { absentService } from "./absent-service.js";
export { Violations, type Violation } from "./violations.js";
export {
  FaultPlan,
  FaultPlanError,
  faultKinds,
  faultOperations,
  faultPoints,
  parseFaultPlan,
  type Fault,
  type FaultAt,
  type FaultContext,
  type FaultKind,
  type FaultOperation,
  type FaultPlanData,
  type FaultPoint,
  type FaultSelector,
} from "./faults.js";
