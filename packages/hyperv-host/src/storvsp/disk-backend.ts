import type { DataBuffer } from "./data-buffer.js";

/** `code` of the error that a backend throws when it cannot be written at all. */
export const READ_ONLY_CODE = "ERR_IMAGE_READ_ONLY";

/** `code` of the error that a backend throws when there is no space for what was written. */
export const NO_SPACE_CODE = "ERR_IMAGE_NO_SPACE";

/**
 * Where a LUN keeps its blocks, for what answers at once: an image in the page cache or on a fast device, or
 * memory. Matched by shape (`VirtualDisk` of `@hyperv-is/vhd` is one).
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
  /**
   * `read` and `write` by the number of the first sector, for backends that care: up to 1 TiB that is a small
   * integer to the engine, while a position above 2 GiB takes memory whenever it is passed on.
   */
  readSectors?(sector: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void;
  writeSectors?(
    sector: number,
    source: Uint8Array,
    sourceOffset: number,
    lengthBytes: number,
  ): void;
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

/**
 * Called once when a call has ended, perhaps before it returns.
 *
 * @param error - what the same call of a `DiskBackend` would have thrown; undefined if this one did its work.
 */
export type BackendEnded = (error?: unknown) => void;

/**
 * Where a LUN keeps its blocks, for what is slow to answer: calls end later, many are in flight, and they end in
 * any order. Matched by shape (`ConcurrentDisk` of `@hyperv-is/vhd` is one).
 *
 * Buffers are the call's until it has ended, and the backend moves data straight from or to them. Of calls in
 * flight that overlap no order is asked for.
 */
export interface AsyncDiskBackend {
  /** The same disk: its properties and where it has data at any time, its other calls inside `whenIdle` only. */
  readonly disk: DiskBackend;
  /** To the start of the buffer. */
  read(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void;
  /** From the start of the buffer. The data is durable after a `flush` that comes later. */
  write(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void;
  /** Makes durable what all earlier writes wrote, those in flight included. */
  flush(ended: BackendEnded): void;
  /** Calls `work` once every earlier call has ended; no later one begins before it returns. */
  whenIdle(work: () => void): void;
  /** Does what earlier calls have kept to be done together, and ends them; who makes calls also makes this one, after some. */
  carryOut?(): void;
}
