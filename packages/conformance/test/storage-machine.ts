import { driver } from "@hyperv-is/hv-storvsc/module";
import {
  attachStorvsc,
  type ScsiDisk as GuestDisk,
  type StorvscController,
  type StorvscOptions,
  type StorvscQueue,
  type StorvscQueueHalf,
} from "@hyperv-is/hv-storvsc";
import {
  HostMessageSlot,
  Partition,
  RamDisk,
  ScsiDisk,
  StorvspController,
  standardDevices,
  type FaultPlanData,
  type HostPart,
  type StorvspControllerOptions,
} from "@hyperv-is/hyperv-host";
import {
  GuestCpu,
  GuestMemory,
  PageAllocator,
  Vmbus,
  localQueue,
  type ControlContext,
  type EventFlagsFactory,
  type RingControlFactory,
  type Timers,
  type VmbusDevice,
} from "@hyperv-is/vmbus-core";
import {
  DeviceClass,
  type Guid,
  type ProtocolVersion,
  type SynicMessageType,
} from "@hyperv-is/vmbus-core/protocol";
import {
  InterleavedEventFlags,
  InterleavedMessageSlot,
  LateClearedEventFlags,
  MutantRingControl,
  type Actor,
  type RingMutant,
  type Simulation,
} from "@hyperv-is/conformance";
import { ApplicationCpu, CpuActor } from "./simulated-cpu.js";

/** The host's side of a message slot between whose accesses the simulation may run the guest. */
class InterleavedHostSlot extends HostMessageSlot {
  readonly #simulation: Simulation;

  constructor(simulation: Simulation, memory: GuestMemory, address: number) {
    super(memory, address);
    this.#simulation = simulation;
  }

  override isEmpty(): boolean {
    this.#simulation.yieldPoint();
    return super.isEmpty();
  }

  override requestEndOfMessage(): void {
    this.#simulation.yieldPoint();
    super.requestEndOfMessage();
  }

  override write(type: SynicMessageType, bytes: Uint8Array): void {
    this.#simulation.yieldPoint();
    super.write(type, bytes);
  }
}

/** A disk of the machine. */
export interface DiskPlan {
  readonly lun: number;
  readonly blockBytes: 512 | 4096;
  /** The blocks that are used: from `origin` on, up to the disk's end as it is at first. */
  readonly origin: number;
  readonly blocks: number;
  readonly readOnly: boolean;
}

/** A controller of the machine with its disks. */
export interface ControllerPlan {
  readonly host: StorvspControllerOptions;
  /** Undefined: the defaults, by the module's own control half. */
  readonly guest: StorvscOptions | undefined;
  readonly monitored: boolean;
  readonly disks: readonly DiskPlan[];
}

/** A fault that is put into one end of every channel. */
export interface PlantedMutant {
  readonly side: "guest" | "host";
  readonly mutant: RingMutant;
}

export interface StorageMachineOptions {
  readonly simulation: Simulation;
  readonly hostVersions: readonly ProtocolVersion[];
  readonly guestVersions: readonly ProtocolVersion[];
  /** With all the devices that a real machine shows. */
  readonly crowded: boolean;
  /** Packets that the host handles of one channel before another gets its turn. */
  readonly budget: number;
  readonly workers: number;
  /** CPUs of the guest. */
  readonly cpus: number;
  /** CPUs that do without signal optimization. */
  readonly unoptimizedCpus: readonly number[];
  /** How slow the guest's CPU is: turns that it lets pass for each that it uses. */
  readonly sloth: number;
  readonly faults: FaultPlanData;
  readonly controllers: readonly ControllerPlan[];
  readonly mutant?: PlantedMutant | undefined;
}

/** A disk at both ends. */
export interface DiskPair {
  readonly instanceId: Guid;
  readonly plan: DiskPlan;
  readonly backend: RamDisk;
}

/** Arena of the boot processor, memory for what uses the disks behind it, then the arenas of the other CPUs. */
const ARENA_BYTES = 3 << 20;
const PROGRAMS_BYTES = 3 << 20;
const OTHER_ARENA_BYTES = 3 << 19;
const CPUS_MAX = 4;
/** How often a host looks at the monitor page. */
const MONITOR_MS = 1;

/** One buffer for all machines, one after the other: making and zeroing it costs more than a schedule. */
const buffer = new ArrayBuffer(ARENA_BYTES + PROGRAMS_BYTES + (CPUS_MAX - 1) * OTHER_ARENA_BYTES);

const instance = (index: number): Guid => `5107a9e0-0000-0000-0000-00000000000${index}`;

/**
 * Our guest's bus and storage driver on our host, the CPUs and the parts of the host as actors of a
 * simulation: between any two accesses to a ring's control words, an event flag or a message slot, the
 * scheduler may run another of them.
 */
export class StorageMachine {
  readonly simulation: Simulation;
  readonly memory: GuestMemory;
  /** The boot processor. */
  readonly guest: CpuActor;
  readonly partition: Partition;
  readonly timers: Timers;
  /** The arena of each CPU, and its pages. */
  readonly arenas: readonly { readonly arena: PageAllocator; readonly pages: number }[];
  /** What was agreed; 0 before. */
  busVersion: ProtocolVersion = 0;
  /** Memory of the programs that use the disks. */
  readonly programs: PageAllocator;
  readonly cpu: GuestCpu;
  readonly others: readonly ApplicationCpu[];
  readonly bus: Vmbus;
  readonly disks: readonly DiskPair[];
  readonly hostControllers: readonly StorvspController[];
  /** What the driver said. */
  readonly log: string[] = [];
  /** Failed attempts to attach a controller. */
  readonly attachErrors: unknown[] = [];
  readonly #plans: ReadonlyMap<Guid, ControllerPlan>;
  readonly #attached = new Map<Guid, StorvscController>();
  readonly #everAttached: StorvscController[] = [];
  readonly #localHalves: StorvscQueueHalf[] = [];
  readonly #attaching = new Set<Promise<void>>();
  readonly #parts = new Map<HostPart, Actor>();
  #off = false;

  constructor(options: StorageMachineOptions) {
    const { simulation, controllers, mutant, workers, cpus } = options;
    this.simulation = simulation;
    const actors = Array.from(
      { length: cpus },
      (_, cpu) => new CpuActor(`cpu${cpu}`, simulation.prng, options.sloth),
    );
    this.guest = actors[0]!;
    const usedBytes = ARENA_BYTES + PROGRAMS_BYTES + (cpus - 1) * OTHER_ARENA_BYTES;
    new Uint8Array(buffer, 0, usedBytes).fill(0);
    this.memory = new GuestMemory(buffer);
    const makeRings =
      (side: PlantedMutant["side"]): RingControlFactory =>
      (memory, address) =>
        new MutantRingControl(
          mutant?.side === side ? mutant.mutant : undefined,
          simulation,
          memory,
          address,
        );
    const makeFlags: EventFlagsFactory = (memory, address, lengthBytes) =>
      new InterleavedEventFlags(simulation, memory.words, address >>> 2, lengthBytes >>> 2);

    this.partition = new Partition({
      memory: this.memory,
      timers: simulation,
      workers,
      vps: cpus,
      interrupt: (vp) => {
        actors[vp]!.raise();
        simulation.wake(actors[vp]!);
      },
      wake: (part) => simulation.wake(this.#actorOf(part)),
      bus: { versions: options.hostVersions },
      faults: options.faults,
      budget: options.budget,
      makeRingControl: makeRings("host"),
      makeEventFlags: makeFlags,
      makeMessageSlot: (memory, address) => new InterleavedHostSlot(simulation, memory, address),
    });
    const disks: DiskPair[] = [];
    this.#plans = new Map(controllers.map((plan, index) => [instance(index), plan]));
    this.hostControllers = [...this.#plans].map(([instanceId, plan], index) => {
      const controller = new StorvspController(plan.host);
      for (const disk of plan.disks) {
        const backend = new RamDisk({
          sizeBytes: (disk.origin + disk.blocks) * disk.blockBytes,
          logicalSectorBytes: disk.blockBytes,
          readOnly: disk.readOnly,
          identity: Uint8Array.from({ length: 16 }, (_, at) => 16 * index + disk.lun + at),
        });
        controller.attach({ path: 0, target: 0, lun: disk.lun }, new ScsiDisk(backend));
        disks.push({ instanceId, plan: disk, backend });
      }
      const worker = index % workers;
      const { classId } = DeviceClass.scsi;
      this.partition.workers[worker]!.serve({ classId, instanceId }, controller);
      this.partition.offer({ classId, instanceId, worker, monitored: plan.monitored });
      return controller;
    });
    this.disks = disks;
    if (options.crowded) for (const offer of standardDevices(0)) this.partition.offer(offer);

    this.timers = simulation.timersOf(this.guest);
    this.programs = new PageAllocator(this.memory, ARENA_BYTES, PROGRAMS_BYTES);
    this.arenas = actors.map((_, cpu) => {
      const arena =
        cpu === 0
          ? new PageAllocator(this.memory, 0, ARENA_BYTES)
          : new PageAllocator(
              this.memory,
              ARENA_BYTES + PROGRAMS_BYTES + (cpu - 1) * OTHER_ARENA_BYTES,
              OTHER_ARENA_BYTES,
            );
      return { arena, pages: arena.freePages };
    });
    const hypervisor = this.partition.processors[0]!;
    const [boot, ...others] = actors.map((actor, number) => {
      const cpu = new GuestCpu({
        memory: this.memory,
        allocator: this.arenas[number]!.arena,
        hypervisor: this.partition.processors[number]!,
        timers: simulation.timersOf(actor),
        makeRingControl: makeRings("guest"),
        makeEventFlags: (memory, address, lengthBytes) => {
          if (mutant?.side !== "guest" || mutant.mutant !== "event-flag-cleared-late")
            return makeFlags(memory, address, lengthBytes);
          const words = memory.words;
          const flags = new LateClearedEventFlags(
            simulation,
            words,
            address >>> 2,
            lengthBytes >>> 2,
          );
          actor.late.push(flags);
          return flags;
        },
        makeMessageSlot: (memory, address) =>
          new InterleavedMessageSlot(simulation, memory, address),
      });
      cpu.signalOptimization = !options.unoptimizedCpus.includes(number);
      actor.cpu = cpu;
      return cpu;
    });
    this.cpu = boot!;
    this.others = others.map(
      (cpu, index) =>
        new ApplicationCpu(simulation, index + 1, this.guest, actors[index + 1]!, cpu),
    );
    const vpIndexes = actors.map((_, vp) => vp);
    this.bus = new Vmbus({
      cpu: this.cpu,
      hypervisor,
      versions: options.guestVersions,
      vpIndexes,
    });
  }

  /** Connects, and attaches every controller that is offered, now and later. */
  async boot(): Promise<void> {
    this.cpu.start();
    for (const { cpu } of this.others) cpu.start();
    this.#watchMonitors();
    this.busVersion = await this.bus.connect();
    this.bus.onDevice((device) => {
      if (device.classId !== DeviceClass.scsi.classId) return;
      const attaching = this.#attach(device).finally(() => this.#attaching.delete(attaching));
      this.#attaching.add(attaching);
    });
    await this.bus.requestOffers();
    await this.settled();
  }

  /** Resolves when no controller is being attached. */
  async settled(): Promise<void> {
    while (this.#attaching.size > 0) await Promise.all(this.#attaching);
  }

  /** Controllers that are in use. */
  get controllers(): readonly StorvscController[] {
    return [...this.#attached.values()];
  }

  /** All controllers that ever were in use. */
  get everAttached(): readonly StorvscController[] {
    return this.#everAttached;
  }

  /** The boot processor's end of a disk, while it has one. */
  find({ instanceId, plan }: DiskPair): GuestDisk | undefined {
    return this.#attached
      .get(instanceId)
      ?.disks.find((disk) => disk.target === 0 && disk.lun === plan.lun);
  }

  /** All ends of a disk: that of the boot processor, and those of its sub-channels. */
  faces(pair: DiskPair): GuestDisk[] {
    const main = this.find(pair);
    if (main === undefined) return [];
    const [, ...subChannels] = this.#attached.get(pair.instanceId)!.channels;
    const others = subChannels.flatMap(({ handle, relid }) => {
      const half = handle.local ?? this.others[handle.cpu - 1]?.halves.get(relid);
      return half?.disks.filter(({ target, lun }) => target === 0 && lun === pair.plan.lun) ?? [];
    });
    return [main, ...others];
  }

  /** Every queue that ever was. */
  get queues(): readonly StorvscQueue[] {
    const others = this.others.flatMap(({ halves }) => [...halves.values()]);
    return [...this.#localHalves, ...others].map(({ queue }) => queue);
  }

  /** Takes every controller out of use and leaves the bus. */
  async shutdown(): Promise<void> {
    await this.settled();
    await Promise.all(this.#everAttached.map((controller) => controller.detach()));
    for (const { cpu } of this.others) cpu.stop();
    await this.bus.unload();
    this.cpu.stop();
    this.#off = true;
  }

  async #attach(device: VmbusDevice): Promise<void> {
    const instanceId = device.instanceId as Guid;
    const plan = this.#plans.get(instanceId)!;
    try {
      const context: ControlContext<StorvscQueueHalf> = {
        device,
        timers: this.timers,
        cpus: [0, ...this.others.map((_, index) => index + 1)],
        tunable: () => undefined,
        log: (line) => void this.log.push(line),
        startQueue: async (cpu, description, told) => {
          const other = this.others[cpu - 1];
          if (other !== undefined) return other.start(description, told);
          // What goes from CPU to CPU is plain data.
          const half = driver.queue(this.cpu, structuredClone(description), (message) =>
            told(structuredClone(message)),
          );
          this.#localHalves.push(half);
          return localQueue(cpu, half);
        },
      };
      const controller = await (plan.guest === undefined
        ? driver.control(context)
        : attachStorvsc(context, plan.guest));
      this.#attached.set(instanceId, controller);
      this.#everAttached.push(controller);
      void device.rescinded.then(() => {
        if (this.#attached.get(instanceId) === controller) this.#attached.delete(instanceId);
      });
    } catch (error) {
      this.attachErrors.push(error);
    }
  }

  #actorOf(part: HostPart): Actor {
    let actor = this.#parts.get(part);
    if (actor === undefined) {
      const name = part === "control" ? part : `worker ${part}`;
      actor = { name, step: () => this.partition.runPart(part) };
      this.#parts.set(part, actor);
    }
    return actor;
  }

  /** A monitored signal is a bit in a page: the host has to come by. */
  #watchMonitors(): void {
    if (![...this.#plans.values()].some(({ monitored }) => monitored)) return;
    const look: Actor = {
      name: "monitor",
      step: () => {
        this.partition.server.pollMonitors();
        return false;
      },
    };
    const arm = (): void => {
      this.simulation.after(MONITOR_MS, () => {
        if (this.#off) return;
        this.simulation.wake(look);
        arm();
      });
    };
    arm();
  }
}
