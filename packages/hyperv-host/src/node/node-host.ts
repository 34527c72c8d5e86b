import {
  Doorbell,
  NodeClock,
  Pump,
  startWorker,
  type SharedGuestMemory,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import { controllerOffers, standardDevices } from "../device-set.js";
import { FaultPlan, faultStats, type FaultPlanData } from "../faults.js";
import type { HostStats } from "../host-stats.js";
import { HypervisorState } from "../hypervisor/hypervisor-state.js";
import type { ControllerConfig } from "../storvsp/controller-config.js";
import type { Violations } from "../violations.js";
import type { BusOptions } from "../vmbus/connection.js";
import { VmbusServer } from "../vmbus/server.js";
import { ControlServer, type MachineDescription } from "./control-server.js";
import type {
  DiskWorkerData,
  DiskWorkerReply,
  DiskWorkerRequest,
  DiskWorkerStats,
} from "./disk-worker.js";
import { DiskError, needsEventLoop } from "./disk-set.js";
import { DoorbellBells, HostCause } from "./doorbell-bells.js";
import { TraceFile, type TraceFileOptions } from "./trace-file.js";

export interface NodeHostOptions {
  readonly memory: SharedGuestMemory;
  /** Virtual processors of the guest. */
  readonly vps: number;
  readonly controllers: readonly ControllerConfig[];
  readonly bus?: BusOptions;
  readonly faults?: FaultPlanData;
  /** Records what host and guest exchange into a file. */
  readonly trace?: TraceFileOptions;
  /** Makes a control socket. */
  readonly control?: ControlOptions;
  /** A thread of the host failed: the machine cannot go on. */
  readonly onFailure?: (error: Error) => void;
}

/** A machine's control socket, as its user asks for it. */
export interface ControlOptions {
  /** Name of the machine, or path of the socket; see `controlPath`. */
  readonly address: string;
  /** What the machine runs in, with its version. */
  readonly program: string;
}

/** Storage is served by the first worker of the host, and so far by no other. */
const DISK_WORKER = 0;

/** Stats of a disk worker that has ended. */
const NOTHING_DONE: DiskWorkerStats = { controllers: [], channels: [], faultCounts: [] };

/**
 * The emulated root partition over threads: the control plane on the thread that starts it, the disks on
 * a worker. The guest's processors run on threads of their own; `state` and `doorbellOf` are for them.
 */
export class NodeHost {
  readonly state: HypervisorState;
  readonly #server: VmbusServer;
  readonly #pump: Pump;
  readonly #disks: WorkerHandle<DiskWorkerRequest, DiskWorkerReply>;
  readonly #trace: TraceFile | undefined;
  #faults: FaultPlanData;
  /** That of the control thread. */
  readonly #plan: FaultPlan;
  readonly #pending = new Map<number, (stats: DiskWorkerStats) => void>();
  #disksGone = false;
  #control: ControlServer | undefined;
  #nextRequest = 1;
  #running: Promise<void> = Promise.resolve();

  private constructor(
    state: HypervisorState,
    server: VmbusServer,
    pump: Pump,
    disks: WorkerHandle<DiskWorkerRequest, DiskWorkerReply>,
    faults: FaultPlanData,
    plan: FaultPlan,
    trace: TraceFile | undefined,
  ) {
    this.state = state;
    this.#server = server;
    this.#pump = pump;
    this.#disks = disks;
    this.#faults = faults;
    this.#plan = plan;
    this.#trace = trace;
  }

  /**
   * Starts the host: opens the images and offers the devices.
   * Rejects with `DiskError` when an image cannot be opened, with `TraceError` when the trace cannot be
   * made, with `ControlError` when the control socket cannot; no thread is left behind then.
   */
  static async start(options: NodeHostOptions): Promise<NodeHost> {
    const { memory, vps, controllers } = options;
    const state = HypervisorState.create({ vps, workers: 1, shared: true });
    const bells = new DoorbellBells(state);
    const faults = options.faults ?? { faults: [] };
    const control = new Doorbell(state.words, state.controlDoorbell);
    const pump = new Pump("async", control, { spinLimitUs: 0, clock: new NodeClock() });
    const trace = options.trace && TraceFile.create(options.trace, pump.timers);
    trace?.recorder.start(memory, vps);
    trace?.follow(pump.timers);
    const data: DiskWorkerData = {
      memory: memory.wasm,
      pump: needsEventLoop(controllers) ? "async" : "blocking",
      index: DISK_WORKER,
      state: state.buffer,
      controllers,
      faults,
      ...(trace && { trace: { ...options.trace, originMs: trace.recorder.originMs } }),
    };
    const disks = startWorker<DiskWorkerRequest, DiskWorkerReply>({
      entry: "@hyperv-is/hyperv-host/node/disk-worker",
      from: import.meta.url,
      name: "disks",
      data,
      doorbell: new Doorbell(state.words, state.workerDoorbell(DISK_WORKER)),
      ownBell: control,
      // What slow disks have in flight, and their last flush.
      stopTimeoutMs: 60_000,
      ...(options.onFailure && { onError: options.onFailure }),
    });
    const plan = new FaultPlan(faults, pump.timers);
    const server = new VmbusServer({
      state,
      memory,
      bells,
      timers: pump.timers,
      workers: [{ send: (message) => disks.post(message) }],
      faults: plan,
      ...(options.bus && { bus: options.bus }),
      ...(trace && { trace: trace.recorder }),
    });
    const host = new NodeHost(state, server, pump, disks, faults, plan, trace);
    const startMs = pump.timers.now();
    await host.#begin(controllers);
    if (options.control !== undefined)
      await host.#listen(options.control, {
        processorCount: vps,
        memoryBytes: memory.sizeBytes,
        clock: pump.timers,
        startMs,
        server,
      });
    return host;
  }

  /** Where the thread of a virtual processor is woken. */
  doorbellOf(vp: number): Doorbell {
    return new Doorbell(this.state.words, this.state.vpDoorbell(vp));
  }

  /** What the guest did wrong. */
  get violations(): Violations {
    return this.#server.violations;
  }

  /** Rescinds a device. @returns False if there is none. */
  rescind(instanceId: Guid, reofferAfterMs?: number): boolean {
    const found = this.#server.rescind(instanceId, reofferAfterMs);
    this.#pump.doorbell.ring(HostCause.control);
    return found;
  }

  /** How the host misbehaves. */
  get faults(): FaultPlanData {
    return this.#faults;
  }

  /** Misbehaves in another way from now on; resolves when every thread of the host does. */
  async setFaults(faults: FaultPlanData): Promise<void> {
    this.#faults = faults;
    this.#plan.replace(faults);
    this.#server.followFaults();
    this.#pump.doorbell.ring(HostCause.control);
    if (!this.#disksGone) this.#disks.post({ kind: "faults", faults });
    // Its answers come in the order of what it is sent.
    await this.stats();
  }

  /** Counters of bus, channels, controllers, disks and faults; none of the disks once the host has stopped. */
  async stats(): Promise<HostStats> {
    const id = this.#nextRequest++;
    // They may be replaced meanwhile.
    const [faults, { counts }] = [this.#faults, this.#plan];
    const { controllers, channels, faultCounts } = await new Promise<DiskWorkerStats>((resolve) => {
      if (this.#disksGone) {
        resolve(NOTHING_DONE);
        return;
      }
      this.#pending.set(id, resolve);
      this.#disks.post({ kind: "stats", id });
    });
    return {
      ...this.#server.stats(),
      workers: [channels],
      controllers,
      faults: faultStats(faults, [counts, faultCounts]),
    };
  }

  /** Ends the host's threads, after the guest's have ended; images are flushed and closed. Rejects if that failed. */
  async stop(): Promise<void> {
    this.#control?.close();
    await this.#disks.stop();
    this.#pump.doorbell.requestStop();
    await this.#running;
    const { error } = await this.#disks.exited;
    // The trace is closed in any case; the first error counts.
    try {
      this.#trace?.close();
    } catch (failure) {
      throw error ?? failure;
    }
    if (error !== undefined) throw error;
  }

  async #listen(
    { address, program }: ControlOptions,
    machine: Omit<MachineDescription, "program" | "stats">,
  ): Promise<void> {
    try {
      this.#control = await ControlServer.listen(address, {
        ...machine,
        program,
        stats: () => this.stats(),
      });
    } catch (error) {
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  async #begin(controllers: readonly ControllerConfig[]): Promise<void> {
    const ready = new Promise<void>((resolve, reject) => {
      this.#running = this.#pump.run({
        drain: () => {
          this.#pump.doorbell.take();
          for (let next = this.#disks.link.receive(); next; next = this.#disks.link.receive())
            this.#receive(next, resolve, reject);
          return this.#server.run();
        },
      });
      this.#running.catch(reject);
      void this.#disks.exited.then(({ error }) => {
        this.#disksGone = true;
        for (const answer of this.#pending.values()) answer(NOTHING_DONE);
        reject(error ?? new Error("the disk worker ended before it was ready"));
        this.#pump.doorbell.ring();
      });
    });
    try {
      await ready;
    } catch (error) {
      await this.stop().catch(() => undefined);
      throw error;
    }
    for (const device of standardDevices(DISK_WORKER)) this.#server.offer(device);
    for (const device of controllerOffers(controllers, DISK_WORKER)) this.#server.offer(device);
  }

  #receive(reply: DiskWorkerReply, ready: () => void, failed: (error: Error) => void): void {
    switch (reply.kind) {
      case "ready":
        ready();
        return;
      case "failed":
        failed(new DiskError(reply.path, reply.code, reply.message));
        return;
      case "stats":
        this.#pending.get(reply.id)?.(reply);
        this.#pending.delete(reply.id);
        return;
      default:
        this.#server.reply(reply);
    }
  }
}
