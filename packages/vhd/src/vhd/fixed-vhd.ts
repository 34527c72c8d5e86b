import { assertRange, assertTransfer } from "../assertion.js";
import { type BlockFile } from "../block-file.js";
import { ImageState } from "../image-state.js";
import { type VirtualDisk } from "../virtual-disk.js";

/** A fixed VHD: the disk's bytes at their own positions, and nothing that a write could break. */
export class FixedVhd implements VirtualDisk {
  readonly format = "vhd-fixed";
  readonly sizeBytes: number;
  readonly logicalSectorBytes = 512;
  readonly physicalSectorBytes = 512;
  readonly identity: Uint8Array;
  readonly #file: BlockFile;
  readonly #state: ImageState;

  /** Takes over `file`, whose footer has been found good. */
  constructor(file: BlockFile, readOnly: boolean, sizeBytes: number, identity: Uint8Array) {
    this.#file = file;
    this.#state = new ImageState(readOnly);
    this.sizeBytes = sizeBytes;
    this.identity = identity;
  }

  get readOnly(): boolean {
    return this.#state.readOnly;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertTransfer(this, position, target, targetOffset, lengthBytes);
    this.#file.read(position, target, targetOffset, lengthBytes);
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertTransfer(this, position, source, sourceOffset, lengthBytes);
    this.#state.assertWritable();
    this.#file.write(position, source, sourceOffset, lengthBytes);
  }

  flush(): void {
    this.#state.assertUsable();
    if (!this.readOnly) this.#state.orPoison(() => this.#file.flush());
  }

  unmap(position: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertRange(this, position, lengthBytes);
    this.#state.assertWritable();
  }

  close(): void {
    this.#state.close(
      () => this.flush(),
      () => this.#file.close(),
    );
  }
}
