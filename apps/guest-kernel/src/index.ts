export { BootError, type BootErrorCode } from "./boot-error.js";
export {
  Machine,
  boot,
  type KthreadOptions,
  type MachineHost,
  type MachineKthread,
} from "./machine.js";
export { preferLatency } from "./latency.js";
export type { BootDisk, BootOptions } from "./boot-options.js";
export type { ExecOptions, ExecResult, ExecutedList } from "./console/console-client.js";
export {
  parseNbdExport,
  type NbdAddress,
  type NbdExportOptions,
  type NbdServed,
} from "./nbd/export-address.js";
export type { NicOptions, SwitchOptions } from "./machine-network.js";
export type { HostThreads, ThreadCpus } from "./machine-threads.js";
export type { NicStack } from "./net/hn/nic-stack.js";
export type { KthreadContext, KthreadDisk, KthreadModule } from "./smp/kthread.js";
export type { GuestDisk, GuestNic } from "./console/console-link.js";
export type { HostStats } from "@hyperv-is/hyperv-host";
export { DiskError, NetworkError, type AdapterChange } from "@hyperv-is/hyperv-host/node";
export {
  FaultPlanError,
  GuestError,
  parseFaultPlan,
  networkAdapterId,
  scsiControllerId,
  type BandwidthOptions,
  type BusOptions,
  type CaptureConfig,
  type CaptureStats,
  type DiskPlacement,
  type DiskSource,
  type Fault,
  type FaultPlanData,
  type IntegrationRequest,
  type SubChannelPolicy,
  type Violation,
  type VlanMode,
} from "@hyperv-is/hyperv-host";
