import { closeSync, fdatasyncSync, fstatSync, ftruncateSync, readSync, writeSync } from "node:fs";
import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
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
  readonly #descriptor: number;
  readonly #lock: Lock | undefined;
  #sizeBytes: number;

  /** Takes over the descriptor and the lock. */
  constructor(path: string, descriptor: number, readOnly: boolean, lock?: Lock) {
    this.path = path;
    this.readOnly = readOnly;
    this.#descriptor = descriptor;
    this.#lock = lock;
    this.#sizeBytes = fstatSync(descriptor).size;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    const end = targetOffset + lengthBytes;
    while (targetOffset < end) {
      const wanted = Math.min(end - targetOffset, MAX_TRANSFER_BYTES);
      try {
        const count = readSync(this.#descriptor, target, targetOffset, wanted, position);
        if (count === 0) {
          target.fill(0, targetOffset, end);
          return;
        }
        targetOffset += count;
        position += count;
      } catch (error) {
        if (!isInterrupted(error)) throw fileError(error, this.path, "reading", position);
      }
    }
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    const end = sourceOffset + lengthBytes;
    while (sourceOffset < end) {
      const wanted = Math.min(end - sourceOffset, MAX_TRANSFER_BYTES);
      try {
        const count = writeSync(this.#descriptor, source, sourceOffset, wanted, position);
        sourceOffset += count;
        position += count;
      } catch (error) {
        if (!isInterrupted(error)) throw fileError(error, this.path, "writing", position);
      }
      if (position > this.#sizeBytes) this.#sizeBytes = position;
    }
  }

  truncate(sizeBytes: number): void {
    try {
      ftruncateSync(this.#descriptor, sizeBytes);
    } catch (error) {
      throw fileError(error, this.path, "resizing", sizeBytes);
    }
    this.#sizeBytes = sizeBytes;
  }

  flush(): void {
    try {
      fdatasyncSync(this.#descriptor);
    } catch (error) {
      throw fileError(error, this.path, "flushing");
    }
  }

  close(): void {
    closeSync(this.#descriptor);
    this.#lock?.release();
  }
}

function isInterrupted(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EINTR";
}

/** What the system says about a file, as an `ImageError` that names the file. */
export function fileError(
  error: unknown,
  path: string,
  doing: string,
  offset?: number,
): ImageError {
  const { code = "", message } = error as NodeJS.ErrnoException;
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG") {
    const limit = code === "EFBIG" ? "the file system allows no larger file" : "no space is left";
    const text = `${doing} failed, ${limit} (${code})`;
    return new ImageError("ERR_IMAGE_NO_SPACE", { structure: path, offset, text, cause: error });
  }
  const text = `${doing} failed: ${reasons[code] ?? message}`;
  return new ImageError("ERR_IMAGE_FILE", { structure: path, offset, text, cause: error });
}

/** System errors in a user's words. */
const reasons: Readonly<Record<string, string | undefined>> = {
  ENOENT: "there is no such file or directory (ENOENT)",
  ENOTDIR: "a part of the path is no directory (ENOTDIR)",
  EACCES: "permission denied (EACCES)",
  EPERM: "operation not permitted (EPERM)",
  EROFS: "the file system is read-only (EROFS)",
  EEXIST: "it exists already (EEXIST)",
  EIO: "input/output error (EIO)",
  ELOOP: "too many symbolic links (ELOOP)",
  EMFILE: "too many open files (EMFILE)",
};
