import type { ControlProcedures, QueueProcedures } from "@hyperv-is/vmbus-core";

// What the CPUs of a guest let each other do, over the lines between the boot processor and the others.

/** What the boot processor may call on another CPU. */
export interface ApplicationProcedures extends QueueProcedures {
  /** Answers at once: the CPU is not stuck. */
  ping(nothing: undefined): void;
  /** Sets `GuestCpu.signalOptimization`. */
  optimizeSignals(wanted: boolean): void;
  /** Ends the CPU: its channels are closed by now. */
  halt(nothing: undefined): void;
}

/** What another CPU may call on the boot processor. */
export interface BootProcedures extends ControlProcedures {
  /** The CPU is up, and its drivers are loaded. */
  online(nothing: undefined): void;
}
