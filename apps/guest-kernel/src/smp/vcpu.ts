// Entry of a virtual processor: the drivers in tree, and the kernel on the boot processor.
import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { KvpService } from "@hyperv-is/hv-kvp";
import { kvpDriver } from "@hyperv-is/hv-kvp/module";
import { FreebsdFiles } from "@hyperv-is/hv-kvp/node";
import * as hvNetvsc from "@hyperv-is/hv-netvsc/module";
import * as hvStorvsc from "@hyperv-is/hv-storvsc/module";
import type { IcService } from "@hyperv-is/hv-utils";
import { drivers as hvUtils } from "@hyperv-is/hv-utils/module";
import type { HostThreadBody, LentThreadData } from "@hyperv-is/hyperv-host/node";
import {
  DoorbellBells,
  HypervisorState,
  VirtualProcessor,
} from "@hyperv-is/hyperv-host/node/processor";
import { NodeClock, runVcpu, type Vcpu } from "@hyperv-is/platform-node";
import { CallLink, PageAllocator, type DriverModule } from "@hyperv-is/vmbus-core";
import { BootError } from "../boot-error.js";
import type { ConsoleReply, ConsoleRequest, GuestDisk, GuestNic } from "../console/console-link.js";
import { ConsoleServer } from "../console/console-server.js";
import { KeyValuePairs, type KeyValueSettings } from "../kernel/key-value-pairs.js";
import { Kernel, type KernelDriver } from "../kernel/kernel.js";
import { MessageBuffer } from "../kernel/message-buffer.js";
import { readPartitionTable } from "../kernel/partitions.js";
import { formatAddress } from "../net/addresses.js";
import { StackConfigurator } from "../net/ip-configurator.js";
import type { NbdExportOptions } from "../nbd/export-address.js";
import { NbdServer } from "../nbd/nbd-server.js";
import { streamPump } from "../nbd/open-stream.js";
import type { SystemIdentity } from "../kernel/guest-system.js";
import type { TunableValues } from "../kernel/tunables.js";
import { formatMac } from "../net/addresses.js";
import type { NicStack } from "../net/hn/nic-stack.js";
import { ApplicationProcessor, BOOT_CPU } from "./application-processor.js";
import { CpuSet } from "./cpu-set.js";
import { KthreadTable } from "./kthread-table.js";
import type { RunningKthread, StartKthread } from "./kthreads.js";

/** A driver module that was copied to a file that can be imported. */
export interface ModuleFile {
  /** As the user named it. */
  readonly path: string;
  readonly importable: string;
  readonly sizeBytes: number;
}

/** What the program of a virtual processor is given. */
export interface VcpuProgramData {
  readonly state: ArrayBufferLike;
  readonly cpus: number;
  readonly tunables: TunableValues;
  readonly identity: SystemIdentity;
  readonly modules: readonly ModuleFile[];
  /** Guest pages for programs, in bytes, whole pages. */
  readonly programsAddress: number;
  readonly programsBytes: number;
  /** Highest protocol version of the bus that is tried. */
  readonly busCeiling?: number;
  /** Whose the frames of each network adapter are, by instance id. */
  readonly nicStacks: ReadonlyMap<string, NicStack>;
  /** Disks to serve to NBD clients. */
  readonly nbd: readonly NbdExportOptions[];
  readonly keyValuePairs: KeyValueSettings;
  /** Devices of the host that the boot processor serves beside the guest. */
  readonly lent: readonly LentThreadData[];
}

/** What the machine may call on the kernel. */
export interface KernelProcedures {
  loadKthread(request: StartKthread): Promise<RunningKthread>;
  runKthread(request: { readonly id: number; readonly args: unknown }): Promise<unknown>;
  stopKthread(id: number): Promise<void>;
}

const inTree: readonly DriverModule[] = [hvStorvsc, hvNetvsc, ...hvUtils];
/** Its queue half, for the CPUs: the kernel's own has the options of the machine. */
const hvKvp = kvpDriver();

/** The guest on its boot processor: the kernel and its console. */
class Guest {
  readonly #vcpu: Vcpu<VcpuProgramData>;
  readonly #cpus: CpuSet;
  readonly #kernel: Kernel;
  readonly #console: ConsoleServer;
  /** What the machine calls. */
  readonly #calls: CallLink<KernelProcedures, object>;
  readonly #keyValuePairs: KeyValuePairs;
  readonly #configurator: StackConfigurator;
  #kvp: KvpService | undefined;
  #isBooted = false;
  #nbd: NbdServer | undefined;
  #end: () => void = () => undefined;
  readonly ended = new Promise<void>((resolve) => (this.#end = resolve));

  constructor(
    vcpu: Vcpu<VcpuProgramData>,
    cpus: CpuSet,
    dmesg: MessageBuffer,
    loaded: readonly KernelDriver[],
  ) {
    this.#vcpu = vcpu;
    this.#cpus = cpus;
    const { program } = vcpu.data;
    const { rootDirectory } = program.keyValuePairs;
    const fromFiles = new Set(loaded.map(({ module }) => module.name));
    this.#keyValuePairs = new KeyValuePairs(program.keyValuePairs, {
      identity: program.identity,
      addresses: () => this.#addresses(),
      network: () => this.#configurator,
      interfaceName: (instanceId) => this.#configurator.nameOf(instanceId),
      print: (line) => dmesg.print(line),
    });
    this.#kernel = new Kernel({
      cpu: vcpu.cpu,
      hypervisor: vcpu.hypervisor,
      timers: vcpu.timers,
      drive: (pumped) => vcpu.drive(pumped),
      watch: (fd) => vcpu.watch(fd),
      doorbell: vcpu.doorbell,
      programs: new PageAllocator(vcpu.memory, program.programsAddress, program.programsBytes),
      drivers: [
        ...[...inTree, kvpDriver(this.#keyValuePairs.options)]
          .filter(({ name }) => !fromFiles.has(name))
          .map((module) => ({ module })),
        ...loaded,
      ],
      identity: program.identity,
      tunables: program.tunables,
      cpus,
      dmesg,
      nicStacks: program.nicStacks,
      kernelBytes: statSync(fileURLToPath(import.meta.url)).size,
      onShutdownRequest: (action) => this.#send({ kind: "shutdown-request", action }),
      onInterface: ({ interface: attached }) => this.#configurator.restore(attached),
      onComponent: ({ service }) => this.#attached(service),
      bus: program.busCeiling === undefined ? {} : { ceiling: program.busCeiling },
    });
    const { network } = this.#kernel;
    this.#configurator = new StackConfigurator({
      network,
      adapters: () => this.#kernel.nics,
      kept: rootDirectory === undefined ? undefined : new FreebsdFiles(rootDirectory),
      log: (line) => dmesg.print(line),
    });
    this.#console = new ConsoleServer(this.#kernel, (reply) => this.#send(reply));
    const { kthreads } = this.#kernel;
    this.#calls = new CallLink<KernelProcedures, object>(
      { send: (message) => this.#send({ kind: "call", message }) },
      {
        loadKthread: (request) => kthreads.load(request),
        runKthread: ({ id, args }) => kthreads.run(id, args),
        stopKthread: (id) => kthreads.stop(id),
      },
    );
  }

  get kernel(): Kernel {
    return this.#kernel;
  }

  async boot(): Promise<void> {
    await this.#kernel.boot();
    if (this.#kvp !== undefined) await this.#keyValuePairs.serve(this.#kvp);
    this.#isBooted = true;
    const { memory, timers, data } = this.#vcpu;
    this.#nbd = await NbdServer.start({
      exports: data.program.nbd,
      system: this.#kernel,
      memory,
      timers,
      pump: data.program.nbd.length > 0 ? streamPump(this.#vcpu) : undefined,
      turnNow: () => this.#vcpu.turnNow(),
    });
    const disks = await this.#disks();
    this.#send({ kind: "booted", disks, nics: this.#nics(), nbd: this.#nbd.served });
  }

  receive(request: ConsoleRequest): void {
    if (request.kind === "shutdown") void this.#shutdown().finally(this.#end);
    else if (request.kind === "inspect") void this.#inspect(request.id);
    else if (request.kind === "cpu-lost") this.#cpus.lost(request.cpu, request.reason);
    else if (request.kind === "call") this.#calls.receive(request.message);
    else this.#console.receive(request);
  }

  async #inspect(id: number): Promise<void> {
    this.#send({ kind: "inspected", id, state: await this.#kernel.inspect() });
  }

  async #shutdown(): Promise<void> {
    await this.#nbd?.shutDown();
    this.#keyValuePairs.close();
    await this.#kernel.shutdown();
  }

  #send(reply: ConsoleReply): void {
    this.#vcpu.starter.send(reply);
  }

  #nics(): GuestNic[] {
    return this.#kernel.nics.map(({ name, instanceId, netvsc: { address, mtu, channels } }) => ({
      name,
      instanceId,
      mac: formatMac(address),
      mtu,
      channels: channels.length,
    }));
  }

  /** Without a daemon the driver does not hear the host, so that nothing is lost until the system is up. */
  #attached(service: IcService): void {
    if (!(service instanceof KvpService)) return;
    this.#kvp = service;
    if (!this.#isBooted) return;
    this.#keyValuePairs.serve(service).catch((error: unknown) => {
      this.#kernel.dmesg.print(`hvkvp0: ${(error as Error).message}`);
    });
  }

  #addresses(): Uint8Array[] {
    return this.#kernel.network.stack.interfaces
      .filter(({ isLoopback }) => !isLoopback)
      .flatMap(({ addresses }) => addresses)
      .map(({ address }) => Uint8Array.from(formatAddress(address).split("."), Number));
  }

  async #disks(): Promise<GuestDisk[]> {
    const disks: GuestDisk[] = [];
    for (const { device } of this.#kernel.disks) {
      const { name, sizeBytes, blockBytes, readOnly } = device;
      // A disk that cannot be read is there all the same.
      const table = await readPartitionTable(device, (bytes) =>
        this.#kernel.allocateBuffer(bytes),
      ).catch(() => undefined);
      const partitionTypes = table?.partitions.map(({ type }) => type) ?? [];
      disks.push({ name, sizeBytes, blockBytes, readOnly, partitionTypes });
    }
    return disks;
  }
}

/** The boot processor: the guest, as soon as its modules are loaded, and the other CPUs from the start. */
class BootProcessor {
  readonly #vcpu: Vcpu<VcpuProgramData>;
  readonly #dmesg: MessageBuffer;
  readonly #cpus: CpuSet;
  #guest: Guest | undefined;
  /** Requests that came before the guest. */
  readonly #early: ConsoleRequest[] = [];
  /** Devices of the host that this processor serves as well. */
  readonly #devices: HostThreadBody[] = [];

  constructor(vcpu: Vcpu<VcpuProgramData>) {
    this.#vcpu = vcpu;
    const send = (reply: ConsoleReply): void => vcpu.starter.send(reply);
    this.#dmesg = new MessageBuffer((line) => send({ kind: "message", line }));
    const { cpus, tunables } = vcpu.data.program;
    this.#cpus = new CpuSet({
      count: cpus,
      timers: vcpu.timers,
      timeoutMs: tunables.cpuTimeoutMs,
      line: (cpu) => vcpu.peer(cpu)!,
      startLocalQueue: (driver, description, tell) => vcpu.startQueue(driver, description, tell),
      localKthreads: new KthreadTable({
        cpu: BOOT_CPU,
        memory: vcpu.memory,
        allocator: vcpu.cpu.allocator,
        timers: vcpu.timers,
        during: (work) => vcpu.during(work),
        findDisk: (name) => Promise.resolve(name).then((known) => this.#kernel().findDisk(known)),
        log: (line) => this.#dmesg.print(line),
      }),
      findDisk: (cpu, name) => this.#kernel().findDiskOn(cpu, name),
      deliverFrames: (frames) => this.#kernel().deliverFrames(frames),
      stopCpu: (cpu) => send({ kind: "stop-cpu", cpu }),
      print: (line) => this.#dmesg.print(line),
    });
  }

  #kernel(): Kernel {
    if (this.#guest === undefined) throw new Error("the kernel is not there yet");
    return this.#guest.kernel;
  }

  async run(): Promise<void> {
    for (const lent of this.#vcpu.data.program.lent) {
      const { serveDevices } = await this.#vcpu.during(
        import("@hyperv-is/hyperv-host/node/lent-thread-body"),
      );
      const devices = await serveDevices(this.#vcpu, lent);
      this.#devices.push(devices);
      // The machine, which is told why, ends this thread.
      if (!devices.isServing) return new Promise(() => undefined);
    }
    const loaded: KernelDriver[] = [];
    for (const { path, importable, sizeBytes } of this.#vcpu.data.program.modules) {
      const module = await this.#vcpu.loadDriver(importable, path);
      if (loaded.some((other) => other.module.name === module.name))
        throw new BootError("ERR_MODULE_FILE", `${path}: ${module.name} is loaded already`);
      loaded.push({ module, file: { path, sizeBytes } });
    }
    const guest = new Guest(this.#vcpu, this.#cpus, this.#dmesg, loaded);
    this.#guest = guest;
    for (const request of this.#early.splice(0)) guest.receive(request);
    await guest.boot();
    await guest.ended;
  }

  rung(causes: number): void {
    for (const devices of this.#devices) devices.rung(causes);
  }

  async stopped(): Promise<void> {
    await Promise.all(this.#devices.map((devices) => devices.stopped()));
  }

  receive(message: unknown, from: number | undefined): void {
    if (from !== undefined) this.#cpus.receive(message, from);
    else if (this.#guest === undefined) this.#early.push(message as ConsoleRequest);
    else this.#guest.receive(message as ConsoleRequest);
  }
}

let processor: BootProcessor | ApplicationProcessor | undefined;

await runVcpu<VcpuProgramData>([...inTree, hvKvp], {
  hypervisor({ data, memory }) {
    const state = new HypervisorState(data.program.state);
    return new VirtualProcessor({
      state,
      memory,
      index: data.index,
      bells: new DoorbellBells(state),
      clock: new NodeClock(),
    });
  },
  main(vcpu) {
    vcpu.cpu.signalOptimization = vcpu.data.program.tunables.signalOptimization === 1;
    processor = vcpu.index === BOOT_CPU ? new BootProcessor(vcpu) : new ApplicationProcessor(vcpu);
    return processor.run();
  },
  message: (_vcpu, message, from) => processor?.receive(message, from),
  rung(_vcpu, causes) {
    if (processor instanceof BootProcessor) processor.rung(causes);
  },
  async stopped() {
    if (processor instanceof BootProcessor) await processor.stopped();
  },
});
