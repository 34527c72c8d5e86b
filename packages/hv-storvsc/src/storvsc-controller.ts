import type { ChannelClosedReason, Timer } from "@hyperv-is/vmbus-core";
import { CommandExecutor, type ScsiResult } from "./command-executor.js";
import { ScsiError, StorvscError } from "./errors.js";
import { LogicalUnit, type UnitCommand } from "./logical-unit.js";
import type { StorvscParameters } from "./negotiation.js";
import { PeripheralType, StorageClassId } from "./protocol/index.js";
import { scanBus, scanUnit, type FoundUnit, type ScannedUnit } from "./scan.js";
import { ScsiDisk, type DiskEvents } from "./scsi-disk.js";
import type { StorvscChannel } from "./storvsc-channel.js";
import type { StorvscContext } from "./storvsc-context.js";
import type { StorvscQueue } from "./storvsc-queue.js";
import { SubChannels, type SubChannelOptions } from "./sub-channels.js";

/** News about a disk of a controller. */
export interface DiskChange {
  readonly kind: "added" | "removed" | "resized" | "changed";
  readonly disk: ScsiDisk;
}

/** What a scan looks at. */
export interface BusLayout {
  /** Targets, and LUNs of each, from 0 on. */
  readonly targets: number;
  readonly luns: number;
  /** The only unit of a controller that is not scanned: a disk of the IDE controller. */
  readonly only: { readonly target: number; readonly lun: number } | undefined;
}

/** What a controller is told by the half that attaches it. */
export interface ControllerOptions {
  readonly layout: BusLayout;
  /** How long `detach` waits for requests in flight. */
  readonly drainTimeoutMs: number;
  /** How often disks are asked whether they have news; 0: never. */
  readonly pollIntervalMs: number;
  readonly subChannels: SubChannelOptions;
}

/**
 * An attached controller, and the disks behind it. Lives on the CPU of the primary channel, as do its disks,
 * whose requests go there. Code on other CPUs uses the disks by their sub-channels: `StorvscQueueHalf.disks`.
 */
export class StorvscController implements DiskEvents {
  /** Which of Hyper-V's controllers it stands for: FreeBSD names them storvsc and blkvsc. */
  readonly kind: "scsi" | "ide";
  readonly parameters: StorvscParameters;
  /** The queue of the primary channel. */
  readonly queue: StorvscQueue;
  readonly #primary: StorvscChannel;
  readonly #subChannels: SubChannels;
  readonly #context: StorvscContext;
  readonly #options: ControllerOptions;
  readonly #executor: CommandExecutor;
  readonly #listeners = new Set<(change: DiskChange) => void>();
  readonly #disks: ScsiDisk[] = [];
  #units: readonly FoundUnit[] = [];
  #scanning: Promise<void> | undefined;
  #scanWanted = false;
  #scans = 0;
  /** A scan holds what it found against what was there. */
  #comparing = false;
  #detaching: Promise<void> | undefined;

  /** Throws `ERR_STORVSC_MEMORY` when there is no room for a buffer. The primary's `queue` is configured. */
  constructor(
    context: StorvscContext,
    primary: StorvscChannel,
    queue: StorvscQueue,
    parameters: StorvscParameters,
    options: ControllerOptions,
  ) {
    this.kind = context.device.classId === StorageClassId.ide ? "ide" : "scsi";
    this.parameters = parameters;
    this.queue = queue;
    this.#primary = primary;
    this.#context = context;
    this.#options = options;
    this.#executor = new CommandExecutor(queue, context.timers);
    queue.events = {
      busChanged: () => this.lunsChanged(),
      closed: (reason) => this.#closed(reason),
    };
    void context.device.rescinded.then(() => queue.stop("rescinded"));
    this.#subChannels = new SubChannels(context, primary.cpu, parameters, options.subChannels, {
      disks: () => this.#disks.map(({ description }) => description),
      diskNews: (channel, target, lun) => void this.#lookFor(channel, target, lun),
      lunsChanged: () => this.lunsChanged(),
    });
    this.#armPoll();
  }

  /** Finds the disks, and has the sub-channels opened. Rejects as `rescan` does. */
  async start(): Promise<void> {
    await Promise.all([this.rescan(), this.#subChannels.request(this.queue)]);
  }

  /** The open channels, the primary first. */
  get channels(): readonly StorvscChannel[] {
    return [this.#primary, ...this.#subChannels.list];
  }

  /** The disks that are there, by target and LUN. */
  get disks(): readonly ScsiDisk[] {
    return [...this.#disks];
  }

  /** Everything that answered the last scan, disks included. */
  get units(): readonly FoundUnit[] {
    return this.#units;
  }

  /** Calls back for each change of the disks; returns what ends that. */
  onChange(listener: (change: DiskChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Looks at the whole bus again. Calls while a scan runs share the one that follows it. Rejects with
   * `StorvscError` when the controller goes away.
   */
  rescan(): Promise<void> {
    this.#scanWanted = true;
    this.#scanning ??= this.#scan().finally(() => (this.#scanning = undefined));
    return this.#scanning;
  }

  /** Sends any command to any address, with retries. */
  perform(target: number, lun: number, command: UnitCommand): Promise<ScsiResult> {
    const unit = new LogicalUnit(this.#executor, target, lun);
    return unit.perform(command);
  }

  /**
   * Takes the controller out of use: no new requests, those in flight may finish, then the channels close.
   * Never rejects; memory that the host may still use is leaked. Idempotent.
   */
  detach(): Promise<void> {
    this.#detaching ??= this.#detach();
    return this.#detaching;
  }

  lunsChanged(): void {
    // A scan fails only when the controller goes away, and that is told in its own way.
    if (this.#detaching === undefined) this.rescan().catch(() => undefined);
  }

  changed(disk: ScsiDisk, resized: boolean): void {
    this.#subChannels.publish();
    this.#tell(resized ? "resized" : "changed", disk);
  }

  lost(disk: ScsiDisk): void {
    const at = this.#disks.indexOf(disk);
    if (at < 0) return;
    this.#disks.splice(at, 1);
    this.#subChannels.publish();
    this.#tell("removed", disk);
    // Something may be in its place already; a scan that finds a disk gone looks there itself.
    if (!this.#comparing) this.lunsChanged();
  }

  /** What there is to know about the controller, as plain JSON; counters have FreeBSD's names. A channel whose CPU is gone is left out. */
  async inspect(): Promise<Record<string, unknown>> {
    const channels = this.channels.map((channel) => channel.inspect().catch(() => undefined));
    const inspected = await Promise.all(channels);
    return {
      kind: this.kind,
      parameters: { ...this.parameters },
      scans: this.#scans,
      subChannelsOffered: this.#subChannels.offered,
      orphans: this.#executor.orphans,
      channels: inspected.filter((channel) => channel !== undefined),
      disks: this.#disks.map((disk) => disk.inspect()),
    };
  }

  /** A disk has said something on a sub-channel: what that means is for this CPU to find out. */
  async #lookFor(channel: StorvscChannel, target: number, lun: number): Promise<void> {
    const disk = this.#disks.find((candidate) => sameAddress(candidate, { target, lun }));
    // A look that fails is made again when the next command meets the same.
    await disk?.lookAgain().catch(() => undefined);
    // Whatever it found: that CPU may have given up a disk that is there.
    this.#subChannels.publishTo(channel);
  }

  async #scan(): Promise<void> {
    while (this.#scanWanted) {
      this.#scanWanted = false;
      this.#scans++;
      const scanned = await this.#look();
      this.#units = scanned.filter((unit): unit is FoundUnit => unit.inquiry !== undefined);
      const unknown = scanned.filter((unit) => unit.unknown);
      const found = this.#units.filter(
        (unit) => unit.inquiry.peripheralType === PeripheralType.disk,
      );
      this.#comparing = true;
      try {
        for (const disk of [...this.#disks])
          if (![...found, ...unknown].some((unit) => sameAddress(unit, disk))) disk.lost();
        await Promise.all(found.map((unit) => this.#check(unit)));
      } finally {
        this.#comparing = false;
      }
      const fresh = found.filter((unit) => !this.#disks.some((disk) => sameAddress(unit, disk)));
      const attached = await Promise.all(fresh.map((unit) => this.#attach(unit)));
      for (const disk of attached) if (disk !== undefined) this.#add(disk);
    }
  }

  async #look(): Promise<readonly ScannedUnit[]> {
    const { targets, luns, only } = this.#options.layout;
    const { version } = this.parameters;
    if (only !== undefined) return [await scanUnit(this.#executor, only.target, only.lun, version)];
    return scanBus(this.#executor, { targets, luns, version, known: this.#disks });
  }

  /** Lets a disk that was there before find out whether it is still the same. */
  async #check(unit: FoundUnit): Promise<void> {
    const disk = this.#disks.find((candidate) => sameAddress(unit, candidate));
    try {
      await disk?.lookAgain();
    } catch (error) {
      if (!(error instanceof ScsiError)) throw error;
      this.#context.log(`target ${unit.target} lun ${unit.lun}: ${error.message}`);
    }
  }

  /** A disk that cannot say what it is stays out; the next scan tries again. */
  async #attach(unit: FoundUnit): Promise<ScsiDisk | undefined> {
    try {
      return await ScsiDisk.attach(this.#executor, unit, this);
    } catch (error) {
      if (!(error instanceof ScsiError)) throw error;
      this.#context.log(`target ${unit.target} lun ${unit.lun}: not attached: ${error.message}`);
      return undefined;
    }
  }

  #add(disk: ScsiDisk): void {
    this.#disks.push(disk);
    this.#disks.sort((left, right) => left.target - right.target || left.lun - right.lun);
    this.#subChannels.publish();
    this.#tell("added", disk);
  }

  #tell(kind: DiskChange["kind"], disk: ScsiDisk): void {
    for (const listener of [...this.#listeners]) listener({ kind, disk });
  }

  #armPoll(): void {
    const { pollIntervalMs } = this.#options;
    if (pollIntervalMs === 0) return;
    this.#context.timers.after(pollIntervalMs, () => {
      if (this.#detaching !== undefined) return;
      // News comes as a unit attention, which the disk acts on; a failure is for whoever uses the disk.
      const asked = this.#disks.map((disk) => disk.testReady().catch(() => undefined));
      void Promise.all(asked).then(() => this.#armPoll());
    });
  }

  #closed(reason: ChannelClosedReason): void {
    this.#executor.close();
    if (reason === "corrupt") this.#context.log("the host broke the protocol, channel closed");
    this.#end(
      reason === "rescinded"
        ? new StorvscError("ERR_RESCINDED", "the host took the controller away")
        : new StorvscError("ERR_CLOSED", "the controller's channel is closed"),
    );
    void this.detach();
  }

  async #detach(): Promise<void> {
    this.#end(new StorvscError("ERR_CLOSED", "the controller is detached"));
    // A disk that looks at itself again would go on when nothing is in flight, and lose its buffer.
    this.#executor.refuse();
    await this.#drain();
    await this.#subChannels.close();
    await this.#primary.close();
  }

  /** Waits until nothing is in flight on any channel, but not for ever. */
  async #drain(): Promise<void> {
    const { queue } = this;
    const { timers } = this.#context;
    const deadline = timers.now() + this.#options.drainTimeoutMs;
    let timer: Timer | undefined;
    const timeUp = new Promise<void>((resolve) => {
      timer = timers.after(this.#options.drainTimeoutMs, resolve);
    });
    const subChannels = this.#subChannels.drain();
    while (queue.outstanding > 0 && timers.now() < deadline)
      await Promise.race([queue.drained(), timeUp]);
    await Promise.race([subChannels, timeUp]);
    timer?.cancel();
  }

  /** No disk of this controller takes requests any more. */
  #end(reason: StorvscError): void {
    for (const disk of this.#disks.splice(0)) {
      disk.end(reason);
      this.#tell("removed", disk);
    }
  }
}

function sameAddress(
  left: { readonly target: number; readonly lun: number },
  right: { readonly target: number; readonly lun: number },
): boolean {
  return left.target === right.target && left.lun === right.lun;
}
