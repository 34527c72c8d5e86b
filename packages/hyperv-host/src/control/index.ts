export { ControlDispatcher } from "./control-dispatcher.js";
export { CONTROL_PROTOCOL } from "./control-protocol.js";
export {
  ControlError,
  controlErrorNumbers,
  type ControlAnswerCode,
  type ControlErrorCode,
} from "./control-error.js";
export {
  controlMethods,
  type ControlMethod,
  type ControlMethodName,
  type ControlParams,
  type ControlResult,
  type ControlVersion,
  type ControlledMachine,
  type MachineSummary,
  type MachineViolation,
  type ViolationLog,
} from "./control-methods.js";
export { machineStats, type MachineChannel, type MachineStats } from "./machine-stats.js";
