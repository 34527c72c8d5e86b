import type { ControlProcedures, QueueProcedures } from "@hyperv-is/vmbus-core";
import type { PortUse, RelayedFrames } from "../net/hn/port-use.js";
import type { KthreadProcedures } from "./kthread.js";

// What the CPUs of a guest let each other do, over the lines between the boot processor and the others.

/** What the boot processor may call on another CPU. */
export interface ApplicationProcedures extends QueueProcedures, KthreadProcedures {
  /** Answers at once: the CPU is not stuck. */
  ping(nothing: undefined): void;
  /** Sets `GuestCpu.signalOptimization`. */
  optimizeSignals(wanted: boolean): void;
  /** Uses the port of a network channel that is bound to the CPU. Throws if there is none. */
  usePort(use: PortUse): void;
  /** Ends the CPU: its channels are closed by now. */
  halt(nothing: undefined): void;
}

/** What another CPU may call on the boot processor. */
export interface BootProcedures extends ControlProcedures {
  /** The CPU is up, and its drivers are loaded. */
  online(nothing: undefined): void;
  /** Where the calling CPU finds a disk. Throws if there is none of that name, or that CPU has no channel to it. */
  findDisk(name: string): DiskPlace;
  /** Frames for the guest's own stack; answered when it has taken them. */
  deliverFrames(frames: RelayedFrames): void;
  /** A line for dmesg. */
  print(line: string): void;
}

/** A disk, on a channel of a CPU. */
export interface DiskPlace {
  readonly relid: number;
  readonly target: number;
  readonly lun: number;
}
