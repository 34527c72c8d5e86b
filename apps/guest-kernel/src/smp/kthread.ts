import type { DiskCompletions, DiskQueue } from "@hyperv-is/hv-storvsc";
import type { GuestMemory, Timers } from "@hyperv-is/vmbus-core";
import type { BlockDevice, GuestBuffer } from "../kernel/block-device.js";

/** A disk as a kernel thread has it: what it does goes over the channel of the thread's CPU. */
export interface KthreadDisk extends BlockDevice {
  /** Depth that `openQueue` can give now. */
  readonly queueDepthMax: number;
  /** Opens the fast path of `@hyperv-is/hv-storvsc`; closed when the thread ends, if not before. */
  openQueue(depth: number, completions: DiskCompletions): DiskQueue;
}

/**
 * What a kernel thread has to work with, on its CPU.
 *
 * That CPU does nothing else while the thread computes: it must await something every now and then, or it is taken
 * for stuck and stopped (`kern.smp.timeout_ms`). On CPUs but the first, Node serves its own events (timers, files,
 * sockets) only inside `during`.
 */
export interface KthreadContext {
  readonly name: string;
  readonly cpu: number;
  /** What the thread was started with: plain data. */
  readonly args: unknown;
  /** Fires when the thread is to end. */
  readonly signal: AbortSignal;
  /** All of the guest's memory. */
  readonly memory: GuestMemory;
  readonly timers: Timers;
  /** Pages of this CPU's memory; taken back when the thread ends. Throws `ERR_NO_MEMORY` when there are none. */
  allocateBuffer(lengthBytes: number): GuestBuffer;
  /** A disk by its name, such as `da0`. Rejects if there is none, or this CPU has no channel to it. */
  disk(name: string): Promise<KthreadDisk>;
  /** A line for dmesg. */
  log(line: string): void;
  /** Has Node serve its events while `work` is pending, and settles as that does. */
  during<T>(work: Promise<T>): Promise<T>;
}

/** A module that can be run as a kernel thread: an ES module with this export. */
export interface KthreadModule {
  /** The thread, from its first instruction to its last. What it returns has to be plain data. */
  main(context: KthreadContext): unknown;
}

/** What a CPU does about kernel threads. */
export interface KthreadProcedures {
  /** Loads the module of a thread. */
  loadKthread(request: {
    readonly id: number;
    readonly name: string;
    readonly file: string;
  }): Promise<void>;
  /** Runs it; resolves with what it returns, rejects with what it throws. */
  runKthread(request: { readonly id: number; readonly args: unknown }): Promise<unknown>;
  /** Tells it to end. */
  stopKthread(request: { readonly id: number }): Promise<void>;
}
