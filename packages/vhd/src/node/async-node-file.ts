import { fdatasync, readv, writev } from "node:fs";
import { type AsyncFile, type Ended } from "../block-file.js";
import { zeroBytes } from "../zero-bytes.js";
import { fileError, isInterrupted } from "./file-error.js";

/**
 * The calls of an open file that end later, on Node's thread pool: as many are at work at once as it has
 * threads (`UV_THREADPOOL_SIZE`, 4 unless told), the rest waits there.
 */
export class AsyncNodeFile implements AsyncFile {
  readonly #path: string;
  readonly #descriptor: number;
  readonly #wroteUpTo: (position: number) => void;

  /** @param wroteUpTo - Is told where each write has ended. */
  constructor(path: string, descriptor: number, wroteUpTo: (position: number) => void) {
    this.#path = path;
    this.#descriptor = descriptor;
    this.#wroteUpTo = wroteUpTo;
  }

  read(position: number, targets: readonly Uint8Array[], ended: Ended): void {
    readv(this.#descriptor, targets, position, (error, count) => {
      if (error !== null) {
        if (isInterrupted(error)) this.read(position, targets, ended);
        else ended(fileError(error, this.#path, "reading", position));
        return;
      }
      const rest = withoutFirst(targets, count);
      if (rest.length > 0 && count > 0) {
        this.read(position + count, rest, ended);
        return;
      }
      // What lies past the end of the file reads as zero.
      for (const target of rest) zeroBytes(target, 0, target.byteLength);
      ended();
    });
  }

  write(position: number, sources: readonly Uint8Array[], ended: Ended): void {
    writev(this.#descriptor, sources, position, (error, count) => {
      if (error !== null) {
        if (isInterrupted(error)) this.write(position, sources, ended);
        else ended(fileError(error, this.#path, "writing", position));
        return;
      }
      this.#wroteUpTo(position + count);
      const rest = withoutFirst(sources, count);
      if (rest.length > 0) this.write(position + count, rest, ended);
      else ended();
    });
  }

  flush(ended: Ended): void {
    fdatasync(this.#descriptor, (error) =>
      ended(error === null ? undefined : fileError(error, this.#path, "flushing")),
    );
  }
}

/** What is left of some arrays behind their first `count` bytes. */
function withoutFirst(arrays: readonly Uint8Array[], count: number): readonly Uint8Array[] {
  let left = count;
  for (let index = 0; index < arrays.length; index++) {
    const { byteLength } = arrays[index]!;
    if (left < byteLength) return [arrays[index]!.subarray(left), ...arrays.slice(index + 1)];
    left -= byteLength;
  }
  return [];
}
