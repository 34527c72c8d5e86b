/**
 * The data buffer of one request: runs of guest memory, already checked. One object serves every request of a
 * channel, so it is valid only during the call that it is handed to.
 */
export interface DataBuffer {
  /** Sum of the lengths of all runs. */
  readonly lengthBytes: number;
  /** How many contiguous runs there are. */
  readonly runs: number;
  /** Byte index of a run in `bytes`. */
  runAddress(index: number): number;
  /** Bytes of a run; a sector may lie in several runs. */
  runLength(index: number): number;
  /** The whole of guest memory. Other CPUs may write it at any time. */
  readonly bytes: Uint8Array;
}

/** The buffer of a request without data. */
export const noData: DataBuffer = {
  lengthBytes: 0,
  runs: 0,
  runAddress: () => 0,
  runLength: () => 0,
  bytes: new Uint8Array(0),
};

/** Copies the first `lengthBytes` of `source`, at most as many as there is room, to the start of the buffer. */
export function scatter(buffer: DataBuffer, source: Uint8Array, lengthBytes: number): void {
  const { bytes } = buffer;
  let done = 0;
  for (let run = 0; run < buffer.runs && done < lengthBytes; run++) {
    const address = buffer.runAddress(run);
    const piece = Math.min(buffer.runLength(run), lengthBytes - done);
    bytes.set(source.subarray(done, done + piece), address);
    done += piece;
  }
}

/** Copies the first `lengthBytes` of the buffer, at most as many as there are, to the start of `target`. */
export function gather(buffer: DataBuffer, target: Uint8Array, lengthBytes: number): void {
  const { bytes } = buffer;
  let done = 0;
  for (let run = 0; run < buffer.runs && done < lengthBytes; run++) {
    const address = buffer.runAddress(run);
    const piece = Math.min(buffer.runLength(run), lengthBytes - done);
    target.set(bytes.subarray(address, address + piece), done);
    done += piece;
  }
}
