import { driver } from "@hyperv-is/hv-netvsc/module";
import {
  attachNetvsc,
  type NetvscInterface,
  type NetvscOptions,
  type NetvscQueue,
  type NetvscQueueDescription,
  type NetvscQueueHalf,
} from "@hyperv-is/hv-netvsc";
import { PacketFilter } from "@hyperv-is/hv-netvsc/protocol";
import {
  FaultPlan,
  NetworkAdapter,
  VirtualSwitch,
  networkAdapterId,
  type NicConfig,
} from "@hyperv-is/hyperv-host";
import type { ControlContext, VmbusDevice } from "@hyperv-is/vmbus-core";
import { DeviceClass, type Guid } from "@hyperv-is/vmbus-core/protocol";
import { macOf } from "./network-frames.js";
import { NetworkSaboteur, type NetworkMutant } from "./network-mutants.js";
import { SimulatedMachine, type SimulatedMachineOptions } from "./simulated-machine.js";

/** A network adapter of the machine. */
export interface AdapterPlan {
  readonly host: Omit<NicConfig, "instanceId" | "mac" | "switch">;
  readonly guest: NetvscOptions;
}

export interface NetworkMachineOptions extends SimulatedMachineOptions {
  readonly adapters: readonly AdapterPlan[];
  /** What one end does wrong above the rings, and on which of the occasions for it. */
  readonly sabotage?: { readonly mutant: NetworkMutant; readonly nth: number } | undefined;
}

/** A network adapter at both ends. */
export class AdapterPair {
  readonly index: number;
  readonly instanceId: Guid;
  readonly plan: AdapterPlan;
  readonly host: NetworkAdapter;
  /** What is offered now. */
  device: VmbusDevice | undefined;
  /** The interface in use; undefined while there is none. */
  hn: NetvscInterface | undefined;

  constructor(index: number, plan: AdapterPlan, host: NetworkAdapter, instanceId: Guid) {
    this.index = index;
    this.plan = plan;
    this.host = host;
    this.instanceId = instanceId;
  }
}

const RETRY_MS = 50;
export const USUAL_FILTER = PacketFilter.directed | PacketFilter.broadcast;

/** A machine with our network driver and our host's adapters, all at one switch. */
export class NetworkMachine extends SimulatedMachine<NetvscQueueHalf> {
  readonly network: VirtualSwitch;
  readonly adapters: readonly AdapterPair[];
  /** The plan of what happens to frames in the switch. */
  readonly switchFaults: FaultPlan;
  /** Gets each queue half as soon as there is one, and its adapter. */
  madeQueue: (half: NetvscQueueHalf, adapter: AdapterPair) => void = () => undefined;
  /** Interfaces that ever were. */
  readonly everAttached: NetvscInterface[] = [];
  /** Queues that ever were. */
  readonly queues: readonly NetvscQueue[];
  /** How interfaces were lost. */
  readonly losses: string[] = [];
  readonly #byId: ReadonlyMap<Guid, AdapterPair>;
  /** Adapter of each channel, by relid. */
  readonly #channels: Map<number, AdapterPair>;

  constructor(options: NetworkMachineOptions) {
    const { simulation, sabotage } = options;
    const channels = new Map<number, AdapterPair>();
    const queues: NetvscQueue[] = [];
    const saboteur = sabotage && new NetworkSaboteur(sabotage.mutant, sabotage.nth);
    super(options, {
      name: driver.name,
      queue: (context, description, tell) => {
        const { channel } = description as NetvscQueueDescription;
        const own = saboteur === undefined ? context : saboteur.context(context);
        const half = driver.queue(own, description, tell);
        queues.push(half.port);
        this.madeQueue(half, channels.get(channel.relid)!);
        return half;
      },
    });
    this.#channels = channels;
    this.queues = queues;
    this.switchFaults = new FaultPlan(options.faults, simulation);
    this.network = new VirtualSwitch({ timers: simulation, faults: this.switchFaults });
    this.adapters = options.adapters.map((plan, index) => {
      const instanceId = networkAdapterId(index);
      const config = { ...plan.host, instanceId, mac: macOf(index), switch: "lan" };
      const host = new NetworkAdapter(config, this.network, simulation);
      const { classId } = DeviceClass.network;
      const service = saboteur === undefined ? host : saboteur.service(host);
      this.partition.workers[0]!.serve({ classId, instanceId }, service);
      this.partition.offer({ classId, instanceId, worker: 0 });
      return new AdapterPair(index, plan, host, instanceId);
    });
    this.#byId = new Map(this.adapters.map((pair) => [pair.instanceId, pair]));
  }

  /** Connects, and attaches every adapter that is offered, now and later. */
  boot(): Promise<void> {
    return this.connect(DeviceClass.network.classId);
  }

  /** The queue halves of an adapter's open channels, the primary first. */
  queuesOf({ hn }: AdapterPair): NetvscQueueHalf[] {
    if (hn === undefined || hn.error !== undefined) return [];
    return hn.channels.flatMap(({ handle, relid }) => {
      const half = handle.local ?? this.others[handle.cpu - 1]?.halves.get(relid);
      return half === undefined || half.port.closedReason !== undefined ? [] : [half];
    });
  }

  /** Has the host behave from now on, and lets frames through everywhere. */
  async stopFaults(): Promise<void> {
    this.partition.setFaults({ faults: [] });
    this.switchFaults.replace({ faults: [] });
    for (const { host } of this.adapters) host.port.setLink(true);
    await this.settled();
    // A filter may not have been set because of a fault.
    const interfaces = this.adapters.flatMap(({ hn }) => hn ?? []);
    await Promise.allSettled(interfaces.map((hn) => hn.setFilter(USUAL_FILTER)));
  }

  /** Takes an adapter out of use, and attaches it again. */
  async reattach(pair: AdapterPair): Promise<void> {
    const { hn, device } = pair;
    if (hn === undefined) return;
    pair.hn = undefined;
    await hn.detach();
    if (device === undefined) return;
    const attaching = this.#again(pair, device);
    this.begin(attaching);
    await attaching;
  }

  /** Takes every adapter out of use and leaves the bus. */
  async shutdown(): Promise<void> {
    await this.settled();
    await Promise.all(this.everAttached.map((hn) => hn.detach()));
    await this.disconnect();
    for (const { host } of this.adapters) host.close();
  }

  protected override contextOf(device: VmbusDevice): ControlContext<NetvscQueueHalf> {
    const context = super.contextOf(device);
    const pair = this.#byId.get(device.instanceId as Guid)!;
    return {
      ...context,
      startQueue: (cpu, description, told) => {
        this.#channels.set((description as NetvscQueueDescription).channel.relid, pair);
        return context.startQueue(cpu, description, told);
      },
    };
  }

  /** Tries until the device is attached, or gone. An attempt may fail by a fault, which happens a few times at most; no other. */
  protected override async attach(device: VmbusDevice): Promise<void> {
    const pair = this.#byId.get(device.instanceId as Guid)!;
    pair.device = device;
    void device.rescinded.then(() => {
      if (pair.device === device) pair.device = undefined;
    });
    let spoiled = true;
    while (spoiled && pair.device === device) {
      const { faults } = pair.host.counters;
      try {
        const hn = await attachNetvsc(this.contextOf(device), pair.plan.guest);
        this.#use(pair, hn, device);
        await hn.setFilter(USUAL_FILTER);
        return;
      } catch (error) {
        this.attachErrors.push(error);
        if (pair.hn !== undefined) return;
        spoiled = pair.host.counters.faults > faults;
        await new Promise<void>((resolve) => void this.timers.after(RETRY_MS, resolve));
      }
    }
  }

  async #again(pair: AdapterPair, device: VmbusDevice): Promise<void> {
    if (pair.device === device) await this.attach(device);
  }

  #use(pair: AdapterPair, hn: NetvscInterface, device: VmbusDevice): void {
    this.everAttached.push(hn);
    pair.hn = hn;
    hn.on({
      gone: (error) => {
        this.losses.push(error.code);
        if (pair.hn !== hn) return;
        pair.hn = undefined;
        // A fault may have ended the interface, and not the device: somebody attaches it again.
        this.begin(hn.detach().then(() => this.#again(pair, device)));
      },
    });
  }
}
