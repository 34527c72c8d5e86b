import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import { VmbusError } from "@hyperv-is/vmbus-core";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import { openImageFile } from "@hyperv-is/vhd/node";
import type { HostWorker } from "../host-worker.js";
import type {
  ControllerConfig,
  ControllerStats,
  DiskSource,
} from "../storvsp/controller-config.js";
import type { DiskBackend } from "../storvsp/disk-backend.js";
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

/**
 * The SCSI controllers of a machine with their disks, as one host worker has them: the only writer of
 * their images.
 */
export class DiskSet {
  readonly controllers: ReadonlyMap<Guid, StorvspController>;
  readonly #images: OpenDiskImage[];

  private constructor(controllers: ReadonlyMap<Guid, StorvspController>, images: OpenDiskImage[]) {
    this.controllers = controllers;
    this.#images = images;
  }

  /** Opens every image. Rejects with `DiskError` when one cannot be opened; none stays open then. */
  static async open(configs: readonly ControllerConfig[]): Promise<DiskSet> {
    const images: OpenDiskImage[] = [];
    const controllers = new Map<Guid, StorvspController>();
    const set = new DiskSet(controllers, images);
    try {
      for (const { instanceId, disks, ...options } of configs) {
        const controller = new StorvspController(options);
        for (const { source, tellsHoles = false, ...address } of disks) {
          const backend = await openBackend(source, images);
          const characteristics = { lbaStatus: tellsHoles, tellsHoles };
          controller.attach(address, new ScsiDisk(backend, characteristics));
        }
        controllers.set(instanceId, controller);
      }
    } catch (error) {
      set.close();
      throw error;
    }
    return set;
  }

  /** Registers the controllers with the worker that has them. */
  serve(worker: HostWorker): void {
    for (const [instanceId, controller] of this.controllers)
      worker.serve({ classId: StorageClassId.scsi, instanceId }, controller);
  }

  stats(): ControllerStats[] {
    return Array.from(this.controllers, ([id, controller]) => controller.stats(id));
  }

  /** Closes every image; throws the first error after all were tried. */
  close(): void {
    const errors: unknown[] = [];
    for (const image of this.#images.splice(0)) {
      try {
        image.close();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }
}

/** @param images - gets what must be closed later. */
async function openBackend(source: DiskSource, images: OpenDiskImage[]): Promise<DiskBackend> {
  if (source.kind === "ram") return new RamDisk(source);
  const image = await openDiskImage(source.path, source.readOnly);
  images.push(image);
  return image;
}

/** A disk image as a backend, which its owner closes. */
export type OpenDiskImage = DiskBackend & { close(): void };

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
