import { runHostWorker, type HostWorkerContext, type WorkerBody } from "@hyperv-is/platform-node";
import type { Timers } from "@hyperv-is/vmbus-core";
import { FaultPlan } from "../faults.js";
import { HostWorker } from "../host-worker.js";
import { HypervisorState } from "../hypervisor/hypervisor-state.js";
import { DoorbellBells, HostCause } from "./doorbell-bells.js";
import type {
  HostThreadData,
  HostThreadFailure,
  HostThreadReply,
  HostThreadRequest,
  HostThreadStats,
} from "./host-thread-messages.js";
import { TraceFile } from "./trace-file.js";

/** The devices of a thread. */
export interface HostDevices<Stats extends HostThreadStats> {
  /** Registers them with the worker that has them. */
  serve(worker: HostWorker): void;
  /** What they have done. */
  stats(): Omit<Stats, keyof HostThreadStats>;
  /** True while the thread must not sleep. */
  readonly keepsAwake?: boolean;
  /** Does what has come from elsewhere than a guest, within a budget. @returns True if there was any. */
  drain?(): boolean;
  /**
   * Carries out a request that only these devices know. Calls `done` once, now or later, with a plain result or with
   * what went wrong; an error may be thrown as well. Not a promise: a thread that sleeps in `Atomics` keeps none.
   */
  request?(
    request: { readonly kind: string },
    done: (error: Error | undefined, result?: unknown) => void,
  ): void;
  close(): void | Promise<void>;
}

/** What devices are made with. */
export interface HostDevicesContext<Data extends HostThreadData> {
  readonly data: Data;
  readonly timers: Timers;
  readonly faults: FaultPlan;
  /** Has the thread woken when a file can be read, see `Pump.watch`. @returns What ends that. */
  readonly watch: (fd: number) => () => void;
}

/** What a thread has for them. */
export type HostThreadContext<Data extends HostThreadData> = Pick<
  HostWorkerContext<Data>,
  "data" | "memory" | "timers" | "starter" | "watch"
>;

/** How devices of a kind are made. */
export interface DeviceKind<Data extends HostThreadData, Stats extends HostThreadStats> {
  open(context: HostDevicesContext<Data>): Promise<HostDevices<Stats>>;
  /** What is told of an error; undefined if it is a mistake of ours. */
  failureOf(error: unknown): HostThreadFailure | undefined;
}

/** What serves devices on a thread. */
export interface HostThreadBody extends Required<Omit<WorkerBody, "main">> {
  /** False if the devices could not be made, which was told: there is nothing to serve. */
  readonly isServing: boolean;
  /** Closes the devices. */
  stopped(): Promise<void>;
}

/** What the entry file of a thread that serves devices calls: opens them, and serves them until the machine stops. */
export function runHostThread<Data extends HostThreadData, Stats extends HostThreadStats>(
  kind: DeviceKind<Data, Stats>,
): Promise<void> {
  return runHostWorker<Data>((context) => beginHostThread(context, kind));
}

/** Opens devices, for a thread that is to drive what this resolves with. */
export async function beginHostThread<Data extends HostThreadData, Stats extends HostThreadStats>(
  { data, memory, timers, starter, watch }: HostThreadContext<Data>,
  kind: DeviceKind<Data, Stats>,
): Promise<HostThreadBody> {
  const state = new HypervisorState(data.state);
  const bells = new DoorbellBells(state);
  const reply = (message: HostThreadReply<Stats>): void => starter.send(message);
  const faults = new FaultPlan(data.faults, timers);
  const trace = data.trace && TraceFile.join(data.trace, timers);
  trace?.follow(timers);
  const worker = new HostWorker({
    index: data.index,
    state,
    memory,
    bells,
    timers,
    reply,
    faults,
    ...(trace && { trace: trace.recorder }),
  });
  let devices: HostDevices<Stats> | undefined;
  try {
    devices = await kind.open({ data, timers, faults, watch });
    devices.serve(worker);
    reply({ kind: "ready" });
  } catch (error) {
    const failure = kind.failureOf(error);
    if (failure === undefined) throw error;
    reply({ kind: "failed", ...failure });
  }

  const carryOut = (request: { readonly kind: string; readonly id: number }): void => {
    const { id } = request;
    const done = (error: Error | undefined, result?: unknown): void => {
      if (error === undefined) {
        reply({ kind: "done", id, result });
        return;
      }
      const failure = kind.failureOf(error);
      if (failure === undefined) throw error;
      reply({ kind: "done", id, failure });
    };
    try {
      devices?.request?.(request, done);
    } catch (error) {
      done(error as Error);
    }
  };

  return {
    isServing: devices !== undefined,
    drain() {
      const hasWorked = worker.run();
      return devices?.drain?.() === true || hasWorked || devices?.keepsAwake === true;
    },
    rung(causes) {
      if ((causes & HostCause.eventFlags) !== 0) worker.interrupt();
    },
    message(message) {
      const request = message as HostThreadRequest | { readonly kind: string; readonly id: number };
      if (request.kind === "stats" && "id" in request) {
        const stats = {
          ...devices?.stats(),
          channels: worker.stats(),
          faultCounts: faults.counts,
        } as unknown as Stats;
        reply({ kind: "stats", id: request.id, ...stats });
      } else if ("faults" in request) faults.replace(request.faults);
      else if ("id" in request) carryOut(request);
      else worker.receive(request);
    },
    async stopped() {
      try {
        await devices?.close();
      } finally {
        trace?.close();
      }
    },
  };
}
