export { BootError, type BootErrorCode } from "./boot-error.js";
export {
  Machine,
  boot,
  type BootDisk,
  type BootOptions,
  type ExecOptions,
  type ExecResult,
  type ExecutedList,
  type KthreadOptions,
  type MachineHost,
  type MachineKthread,
} from "./machine.js";
export {
  parseNbdExport,
  type NbdAddress,
  type NbdExportOptions,
  type NbdServed,
} from "./nbd/export-address.js";
export type { KthreadContext, KthreadDisk, KthreadModule } from "./smp/kthread.js";
export type { GuestDisk } from "./console/console-link.js";
export type { HostStats } from "@hyperv-is/hyperv-host";
export { DiskError } from "@hyperv-is/hyperv-host/node";
export {
  FaultPlanError,
  parseFaultPlan,
  scsiControllerId,
  type BusOptions,
  type DiskPlacement,
  type DiskSource,
  type Fault,
  type FaultPlanData,
  type SubChannelPolicy,
  type Violation,
} from "@hyperv-is/hyperv-host";
