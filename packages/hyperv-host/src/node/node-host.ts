import {
  Doorbell,
  NodeClock,
  Pump,
  type SharedGuestMemory,
  type ThreadPin,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import { adapterOffers, controllerOffers, standardDevices } from "../device-set.js";
import { FaultPlan, faultStats, type FaultPlanData } from "../faults.js";
import type { HostStats } from "../host-stats.js";
import { GuestError, type GuestErrorCode, type IntegrationRequest } from "../integration/index.js";
import { HypervisorState } from "../hypervisor/hypervisor-state.js";
import type { CaptureStats } from "../netvsp/nic-config.js";
import type { CaptureConfig, NetworkConfig } from "../network-config.js";
import type { ControllerConfig } from "../storvsp/controller-config.js";
import type { Violations } from "../violations.js";
import type { BusOptions } from "../vmbus/connection.js";
import { VmbusServer } from "../vmbus/server.js";
import type { ControlServer, MachineDescription } from "./control-server.js";
import type { DiskWorkerData, DiskWorkerStats } from "./disk-devices.js";
import { DiskError, needsEventLoop } from "./disk-set.js";
import { DoorbellBells, HostCause } from "./doorbell-bells.js";
import type { LentThreadData } from "./lent-thread.js";
import { HostThread, type HostThreadOptions } from "./host-thread.js";
import type { HostThreadData, HostThreadStats } from "./host-thread-messages.js";
import { NetworkError, networkNeedsEventLoop, type AdapterChange } from "./network-set.js";
import type { NetworkRequest, NetworkWorkerData, NetworkWorkerStats } from "./network-devices.js";
import { TraceFile, type TraceFileOptions } from "./trace-file.js";

export interface NodeHostOptions {
  readonly memory: SharedGuestMemory;
  /** Virtual processors of the guest. */
  readonly vps: number;
  readonly controllers: readonly ControllerConfig[];
  /** Switches and network adapters; none unless told. */
  readonly network?: NetworkConfig;
  readonly bus?: BusOptions;
  readonly faults?: FaultPlanData;
  /** Records what host and guest exchange into a file. */
  readonly trace?: TraceFileOptions;
  /** Where its threads run, by their names in `hostThreads`; wherever the system likes unless told. */
  readonly pins?: ReadonlyMap<string, ThreadPin>;
  /**
   * The first virtual processor lends its thread to the devices, which have none of their own then: its worker is given
   * `lent`, and `lender` is told of it.
   */
  readonly isLent?: boolean;
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

/** Names of its threads: the first serves all controllers and integration components, the second the network if there is one. */
export const hostThreads = { disks: "disks", network: "network" } as const;

/** Storage is served by the first worker of the host, and the network by a second one if there is any. */
const DISK_WORKER = 0;
const NETWORK_WORKER = 1;

/** Stats of workers that have ended. */
const NO_DISKS: DiskWorkerStats = { controllers: [], channels: [], faultCounts: [] };
const NO_NETWORK: NetworkWorkerStats = { adapters: [], channels: [], faultCounts: [] };

/** What slow disks have in flight, and their last flush. */
const DISKS_STOP_TIMEOUT_MS = 60_000;
const NETWORK_STOP_TIMEOUT_MS = 5_000;

/**
 * The emulated root partition over threads: the control plane on the thread that starts it, the disks on
 * a worker, the network on another. The guest's processors run on threads of their own; `state` and `doorbellOf` are for them.
 */
export class NodeHost {
  readonly state: HypervisorState;
  /** Resolves when the devices are offered. Rejects with `DiskError` or `NetworkError` if they could not be made. */
  readonly ready: Promise<void>;
  readonly #server: VmbusServer;
  readonly #pump: Pump;
  readonly #disks: HostThread<DiskWorkerStats, IntegrationRequest>;
  readonly #network: HostThread<NetworkWorkerStats, NetworkRequest> | undefined;
  readonly #trace: TraceFile | undefined;
  #faults: FaultPlanData;
  /** That of the control thread. */
  readonly #plan: FaultPlan;
  #control: ControlServer | undefined;
  #running: Promise<void> = Promise.resolve();

  private constructor(
    options: NodeHostOptions,
    state: HypervisorState,
    pump: Pump,
    faults: FaultPlanData,
    trace: TraceFile | undefined,
  ) {
    const { memory } = options;
    const bells = new DoorbellBells(state);
    this.state = state;
    this.#pump = pump;
    this.#faults = faults;
    this.#trace = trace;
    const data = {
      memory: memory.wasm,
      state: state.buffer,
      faults,
      ...(trace && { trace: { ...options.trace!, originMs: trace.recorder.originMs } }),
    };
    const { network } = options;
    let missing = network === undefined ? 1 : 2;
    const common = {
      state,
      control: pump.doorbell,
      isLent: options.isLent === true,
      onReady: () => {
        if (--missing === 0) this.#offer(options);
      },
      onFailure: options.onFailure,
    };
    this.#disks = startDisks(options, common, data);
    this.#network = network && startNetwork(options, network, common, data);
    this.#plan = new FaultPlan(faults, pump.timers);
    this.#server = new VmbusServer({
      state,
      memory,
      bells,
      timers: pump.timers,
      workers: this.#threads,
      faults: this.#plan,
      ...(options.bus && { bus: options.bus }),
      ...(trace && { trace: trace.recorder }),
    });
    this.ready = this.#begin();
    // Whoever waits for it learns of it there.
    this.ready.catch(() => undefined);
  }

  /**
   * Starts the host: opens the images, makes the network, and offers the devices; without threads of its own it has
   * `ready` wait for that.
   * Rejects with `DiskError` when an image cannot be opened, with `NetworkError` when the network cannot be made, with
   * `TraceError` when the trace cannot be made, with `ControlError` when the control socket cannot; no thread is left
   * behind then.
   */
  static async start(options: NodeHostOptions): Promise<NodeHost> {
    const { memory, vps, network, isLent = false } = options;
    const workers = network === undefined ? 1 : 2;
    const state = HypervisorState.create({
      vps,
      workers,
      workersOnBootProcessor: isLent,
      shared: true,
    });
    const faults = options.faults ?? { faults: [] };
    const control = new Doorbell(state.words, state.controlDoorbell);
    const pump = new Pump("async", control, { spinLimitUs: 0, clock: new NodeClock() });
    const trace = options.trace && TraceFile.create(options.trace, pump.timers);
    trace?.recorder.start(memory, vps);
    trace?.follow(pump.timers);
    const host = new NodeHost(options, state, pump, faults, trace);
    const startMs = pump.timers.now();
    if (!isLent)
      await host.ready.catch(async (error: unknown) => {
        await host.stop().catch(() => undefined);
        throw error;
      });
    if (options.control !== undefined)
      await host.#listen(options.control, {
        processorCount: vps,
        memoryBytes: memory.sizeBytes,
        clock: pump.timers,
        startMs,
        server: host.#server,
      });
    return host;
  }

  /** Where the thread of a virtual processor is woken. */
  doorbellOf(vp: number): Doorbell {
    return new Doorbell(this.state.words, this.state.vpDoorbell(vp));
  }

  /** What the worker of the first virtual processor is to be given, if it lends its thread; `serveDevices` takes each. */
  get lent(): readonly LentThreadData[] {
    return this.#threads.flatMap(({ lent }) => lent?.data ?? []);
  }

  /** The worker that was given it. */
  set lender(worker: WorkerHandle) {
    for (const { lent } of this.#threads) if (lent !== undefined) lent.lender = worker;
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
    for (const thread of this.#threads) thread.setFaults(faults);
    // Their answers come in the order of what they are sent.
    await this.stats();
  }

  /** Changes a network adapter while its guest runs. Rejects with `NetworkError`. */
  async changeAdapter(instanceId: Guid, change: AdapterChange): Promise<void> {
    await this.#requestNetwork({ kind: "adapter", instanceId, change });
  }

  /** Captures what goes over an adapter's port into a file from now on. Rejects with `NetworkError`. */
  async startCapture(capture: CaptureConfig): Promise<void> {
    await this.#requestNetwork({ kind: "start-capture", capture });
  }

  /**
   * Ends the capture of an adapter; resolves with what it has, or undefined if there was none. Rejects with `NetworkError`
   * if the file could not be written.
   */
  async stopCapture(instanceId: Guid): Promise<CaptureStats | undefined> {
    const stopped = await this.#requestNetwork({ kind: "stop-capture", instanceId });
    return stopped as CaptureStats | undefined;
  }

  /** Asks the guest's integration components for something, and returns what they found. Rejects with `GuestError`. */
  async request(request: IntegrationRequest): Promise<unknown> {
    return this.#disks.request(request);
  }

  /** Counters of bus, channels, devices and faults; none of the devices once the host has stopped. */
  async stats(): Promise<HostStats> {
    // They may be replaced meanwhile.
    const [faults, { counts }] = [this.#faults, this.#plan];
    const [disks, network] = await Promise.all([
      this.#disks.stats(),
      this.#network?.stats() ?? NO_NETWORK,
    ]);
    const isAlone = this.#network === undefined;
    return {
      ...this.#server.stats(),
      workers: isAlone ? [disks.channels] : [disks.channels, network.channels],
      controllers: disks.controllers,
      ...(disks.integration && { integration: disks.integration }),
      adapters: network.adapters,
      faults: faultStats(faults, [counts, disks.faultCounts, network.faultCounts]),
    };
  }

  /** Ends the host's threads, after the guest's have ended; images are flushed and closed. Rejects if that failed. */
  async stop(): Promise<void> {
    this.#control?.close();
    await Promise.all(this.#threads.map((thread) => thread.stop()));
    this.#pump.doorbell.requestStop();
    await this.#running;
    const exits = await Promise.all(this.#threads.map(({ exited }) => exited));
    const error = exits.find((exit) => exit.error !== undefined)?.error;
    // The trace is closed in any case; the first error counts.
    try {
      this.#trace?.close();
    } catch (failure) {
      throw error ?? failure;
    }
    if (error !== undefined) throw error;
  }

  /** In the order of their indices. */
  get #threads(): readonly Thread[] {
    return this.#network === undefined ? [this.#disks] : [this.#disks, this.#network];
  }

  async #requestNetwork(request: NetworkRequest): Promise<unknown> {
    if (this.#network === undefined)
      throw new NetworkError("ERR_NETWORK", "the machine has no network");
    return this.#network.request(request);
  }

  async #listen(
    { address, program }: ControlOptions,
    machine: Omit<MachineDescription, "program" | "stats" | "captures" | "request">,
  ): Promise<void> {
    try {
      // Loaded by the machines that have one: the libraries below it take as long as the rest of the host.
      const control = await import("./control-server.js");
      this.#control = await control.ControlServer.listen(address, {
        ...machine,
        program,
        stats: () => this.stats(),
        captures: this,
        request: (request) => this.request(request),
      });
    } catch (error) {
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  /** Resolves when all devices are there. */
  async #begin(): Promise<void> {
    const failed = new Promise<never>((_, reject) => {
      this.#running = this.#pump.run({
        drain: () => {
          this.#pump.doorbell.take();
          for (const thread of this.#threads)
            thread.receive((message) => this.#server.reply(message));
          return this.#server.run();
        },
      });
      this.#running.catch(reject);
    });
    await Promise.race([failed, Promise.all(this.#threads.map(({ ready }) => ready))]);
  }

  #offer({ controllers, network }: NodeHostOptions): void {
    for (const device of standardDevices(DISK_WORKER)) this.#server.offer(device);
    for (const device of controllerOffers(controllers, DISK_WORKER)) this.#server.offer(device);
    for (const device of adapterOffers(network?.adapters ?? [], NETWORK_WORKER))
      this.#server.offer(device);
  }
}

/** What all threads have. */
type Thread = Pick<
  HostThread<HostThreadStats>,
  "ready" | "exited" | "lent" | "send" | "receive" | "setFaults" | "stop"
>;

type CommonOptions = Pick<
  HostThreadOptions<HostThreadStats>,
  "state" | "control" | "isLent" | "onReady" | "onFailure"
>;
type CommonData = Pick<HostThreadData, "memory" | "state" | "faults" | "trace">;

function startDisks(
  { controllers, pins }: NodeHostOptions,
  common: CommonOptions,
  commonData: CommonData,
): HostThread<DiskWorkerStats, IntegrationRequest> {
  const data: DiskWorkerData = {
    ...commonData,
    pump: needsEventLoop(controllers) ? "async" : "blocking",
    index: DISK_WORKER,
    controllers,
  };
  return new HostThread({
    ...common,
    name: hostThreads.disks,
    entry: "@hyperv-is/hyperv-host/node/disk-worker",
    data,
    stopTimeoutMs: DISKS_STOP_TIMEOUT_MS,
    pin: pins?.get(hostThreads.disks),
    nothing: NO_DISKS,
    failure: ({ path = "", code, message }) =>
      code.startsWith("ERR_GUEST_")
        ? new GuestError(code as GuestErrorCode, message)
        : new DiskError(path, code, message),
  });
}

function startNetwork(
  { pins }: NodeHostOptions,
  network: NetworkConfig,
  common: CommonOptions,
  commonData: CommonData,
): HostThread<NetworkWorkerStats, NetworkRequest> {
  const data: NetworkWorkerData = {
    ...commonData,
    pump: networkNeedsEventLoop(network) ? "async" : "blocking",
    index: NETWORK_WORKER,
    network,
  };
  return new HostThread({
    ...common,
    name: hostThreads.network,
    entry: "@hyperv-is/hyperv-host/node/network-worker",
    data,
    stopTimeoutMs: NETWORK_STOP_TIMEOUT_MS,
    pin: pins?.get(hostThreads.network),
    nothing: NO_NETWORK,
    failure: ({ code, message }) => new NetworkError(code, message),
  });
}
