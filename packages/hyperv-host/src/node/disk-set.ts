import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import { VmbusError, type Timers } from "@hyperv-is/vmbus-core";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import { ConcurrentDisk, type MappedDisk } from "@hyperv-is/vhd";
import { openImageFile } from "@hyperv-is/vhd/node";
import { IoRingBackend } from "./io-ring-backend.js";
import type { HostWorker } from "../host-worker.js";
import type {
  ControllerConfig,
  ControllerStats,
  DiskSource,
} from "../storvsp/controller-config.js";
import { DelayedBackend } from "../storvsp/delayed-backend.js";
import type { AsyncDiskBackend, DiskBackend } from "../storvsp/disk-backend.js";
import { RamDisk } from "../storvsp/ram-disk.js";
import { ScsiDisk } from "../storvsp/scsi-disk.js";
import { StorvspController } from "../storvsp/storvsp-controller.js";

/** A disk image that could not be attached. */
export class DiskError extends VmbusError {
  readonly path: string;

  constructor(path: string, code: string, message: string, options?: ErrorOptions) {
    super(code, message, options);
    this.path = path;
  }
}

/** True if disks have calls in flight on Node's event loop: the thread of their `DiskSet` must serve it. */
export function needsEventLoop(controllers: readonly ControllerConfig[]): boolean {
  return controllers.some(({ disks }) =>
    disks.some(({ source }) => source.kind === "image" && source.io === "async"),
  );
}

/**
 * The SCSI controllers of a machine with their disks, as one host worker has them: the only writer of
 * their images.
 */
export class DiskSet {
  readonly controllers: ReadonlyMap<Guid, StorvspController>;
  readonly #backends: OpenBackends;

  private constructor(controllers: ReadonlyMap<Guid, StorvspController>, backends: OpenBackends) {
    this.controllers = controllers;
    this.#backends = backends;
  }

  /**
   * Opens every image. Rejects with `DiskError` when one cannot be opened; none stays open then.
   *
   * @param timers - of the thread; without them there are no disks with a latency.
   */
  static async open(configs: readonly ControllerConfig[], timers?: Timers): Promise<DiskSet> {
    const backends = new OpenBackends(timers);
    const controllers = new Map<Guid, StorvspController>();
    const set = new DiskSet(controllers, backends);
    try {
      for (const { instanceId, disks, ...options } of configs) {
        const controller = new StorvspController(options);
        for (const { source, tellsHoles = false, ...address } of disks) {
          const backend = await backends.open(source);
          const characteristics = { lbaStatus: tellsHoles, tellsHoles };
          controller.attach(address, new ScsiDisk(backend, characteristics));
        }
        controllers.set(instanceId, controller);
      }
    } catch (error) {
      await set.close();
      throw error;
    }
    return set;
  }

  /** Registers the controllers with the worker that has them. */
  serve(worker: HostWorker): void {
    for (const [instanceId, controller] of this.controllers)
      worker.serve({ classId: StorageClassId.scsi, instanceId }, controller);
  }

  /** True while a disk counts on its thread not to sleep: the ends of its calls are at most microseconds away. */
  get keepsAwake(): boolean {
    return this.#backends.keepAwake;
  }

  stats(): ControllerStats[] {
    return Array.from(this.controllers, ([id, controller]) => controller.stats(id));
  }

  /** Closes every image once its calls in flight have ended; rejects with the first error after all were tried. */
  close(): Promise<void> {
    return this.#backends.close();
  }
}

/** The backends of a set, and what must be closed of them. */
class OpenBackends {
  readonly #timers: Timers | undefined;
  readonly #images: { close(): void | Promise<void> }[] = [];
  readonly #delayed: DelayedBackend[] = [];

  constructor(timers: Timers | undefined) {
    this.#timers = timers;
  }

  get keepAwake(): boolean {
    for (const backend of this.#delayed) if (backend.isBusy) return true;
    return false;
  }

  async open(source: DiskSource): Promise<DiskBackend | AsyncDiskBackend> {
    if (source.kind === "ram") {
      const disk = new RamDisk(source);
      return source.latencyUs === undefined ? disk : this.#delay(disk, source.latencyUs);
    }
    const image = await openDiskImage(source.path, source.readOnly);
    const backend = source.io === "async" ? new ConcurrentDisk(image) : new IoRingBackend(image);
    this.#images.push(backend);
    return backend;
  }

  #delay(disk: RamDisk, latencyUs: number): DelayedBackend {
    if (this.#timers === undefined)
      throw new DiskError("ram", "ERR_DISK", "disks with a latency need a host of several threads");
    const delayed = new DelayedBackend(disk, latencyUs, this.#timers);
    this.#delayed.push(delayed);
    return delayed;
  }

  async close(): Promise<void> {
    const errors: unknown[] = [];
    for (const image of this.#images.splice(0)) {
      try {
        await image.close();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }
}

/** A disk image as a backend, which its owner closes. */
export type OpenDiskImage = MappedDisk;

/** Opens a VHD or VHDX file. Rejects with `DiskError`, whose code is that of the image's error. */
export async function openDiskImage(path: string, readOnly = false): Promise<OpenDiskImage> {
  try {
    return await openImageFile(path, { readOnly });
  } catch (cause) {
    const code = (cause as { readonly code?: string }).code ?? "ERR_DISK";
    throw new DiskError(path, code, cause instanceof Error ? cause.message : String(cause), {
      cause,
    });
  }
}
