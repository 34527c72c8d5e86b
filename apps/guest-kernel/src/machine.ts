import { hostname } from "node:os";
import { resolve as resolvePath } from "node:path";
import { fileURLToPath } from "node:url";
import {
  VP_LIMIT,
  placeDisks,
  subChannelsFor,
  type FaultPlanData,
  type HostStats,
  type CaptureConfig,
  type CaptureStats,
  type IntegrationRequest,
  type Violation,
} from "@hyperv-is/hyperv-host";
import { NodeHost, type AdapterChange } from "@hyperv-is/hyperv-host/node";
import {
  createGuestMemory,
  startWorker,
  type ThreadPin,
  type VcpuData,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { CallLink, RemoteError, type ShutdownAction } from "@hyperv-is/vmbus-core";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import manifest from "../package.json" with { type: "json" };
import { BootError } from "./boot-error.js";
import { machineIdentity, placement, type BootOptions } from "./boot-options.js";
import { ConsoleClient, type ExecOptions, type ExecResult } from "./console/console-client.js";
import type { ConsoleReply, ConsoleRequest, GuestDisk, GuestNic } from "./console/console-link.js";
import type { SystemIdentity } from "./kernel/guest-system.js";
import { checkExport, type NbdServed } from "./nbd/export-address.js";
import { tune } from "./kernel/tunables.js";
import { cacheModule } from "./module-cache.js";
import { networkOf } from "./machine-network.js";
import { checkTap } from "./net/hn/tap-stack.js";
import { ApplicationProcessors, VCPU_ENTRY } from "./smp/application-processors.js";
import { layoutMemory, type MemoryLayout } from "./smp/memory-layout.js";
import type { KernelProcedures, VcpuProgramData } from "./smp/vcpu.js";
import { lendsThread, pinsOf, vcpuThread } from "./machine-threads.js";

/** A kernel thread to be started. */
export interface KthreadOptions {
  /** The module's file. */
  readonly module: string | URL;
  /** The boot processor unless told. */
  readonly cpu?: number;
  /** For messages; the file's name unless told. */
  readonly name?: string;
  /** Plain data for the module. */
  readonly args?: unknown;
}

/** A kernel thread of a machine. */
export interface MachineKthread {
  readonly id: number;
  readonly name: string;
  readonly cpu: number;
  /** Resolves with what the module's `main` returns; rejects with what it throws, or when its CPU or the machine is gone. */
  readonly ended: Promise<unknown>;
  /** Tells the thread to end, and resolves when it has. Rejects with `ERR_KTHREAD` if it does not. */
  stop(): Promise<void>;
}

/** The host's side of a machine. */
export interface MachineHost {
  /** What the guest did against the protocol. */
  readonly violations: readonly Violation[];
  /** Counters of bus, channels, controllers, disks and faults. Rejects when the machine is powered off. */
  stats(): Promise<HostStats>;
  /** How the host misbehaves. */
  readonly faults: FaultPlanData;
  /** Has the host misbehave in another way from now on; resolves when it does. */
  setFaults(faults: FaultPlanData): Promise<void>;
  /** Asks the guest's integration components for something. Rejects with `GuestError`. */
  request(request: IntegrationRequest): Promise<unknown>;
  /** Pulls or plugs in the cable of a network adapter, or changes its port. Rejects with `NetworkError`. */
  changeAdapter(instanceId: Guid, change: AdapterChange): Promise<void>;
  /** Captures what goes over a network adapter's port into a pcapng file. Rejects with `NetworkError`. */
  startCapture(capture: CaptureConfig): Promise<void>;
  /**
   * Ends the capture of a network adapter; resolves with what it has, or undefined if there was none. Rejects with
   * `NetworkError` if the file could not be written.
   */
  stopCapture(instanceId: Guid): Promise<CaptureStats | undefined>;
  /** Takes a controller or a network adapter away, and gives it back after a while if a number is given. */
  rescind(instanceId: Guid, reofferAfterMs?: number): boolean;
}

/** What the hypervisor has room for. */
export const CPUS_MAX = VP_LIMIT;
/** What a boot processor may take to end that has the images open. */
const DISKS_STOP_TIMEOUT_MS = 60_000;
const DEFAULT_MEMORY_BYTES = 256 * 2 ** 20;

/** What all virtual processors are given. */
type ProcessorData = Pick<VcpuData<VcpuProgramData>, "memory" | "program">;

function identity(): SystemIdentity {
  return {
    type: "FreeBSD",
    hostName: `guest.${hostname()}`,
    release: "14.0-HYPERV-IS",
    version: `hyperv-is guest-kernel ${manifest.version}: a guest in user space with FreeBSD's conventions, no FreeBSD kernel`,
    machine: "hyperv-is",
  };
}

const poweredOff = (): BootError => new BootError("ERR_POWERED_OFF", "the machine is powered off");

/** A running guest on the embedded host. */
export class Machine implements AsyncDisposable {
  readonly host: MachineHost;
  readonly #host: NodeHost;
  /** The boot processor: the guest's kernel and its console. */
  readonly #vcpu: WorkerHandle<ConsoleRequest, ConsoleReply>;
  readonly #processors: ApplicationProcessors;
  readonly #options: BootOptions;
  readonly #dmesg: string[] = [];
  readonly #console: ConsoleClient;
  #disks: readonly GuestDisk[] = [];
  #nics: readonly GuestNic[] = [];
  #nbd: readonly NbdServed[] = [];
  #failure: Error | undefined;
  #stopping: Promise<void> | undefined;
  /** What the guest is shut down for: its host may ask, or a command. */
  #action: ShutdownAction = "power-off";
  #end: (error: Error | undefined) => void = () => undefined;
  /**
   * Resolves when the guest is powered off; with "restart" when it was shut down to be started again, which whoever
   * has booted it may do. Rejects with what it failed with.
   */
  readonly ended = new Promise<ShutdownAction>((resolve, reject) => {
    this.#end = (error) => (error === undefined ? resolve(this.#action) : reject(error));
  });
  /** What the kernel lets the machine do. */
  readonly #calls: CallLink<object, KernelProcedures>;
  #booted: () => void = () => undefined;
  #failed: (error: Error) => void = () => undefined;

  private constructor(
    host: NodeHost,
    options: BootOptions,
    layout: MemoryLayout,
    pins: ReadonlyMap<string, ThreadPin>,
    data: ProcessorData,
  ) {
    this.#host = host;
    this.#options = options;
    // Nobody has to wait for it.
    this.ended.catch(() => undefined);
    this.#processors = new ApplicationProcessors(host, layout, pins, data, (cpu, reason) =>
      this.#vcpu.post({ kind: "cpu-lost", cpu, reason }),
    );
    const { peers } = this.#processors;
    const arena = layout.arenas[0]!;
    const { lent } = host;
    const boot: VcpuData<VcpuProgramData> = {
      ...data,
      program: { ...data.program, lent },
      index: 0,
      arenaAddress: arena.address,
      arenaBytes: arena.lengthBytes,
      peers,
    };
    this.#vcpu = startWorker<ConsoleRequest, ConsoleReply>({
      entry: VCPU_ENTRY,
      from: import.meta.url,
      name: vcpuThread(0),
      pin: pins.get(vcpuThread(0)),
      data: boot,
      transfer: [...peers, ...lent].map(({ port }) => port),
      ...(lent.length > 0 && { stopTimeoutMs: DISKS_STOP_TIMEOUT_MS }),
      doorbell: host.doorbellOf(0),
      onMessage: (reply) => this.#receive(reply),
      onExit: ({ error }) => {
        const failure =
          error ??
          (this.#stopping
            ? undefined
            : new BootError("ERR_GUEST_FAILED", "the guest's kernel ended"));
        this.#end(failure);
        this.#gone(failure ?? poweredOff());
      },
    });
    host.lender = this.#vcpu;
    this.#console = new ConsoleClient(
      (request) => this.#vcpu.post(request),
      (action) => {
        this.#action = action;
        return this.shutdown();
      },
    );
    this.#calls = new CallLink<object, KernelProcedures>(
      { send: (message) => this.#vcpu.post({ kind: "call", message }) },
      {},
    );
    this.host = {
      get violations() {
        return host.violations.list;
      },
      stats: () => (this.#stopping === undefined ? host.stats() : Promise.reject(poweredOff())),
      get faults() {
        return host.faults;
      },
      setFaults: (faults) => host.setFaults(faults),
      changeAdapter: (instanceId, change) => host.changeAdapter(instanceId, change),
      startCapture: (capture) => host.startCapture(capture),
      stopCapture: (instanceId) => host.stopCapture(instanceId),
      rescind: (instanceId, reofferAfterMs) => host.rescind(instanceId, reofferAfterMs),
      request: (request) => host.request(request),
    };
  }

  /** Starts a machine and resolves when its guest has booted. See `boot`. */
  static async start(options: BootOptions): Promise<Machine> {
    const { cpus = 1, memoryBytes = DEFAULT_MEMORY_BYTES, disks = [], modules = [] } = options;
    if (!Number.isInteger(cpus) || cpus < 1 || cpus > CPUS_MAX)
      throw new BootError("ERR_CPUS", `${cpus} CPUs: a machine has 1 to ${CPUS_MAX}`);
    const layout = layoutMemory(memoryBytes, cpus);
    const tunables = tune(options.tunables ?? {});
    const subChannelsMax = subChannelsFor(options.subChannels ?? "one-per-cpu", cpus);
    const nbd = (options.nbd ?? []).map(checkExport);
    // Whoever copies a disk wants to know what need not be copied.
    const holes = nbd.length > 0 ? { tellsHoles: true } : {};
    const placements = disks.map((disk) => ({ ...holes, ...placement(disk) }));
    const controllers = placeDisks(placements).map((controller) => ({
      ...controller,
      subChannelsMax,
    }));
    const { nics = [], switches = [] } = options;
    const network = networkOf(nics, switches, machineIdentity(options), subChannelsMax);
    const hasNetwork = nics.length + switches.length > 0;
    const { hostThreads = "auto", pin = {} } = options;
    const isServing =
      nbd.length > 0 ||
      nics.some(({ stack }) => stack?.kind === "tap") ||
      switches.some(({ uplinks = [] }) => uplinks.some(({ kind }) => kind === "tap"));
    const isLent = lendsThread(hostThreads, pin, isServing);
    const pins = pinsOf(pin, cpus, hasNetwork, isLent);
    // Here and now, so that the boot fails and not only an interface of the guest.
    for (const stack of network.stacks.values()) if (stack.kind === "tap") checkTap(stack);
    const moduleFiles = await Promise.all(modules.map((path) => cacheModule(path)));
    const memory = createGuestMemory(memoryBytes);
    let failed: (error: Error) => void = () => undefined;
    const host = await NodeHost.start({
      memory,
      vps: cpus,
      controllers,
      pins,
      isLent,
      ...(hasNetwork && { network: network.config }),
      ...(options.bus && { bus: options.bus }),
      ...(options.faults && { faults: options.faults }),
      ...(options.trace && { trace: options.trace }),
      ...(options.control !== undefined && {
        control: { address: options.control, program: `guest-kernel ${manifest.version}` },
      }),
      onFailure: (error) => failed(error),
    });
    const machine = new Machine(host, options, layout, pins, {
      memory: memory.wasm,
      program: {
        state: host.state.buffer,
        cpus,
        tunables,
        identity: identity(),
        modules: moduleFiles,
        programsAddress: layout.programs.address,
        programsBytes: layout.programs.lengthBytes,
        nicStacks: network.stacks,
        nbd,
        keyValuePairs: {
          deviceDirectory:
            options.deviceDirectory === undefined
              ? undefined
              : resolvePath(options.deviceDirectory),
          dialect: options.dialect,
          rootDirectory:
            options.rootDirectory === undefined ? undefined : resolvePath(options.rootDirectory),
          hasDaemon: options.keyValueDaemon ?? true,
        },
        lent: [],
      },
    });
    failed = (error) => {
      machine.#end(error);
      machine.#gone(error);
    };
    try {
      await new Promise<void>((resolve, reject) => {
        machine.#booted = resolve;
        machine.#failed = reject;
        host.ready.catch(reject);
        if (machine.#failure !== undefined) reject(machine.#failure);
      });
    } catch (error) {
      await machine.#kill().catch(() => undefined);
      throw error;
    }
    return machine;
  }

  /** The disks as they were when the guest had booted. */
  get disks(): readonly GuestDisk[] {
    return this.#disks;
  }

  /** The network adapters as they were when the guest had booted. */
  get nics(): readonly GuestNic[] {
    return this.#nics;
  }

  /** Where NBD clients find what `BootOptions.nbd` asked for, by address in the order of the options. */
  get nbd(): readonly NbdServed[] {
    return this.#nbd;
  }

  /** The kernel's messages so far. */
  get dmesg(): readonly string[] {
    return this.#dmesg;
  }

  /**
   * Runs a command line at the guest's console. Resolves whatever the status is; rejects when the guest
   * fails or is powered off meanwhile.
   */
  exec(line: string, options?: ExecOptions): Promise<ExecResult> {
    return this.#console.exec(line, options);
  }

  /** What could follow the last word of a command line. */
  complete(line: string): Promise<readonly string[]> {
    return this.#console.complete(line);
  }

  /**
   * Runs a module as a kernel thread of the guest: an ES module that exports `main(context)`, see `KthreadContext`.
   * Resolves when it has begun; rejects with `ERR_KTHREAD` when it cannot be loaded on that CPU.
   */
  async kthread({ module, args, ...rest }: KthreadOptions): Promise<MachineKthread> {
    const file = module instanceof URL ? fileURLToPath(module) : module;
    try {
      const thread = await this.#calls.call("loadKthread", { ...rest, file });
      const { id } = thread;
      const ended = this.#calls.call("runKthread", { id, args });
      // Nobody has to wait for it; dmesg has what it fails with.
      ended.catch(() => undefined);
      return { ...thread, ended, stop: () => this.#calls.call("stopKthread", id) };
    } catch (error) {
      if (!(error instanceof RemoteError)) throw error;
      throw new BootError("ERR_KTHREAD", error.message, { cause: error });
    }
  }

  /** State and counters of the guest's bus and drivers, as plain JSON. */
  inspect(): Promise<Record<string, unknown>> {
    return this.#console.inspect();
  }

  /**
   * Shuts the guest down in good order (disks flushed, channels closed, bus left) and powers off: images
   * are clean and closed when this resolves. Idempotent. Rejects when an image could not be closed.
   */
  shutdown(): Promise<void> {
    this.#stopping ??= this.#shutdown();
    return this.#stopping;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }

  async #shutdown(): Promise<void> {
    const failure = this.#failure;
    if (failure === undefined) {
      this.#vcpu.post({ kind: "shutdown" });
      await this.#vcpu.exited;
    }
    await this.#kill().catch((error: unknown) => {
      // What ended the boot processor is known; it may have served the host's devices.
      if (error !== failure) throw error;
    });
  }

  async #kill(): Promise<void> {
    try {
      await Promise.all([this.#vcpu.stop(), this.#processors.stopAll()]);
    } finally {
      await this.#host.stop();
    }
  }

  #receive(reply: ConsoleReply): void {
    switch (reply.kind) {
      case "message":
        this.#dmesg.push(reply.line);
        this.#options.onMessage?.(reply.line);
        return;
      case "booted":
        this.#disks = reply.disks;
        this.#nics = reply.nics;
        this.#nbd = reply.nbd;
        this.#booted();
        return;
      case "call":
        this.#calls.receive(reply.message);
        return;
      case "shutdown-request":
        this.#action = reply.action;
        // Whoever waits for the end of the machine learns of a failure there.
        this.shutdown().catch(() => undefined);
        return;
      case "stop-cpu":
        this.#processors.stop(reply.cpu);
        return;
      default:
        this.#console.receive(reply);
    }
  }

  #gone(error: Error): void {
    this.#calls.close(error);
    this.#failure ??= error;
    this.#failed(error);
    this.#console.close(error);
  }
}

/**
 * Boots a guest on the embedded host, with disks attached, and resolves when it has booted.
 *
 * ```ts
 * await using machine = await boot({ disks: ["appliance.vhdx"] });
 * const { stdout } = await machine.exec("gpart show da0");
 * ```
 *
 * Rejects with `BootError`, with `PlatformError` when a thread cannot be pinned, with `ERR_TOO_MANY_DISKS` when the disks have no room, with `DiskError` when an image cannot be attached, with `TraceError` when the
 * trace cannot be made, with `ControlError` when the control socket cannot, or with what the guest's kernel failed with. `await using`, or `shutdown`, ends it in good order.
 */
export function boot(options: BootOptions = {}): Promise<Machine> {
  return Machine.start(options);
}
