/** A run of guest memory that a program reads and writes through, without a copy. */
export interface GuestBuffer {
  /** GPA of the first byte; page aligned. */
  readonly address: number;
  /** The same bytes as an array. */
  readonly bytes: Uint8Array;
  /** Gives the pages back; the buffer must not be used by any I/O any more. */
  free(): void;
}

/** A disk or a partition, as `/dev` shows it. Positions and lengths are bytes, multiples of the block size. */
export interface BlockDevice {
  /** `da0`, `da0p1`. */
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly physicalBlockBytes: number;
  readonly readOnly: boolean;
  /** Largest `lengthBytes` that becomes one command; larger ones are split. */
  readonly maxTransferBytes: number;
  /** Reads into guest memory. Rejects with an `IoError`, as the others do. */
  read(position: number, address: number, lengthBytes: number): Promise<void>;
  /** Writes from guest memory. */
  write(position: number, address: number, lengthBytes: number): Promise<void>;
  /** Resolves when everything written before is durable. */
  flush(): Promise<void>;
  /** Tells that a range is no longer needed. */
  unmap(position: number, lengthBytes: number): Promise<void>;
}
