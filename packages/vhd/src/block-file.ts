/**
 * The file below an image: bytes at positions, nothing else.
 *
 * All calls are synchronous, because an image belongs to one worker that does nothing but disk work,
 * and a synchronous read lands in guest memory without a copy or an allocation. Positions and lengths
 * are bytes and stay below 2^53. A failed call throws whatever the platform throws (a full file
 * system included); the image above decides what that means.
 */
export interface BlockFile {
  /** Opened without the right to change it; `write` and `truncate` then throw. */
  readonly readOnly: boolean;
  /** Current size; grows with writes past the end. */
  readonly sizeBytes: number;
  /** Fills `lengthBytes` of `target` from `targetOffset` on; what lies past the end of the file reads as zero. */
  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void;
  /** Writes the whole range or throws; a gap between the old end and `position` reads as zero. */
  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void;
  /** Cuts or extends (with zeros) to `sizeBytes`. */
  truncate(sizeBytes: number): void;
  /** Returns when everything written before is durable. */
  flush(): void;
  /** Releases the file and its lock; no call may follow. */
  close(): void;
  /** The open file of the system, for whoever moves its data by other calls of it; undefined if they are not just that. */
  readonly descriptor?: number | undefined;
  /** The same file for calls that end later, where the platform has them. */
  readonly later?: AsyncFile | undefined;
}

/**
 * Called once when a call has ended, perhaps before it returns.
 *
 * @param error - What a synchronous call would have thrown; undefined when this one did its work.
 */
export type Ended = (error?: unknown) => void;

/**
 * A file whose calls end later, in any order, many at a time and beside those of its `BlockFile`. Arrays
 * belong to the call until it has ended, and may lie over shared memory.
 */
export interface AsyncFile {
  /** As `BlockFile.read`, into one array after the other. */
  read(position: number, targets: readonly Uint8Array[], ended: Ended): void;
  /** As `BlockFile.write`, from one array after the other. */
  write(position: number, sources: readonly Uint8Array[], ended: Ended): void;
  /** Makes durable what was written by calls that had ended before this one began. */
  flush(ended: Ended): void;
}
