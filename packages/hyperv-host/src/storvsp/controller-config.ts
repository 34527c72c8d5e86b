import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { ScsiAddress } from "./lun-table.js";
import type { RamDiskOptions } from "./ram-disk.js";
import type { StorvspControllerOptions } from "./storvsp-controller.js";

/** Where the blocks of a disk are. */
export type DiskSource =
  /** A VHD or VHDX file. */
  | { readonly kind: "image"; readonly path: string; readonly readOnly?: boolean }
  /** Memory of the host, zeroed, gone with it. */
  | ({ readonly kind: "ram" } & RamDiskOptions);

/** A disk on its controller: plain data. */
export interface DiskConfig extends ScsiAddress {
  readonly source: DiskSource;
}

/** A SCSI controller: plain data, fit for a worker. */
export interface ControllerConfig extends StorvspControllerOptions {
  readonly instanceId: Guid;
  readonly disks: readonly DiskConfig[];
}

/** What a controller and its disks have done. */
export interface ControllerStats {
  readonly instanceId: Guid;
  readonly requests: number;
  readonly completionsDelayed: number;
  readonly faults: number;
  readonly disks: readonly (ScsiAddress & {
    readonly reads: number;
    readonly readBytes: number;
    readonly writes: number;
    readonly writtenBytes: number;
    readonly flushes: number;
    readonly unmaps: number;
    readonly errors: number;
    readonly lastError: string | undefined;
  })[];
}
