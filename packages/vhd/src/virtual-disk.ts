import { type BlockFile } from "./block-file.js";
import { type FlushSteps } from "./flush-steps.js";

/** Which container and which allocation an image has. */
export type ImageFormat = "vhd-fixed" | "vhd-dynamic" | "vhdx-fixed" | "vhdx-dynamic";

/**
 * An open disk image as its user sees it: a range of sectors.
 *
 * Calls are synchronous (see `BlockFile`) and take a window of a caller's array, which may lie over
 * shared memory; the disk keeps no reference to it. `position` and `lengthBytes` must be multiples of
 * `logicalSectorBytes` inside the disk: anything else is a programmer error and asserts.
 * After a failed flush or metadata write the image is poisoned: every later call throws
 * `ERR_IMAGE_POISONED`, whose `cause` is that failure.
 */
export interface VirtualDisk {
  readonly format: ImageFormat;
  readonly readOnly: boolean;
  /** Size of the virtual disk. */
  readonly sizeBytes: number;
  /** 512 or 4096. */
  readonly logicalSectorBytes: number;
  /** 512 or 4096. */
  readonly physicalSectorBytes: number;
  /** 16 bytes that identify the disk: the VHDX virtual disk id, or the VHD unique id. */
  readonly identity: Uint8Array;
  /** Blocks that were never written read as zero. */
  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void;
  /** Throws `ERR_IMAGE_READ_ONLY` on a read-only image; the data is durable after the next `flush`. */
  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void;
  /**
   * `read` by the number of the first sector. Below 1 TiB that is a small integer to the engine, while a position
   * above 2 GiB takes memory whenever it is passed on.
   */
  readSectors(sector: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void;
  /** `write` by the number of the first sector. */
  writeSectors(sector: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void;
  /** Everything written before is durable when this returns. */
  flush(): void;
  /**
   * Tells that the range is no longer needed. Whole blocks of a dynamic VHDX then read as zero, the rest
   * is left alone; a VHD has no such notion and ignores it.
   */
  unmap(position: number, lengthBytes: number): void;
  /**
   * The first position at or after `position` (which may be anything from 0 to `sizeBytes`) that may
   * hold something else than zeros, `sizeBytes` when there is none: what copying programs skip by.
   * Without this method all of the disk counts as data.
   */
  nextData?(position: number): number;
  /**
   * The first position at or after `position`, as above, from which something is known to be zeros because it takes no
   * room in the file; `sizeBytes` when there is none. There with `nextData`, or neither is.
   */
  nextHole?(position: number): number;
  /** Flushes, leaves the image clean, and closes the file, which it does even when it throws. */
  close(): void;
}

/**
 * An open disk image that lets its user move the data between file and memory, beside the calls of
 * `VirtualDisk`: what `ConcurrentDisk` does. Metadata stay the image's own, and change only inside its calls.
 */
export interface MappedDisk extends VirtualDisk {
  /** Where the data are; an image without a log to replay hands its own file out. */
  readonly file: BlockFile;
  /**
   * Where the run that `resolve` found lies in `file`. -1 when the run reads as zero; then it can be
   * written by `write` only, which gives it a place.
   */
  readonly resolvedPosition: number;
  /**
   * Finds for how many bytes from a sector on, up to `lengthBytes`, the disk lies in one piece of the file
   * or reads as zero; `resolvedPosition` says which. The range must be inside the disk. The answer
   * holds until the next `write` or `unmap` of that range.
   */
  resolve(sector: number, lengthBytes: number): number;
  /** Throws what any other call would throw now. @throws ImageError `ERR_IMAGE_POISONED` */
  assertUsable(): void;
  /** Precedes every write to a place that `resolve` has named. Throws what `write` throws. */
  beginWrite(): void;
  /** Follows it, once the data are in the file: the next flush makes them durable. */
  endWrite(): void;
  /**
   * `flush`, step by step; the steps may be left alone once one has thrown. Between two of them data may be
   * moved, while every call that can change metadata (`write` to where nothing is, `unmap`, `flush`,
   * `close`) is a mistake and asserts.
   */
  flushSteps(): FlushSteps;
}
