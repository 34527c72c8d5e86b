import { assert } from "../assertion.js";
import { type AsyncFile, type BlockFile } from "../block-file.js";
import { PAGE_BYTES } from "./layout.js";

/**
 * A file that may not be changed, seen as if its log had been replayed: the pages that the log changes
 * lie in memory above it. It takes whole pages at page offsets, and closing it closes the file below.
 */
export class OverlayFile implements BlockFile {
  readonly readOnly = false;
  readonly #below: BlockFile;
  readonly #pages = new Map<number, Uint8Array>();
  /** Pages of zeros share one array. */
  readonly #zeros = new Uint8Array(PAGE_BYTES);
  #sizeBytes: number;
  #lowest = Infinity;
  #highest = -1;

  constructor(below: BlockFile) {
    this.#below = below;
    this.#sizeBytes = below.sizeBytes;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#below.read(position, target, targetOffset, lengthBytes);
    this.#overlay(position, target, targetOffset, lengthBytes);
  }

  /** Reads only: nobody writes to a disk over a file that may not be changed. */
  get later(): AsyncFile | undefined {
    const below = this.#below.later;
    return (
      below && {
        read: (position, targets, ended) =>
          below.read(position, targets, (error) => {
            let at = position;
            for (const target of targets) {
              this.#overlay(at, target, 0, target.byteLength);
              at += target.byteLength;
            }
            ended(error);
          }),
        write: () => assert(false, "the file may not be changed"),
        flush: () => assert(false, "the file may not be changed"),
      }
    );
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes; done += PAGE_BYTES) {
      const from = sourceOffset + done;
      const page = source.subarray(from, from + PAGE_BYTES);
      this.#pages.set(
        position + done,
        page.some((byte) => byte !== 0) ? page.slice() : this.#zeros,
      );
    }
    this.#lowest = Math.min(this.#lowest, position);
    this.#highest = Math.max(this.#highest, position + lengthBytes);
    this.#sizeBytes = Math.max(this.#sizeBytes, position + lengthBytes);
  }

  truncate(sizeBytes: number): void {
    this.#sizeBytes = sizeBytes;
  }

  flush(): void {
    // Nothing here outlives the process.
  }

  close(): void {
    this.#below.close();
  }

  /** Puts what the pages above have into what was read from below. */
  #overlay(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    const end = position + lengthBytes;
    if (end <= this.#lowest || position >= this.#highest) return;
    for (let at = position - (position % PAGE_BYTES); at < end; at += PAGE_BYTES) {
      const page = this.#pages.get(at);
      if (page === undefined) continue;
      const from = Math.max(at, position);
      const to = Math.min(at + PAGE_BYTES, end);
      target.set(page.subarray(from - at, to - at), targetOffset + from - position);
    }
  }
}
