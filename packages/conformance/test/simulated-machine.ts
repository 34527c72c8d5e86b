import {
  HostMessageSlot,
  Partition,
  standardDevices,
  type FaultPlanData,
  type HostPart,
} from "@hyperv-is/hyperv-host";
import {
  GuestCpu,
  GuestMemory,
  PageAllocator,
  Vmbus,
  localQueue,
  type ControlContext,
  type EventFlagsFactory,
  type QueueHalf,
  type QueueHandle,
  type RingControlFactory,
  type TellControl,
  type Timers,
  type VmbusDevice,
} from "@hyperv-is/vmbus-core";
import { ProtocolVersion, type Guid, type SynicMessageType } from "@hyperv-is/vmbus-core/protocol";
import {
  InterleavedEventFlags,
  InterleavedMessageSlot,
  LateClearedEventFlags,
  MutantRingControl,
  type Actor,
  type RingMutant,
  type Simulation,
} from "@hyperv-is/conformance";
import { ApplicationCpu, CpuActor, type QueueDriver } from "./simulated-cpu.js";

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

/** A fault that is put into one end of every channel. */
export interface PlantedMutant {
  readonly side: "guest" | "host";
  readonly mutant: RingMutant;
}

/** How a machine is made, whatever its devices are. */
export interface SimulatedMachineOptions {
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
  readonly mutant?: PlantedMutant | undefined;
}

/** Arena of the boot processor, memory for what uses the devices behind it, then the arenas of the other CPUs. */
const ARENA_BYTES = 3 << 20;
const PROGRAMS_BYTES = 3 << 20;
const OTHER_ARENA_BYTES = 3 << 19;
const CPUS_MAX = 4;

/** Interrupt page and monitor pages. */
const CONNECTION_PAGES = 3;

/** One buffer for all machines, one after the other: making and zeroing it costs more than a schedule. */
const buffer = new ArrayBuffer(ARENA_BYTES + PROGRAMS_BYTES + (CPUS_MAX - 1) * OTHER_ARENA_BYTES);

/**
 * Our guest's bus on our host, the CPUs and the parts of the host as actors of a simulation: between any two
 * accesses to a ring's control words, an event flag or a message slot, the scheduler may run another of them.
 * Who extends it offers devices, and attaches one driver to them.
 */
export abstract class SimulatedMachine<Half extends QueueHalf> {
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
  /** Memory of the programs that use the devices. */
  readonly programs: PageAllocator;
  readonly cpu: GuestCpu;
  readonly others: readonly ApplicationCpu<Half>[];
  readonly bus: Vmbus;
  /** What the driver said. */
  readonly log: string[] = [];
  /** Failed attempts to attach a device. */
  readonly attachErrors: unknown[] = [];
  protected isOff = false;
  readonly #driver: QueueDriver<Half>;
  readonly #crowded: boolean;
  readonly #localHalves: Half[] = [];
  readonly #attaching = new Set<Promise<void>>();
  readonly #parts = new Map<HostPart, Actor>();

  constructor(options: SimulatedMachineOptions, driver: QueueDriver<Half>) {
    const { simulation, mutant, workers, cpus } = options;
    this.simulation = simulation;
    this.#driver = driver;
    this.#crowded = options.crowded;
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
        new ApplicationCpu(simulation, index + 1, this.guest, actors[index + 1]!, cpu, driver),
    );
    const vpIndexes = actors.map((_, vp) => vp);
    this.bus = new Vmbus({
      cpu: this.cpu,
      hypervisor,
      versions: options.guestVersions,
      vpIndexes,
    });
  }

  /** Attaches the driver to a device that is offered. Never rejects: how it failed is kept in `attachErrors`. */
  protected abstract attach(device: VmbusDevice): Promise<void>;

  /** Connects, and attaches every device of the driver's classes that is offered, now and later. */
  protected async connect(...classIds: readonly Guid[]): Promise<void> {
    if (this.#crowded) for (const offer of standardDevices(0)) this.partition.offer(offer);
    this.cpu.start();
    for (const { cpu } of this.others) cpu.start();
    this.busVersion = await this.bus.connect();
    this.bus.onDevice((device) => {
      if (classIds.includes(device.classId as Guid)) this.begin(this.attach(device));
    });
    await this.bus.requestOffers();
    await this.settled();
  }

  /** Has `settled` wait for an attach, which never rejects. */
  protected begin(work: Promise<void>): void {
    const attaching = work.finally(() => this.#attaching.delete(attaching));
    this.#attaching.add(attaching);
  }

  /** Resolves when no device is being attached. */
  async settled(): Promise<void> {
    while (this.#attaching.size > 0) await Promise.all(this.#attaching);
  }

  /** What the driver's control half is handed. */
  protected contextOf(device: VmbusDevice): ControlContext<Half> {
    return {
      device,
      timers: this.timers,
      cpus: [0, ...this.others.map((_, index) => index + 1)],
      tunable: () => undefined,
      log: (line) => void this.log.push(line),
      startQueue: (cpu, description, told) => this.#startQueue(cpu, description, told),
    };
  }

  /** Every queue half that ever was. */
  get halves(): readonly Half[] {
    return [...this.#localHalves, ...this.others.flatMap(({ halves }) => [...halves.values()])];
  }

  /** Leaves the bus; no device is attached any more. */
  protected async disconnect(): Promise<void> {
    for (const { cpu } of this.others) cpu.stop();
    await this.bus.unload();
    this.cpu.stop();
    this.isOff = true;
  }

  /** Throws if the host has seen the guest do something wrong. */
  checkViolations(): void {
    const { list } = this.partition.violations;
    const seen = list.map(({ rule, detail }) => `${rule}: ${detail}`);
    check(seen.length === 0, `the host noted: ${seen.join("; ")}`);
  }

  /** What must hold when the machine is off, whatever its devices are. @param mayLeak - A fault made memory unsafe to use again. */
  inspect(mayLeak: boolean): void {
    this.checkViolations();
    const stats = this.partition.stats();
    check(stats.state === "disconnected", `the host is ${stats.state}`);
    check(stats.workers.flat().length === 0, "the host still serves channels");
    check(stats.backlog === 0, "messages wait for the guest");

    for (const [cpu, { arena, pages }] of this.arenas.entries()) {
      const missing = pages - arena.freePages - arena.leakedPages;
      check(missing === 0, `${missing} pages of cpu${cpu} are neither free nor leaked`);
    }
    // The oldest hosts do not confirm that they let go of the connection's pages.
    const unconfirmed = this.busVersion < ProtocolVersion.v1_1 ? CONNECTION_PAGES : 0;
    const leaked = this.arenas.reduce((sum, { arena }) => sum + arena.leakedPages, 0) - unconfirmed;
    check(leaked === 0 || (mayLeak && leaked > 0), `${leaked} pages leaked without a reason`);
  }

  async #startQueue(
    cpu: number,
    description: unknown,
    told: TellControl,
  ): Promise<QueueHandle<Half>> {
    const other = this.others[cpu - 1];
    if (other !== undefined) return other.start(description, told);
    // What goes from CPU to CPU is plain data.
    const half = this.#driver.queue(this.cpu, structuredClone(description), (message) =>
      told(structuredClone(message)),
    );
    this.#localHalves.push(half);
    return localQueue(cpu, half);
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
}

/** Throws if something does not hold. */
export function check(holds: boolean, message: string): void {
  if (!holds) throw new Error(message);
}
