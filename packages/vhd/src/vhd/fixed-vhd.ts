import { assertRange, assertTransfer } from "../assertion.js";
import { type BlockFile } from "../block-file.js";
import { finishFlush, type FlushSteps } from "../flush-steps.js";
import { ImageState } from "../image-state.js";
import { type MappedDisk } from "../virtual-disk.js";

const SECTOR = 512;

/** A fixed VHD: the disk's bytes at their own positions, and nothing that a write could break. */
export class FixedVhd implements MappedDisk {
  readonly format = "vhd-fixed";
  readonly sizeBytes: number;
  readonly logicalSectorBytes = SECTOR;
  readonly physicalSectorBytes = SECTOR;
  readonly identity: Uint8Array;
  readonly file: BlockFile;
  resolvedPosition = 0;
  readonly #state: ImageState;

  /** Takes over `file`, whose footer has been found good. */
  constructor(file: BlockFile, readOnly: boolean, sizeBytes: number, identity: Uint8Array) {
    this.file = file;
    this.#state = new ImageState(readOnly);
    this.sizeBytes = sizeBytes;
    this.identity = identity;
  }

  get readOnly(): boolean {
    return this.#state.readOnly;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.readSectors(position / SECTOR, target, targetOffset, lengthBytes);
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    this.writeSectors(position / SECTOR, source, sourceOffset, lengthBytes);
  }

  readSectors(sector: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertTransfer(this, sector, target, targetOffset, lengthBytes);
    this.file.read(sector * SECTOR, target, targetOffset, lengthBytes);
  }

  writeSectors(
    sector: number,
    source: Uint8Array,
    sourceOffset: number,
    lengthBytes: number,
  ): void {
    this.#state.assertUsable();
    assertTransfer(this, sector, source, sourceOffset, lengthBytes);
    this.#state.assertWritable();
    this.file.write(sector * SECTOR, source, sourceOffset, lengthBytes);
  }

  flush(): void {
    finishFlush(this.flushSteps(), this.file);
  }

  *flushSteps(): FlushSteps {
    this.#state.assertUsable();
    if (!this.readOnly) yield* this.#state.flushing(onlyTheFile());
  }

  unmap(position: number, lengthBytes: number): void {
    this.#state.assertUsable();
    assertRange(this, position, lengthBytes);
    this.#state.assertWritable();
  }

  resolve(sector: number, lengthBytes: number): number {
    this.resolvedPosition = sector * SECTOR;
    return lengthBytes;
  }

  assertUsable(): void {
    this.#state.assertUsable();
  }

  beginWrite(): void {
    this.#state.assertUsable();
    this.#state.assertWritable();
  }

  endWrite(): void {
    // Every flush flushes the file.
  }

  close(): void {
    this.#state.close(
      () => this.flush(),
      () => this.file.close(),
    );
  }
}

function* onlyTheFile(): FlushSteps {
  yield;
}
