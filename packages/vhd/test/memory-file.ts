import { assert } from "../src/assertion.js";
import { type AsyncFile, type BlockFile } from "../src/block-file.js";
import { ImageError } from "../src/errors.js";

const PAGE_BYTES = 4096;
const zeroPage = new Uint8Array(PAGE_BYTES);

/** One change that a file took, or one flush. */
export type FileOperation =
  | { readonly kind: "write"; readonly position: number; readonly bytes: Uint8Array }
  | { readonly kind: "truncate"; readonly sizeBytes: number }
  | { readonly kind: "flush" };

/**
 * A file in memory, sparse, that can record what is done to it and fail on demand.
 *
 * Pages are shared with clones until one of them writes, so that the many images of a crash test cost
 * little.
 */
export class MemoryFile implements BlockFile {
  readOnly = false;
  /** Every change and flush is appended here when set. */
  trace: FileOperation[] | undefined;
  /** Called before every change or flush; what it throws is what the caller sees. */
  before: ((operation: FileOperation) => void) | undefined;
  /** Most bytes that the pages may take; a write past it fails half way, as on a full file system. */
  quotaBytes = Infinity;
  closed = false;
  later: AsyncFile | undefined;
  /** Number of `read` calls. */
  reads = 0;
  #sizeBytes = 0;
  readonly #pages = new Map<number, Uint8Array>();
  /** Pages that no clone shares. */
  #owned = new Set<number>();

  /** A file with these bytes. */
  static of(bytes: Uint8Array): MemoryFile {
    const file = new MemoryFile();
    file.write(0, bytes, 0, bytes.byteLength);
    return file;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Bytes of the pages that are not holes. */
  get storedBytes(): number {
    return this.#pages.size * PAGE_BYTES;
  }

  /** An independent file with the same bytes, open, without trace or faults. */
  clone(): MemoryFile {
    const copy = new MemoryFile();
    copy.#sizeBytes = this.#sizeBytes;
    for (const [index, page] of this.#pages) copy.#pages.set(index, page);
    this.#owned.clear();
    return copy;
  }

  /** The bytes of a range. */
  bytes(position = 0, lengthBytes: number = this.#sizeBytes - position): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    this.read(position, bytes, 0, lengthBytes);
    return bytes;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#assertRange(position, lengthBytes, target, targetOffset);
    this.reads++;
    for (let done = 0; done < lengthBytes;) {
      const at = position + done;
      const inPage = at % PAGE_BYTES;
      const piece = Math.min(PAGE_BYTES - inPage, lengthBytes - done);
      const page = this.#pages.get((at - inPage) / PAGE_BYTES);
      if (page === undefined) target.fill(0, targetOffset + done, targetOffset + done + piece);
      else target.set(page.subarray(inPage, inPage + piece), targetOffset + done);
      done += piece;
    }
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    this.#assertRange(position, lengthBytes, source, sourceOffset);
    if (this.trace !== undefined || this.before !== undefined) {
      const bytes = source.slice(sourceOffset, sourceOffset + lengthBytes);
      this.#change({ kind: "write", position, bytes });
    } else this.#assertWritable();
    for (let done = 0; done < lengthBytes;) {
      const at = position + done;
      const inPage = at % PAGE_BYTES;
      const piece = Math.min(PAGE_BYTES - inPage, lengthBytes - done);
      const from = sourceOffset + done;
      this.#writePage((at - inPage) / PAGE_BYTES, inPage, source.subarray(from, from + piece));
      done += piece;
      this.#sizeBytes = Math.max(this.#sizeBytes, at + piece);
    }
  }

  truncate(sizeBytes: number): void {
    this.#change({ kind: "truncate", sizeBytes });
    if (sizeBytes < this.#sizeBytes) {
      const last = Math.floor(sizeBytes / PAGE_BYTES);
      for (const index of this.#pages.keys()) if (index > last) this.#pages.delete(index);
      const zeros = new Uint8Array(PAGE_BYTES - (sizeBytes % PAGE_BYTES));
      if (this.#pages.has(last)) this.#writePage(last, sizeBytes % PAGE_BYTES, zeros);
    }
    this.#sizeBytes = sizeBytes;
  }

  flush(): void {
    this.#change({ kind: "flush" });
  }

  close(): void {
    assert(!this.closed, "the file was closed before");
    this.closed = true;
  }

  /** As a new process would find it after `close`. */
  reopen(): void {
    assert(this.closed, "the file is open");
    this.closed = false;
  }

  #change(operation: FileOperation): void {
    if (operation.kind !== "flush") this.#assertWritable();
    assert(!this.closed, "the file is closed");
    this.before?.(operation);
    this.trace?.push(operation);
  }

  #writePage(index: number, inPage: number, bytes: Uint8Array): void {
    let page = this.#pages.get(index);
    if (page === undefined) {
      // A hole stays a hole: what is never stored costs nothing to clone.
      if (Buffer.compare(bytes, zeroPage.subarray(0, bytes.byteLength)) === 0) return;
      if (this.storedBytes + PAGE_BYTES > this.quotaBytes)
        throw new ImageError("ERR_IMAGE_NO_SPACE", { text: "the memory file's quota is used up" });
      page = new Uint8Array(PAGE_BYTES);
    } else if (!this.#owned.has(index)) page = page.slice();
    page.set(bytes, inPage);
    this.#pages.set(index, page);
    this.#owned.add(index);
  }

  #assertWritable(): void {
    assert(!this.readOnly, "the file is read-only");
    assert(!this.closed, "the file is closed");
  }

  #assertRange(position: number, lengthBytes: number, array: Uint8Array, offset: number): void {
    assert(!this.closed, "the file is closed");
    assert(
      Number.isSafeInteger(position) && position >= 0 && lengthBytes >= 0,
      "the range is not inside a file",
    );
    assert(
      offset >= 0 && offset + lengthBytes <= array.byteLength,
      "the range is not in the array",
    );
  }
}

/** Does one recorded operation to a file. */
export function apply(file: MemoryFile, operation: FileOperation): void {
  if (operation.kind === "write")
    file.write(operation.position, operation.bytes, 0, operation.bytes.byteLength);
  else if (operation.kind === "truncate") file.truncate(operation.sizeBytes);
}

/** A moment at which the power may go: what is durable by then, and what was done since the last flush. */
export interface PowerLoss {
  /** Operations done. */
  readonly cut: number;
  readonly durable: MemoryFile;
  readonly unflushed: readonly FileOperation[];
}

/**
 * The moments at which the power can go while `trace` is done to a file that was durable as `start`: before
 * the first operation, and after each but a flush, which leaves nothing open. `durable` goes on to the next moment.
 */
export function* powerLosses(
  start: MemoryFile,
  trace: readonly FileOperation[],
): Generator<PowerLoss, void> {
  const durable = start.clone();
  let flushed = 0;
  for (let cut = 0; cut <= trace.length; cut++) {
    const unflushed = trace.slice(flushed, cut);
    if (unflushed.at(-1)?.kind === "flush") {
      for (const operation of unflushed) apply(durable, operation);
      flushed = cut;
    } else yield { cut, durable, unflushed };
  }
}

/**
 * The file after a loss of power: what had been flushed, and of the operations since then those that
 * `survives` picks. It is asked once per truncation and once per `sectorBytes` of every write, because
 * a disk tears and reorders what it was not told to flush.
 */
export function crashImage(
  durable: MemoryFile,
  unflushed: readonly FileOperation[],
  sectorBytes: number,
  survives: (operation: FileOperation) => boolean,
): MemoryFile {
  const image = durable.clone();
  for (const operation of unflushed) {
    if (operation.kind !== "write") {
      if (survives(operation)) apply(image, operation);
      continue;
    }
    const { position, bytes } = operation;
    for (let done = 0; done < bytes.byteLength; done += sectorBytes) {
      const piece = Math.min(sectorBytes, bytes.byteLength - done);
      if (survives(operation)) image.write(position + done, bytes, done, piece);
    }
  }
  return image;
}

/**
 * For `crashImage`: some operations survive, some do not, and of some only half of the sectors, in
 * proportions of their own each time. `below(n)` gives random integers from 0 to n - 1.
 */
export function randomFates(
  below: (limit: number) => number,
): (operation: FileOperation) => boolean {
  const whole = below(101);
  const lost = below(101 - whole);
  const fates = new Map<FileOperation, number>();
  return (operation) => {
    const fate = fates.get(operation) ?? below(100);
    fates.set(operation, fate);
    return fate < whole || (fate >= whole + lost && below(2) === 0);
  };
}
