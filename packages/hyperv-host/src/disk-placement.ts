import { VmbusError } from "@hyperv-is/vmbus-core";
import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { ControllerConfig, DiskSource } from "./storvsp/controller-config.js";
import { LUNS_PER_CONTROLLER } from "./storvsp/lun-table.js";

/** SCSI controllers that a machine may have. */
export const CONTROLLERS_MAX = 4;

/** A disk, and the controller that it shall be on. */
export interface DiskPlacement {
  readonly source: DiskSource;
  /** 0 to 3; the first with a free LUN unless given. */
  readonly controller?: number;
  /** As `DiskConfig.tellsHoles`. */
  readonly tellsHoles?: boolean;
}

/** Instance id of the nth SCSI controller of a machine. */
export function scsiControllerId(index: number): Guid {
  return `5c51c000-0000-4000-8000-${index.toString(16).padStart(12, "0")}`;
}

/**
 * Puts disks on controllers, each at the next LUN. A machine without disks still has its first
 * controller, as Hyper-V's have, and controllers before one that is named are there too.
 *
 * Throws `ERR_TOO_MANY_DISKS` if they do not fit.
 */
export function placeDisks(disks: readonly DiskPlacement[]): ControllerConfig[] {
  const placed: DiskPlacement[][] = [[]];
  for (const disk of disks) {
    const { controller: wanted } = disk;
    const free = placed.findIndex((there) => there.length < LUNS_PER_CONTROLLER);
    const index = wanted ?? (free < 0 ? placed.length : free);
    while (placed.length <= index && placed.length < CONTROLLERS_MAX) placed.push([]);
    const there = placed[index];
    if (there === undefined || there.length >= LUNS_PER_CONTROLLER)
      throw new VmbusError(
        "ERR_TOO_MANY_DISKS",
        `no room for disk ${disks.indexOf(disk) + 1}: a machine has ${CONTROLLERS_MAX} controllers of ${LUNS_PER_CONTROLLER}`,
      );
    there.push(disk);
  }
  return placed.map((there, index) => ({
    instanceId: scsiControllerId(index),
    disks: there.map(({ source, tellsHoles }, lun) => ({
      path: 0,
      target: 0,
      lun,
      source,
      ...(tellsHoles !== undefined && { tellsHoles }),
    })),
  }));
}
