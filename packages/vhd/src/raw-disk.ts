import { assertTransfer } from "./assertion.js";
import { type BlockFile } from "./block-file.js";
import { type VirtualDisk } from "./virtual-disk.js";

/**
 * A file whose bytes are the disk's, for copying from and to.
 *
 * It is not a `VirtualDisk`: nothing in a raw file tells it from anything else, so it is never opened by
 * its content.
 */
export class RawDisk implements Pick<VirtualDisk, "sizeBytes" | "read" | "write"> {
  readonly sizeBytes: number;
  readonly logicalSectorBytes = 512;
  readonly #file: BlockFile;

  /** @param sizeBytes - A multiple of 512; what lies past the end of the file reads as zero. */
  constructor(file: BlockFile, sizeBytes: number) {
    this.#file = file;
    this.sizeBytes = sizeBytes;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    assertTransfer(this, position / this.logicalSectorBytes, target, targetOffset, lengthBytes);
    this.#file.read(position, target, targetOffset, lengthBytes);
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    assertTransfer(this, position / this.logicalSectorBytes, source, sourceOffset, lengthBytes);
    this.#file.write(position, source, sourceOffset, lengthBytes);
  }
}
