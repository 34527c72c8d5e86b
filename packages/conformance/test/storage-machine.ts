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
  RamDisk,
  ScsiDisk,
  StorvspController,
  type StorvspControllerOptions,
} from "@hyperv-is/hyperv-host";
import type { VmbusDevice } from "@hyperv-is/vmbus-core";
import { DeviceClass, type Guid } from "@hyperv-is/vmbus-core/protocol";
import type { Actor } from "@hyperv-is/conformance";
import { SimulatedMachine, type SimulatedMachineOptions } from "./simulated-machine.js";

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

export interface StorageMachineOptions extends SimulatedMachineOptions {
  readonly controllers: readonly ControllerPlan[];
}

/** A disk at both ends. */
export interface DiskPair {
  readonly instanceId: Guid;
  readonly plan: DiskPlan;
  readonly backend: RamDisk;
}

/** How often a host looks at the monitor page. */
const MONITOR_MS = 1;

const instance = (index: number): Guid => `5107a9e0-0000-0000-0000-00000000000${index}`;

/** A machine with our storage driver and our host's controllers. */
export class StorageMachine extends SimulatedMachine<StorvscQueueHalf> {
  readonly disks: readonly DiskPair[];
  readonly hostControllers: readonly StorvspController[];
  readonly #plans: ReadonlyMap<Guid, ControllerPlan>;
  readonly #attached = new Map<Guid, StorvscController>();
  readonly #everAttached: StorvscController[] = [];

  constructor(options: StorageMachineOptions) {
    super(options, driver);
    const { controllers, workers } = options;
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
  }

  /** Connects, and attaches every controller that is offered, now and later. */
  boot(): Promise<void> {
    this.#watchMonitors();
    return this.connect(DeviceClass.scsi.classId);
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
    return this.halves.map(({ queue }) => queue);
  }

  /** Takes every controller out of use and leaves the bus. */
  async shutdown(): Promise<void> {
    await this.settled();
    await Promise.all(this.#everAttached.map((controller) => controller.detach()));
    await this.disconnect();
  }

  protected override async attach(device: VmbusDevice): Promise<void> {
    const instanceId = device.instanceId as Guid;
    const plan = this.#plans.get(instanceId)!;
    try {
      const context = this.contextOf(device);
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
        if (this.isOff) return;
        this.simulation.wake(look);
        arm();
      });
    };
    arm();
  }
}
