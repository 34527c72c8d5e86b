import { assert, assertRange, assertTransfer } from "../assertion.js";
import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { type VirtualDisk } from "../virtual-disk.js";

/** A fixed VHD: the disk's bytes at their own positions, and nothing that a write could break. */
export class FixedVhd implements VirtualDisk {
  readonly format = "vhd-fixed";
  readonly readOnly: boolean;
  readonly sizeBytes: number;
  readonly logicalSectorBytes = 512;
  readonly physicalSectorBytes = 512;
  readonly identity: Uint8Array;
  readonly #file: BlockFile;
  #closed = false;
  #poison: unknown;

  /** Takes over `file`, whose footer has been found good. */
  constructor(file: BlockFile, readOnly: boolean, sizeBytes: number, identity: Uint8Array) {
    this.#file = file;
    this.readOnly = readOnly;
    this.sizeBytes = sizeBytes;
    this.identity = identity;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#enter();
    assertTransfer(this, position, target, targetOffset, lengthBytes);
    this.#file.read(position, target, targetOffset, lengthBytes);
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    this.#enter();
    assertTransfer(this, position, source, sourceOffset, lengthBytes);
    if (this.readOnly) throw readOnlyError();
    this.#file.write(position, source, sourceOffset, lengthBytes);
  }

  flush(): void {
    this.#enter();
    if (this.readOnly) return;
    try {
      this.#file.flush();
    } catch (error) {
      this.#poison = error;
      throw error;
    }
  }

  unmap(position: number, lengthBytes: number): void {
    this.#enter();
    assertRange(this, position, lengthBytes);
    if (this.readOnly) throw readOnlyError();
  }

  close(): void {
    assert(!this.#closed, "the image is closed");
    try {
      if (this.#poison === undefined) this.flush();
    } finally {
      this.#closed = true;
      this.#file.close();
    }
  }

  #enter(): void {
    assert(!this.#closed, "the image is closed");
    if (this.#poison !== undefined) throw poisonedError(this.#poison);
  }
}

/** The refusal of a change to an image that was opened read-only. */
export function readOnlyError(): ImageError {
  return new ImageError("ERR_IMAGE_READ_ONLY", { text: "the image was opened read-only" });
}

/** The refusal of any call after `cause`. */
export function poisonedError(cause: unknown): ImageError {
  return new ImageError("ERR_IMAGE_POISONED", { text: "an earlier write or flush failed", cause });
}
