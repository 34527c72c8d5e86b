import type { DiskCompletions, DiskQueue } from "@hyperv-is/hv-storvsc";
import type { RealTimeClock } from "@hyperv-is/vmbus-core";
import type { GuestNetwork } from "../net/guest-network.js";
import type { Kthreads } from "../smp/kthreads.js";
import type { BlockDevice, GuestBuffer } from "./block-device.js";
import type { Device } from "./device-tree.js";
import type { LinkerFiles } from "./linker-files.js";
import type { MessageBuffer } from "./message-buffer.js";
import type { SysctlTree } from "./sysctl.js";

/** What `uname` says. */
export interface SystemIdentity {
  /** `FreeBSD`: whose conventions the console follows. */
  readonly type: string;
  readonly hostName: string;
  readonly release: string;
  /** The long text; says that this is a guest in user space and no FreeBSD kernel. */
  readonly version: string;
  readonly machine: string;
}

/** One offer of the host, claimed by a driver or not. */
export interface OfferedChannel {
  readonly relid: number;
  readonly subChannelIndex: number;
  readonly classId: string;
  readonly instanceId: string;
  /** CPU that the channel is bound to; undefined while it is not open. */
  readonly cpu: number | undefined;
}

/** A part of a disk that takes room on it as a whole, or not at all. In bytes. */
export interface DiskExtent {
  readonly position: number;
  readonly lengthBytes: number;
  readonly isHole: boolean;
}

/** A SCSI disk at its place. */
export interface CamDisk {
  /** `da0`. */
  readonly name: string;
  /** `pass0`. */
  readonly passName: string;
  /** Name and unit of the SIM: `storvsc0`. */
  readonly simName: string;
  readonly scbus: number;
  readonly target: number;
  readonly lun: number;
  readonly vendor: string;
  readonly product: string;
  readonly revision: string;
  /** Serial number or identity that `diskinfo -v` shows; empty if the disk has none. */
  readonly ident: string;
  readonly unmapSupported: boolean;
  /** Holes read as zeros. */
  readonly unmappedReadsZero: boolean;
  /** The disk says that it turns. */
  readonly isRotational: boolean;
  readonly writeCache: boolean;
  readonly blocks: number;
  readonly device: BlockDevice;
  /** Standard INQUIRY data, as the disk gave it last. */
  inquiry(): Promise<Uint8Array>;
  /** TEST UNIT READY. */
  testUnitReady(): Promise<void>;
  /** Depth that `openQueue` can give now. */
  readonly queueDepthMax: number;
  /** Opens the driver's fast path, as `ScsiDisk.openQueue`. */
  openQueue(depth: number, completions: DiskCompletions): DiskQueue;
  /**
   * Extents in a row from `position` on, as many as one command tells, at least one; undefined when the disk cannot
   * tell. Rejects with an `IoError`.
   */
  allocation(position: number): Promise<readonly DiskExtent[] | undefined>;
  /** READ CAPACITY, asked anew. */
  readCapacity(): Promise<{ readonly lastBlock: number; readonly blockBytes: number }>;
}

/** A SCSI bus: a controller as `camcontrol devlist -b` lists it. */
export interface CamBus {
  readonly scbus: number;
  /** `storvsc0`; `xpt0` for the transport layer's own. */
  readonly simName: string;
}

/** The running guest, as its console sees it. */
export interface GuestSystem {
  readonly identity: SystemIdentity;
  readonly dmesg: MessageBuffer;
  readonly sysctl: SysctlTree;
  /** Root of the device tree. */
  readonly devices: Device;
  readonly linker: LinkerFiles;
  readonly offers: readonly OfferedChannel[];
  readonly buses: readonly CamBus[];
  readonly disks: readonly CamDisk[];
  readonly kthreads: Kthreads;
  readonly network: GuestNetwork;
  /** The wall clock. */
  readonly realTime: RealTimeClock;
  /** Pages from the guest's memory for a program; throws `ERR_NO_MEMORY` when there are none. */
  allocateBuffer(lengthBytes: number): GuestBuffer;
  /** Flushes the disks, detaches the drivers and leaves the bus; the machine then powers off. */
  shutdown(): Promise<void>;
}
