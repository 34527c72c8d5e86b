import { closeSync, fdatasyncSync, fstatSync, ftruncateSync, readSync, writeSync } from "node:fs";
import { type BlockFile } from "../block-file.js";
import { zeroBytes } from "../zero-bytes.js";
import { AsyncNodeFile } from "./async-node-file.js";
import { fileError, isInterrupted } from "./file-error.js";
import { type Lock } from "./lock.js";

/** One system call transfers less than 2 GiB. */
const MAX_TRANSFER_BYTES = 1 << 30;

/**
 * A `BlockFile` on an open file of the system.
 *
 * Reads and writes go straight between the page cache and the caller's array, shared memory included.
 * Throws `ERR_IMAGE_NO_SPACE` and `ERR_IMAGE_FILE`, each with the system's error as its cause.
 */
export class NodeFile implements BlockFile {
  readonly path: string;
  readonly readOnly: boolean;
  readonly later: AsyncNodeFile;
  readonly descriptor: number;
  readonly #lock: Lock | undefined;
  #sizeBytes: number;

  /** Takes over the descriptor and the lock. */
  constructor(path: string, descriptor: number, readOnly: boolean, lock?: Lock) {
    this.path = path;
    this.readOnly = readOnly;
    this.descriptor = descriptor;
    this.#lock = lock;
    this.#sizeBytes = fstatSync(descriptor).size;
    this.later = new AsyncNodeFile(path, descriptor, (position) => this.#wroteUpTo(position));
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    let done = this.#readSome(position, target, targetOffset, lengthBytes);
    while (done < lengthBytes) {
      const offset = targetOffset + done;
      const count = this.#readSome(position + done, target, offset, lengthBytes - done);
      if (count === 0) {
        zeroBytes(target, offset, targetOffset + lengthBytes);
        return;
      }
      done += count;
    }
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    let done = this.#writeSome(position, source, sourceOffset, lengthBytes);
    while (done < lengthBytes)
      done += this.#writeSome(position + done, source, sourceOffset + done, lengthBytes - done);
  }

  truncate(sizeBytes: number): void {
    try {
      ftruncateSync(this.descriptor, sizeBytes);
    } catch (error) {
      throw fileError(error, this.path, "resizing", sizeBytes);
    }
    this.#sizeBytes = sizeBytes;
  }

  flush(): void {
    try {
      fdatasyncSync(this.descriptor);
    } catch (error) {
      throw fileError(error, this.path, "flushing");
    }
  }

  close(): void {
    try {
      closeSync(this.descriptor);
    } finally {
      // A lock that outlived its file would be of whatever file the system gives the same number next.
      this.#lock?.release();
    }
  }

  /** What one call reads; 0 past the end. The position goes on as it came: a new number above 2 GiB takes memory. */
  #readSome(position: number, target: Uint8Array, offset: number, lengthBytes: number): number {
    const wanted = Math.min(lengthBytes, MAX_TRANSFER_BYTES);
    for (;;) {
      try {
        return readSync(this.descriptor, target, offset, wanted, position);
      } catch (error) {
        if (!isInterrupted(error)) throw fileError(error, this.path, "reading", position);
      }
    }
  }

  #writeSome(position: number, source: Uint8Array, offset: number, lengthBytes: number): number {
    const wanted = Math.min(lengthBytes, MAX_TRANSFER_BYTES);
    for (;;) {
      try {
        const count = writeSync(this.descriptor, source, offset, wanted, position);
        this.#wroteUpTo(position + count);
        return count;
      } catch (error) {
        if (!isInterrupted(error)) throw fileError(error, this.path, "writing", position);
      }
    }
  }

  #wroteUpTo(position: number): void {
    if (position > this.#sizeBytes) this.#sizeBytes = position;
  }
}
