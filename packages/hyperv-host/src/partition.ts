import {
  messageLinkPair,
  type EventFlagsFactory,
  type GuestMemory,
  type MessageLink,
  type RingControlFactory,
  type Timers,
} from "@hyperv-is/vmbus-core";
import { Sint, type Guid } from "@hyperv-is/vmbus-core/protocol";
import { FaultPlan, faultStats, type FaultPlanData, type FaultStats } from "./faults.js";
import { HostWorker, type WorkerChannelStats } from "./host-worker.js";
import type { Bells } from "./hypervisor/bells.js";
import { HypervisorState } from "./hypervisor/hypervisor-state.js";
import type { HostMessageSlotFactory } from "./hypervisor/message-slots.js";
import { VirtualProcessor, type TimerFrequencies } from "./hypervisor/virtual-processor.js";
import type { TraceRecorder } from "./trace/trace-recorder.js";
import { SavedPartitionError, type SavedPartition } from "./saved-partition.js";
import type { Violations } from "./violations.js";
import type { BusOptions } from "./vmbus/connection.js";
import type { DeviceOffer } from "./vmbus/offers.js";
import type { RestoredChannel } from "./vmbus/saved-channel.js";
import { VmbusServer, type VmbusServerStats } from "./vmbus/server.js";
import type { WorkerReply, WorkerRequest } from "./vmbus/worker-link.js";

/** A part of the host that would be a thread elsewhere: the control plane, or a worker by index. */
export type HostPart = "control" | number;

/** How a partition in one thread is made. */
export interface PartitionOptions {
  readonly memory: GuestMemory;
  readonly timers: Timers;
  /** Called when a SINT of a processor wants an interrupt; the guest runs later, not inside. */
  readonly interrupt: (vp: number, sint: number, vector: number) => void;
  /** Called when a part of the host has something to do; it is done in `run`, or `runPart`. */
  readonly wake?: (part: HostPart) => void;
  /** Virtual processors; 1 unless given. */
  readonly vps?: number;
  /** Host workers; 1 unless given. */
  readonly workers?: number;
  readonly bus?: BusOptions;
  readonly faults?: FaultPlanData;
  /** Records what host and guest exchange, from the start; its owner flushes it. */
  readonly trace?: TraceRecorder;
  /** Posted messages that may wait for the host. */
  readonly queueEntries?: number;
  readonly writeHypercallPage?: (memory: GuestMemory, address: number) => void;
  readonly frequencies?: TimerFrequencies;
  /** Is told of data that a device has put into the guest's memory; see `ServiceContext`. */
  readonly dataWritten?: (address: number, lengthBytes: number) => void;
  /** Packets that one channel may handle before the others of its worker get their turn. */
  readonly budget?: number;
  /** Accesses to shared memory; the simulation has its own. */
  readonly makeRingControl?: RingControlFactory;
  readonly makeEventFlags?: EventFlagsFactory;
  readonly makeMessageSlot?: HostMessageSlotFactory;
}

/** The partition as an administrator sees it. */
export interface PartitionStats extends VmbusServerStats {
  /** Open channels by worker. */
  readonly workers: readonly (readonly WorkerChannelStats[])[];
  /** What has become of the plan's faults, in its order. */
  readonly faults: readonly FaultStats[];
}

/** Rounds of `run` after which a partition that never rests counts as broken. */
const ROUND_LIMIT = 1_000_000;

/**
 * A partition and its host in one thread: for the loopback, the simulation, and a PC emulator.
 *
 * Where there are threads, their composer takes the same pieces: `HypervisorState` over shared memory, a
 * `VirtualProcessor` per guest thread, a `VmbusServer` on the control thread, a `HostWorker` per worker.
 */
export class Partition {
  readonly state: HypervisorState;
  readonly memory: GuestMemory;
  readonly processors: readonly VirtualProcessor[];
  readonly server: VmbusServer;
  readonly workers: readonly HostWorker[];
  readonly #links: readonly MessageLink<WorkerRequest, WorkerReply>[];
  readonly #workerLinks: readonly MessageLink<WorkerReply, WorkerRequest>[];
  readonly #wake: (part: HostPart) => void;
  readonly #timers: Timers;
  #faults: FaultPlanData;
  /** The plan of each part. */
  readonly #plans: FaultPlan[] = [];
  /** Parts that have something to do. */
  readonly #woken = new Set<HostPart>();
  #isRunning = false;

  constructor(options: PartitionOptions) {
    const { memory, timers, vps = 1, workers = 1, queueEntries } = options;
    this.memory = memory;
    this.#timers = timers;
    this.#wake = options.wake ?? (() => undefined);
    this.state = HypervisorState.create({
      vps,
      workers,
      ...(queueEntries !== undefined && { queueEntries }),
    });
    const bells: Bells = {
      interrupt: options.interrupt,
      control: () => this.#rouse("control"),
      worker: (index) => this.#rouse(index),
    };
    const links = Array.from({ length: workers }, (_, index) =>
      messageLinkPair<WorkerRequest, WorkerReply>(
        () => this.#rouse("control"),
        () => this.#rouse(index),
      ),
    );
    this.#links = links.map((link) => link.left);
    this.#workerLinks = links.map((link) => link.right);
    const { state } = this;
    this.#faults = options.faults ?? { faults: [] };
    options.trace?.start(memory, vps);
    this.server = new VmbusServer({
      state,
      memory,
      bells,
      timers,
      workers: this.#links,
      faults: this.faultPlan(),
      ...(options.bus && { bus: options.bus }),
      ...(options.trace && { trace: options.trace }),
      ...(options.makeEventFlags && { makeEventFlags: options.makeEventFlags }),
      ...(options.makeMessageSlot && { makeMessageSlot: options.makeMessageSlot }),
    });
    const { budget, makeRingControl, makeEventFlags, writeHypercallPage, dataWritten } = options;
    this.workers = this.#workerLinks.map(
      (link, index) =>
        new HostWorker({
          index,
          state,
          memory,
          bells,
          timers,
          reply: (reply) => link.send(reply),
          faults: this.faultPlan(),
          ...(options.trace && { trace: options.trace }),
          ...(budget !== undefined && { budget }),
          ...(dataWritten && { dataWritten }),
          ...(makeRingControl && { makeRingControl }),
          ...(makeEventFlags && { makeEventFlags }),
        }),
    );
    this.processors = Array.from(
      { length: vps },
      (_, index) =>
        new VirtualProcessor({
          state,
          memory,
          index,
          bells,
          clock: timers,
          ...(options.frequencies && { frequencies: options.frequencies }),
          ...(writeHypercallPage && { writeHypercallPage }),
        }),
    );
  }

  /** What the guest did wrong. */
  get violations(): Violations {
    return this.server.violations;
  }

  /** True if interrupts of this SINT end by themselves, without an EOI of the guest. */
  isAutoEoi(vp: number, sint: number): boolean {
    return (this.state.sint(vp, sint) & Number(Sint.autoEoi)) !== 0;
  }

  /** Offers a device; its service is registered with its worker. */
  offer(offer: DeviceOffer): void {
    this.server.offer(offer);
  }

  /** Rescinds a device. @returns False if there is none. */
  rescind(instanceId: Guid, reofferAfterMs?: number): boolean {
    return this.server.rescind(instanceId, reofferAfterMs);
  }

  /** Restarts the machine: the processors have stopped; takes effect in `run`. */
  reset(done?: () => void): void {
    this.server.reset(done);
  }

  /** Parts of the host that have something to do. */
  get woken(): ReadonlySet<HostPart> {
    return this.#woken;
  }

  /** Lets one part of the host do what it can now; true if it should be called again. */
  runPart(part: HostPart): boolean {
    this.#woken.delete(part);
    const more = part === "control" ? this.#runControl() : this.#runWorker(part);
    if (more) this.#rouse(part);
    return more;
  }

  /**
   * Lets the host do all it can, monitored notifications included. Does nothing if it is running already:
   * a guest may be run inside `interrupt` all the same. Throws if it never comes to rest.
   */
  run(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    try {
      this.server.pollMonitors();
      for (let round = 0; this.#woken.size > 0; round++) {
        if (round >= ROUND_LIMIT) throw new Error(`no rest after ${ROUND_LIMIT} rounds`);
        for (const part of Array.from(this.#woken)) this.runPart(part);
      }
    } finally {
      this.#isRunning = false;
    }
  }

  /**
   * Everything that this host knows of its guest, as plain data; the guest's processors stand still, and its
   * memory is saved by whoever has it. Clock, fault plan and backends of disks are no part of it.
   *
   * @returns Undefined while requests are in flight, a completion is late, or a device is to come back.
   */
  save(): SavedPartition | undefined {
    this.run();
    const services = new Map(this.workers.flatMap((worker) => Array.from(worker.save())));
    return this.server.save(services);
  }

  /**
   * Goes on from what was saved. To be called once, before any processor of the guest runs, with the memory as
   * it was then and the same devices offered; devices that the guest does not know yet are offered to it.
   *
   * Throws `SavedPartitionError` if the partition or its devices are others.
   */
  restore(saved: SavedPartition): void {
    const order = (channel: RestoredChannel): number => channel.saved.subChannelIndex;
    const channels = this.server.restore(saved).sort((a, b) => order(a) - order(b));
    for (const { key, worker, saved: channel } of channels) {
      const owner = this.workers[worker]!;
      const { open, gpadls } = channel;
      if (open === undefined) owner.restoreGpadls(key, gpadls);
      else if (!owner.restore({ ...open, opening: { ...open.opening, key } }, gpadls))
        throw new SavedPartitionError(`device ${channel.instanceId} does not take its guest back`);
      this.#rouse(worker);
    }
    this.server.offerNew();
    this.run();
  }

  /** How the host misbehaves. */
  get faults(): FaultPlanData {
    return this.#faults;
  }

  /** A plan of these faults for one more part of the host, such as a virtual switch; it is replaced and counted with them. */
  faultPlan(): FaultPlan {
    const plan = new FaultPlan(this.#faults, this.#timers);
    this.#plans.push(plan);
    return plan;
  }

  /** Misbehaves in another way from now on. */
  setFaults(faults: FaultPlanData): void {
    this.#faults = faults;
    for (const plan of this.#plans) plan.replace(faults);
    this.server.followFaults();
  }

  stats(): PartitionStats {
    return {
      ...this.server.stats(),
      workers: this.workers.map((worker) => worker.stats()),
      faults: faultStats(
        this.#faults,
        this.#plans.map(({ counts }) => counts),
      ),
    };
  }

  #runControl(): boolean {
    for (const link of this.#links)
      for (let reply = link.receive(); reply !== undefined; reply = link.receive())
        this.server.reply(reply);
    return this.server.run();
  }

  #runWorker(index: number): boolean {
    const worker = this.workers[index]!;
    const link = this.#workerLinks[index]!;
    for (let request = link.receive(); request !== undefined; request = link.receive())
      worker.receive(request);
    worker.interrupt();
    return worker.run();
  }

  #rouse(part: HostPart): void {
    if (this.#woken.has(part)) return;
    this.#woken.add(part);
    this.#wake(part);
  }
}
