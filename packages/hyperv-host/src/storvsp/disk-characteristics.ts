import { RotationRate } from "@hyperv-is/hv-storvsc/protocol";

/** What a disk tells about itself besides its size and its sectors. */
export interface DiskCharacteristics {
  /** Vital product data page 80; empty when the disk has none. */
  readonly serialNumber: Uint8Array;
  /** UNMAP works, and the pages that say so are there. */
  readonly unmap: boolean;
  /** Whole blocks that the disk can give back are multiples of this. */
  readonly unmapGranularityBlocks: number;
  /** MODE SENSE says that FUA is supported. */
  readonly forceUnitAccess: boolean;
  /** The write cache is on, so that the guest flushes. */
  readonly writeCache: boolean;
  /** GET LBA STATUS is answered. */
  readonly lbaStatus: boolean;
  /**
   * GET LBA STATUS tells what the backend knows to take no room, and READ CAPACITY(16) that this reads as zeros
   * (LBPRZ). Off, all of the disk is mapped, as the reference host has it.
   */
  readonly tellsHoles: boolean;
  /** Revolutions per minute, or a `RotationRate`. */
  readonly rotationRate: number;
  /** Largest transfer of one request; limits WRITE SAME. */
  readonly transferBytesMax: number;
}

/** A thin, solid-state disk with a write cache: what Hyper-V shows for a dynamic VHDX. */
export const defaultCharacteristics: DiskCharacteristics = {
  serialNumber: new Uint8Array(0),
  unmap: true,
  unmapGranularityBlocks: 1,
  forceUnitAccess: true,
  writeCache: true,
  lbaStatus: false,
  tellsHoles: false,
  rotationRate: RotationRate.nonRotating,
  transferBytesMax: 8 * 1024 * 1024,
};

/** WRITE SAME writes at most this much. */
export const WRITE_SAME_BYTES_MAX = 8 * 1024 * 1024;

/** A serial number must fit into its page with one byte of length, which is all that some guests read. */
export const SERIAL_NUMBER_BYTES_MAX = 252;
