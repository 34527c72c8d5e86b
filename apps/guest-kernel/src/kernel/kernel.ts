import { randomFillSync } from "node:crypto";
import type { PageAllocator } from "@hyperv-is/vmbus-core";
import {
  Vmbus,
  VmbusError,
  type DriverModule,
  type GuestCpu,
  type HypervisorPort,
  type ShutdownAction,
  type SystemServices,
  type Timers,
  type VmbusDevice,
  type VmbusOptions,
} from "@hyperv-is/vmbus-core";
import {
  DeviceClass,
  Msr,
  PAGE_SIZE,
  formatVersion,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import type { Vcpu } from "@hyperv-is/platform-node";
import type { NetvscInterface } from "@hyperv-is/hv-netvsc";
import { IcComponent } from "@hyperv-is/hv-utils";
import type { ScsiDisk, StorvscController } from "@hyperv-is/hv-storvsc";
import { Cam } from "../cam/cam.js";
import { GuestNetwork } from "../net/guest-network.js";
import { HnInterfaces, type HnInterface } from "../net/hn/hn-interfaces.js";
import type { NicStack } from "../net/hn/nic-stack.js";
import type { RelayedFrames } from "../net/hn/port-use.js";
import type { CpuSet } from "../smp/cpu-set.js";
import { Kthreads } from "../smp/kthreads.js";
import type { DiskPlace } from "../smp/procedures.js";
import type { AttachedDevice } from "./attached-device.js";
import type { GuestBuffer } from "./block-device.js";
import { Device } from "./device-tree.js";
import type {
  CamBus,
  CamDisk,
  GuestSystem,
  OfferedChannel,
  SystemIdentity,
} from "./guest-system.js";
import { hypervisorLines } from "./hypervisor-identity.js";
import { addComponentSysctls, inspectComponent } from "./component-sysctls.js";
import { LinkerFiles } from "./linker-files.js";
import { lowestFree } from "./lowest-free.js";
import type { MessageBuffer } from "./message-buffer.js";
import { addNetworkSysctls } from "./network-sysctls.js";
import { nicBufferBytes } from "./nic-buffers.js";
import { addStorageSysctls } from "./storage-sysctls.js";
import { SysctlTree } from "./sysctl.js";
import { addDeviceSysctls, addSystemSysctls, sysctlPrefix } from "./system-sysctls.js";
import { tunableKeys, tunables, type TunableValues } from "./tunables.js";
import { WallClock } from "./wall-clock.js";

/** A driver as this kernel has it: compiled in, or loaded from a file of ports. */
export interface KernelDriver {
  readonly module: DriverModule;
  /** Where it was loaded from; undefined for a driver in tree. */
  readonly file?: { readonly path: string; readonly sizeBytes: number };
}

export interface KernelOptions extends Pick<Vcpu, "drive" | "watch" | "doorbell"> {
  /** The boot processor. */
  readonly cpu: GuestCpu;
  readonly hypervisor: HypervisorPort;
  readonly timers: Timers;
  /** Pages for programs and their buffers; an arena of its own. */
  readonly programs: PageAllocator;
  readonly drivers: readonly KernelDriver[];
  readonly identity: SystemIdentity;
  readonly tunables: TunableValues;
  /** The CPUs; started by the kernel. */
  readonly cpus: CpuSet;
  readonly dmesg: MessageBuffer;
  /** Size of the kernel's own file, for `kldstat`. */
  readonly kernelBytes: number;
  /** Whose the frames of each network adapter are, by instance id. */
  readonly nicStacks: ReadonlyMap<string, NicStack>;
  /** The host wants the system to end in good order: the machine is to call `shutdown`. */
  readonly onShutdownRequest?: (action: ShutdownAction) => void;
  /** An interface is attached: here its addresses are set before anything else happens to it. */
  readonly onInterface?: (attached: HnInterface) => Promise<void>;
  /** An integration component is attached. */
  readonly onComponent?: (component: IcComponent) => void;
  /** What the bus is told besides. */
  readonly bus?: Partial<VmbusOptions>;
}

/** What network drivers call their devices. */
const NETWORK_DEVICE = "hn";

/** Codes of devices for which there is no memory. */
const memoryCodes: ReadonlySet<unknown> = new Set(["ERR_NO_MEMORY", "ERR_NETVSC_MEMORY"]);

/** The guest's kernel: runs on the boot processor, brings the bus and its devices up, and takes them down. */
export class Kernel implements GuestSystem {
  readonly identity: SystemIdentity;
  readonly dmesg: MessageBuffer;
  readonly sysctl = new SysctlTree();
  readonly devices: Device;
  readonly linker = new LinkerFiles();
  readonly kthreads: Kthreads;
  readonly network: GuestNetwork;
  readonly realTime: WallClock;
  readonly #options: KernelOptions;
  readonly #cam: Cam;
  readonly #hn: HnInterfaces;
  readonly #vmbus: Vmbus;
  readonly #vmbusDevice: Device;
  readonly #attached = new Map<Device, AttachedDevice>();
  /** Bytes of each buffer of a network adapter; undefined for the driver's own sizes. */
  #nicBufferBytes: number | undefined;
  /** The tunables as they are now: some may be set while the system runs. */
  readonly #tunables: Record<keyof TunableValues, number>;
  #shuttingDown: Promise<void> | undefined;

  constructor(options: KernelOptions) {
    const { cpu, hypervisor, identity } = options;
    this.#options = options;
    this.identity = identity;
    this.dmesg = options.dmesg;
    this.kthreads = new Kthreads(options.cpus, options.timers, (line) => this.dmesg.print(line));
    this.#tunables = { ...options.tunables };
    this.realTime = new WallClock(options.timers, performance.timeOrigin + performance.now());
    this.network = new GuestNetwork({
      timers: options.timers,
      random: { fill: (target) => void randomFillSync(target) },
      realTimeMs: () => this.realTime.nowMs(),
      hostName: identity.hostName,
      log: (line) => this.dmesg.print(line),
    });
    this.#cam = new Cam(this.dmesg, cpu.memory);
    this.#hn = new HnInterfaces({
      network: this.network,
      memory: cpu.memory,
      allocator: cpu.allocator,
      drive: options.drive,
      watch: options.watch,
      doorbell: options.doorbell,
      stacks: options.nicStacks,
      usePort: (other, use) => options.cpus.usePort(other, use),
      print: (line) => this.dmesg.print(line),
    });
    this.devices = new Device({ driver: "nexus", unit: 0 });
    const acpi = new Device({ driver: "acpi", unit: 0 }, this.devices);
    const container = new Device(
      { driver: "acpi_syscontainer", unit: 0, description: "System Container" },
      acpi,
    );
    this.#vmbusDevice = new Device(
      { driver: "vmbus", unit: 0, description: "Hyper-V Vmbus" },
      container,
    );
    const vpIndexes = Array.from({ length: options.cpus.count }, (_, vp) => vp);
    this.#vmbus = new Vmbus({ ...options.bus, cpu, hypervisor, vpIndexes });
    const inTree = options.drivers.filter(({ file }) => file === undefined);
    this.linker.add("/boot/kernel/kernel", options.kernelBytes, [
      "vmbus",
      ...inTree.map(({ module }) => module.deviceName),
    ]);
    for (const { module, file } of options.drivers)
      if (file !== undefined)
        this.linker.add(`/boot/modules/${module.name}.ko`, file.sizeBytes, [module.deviceName]);
  }

  get offers(): readonly OfferedChannel[] {
    return this.#vmbus
      .inspect()
      .channels.filter(({ state }) => state !== "gone")
      .map(({ relid, index, classId, instanceId, state, cpu }) => ({
        relid,
        subChannelIndex: index,
        classId,
        instanceId,
        cpu: state === "open" ? cpu : undefined,
      }));
  }

  get buses(): readonly CamBus[] {
    return this.#cam.buses;
  }

  get disks(): readonly CamDisk[] {
    return this.#cam.disks;
  }

  /** The network adapters that are attached. */
  get nics(): readonly HnInterface[] {
    return this.#hn.list;
  }

  /**
   * Boots: greets, connects to the bus, attaches a driver to each offer that one wants, and scans.
   * A device that cannot be attached is left out, with a line in dmesg. Rejects when there is no bus.
   */
  async boot(): Promise<void> {
    const { hypervisor, identity, cpu, cpus } = this.#options;
    this.dmesg.print(
      `${identity.type} ${identity.release} ${identity.version}`,
      ...hypervisorLines(hypervisor),
      `real memory  = ${cpu.memory.sizeBytes} (${cpu.memory.sizeBytes / 2 ** 20} MB)`,
      `avail memory = ${this.#options.programs.freePages * PAGE_SIZE} (${Math.floor((this.#options.programs.freePages * PAGE_SIZE) / 2 ** 20)} MB)`,
      "acpi0: <VRTUAL MICROSFT>",
      "acpi_syscontainer0: <System Container> on acpi0",
      "vmbus0: <Hyper-V Vmbus> on acpi_syscontainer0",
    );
    addSystemSysctls(this.sysctl, this, this.#options, this.#tunables);
    cpu.start();
    if (cpus.count > 1)
      this.dmesg.print(`FreeBSD/SMP: Multiprocessor System Detected: ${cpus.count} CPUs`);
    await cpus.start();
    const version = await this.#vmbus.connect();
    this.dmesg.print(`vmbus0: version ${formatVersion(version)}`);
    this.sysctl.show("dev.vmbus.0.version", "vmbus version", () => formatVersion(version));
    addDeviceSysctls(this.sysctl, this.#vmbusDevice);
    await this.#vmbus.requestOffers();
    // One after another, so that devices, buses and disks have the same names at every boot.
    const known = new Set(this.#vmbus.devices);
    const nics = [...known].filter(({ classId }) => classId === DeviceClass.network.classId);
    this.#nicBufferBytes = nicBufferBytes(
      cpu.allocator.freePages * PAGE_SIZE,
      nics.length,
      cpus.online.length,
    );
    for (const device of known) await this.#attach(device);
    // A device that comes later, or has come meanwhile, is attached when it comes.
    this.#vmbus.onDevice((device) => {
      if (!known.has(device) && this.#shuttingDown === undefined) void this.#attach(device);
    });
  }

  /** The boot processor's face of a disk. Throws if there is none of that name. */
  findDisk(name: string): ScsiDisk {
    return this.#find(name).disk;
  }

  /** Where another CPU finds a disk. Throws if there is none of that name, or that CPU has no channel to it. */
  findDiskOn(cpu: number, name: string): DiskPlace {
    const { disk, controller } = this.#find(name);
    const { target, lun } = disk;
    const channels = controller.channels.filter((channel) => channel.cpu === cpu);
    if (channels.length === 0) throw new Error(`cpu${cpu} has no channel to ${name}`);
    // As FreeBSD does, a CPU with several channels divides the LUNs among them.
    return { relid: channels[lun % channels.length]!.relid, target, lun };
  }

  /** Takes frames of a network adapter that came on another CPU. */
  deliverFrames(frames: RelayedFrames): void {
    this.#hn.deliver(frames);
  }

  allocateBuffer(lengthBytes: number): GuestBuffer {
    const { programs, cpu } = this.#options;
    const address = programs.allocate(Math.max(1, Math.ceil(lengthBytes / PAGE_SIZE)));
    if (address === undefined)
      throw new VmbusError("ERR_NO_MEMORY", `no ${lengthBytes} bytes of guest memory are free`);
    return {
      address,
      bytes: cpu.memory.bytes.subarray(address, address + lengthBytes),
      free: () => programs.free(address),
    };
  }

  shutdown(): Promise<void> {
    this.#shuttingDown ??= this.#shutdown();
    return this.#shuttingDown;
  }

  /** State and counters of bus and drivers, as plain JSON. */
  async inspect(): Promise<Record<string, unknown>> {
    const inspect = (kind: AttachedDevice["kind"]): Promise<Record<string, unknown>[]> =>
      Promise.all(
        [...this.#attached]
          .filter(([, attached]) => attached.kind === kind)
          .map(async ([{ name }, attached]) => ({ device: name, ...(await attached.inspect()) })),
      );
    return {
      vmbus: this.#vmbus.inspect(),
      cpu: { ...this.#options.cpu.counters },
      controllers: await inspect("controller"),
      interfaces: await inspect("interface"),
      components: await inspect("component"),
    };
  }

  #find(name: string): NonNullable<ReturnType<Cam["find"]>> {
    const found = this.#cam.find(name);
    if (found === undefined) throw new Error(`there is no disk ${name}`);
    return found;
  }

  async #shutdown(): Promise<void> {
    await this.kthreads.stopAll();
    this.dmesg.print("Waiting (max 60 seconds) for system process `syncer' to stop... done");
    const flushed = await Promise.allSettled(
      this.disks.filter(({ device }) => !device.readOnly).map(({ device }) => device.flush()),
    );
    const failed = flushed.filter(({ status }) => status === "rejected").length;
    this.dmesg.print(failed === 0 ? "All buffers synced." : `Giving up on ${failed} disks`);
    const attached = [...this.#attached.values()].reverse();
    // An interface takes its time, in which it does nothing.
    await Promise.all(
      attached.filter(({ kind }) => kind === "interface").map((one) => one.detach()),
    );
    for (const one of attached) if (one.kind !== "interface") await one.detach();
    await this.#options.cpus.halt();
    await this.#vmbus.unload();
    this.#options.cpu.stop();
  }

  async #attach(device: VmbusDevice): Promise<void> {
    const pnpInfo = `classid=${device.classId} deviceid=${device.instanceId}`;
    for (const { module } of this.#options.drivers) {
      const description = module.probe(device.classId);
      if (description === undefined) continue;
      const siblings = this.#vmbusDevice.children.filter(
        ({ driver }) => driver === module.deviceName,
      );
      const unit = lowestFree(siblings.map((sibling) => sibling.unit));
      const node = new Device(
        { driver: module.deviceName, unit, description, pnpInfo },
        this.#vmbusDevice,
      );
      this.dmesg.print(`${node.name}: <${description}> on vmbus0`);
      addDeviceSysctls(this.sysctl, node);
      try {
        await this.#attachDriver(module, device, node);
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        this.dmesg.print(
          `${node.name}: ${message}`,
          ...(memoryCodes.has(code)
            ? [`${node.name}: the machine has not enough memory for it: boot with more (--memory)`]
            : []),
          `device_attach: ${node.name} attach returned 6`,
        );
        this.#forget(node);
      }
      return;
    }
    new Device({ pnpInfo }, this.#vmbusDevice);
  }

  async #attachDriver(module: DriverModule, device: VmbusDevice, node: Device): Promise<void> {
    const face = await module.control({
      device,
      timers: this.#options.timers,
      cpus: this.#options.cpus.online,
      tunable: (name) => this.#tunable(name),
      log: (line) => this.dmesg.print(`${node.name}: ${line}`),
      system: this.#services(),
      startQueue: (cpu, description, told) =>
        this.#options.cpus.startQueue(cpu, module.name, description, told),
    });
    const attached =
      face instanceof IcComponent
        ? this.#adoptComponent(face as IcComponent, node)
        : module.deviceName === NETWORK_DEVICE
          ? this.#adoptInterface(face as NetvscInterface, device, node)
          : this.#adoptController(face as StorvscController, node);
    this.#attached.set(node, attached);
    void device.rescinded.then(() => {
      if (this.#shuttingDown !== undefined) return;
      this.dmesg.print(`${node.name}: chan${device.relid} revoked`, `${node.name}: detached`);
      attached.forget();
      this.#forget(node);
      this.#attached.delete(node);
    });
    await attached.begin();
  }

  #adoptController(controller: StorvscController, node: Device): AttachedDevice {
    addStorageSysctls(this.sysctl, sysctlPrefix(node), controller);
    return {
      kind: "controller",
      begin: () => this.#cam.attach(controller, node.unit),
      forget: () => this.#cam.detach(controller),
      detach: () => controller.detach(),
      inspect: () => controller.inspect(),
    };
  }

  #adoptComponent(component: IcComponent, node: Device): AttachedDevice {
    addComponentSysctls(this.sysctl, sysctlPrefix(node), component);
    return {
      kind: "component",
      begin: () => {
        this.#options.onComponent?.(component);
        return Promise.resolve();
      },
      forget: () => undefined,
      detach: () => component.detach(),
      inspect: () => Promise.resolve(inspectComponent(component)),
    };
  }

  #adoptInterface(netvsc: NetvscInterface, device: VmbusDevice, node: Device): AttachedDevice {
    return {
      kind: "interface",
      begin: async () => {
        const attached = await this.#hn.attach(netvsc, node.name, device.instanceId as Guid);
        addNetworkSysctls(this.sysctl, sysctlPrefix(node), attached);
        await this.#options.onInterface?.(attached);
      },
      forget: () => this.#hn.detach(netvsc),
      detach: () => this.#hn.shutDown(netvsc),
      inspect: () => netvsc.inspect(),
    };
  }

  /** The value of a tunable by its name; undefined if there is none, or if the driver is to choose. */
  #tunable(name: string): number | undefined {
    const key = tunableKeys.find((candidate) => tunables[candidate].name === name);
    if (key === undefined) return undefined;
    const value = this.#tunables[key];
    const isBuffer = key === "nicReceiveBuffer" || key === "nicSendBuffer";
    return isBuffer && value === 0 ? this.#nicBufferBytes : value;
  }

  #services(): SystemServices {
    const { hypervisor, cpus, onShutdownRequest } = this.#options;
    return {
      realTime: this.realTime,
      referenceTime: () => hypervisor.readMsr(Msr.timeReferenceCount),
      health: () => {
        if (this.#shuttingDown !== undefined) return "stopped";
        return cpus.online.length < cpus.count ? "critical" : "healthy";
      },
      shutdown: (action) => onShutdownRequest?.(action),
    };
  }

  /** Takes a device that is gone out of the tree and of sysctl. */
  #forget(node: Device): void {
    node.detach();
    this.sysctl.remove(sysctlPrefix(node));
  }
}
