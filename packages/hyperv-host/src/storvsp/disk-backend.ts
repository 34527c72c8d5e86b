/** `code` of the error that a backend throws when it cannot be written at all. */
export const READ_ONLY_CODE = "ERR_IMAGE_READ_ONLY";

/** `code` of the error that a backend throws when there is no space for what was written. */
export const NO_SPACE_CODE = "ERR_IMAGE_NO_SPACE";

/**
 * Where a LUN keeps its blocks: a disk image, or memory. Matched by shape (`VirtualDisk` of
 * `@hyperv-is/vhd` is one).
 *
 * Calls are synchronous and take a window of the caller's array, which may lie over shared memory; the backend
 * keeps no reference to it. Positions and lengths are whole logical sectors inside the disk. A call that cannot
 * do its work throws: the guest then sees a medium error, or what the codes above stand for, and the disk lives on.
 */
export interface DiskBackend {
  readonly readOnly: boolean;
  /** A multiple of `logicalSectorBytes`. May change between two calls: the guest then gets a unit attention. */
  readonly sizeBytes: number;
  /** A power of two from 512 to 4096. */
  readonly logicalSectorBytes: number;
  /** A power of two, not below `logicalSectorBytes`. */
  readonly physicalSectorBytes: number;
  /** 16 bytes by which the guest tells disks apart. */
  readonly identity: Uint8Array;
  /** Sectors that were never written read as zero. */
  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void;
  /** The data is durable after the next `flush`. */
  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void;
  /** Everything written before is durable when this returns. */
  flush(): void;
  /** The range is no longer needed; what it then reads as is the backend's choice. */
  unmap(position: number, lengthBytes: number): void;
  /**
   * The first position at or after `position`, which is inside the disk, that may hold something else than zeros;
   * `sizeBytes` when there is none. A whole sector, as is that of `nextHole`. Without both methods all of the disk
   * counts as data.
   */
  nextData?(position: number): number;
  /** The first position at or after `position` that is known to be zeros because it takes no room; `sizeBytes` when there is none. */
  nextHole?(position: number): number;
}
