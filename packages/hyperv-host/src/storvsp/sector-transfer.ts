import type { DataBuffer } from "./data-buffer.js";
import type { DiskBackend } from "./disk-backend.js";

/**
 * Moves sectors between a disk and the runs of a buffer, directly: only a sector that lies in several runs goes
 * through a sector of private memory. Allocates nothing.
 */
export class SectorTransfer {
  readonly #disk: DiskBackend;
  readonly #sectorBytes: number;
  readonly #sector: Uint8Array;
  // Where the transfer is in the buffer.
  #run = 0;
  #runOffset = 0;

  constructor(disk: DiskBackend) {
    this.#disk = disk;
    this.#sectorBytes = disk.logicalSectorBytes;
    this.#sector = new Uint8Array(disk.logicalSectorBytes);
  }

  /** From the disk to the start of the buffer. Whole sectors, not more than the buffer holds. */
  read(position: number, lengthBytes: number, buffer: DataBuffer): void {
    this.#run = 0;
    this.#runOffset = 0;
    const end = position + lengthBytes;
    for (let at = position; at < end;) {
      const direct = this.#directBytes(buffer, end - at);
      if (direct > 0) {
        const address = buffer.runAddress(this.#run) + this.#runOffset;
        this.#disk.read(at, buffer.bytes, address, direct);
        this.#advance(buffer, direct);
        at += direct;
      } else {
        this.#disk.read(at, this.#sector, 0, this.#sectorBytes);
        this.#spread(buffer);
        at += this.#sectorBytes;
      }
    }
  }

  /** From the start of the buffer to the disk. Whole sectors, not more than the buffer holds. */
  write(position: number, lengthBytes: number, buffer: DataBuffer): void {
    this.#run = 0;
    this.#runOffset = 0;
    const end = position + lengthBytes;
    for (let at = position; at < end;) {
      const direct = this.#directBytes(buffer, end - at);
      if (direct > 0) {
        const address = buffer.runAddress(this.#run) + this.#runOffset;
        this.#disk.write(at, buffer.bytes, address, direct);
        this.#advance(buffer, direct);
        at += direct;
      } else {
        this.#collect(buffer);
        this.#disk.write(at, this.#sector, 0, this.#sectorBytes);
        at += this.#sectorBytes;
      }
    }
  }

  /** Bytes in whole sectors that the current run still holds. */
  #directBytes(buffer: DataBuffer, wanted: number): number {
    const held = Math.min(buffer.runLength(this.#run) - this.#runOffset, wanted);
    return held - (held % this.#sectorBytes);
  }

  #advance(buffer: DataBuffer, lengthBytes: number): void {
    this.#runOffset += lengthBytes;
    if (this.#runOffset < buffer.runLength(this.#run)) return;
    this.#run++;
    this.#runOffset = 0;
  }

  #spread(buffer: DataBuffer): void {
    const { bytes } = buffer;
    for (let done = 0; done < this.#sectorBytes;) {
      const address = buffer.runAddress(this.#run) + this.#runOffset;
      const piece = this.#piece(buffer, done);
      for (let index = 0; index < piece; index++)
        bytes[address + index] = this.#sector[done + index]!;
      done += piece;
      this.#advance(buffer, piece);
    }
  }

  #collect(buffer: DataBuffer): void {
    const { bytes } = buffer;
    for (let done = 0; done < this.#sectorBytes;) {
      const address = buffer.runAddress(this.#run) + this.#runOffset;
      const piece = this.#piece(buffer, done);
      for (let index = 0; index < piece; index++)
        this.#sector[done + index] = bytes[address + index]!;
      done += piece;
      this.#advance(buffer, piece);
    }
  }

  #piece(buffer: DataBuffer, done: number): number {
    return Math.min(buffer.runLength(this.#run) - this.#runOffset, this.#sectorBytes - done);
  }
}
