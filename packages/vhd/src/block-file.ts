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
}
