import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { AbsentLunAnswer, ScsiAddress } from "./lun-table.js";
import type { RamDiskOptions } from "./ram-disk.js";

/**
 * How a disk's file is read and written. `sync`: one call after the other, each done when it returns, reads that wait
 * together in one call if the system can: for files in the page cache or on a fast device. `async`: many calls in
 * flight on a thread pool, so that a slow device holds up nobody but those who wait for it.
 */
export type DiskIo = "sync" | "async";

/** A VHD or VHDX file. */
export interface ImageSource {
  readonly kind: "image";
  readonly path: string;
  readonly readOnly?: boolean;
  /** `sync` unless told. */
  readonly io?: DiskIo;
}

/** Memory of the host, zeroed, gone with it. */
export interface RamSource extends RamDiskOptions {
  readonly kind: "ram";
  /** How long each request takes, as on a device with any number of them in flight: for benchmarks and tests. */
  readonly latencyUs?: number;
}

/** Where the blocks of a disk are. */
export type DiskSource = ImageSource | RamSource;

/** A disk on its controller: plain data. */
export interface DiskConfig extends ScsiAddress {
  readonly source: DiskSource;
  /** The guest may ask which blocks take room (GET LBA STATUS, LBPRZ), which Hyper-V's disks do not tell. */
  readonly tellsHoles?: boolean;
}

/** What a controller offers to its guest: plain data. */
export interface StorvspControllerOptions {
  /** u16 values of the protocol versions to accept; OpenVMM's unless told: 2.0, 4.2, 5.1 and 6.0. */
  readonly versions?: readonly number[];
  /** Sub-channels that the guest may ask for; none unless told. */
  readonly subChannelsMax?: number;
  /** Largest transfer that the guest is told; 256 KiB unless told. */
  readonly maxTransferBytes?: number;
  /** What is answered for a LUN without a disk; as OpenVMM unless told. */
  readonly absentLun?: AbsentLunAnswer;
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
