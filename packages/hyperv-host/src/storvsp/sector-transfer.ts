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
  read(sector: number, lengthBytes: number, buffer: DataBuffer): void {
    // The usual case.
    if (buffer.runLength(0) >= lengthBytes) {
      this.#readDisk(sector, buffer.bytes, buffer.runAddress(0), lengthBytes);
      return;
    }
    this.#run = 0;
    this.#runOffset = 0;
    for (let done = 0; done < lengthBytes;) {
      const at = sector + done / this.#sectorBytes;
      const direct = this.#directBytes(buffer, lengthBytes - done);
      if (direct > 0) {
        const address = buffer.runAddress(this.#run) + this.#runOffset;
        this.#readDisk(at, buffer.bytes, address, direct);
        this.#advance(buffer, direct);
        done += direct;
      } else {
        this.#readDisk(at, this.#sector, 0, this.#sectorBytes);
        this.#spread(buffer);
        done += this.#sectorBytes;
      }
    }
  }

  /** From the start of the buffer to the disk. Whole sectors, not more than the buffer holds. */
  write(sector: number, lengthBytes: number, buffer: DataBuffer): void {
    if (buffer.runLength(0) >= lengthBytes) {
      this.#writeDisk(sector, buffer.bytes, buffer.runAddress(0), lengthBytes);
      return;
    }
    this.#run = 0;
    this.#runOffset = 0;
    for (let done = 0; done < lengthBytes;) {
      const at = sector + done / this.#sectorBytes;
      const direct = this.#directBytes(buffer, lengthBytes - done);
      if (direct > 0) {
        const address = buffer.runAddress(this.#run) + this.#runOffset;
        this.#writeDisk(at, buffer.bytes, address, direct);
        this.#advance(buffer, direct);
        done += direct;
      } else {
        this.#collect(buffer);
        this.#writeDisk(at, this.#sector, 0, this.#sectorBytes);
        done += this.#sectorBytes;
      }
    }
  }

  #readDisk(sector: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    const disk = this.#disk;
    if (disk.readSectors === undefined)
      disk.read(sector * this.#sectorBytes, target, targetOffset, lengthBytes);
    else disk.readSectors(sector, target, targetOffset, lengthBytes);
  }

  #writeDisk(sector: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    const disk = this.#disk;
    if (disk.writeSectors === undefined)
      disk.write(sector * this.#sectorBytes, source, sourceOffset, lengthBytes);
    else disk.writeSectors(sector, source, sourceOffset, lengthBytes);
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
