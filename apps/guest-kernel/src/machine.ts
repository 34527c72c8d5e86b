import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { resolve as resolvePath } from "node:path";
import { fileURLToPath } from "node:url";
import {
  VP_LIMIT,
  placeDisks,
  subChannelsFor,
  type BusOptions,
  type DiskPlacement,
  type DiskSource,
  type FaultPlanData,
  type HostStats,
  type CaptureConfig,
  type CaptureStats,
  type IntegrationRequest,
  type SubChannelPolicy,
  type Violation,
} from "@hyperv-is/hyperv-host";
import { NodeHost, type AdapterChange, type TraceFileOptions } from "@hyperv-is/hyperv-host/node";
import {
  createGuestMemory,
  startWorker,
  type VcpuData,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { CallLink, RemoteError, type ShutdownAction } from "@hyperv-is/vmbus-core";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import manifest from "../package.json" with { type: "json" };
import { BootError } from "./boot-error.js";
import type { ConsoleReply, ConsoleRequest, GuestDisk, GuestNic } from "./console/console-link.js";
import type { ListResult } from "./console/shell.js";
import type { SystemIdentity } from "./kernel/guest-system.js";
import { checkExport, type NbdExportOptions, type NbdServed } from "./nbd/export-address.js";
import { tune } from "./kernel/tunables.js";
import { cacheModule } from "./module-cache.js";
import { networkOf, type NicOptions, type SwitchOptions } from "./machine-network.js";
import { checkTap } from "./net/hn/tap-stack.js";
import { ApplicationProcessors, VCPU_ENTRY } from "./smp/application-processors.js";
import { layoutMemory, type MemoryLayout } from "./smp/memory-layout.js";
import type { DialectName } from "./kernel/key-value-pairs.js";
import type { KernelProcedures, VcpuProgramData } from "./smp/vcpu.js";

/** A disk to attach: the path of a VHD or VHDX, where its blocks are, or that and the controller it is on. */
export type BootDisk = string | DiskSource | DiskPlacement;

export interface BootOptions {
  /** `da0`, `da1`, ... in this order on each controller, one controller after the other. */
  readonly disks?: readonly BootDisk[];
  /** Virtual processors, each a thread: 1, unless told, to 64. */
  readonly cpus?: number;
  /** Guest memory, a multiple of 1 MiB from 32 MiB to 4 GiB, and 4 MiB for each CPU but the first; 256 MiB unless told. */
  readonly memoryBytes?: number;
  /** Loader tunables by name, such as `hw.vmbus.signal_optimization`; `sysctl` shows them. */
  readonly tunables?: Readonly<Record<string, string | number>>;
  /** Network adapters: `hn0`, `hn1`, ... in this order. */
  readonly nics?: readonly NicOptions[];
  /** The switches that they are connected to. */
  readonly switches?: readonly SwitchOptions[];
  /** Sub-channels that the host lets each SCSI controller and network adapter have; `one-per-cpu` unless told. */
  readonly subChannels?: SubChannelPolicy;
  /** Driver modules to load from files instead of the drivers in tree of the same name. */
  readonly modules?: readonly string[];
  /** What the host's bus speaks: its versions, among others. */
  readonly bus?: BusOptions;
  /** How the host is to misbehave. */
  readonly faults?: FaultPlanData;
  /** Records what host and guest exchange into a file, for `hyperv-host trace`. */
  readonly trace?: TraceFileOptions;
  /** Disks of the guest to serve to NBD clients, from the boot to the shutdown. */
  readonly nbd?: readonly NbdExportOptions[];
  /** Makes a control socket for `hyperv-host`: the name of the machine, or the path of the socket. */
  readonly control?: string;
  /** Makes device nodes in this directory, unix sockets: `hv_kvp_dev`, or `vmbus/hv_kvp` in Linux's dialect. */
  readonly deviceDirectory?: string;
  /** Whose kernel's messages the device nodes speak; FreeBSD's unless told. */
  readonly dialect?: DialectName;
  /**
   * Keeps files of the guest in this directory, which is made if need be: the pools of key-value pairs, and in
   * `etc/rc.conf` and `etc/resolv.conf` the addresses that the host sets, for the next boot.
   */
  readonly rootDirectory?: string;
  /** Leaves the guest's own daemon of key-value pairs out when false, as `hv_kvpd_enable=NO` in `rc.conf` does. */
  readonly keyValueDaemon?: boolean;
  /** Gets each line of dmesg as it is printed. */
  readonly onMessage?: (line: string) => void;
}

export interface ExecOptions {
  /** Gets standard output as it comes, instead of the result; the next chunk waits until it resolves. */
  readonly onStdout?: (chunk: Uint8Array) => void | Promise<void>;
  /** Gets standard error as it comes, instead of the result. */
  readonly onStderr?: (text: string) => void;
  /** Interrupts the command line, as Ctrl-C does. */
  readonly signal?: AbortSignal;
  /** Somebody watches: commands may show progress. */
  readonly interactive?: boolean;
}

/** What became of one list of a command line: of what stands between `;`. */
export interface ExecutedList extends ListResult {
  /** Empty when `onStdout` took it. */
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecResult {
  /** Status of the last list of the command line. */
  readonly status: number;
  /** Of all lists. */
  readonly stdout: string;
  readonly stderr: string;
  readonly lists: readonly ExecutedList[];
  /** The line asked for the power to be switched off, which has happened. */
  readonly poweredOff: boolean;
}

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
const DEFAULT_MEMORY_BYTES = 256 * 2 ** 20;

/** What all virtual processors are given. */
type ProcessorData = Pick<VcpuData<VcpuProgramData>, "memory" | "program">;

function placement(disk: BootDisk): DiskPlacement {
  if (typeof disk === "string") return { source: { kind: "image", path: disk } };
  return "source" in disk ? disk : { source: disk };
}

function identity(): SystemIdentity {
  return {
    type: "FreeBSD",
    hostName: `guest.${hostname()}`,
    release: "14.0-HYPERV-IS",
    version: `hyperv-is guest-kernel ${manifest.version}: a guest in user space with FreeBSD's conventions, no FreeBSD kernel`,
    machine: "hyperv-is",
  };
}

/**
 * What a machine has at each boot, and no other machine has meanwhile: its name, or the first image that it writes to. One
 * without either is another machine each time.
 */
function machineIdentity({ control, disks = [] }: BootOptions): string {
  if (control !== undefined) return `control ${control}`;
  for (const { source } of disks.map(placement))
    if (source.kind === "image" && source.readOnly !== true)
      return `disk ${resolvePath(source.path)}`;
  return randomUUID();
}

const poweredOff = (): BootError => new BootError("ERR_POWERED_OFF", "the machine is powered off");

interface PendingLine {
  /** What its lists have printed so far. */
  readonly outputs: { readonly stdout: Uint8Array[]; stderr: string }[];
  readonly options: ExecOptions;
  resolve(result: ExecResult): void;
  reject(error: Error): void;
}

interface PendingAnswer {
  resolve(reply: ConsoleReply): void;
  reject(error: Error): void;
}

/** A running guest on the embedded host. */
export class Machine implements AsyncDisposable {
  readonly host: MachineHost;
  readonly #host: NodeHost;
  /** The boot processor: the guest's kernel and its console. */
  readonly #vcpu: WorkerHandle<ConsoleRequest, ConsoleReply>;
  readonly #processors: ApplicationProcessors;
  readonly #options: BootOptions;
  readonly #dmesg: string[] = [];
  readonly #lines = new Map<number, PendingLine>();
  readonly #answers = new Map<number, PendingAnswer>();
  #disks: readonly GuestDisk[] = [];
  #nics: readonly GuestNic[] = [];
  #nbd: readonly NbdServed[] = [];
  #nextId = 1;
  #failure: Error | undefined;
  #stopping: Promise<void> | undefined;
  /** What the host asked the guest for, if it did. */
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
    data: ProcessorData,
  ) {
    this.#host = host;
    this.#options = options;
    // Nobody has to wait for it.
    this.ended.catch(() => undefined);
    this.#processors = new ApplicationProcessors(host, layout, data, (cpu, reason) =>
      this.#vcpu.post({ kind: "cpu-lost", cpu, reason }),
    );
    const { peers } = this.#processors;
    const arena = layout.arenas[0]!;
    const boot: VcpuData<VcpuProgramData> = {
      ...data,
      index: 0,
      arenaAddress: arena.address,
      arenaBytes: arena.lengthBytes,
      peers,
    };
    this.#vcpu = startWorker<ConsoleRequest, ConsoleReply>({
      entry: VCPU_ENTRY,
      from: import.meta.url,
      name: "vcpu0",
      data: boot,
      transfer: peers.map(({ port }) => port),
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
    // Here and now, so that the boot fails and not only an interface of the guest.
    for (const stack of network.stacks.values()) if (stack.kind === "tap") checkTap(stack);
    const moduleFiles = await Promise.all(modules.map((path) => cacheModule(path)));
    const memory = createGuestMemory(memoryBytes);
    let failed: (error: Error) => void = () => undefined;
    const host = await NodeHost.start({
      memory,
      vps: cpus,
      controllers,
      ...(nics.length + switches.length > 0 && { network: network.config }),
      ...(options.bus && { bus: options.bus }),
      ...(options.faults && { faults: options.faults }),
      ...(options.trace && { trace: options.trace }),
      ...(options.control !== undefined && {
        control: { address: options.control, program: `guest-kernel ${manifest.version}` },
      }),
      onFailure: (error) => failed(error),
    });
    const machine = new Machine(host, options, layout, {
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
  exec(line: string, options: ExecOptions = {}): Promise<ExecResult> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#lines.set(id, { outputs: [], options, resolve, reject });
      const { signal, interactive = false } = options;
      this.#vcpu.post({ kind: "exec", id, line, interactive });
      if (signal === undefined) return;
      const abort = (): void => this.#vcpu.post({ kind: "abort", id });
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort, { once: true });
    });
  }

  /** What could follow the last word of a command line. */
  async complete(line: string): Promise<readonly string[]> {
    const reply = await this.#ask((id) => ({ kind: "complete", id, line }));
    return reply.kind === "completions" ? reply.words : [];
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
  async inspect(): Promise<Record<string, unknown>> {
    const reply = await this.#ask((id) => ({ kind: "inspect", id }));
    return reply.kind === "inspected" ? reply.state : {};
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
    if (this.#failure === undefined) {
      this.#vcpu.post({ kind: "shutdown" });
      await this.#vcpu.exited;
    }
    await this.#kill();
  }

  async #kill(): Promise<void> {
    try {
      await Promise.all([this.#vcpu.stop(), this.#processors.stopAll()]);
    } finally {
      await this.#host.stop();
    }
  }

  #ask(request: (id: number) => ConsoleRequest): Promise<ConsoleReply> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#answers.set(id, { resolve, reject });
      this.#vcpu.post(request(id));
    });
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
      case "list":
        this.#lines.get(reply.id)?.outputs.push({ stdout: [], stderr: "" });
        return;
      case "stdout":
        void this.#takeOutput(reply.id, reply.chunk);
        return;
      case "stderr": {
        const line = this.#lines.get(reply.id);
        if (line?.options.onStderr !== undefined) line.options.onStderr(reply.text);
        else if (line !== undefined) line.outputs.at(-1)!.stderr += reply.text;
        return;
      }
      case "done":
        void this.#done(reply);
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
      case "completions":
      case "inspected":
        this.#answers.get(reply.id)?.resolve(reply);
        this.#answers.delete(reply.id);
    }
  }

  async #takeOutput(id: number, chunk: Uint8Array): Promise<void> {
    const line = this.#lines.get(id);
    if (line?.options.onStdout === undefined) line?.outputs.at(-1)!.stdout.push(chunk);
    else await line.options.onStdout(chunk);
    this.#vcpu.post({ kind: "taken", id });
  }

  async #done({ id, results, powerOff }: Extract<ConsoleReply, { kind: "done" }>): Promise<void> {
    const line = this.#lines.get(id);
    if (line === undefined) return;
    this.#lines.delete(id);
    try {
      if (powerOff) await this.shutdown();
    } catch (error) {
      line.reject(error as Error);
      return;
    }
    const lists = results.map((result, index) => {
      const { stdout, stderr } = line.outputs[index]!;
      return { ...result, stdout: new TextDecoder().decode(concat(stdout)), stderr };
    });
    line.resolve({
      status: lists.at(-1)?.status ?? 0,
      stdout: lists.map(({ stdout }) => stdout).join(""),
      stderr: lists.map(({ stderr }) => stderr).join(""),
      lists,
      poweredOff: powerOff,
    });
  }

  #gone(error: Error): void {
    this.#calls.close(error);
    this.#failure ??= error;
    this.#failed(error);
    for (const waiting of [this.#lines, this.#answers]) {
      for (const one of waiting.values()) one.reject(error);
      waiting.clear();
    }
  }
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(chunks.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}

/**
 * Boots a guest on the embedded host, with disks attached, and resolves when it has booted.
 *
 * ```ts
 * await using machine = await boot({ disks: ["appliance.vhdx"] });
 * const { stdout } = await machine.exec("gpart show da0");
 * ```
 *
 * Rejects with `BootError`, with `ERR_TOO_MANY_DISKS` when the disks have no room, with `DiskError` when an image cannot be attached, with `TraceError` when the
 * trace cannot be made, with `ControlError` when the control socket cannot, or with what the guest's kernel failed with. `await using`, or `shutdown`, ends it in good order.
 */
export function boot(options: BootOptions = {}): Promise<Machine> {
  return Machine.start(options);
}
