import { NtStatus as BusStatus, type Guid } from "@hyperv-is/vmbus-core/protocol";
import { findVstorVersion, type VstorVersion } from "@hyperv-is/hv-storvsc/protocol";
import type { HostChannelHandler, HostService, ServiceContext } from "../host-service.js";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import type { ControllerStats, StorvspControllerOptions } from "./controller-config.js";
import { LunTable, type ScsiAddress } from "./lun-table.js";
import type { Initialization, InitializationLimits } from "./initialization.js";
import type { ScsiDisk } from "./scsi-disk.js";
import { StorvspChannel } from "./storvsp-channel.js";

/** What a controller knows of its guest. */
export interface StorvspState {
  readonly initialization: Initialization;
  readonly busChanged: boolean;
}

const OPENVMM_VERSIONS = [0x0200, 0x0402, 0x0501, 0x0600];
const MAX_TRANSFER_BYTES = 256 * 1024;

/** Running totals of a controller, over all its channels. */
export interface StorvspCounters {
  requests: number;
  /** Completions that waited for room in the ring. */
  completionsDelayed: number;
  /** Requests that the fault plan touched. */
  faults: number;
}

/**
 * The storage provider: serves one SCSI controller with all its channels and LUNs, on one host worker.
 * The protocol state belongs to the primary channel; sub-channels carry requests once it is ready.
 */
export class StorvspController implements HostService {
  readonly luns: LunTable;
  readonly limits: InitializationLimits;
  readonly maxTransferBytes: number;
  readonly counters: StorvspCounters = { requests: 0, completionsDelayed: 0, faults: 0 };
  readonly #channels = new Set<StorvspChannel>();
  #initialization: Initialization = { name: "begin" };
  /** The LUNs changed and the guest was not told yet. */
  #busChanged = false;

  constructor(options: StorvspControllerOptions = {}) {
    this.luns = new LunTable(options.absentLun ?? "openvmm");
    this.limits = {
      versions: options.versions ?? OPENVMM_VERSIONS,
      subChannelsMax: options.subChannelsMax ?? 0,
    };
    for (const version of this.limits.versions)
      if (findVstorVersion(version) === undefined)
        throw new RangeError(`there is no storage protocol 0x${version.toString(16)}`);
    this.maxTransferBytes = options.maxTransferBytes ?? MAX_TRANSFER_BYTES;
  }

  get initialization(): Initialization {
    return this.#initialization;
  }

  set initialization(next: Initialization) {
    const wasReady = this.#initialization.name === "ready";
    this.#initialization = next;
    if (next.name !== "ready" || wasReady) return;
    // What changed before the guest could know the LUNs is no news.
    this.#busChanged = false;
    for (const channel of this.#channels) channel.controllerReady();
  }

  /** The negotiated version; undefined before. */
  get version(): VstorVersion | undefined {
    return "version" in this.#initialization ? this.#initialization.version : undefined;
  }

  /** Adds a disk; a guest that is ready is told that its bus changed. */
  attach(address: ScsiAddress, disk: ScsiDisk): void {
    this.luns.attach(address, disk);
    this.#changed();
  }

  /** Takes a disk away; commands that it has begun still end, later ones find no LUN. */
  detach(address: ScsiAddress): ScsiDisk | undefined {
    const disk = this.luns.detach(address);
    if (disk !== undefined) this.#changed();
    return disk;
  }

  /** Plain data for the host's `stats`. */
  stats(instanceId: Guid): ControllerStats {
    const disks = Array.from(this.luns.entries(), ([address, { counters }]) => ({
      ...address,
      reads: counters.reads,
      readBytes: counters.readBytes,
      writes: counters.writes,
      writtenBytes: counters.writtenBytes,
      flushes: counters.flushes,
      unmaps: counters.unmaps,
      errors: counters.errors,
      lastError: counters.lastError?.message,
    }));
    return { instanceId, ...this.counters, disks };
  }

  /** How far the guest has come, as plain data. */
  save(): StorvspState {
    return { initialization: this.#initialization, busChanged: this.#busChanged };
  }

  /** Goes on from there; sub-channels that wait are let go. */
  restore({ initialization, busChanged }: StorvspState): void {
    this.initialization = initialization;
    this.#busChanged ||= busChanged;
  }

  /** True once, when the guest is to be told that the LUNs changed. */
  takeBusChange(): boolean {
    const changed = this.#busChanged && this.#initialization.name === "ready";
    if (changed) this.#busChanged = false;
    return changed;
  }

  open(opening: ChannelOpening, context: ServiceContext): HostChannelHandler | number {
    const primary = opening.subChannelIndex === 0;
    if (!primary && this.#channels.size === 0) return BusStatus.unsuccessful;
    const channel = new StorvspChannel(this, opening, context, () => {
      this.#channels.delete(channel);
      if (primary) this.#initialization = { name: "begin" };
    });
    this.#channels.add(channel);
    return channel;
  }

  #changed(): void {
    this.#busChanged = true;
    if (this.#initialization.name !== "ready" || this.version?.enumerateBus !== true) return;
    for (const channel of this.#channels) channel.busChanged();
  }
}
