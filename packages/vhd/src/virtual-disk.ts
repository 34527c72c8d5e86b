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
