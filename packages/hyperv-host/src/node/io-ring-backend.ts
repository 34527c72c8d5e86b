import { IO_UNSUPPORTED, IoRing } from "@hyperv-is/platform-node";
import { zeroBytes, type MappedDisk } from "@hyperv-is/vhd";
import type { DataBuffer } from "../storvsp/data-buffer.js";
import type { AsyncDiskBackend, BackendEnded } from "../storvsp/disk-backend.js";
import { ImmediateBackend } from "../storvsp/immediate-backend.js";

/** Pieces of reads that are kept at a time; a read of more is done at once. */
const PIECES_MAX = 64;
const TWO_32 = 2 ** 32;

/**
 * An image whose reads are carried out together where the system can do that (`IoRing`): what is in the page cache costs
 * fewer instructions, and what is not is fetched at a time. A read that did not go this way as it should is made again by
 * the image's own call, which knows what to say of errors, and so is everything else: most file systems make writes
 * in threads of their own when they are asked for together. Allocates nothing per read.
 */
export class IoRingBackend implements AsyncDiskBackend {
  readonly disk: MappedDisk;
  readonly #immediate: ImmediateBackend;
  readonly #sectorBytes: number;
  readonly #descriptor: number | undefined;
  #ring: IoRing | undefined;
  /** What the ring reads into; undefined before the first read. */
  #memory: Uint8Array | undefined;
  // The reads that are kept, in order; only the first ones count.
  #reads = 0;
  readonly #sectors = new Float64Array(PIECES_MAX);
  readonly #lengths = new Int32Array(PIECES_MAX);
  readonly #buffers: DataBuffer[] = [];
  readonly #ended: BackendEnded[] = [];
  /** Behind the last piece of each. */
  readonly #pieceEnds = new Int32Array(PIECES_MAX);
  // Their pieces: where each is in the file and in memory, and whether it was read.
  #pieces = 0;
  readonly #positionsLow = new Int32Array(PIECES_MAX);
  readonly #positionsHigh = new Int32Array(PIECES_MAX);
  readonly #addresses = new Uint32Array(PIECES_MAX);
  readonly #pieceLengths = new Int32Array(PIECES_MAX);
  readonly #isRead = new Uint8Array(PIECES_MAX);
  /** Which piece each read of the ring is. */
  readonly #pieceOf = new Int32Array(PIECES_MAX);

  /** Takes over the image. */
  constructor(disk: MappedDisk) {
    this.disk = disk;
    this.#immediate = new ImmediateBackend(disk);
    this.#sectorBytes = disk.logicalSectorBytes;
    this.#descriptor = disk.file.descriptor;
  }

  read(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    if (!this.#hasRing(buffer.bytes) || !this.#keepPieces(sector, lengthBytes, buffer)) {
      this.#immediate.read(sector, lengthBytes, buffer, ended);
      return;
    }
    const read = this.#reads++;
    this.#sectors[read] = sector;
    this.#lengths[read] = lengthBytes;
    this.#buffers[read] = buffer;
    this.#ended[read] = ended;
    this.#pieceEnds[read] = this.#pieces;
  }

  write(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    this.#immediate.write(sector, lengthBytes, buffer, ended);
  }

  flush(ended: BackendEnded): void {
    this.#immediate.flush(ended);
  }

  whenIdle(work: () => void): void {
    // The work may give away the place that a read was found to have.
    this.carryOut();
    work();
  }

  carryOut(): void {
    const reads = this.#reads;
    if (reads === 0) return;
    this.#readPieces(this.#pieces);
    let piece = 0;
    for (let read = 0; read < reads; read++) {
      let isRead = true;
      for (const end = this.#pieceEnds[read]!; piece < end; piece++)
        if (this.#isRead[piece] === 0) isRead = false;
      const ended = this.#ended[read]!;
      if (isRead) ended();
      else {
        const sector = this.#sectors[read]!;
        this.#immediate.read(sector, this.#lengths[read]!, this.#buffers[read]!, ended);
      }
    }
    this.#reads = this.#pieces = 0;
  }

  close(): void {
    this.#closeRing();
    this.disk.close();
  }

  #closeRing(): void {
    this.#ring?.close();
    this.#ring = undefined;
  }

  /** There is a ring that reads into this memory. */
  #hasRing(memory: Uint8Array): boolean {
    if (this.#memory === undefined) {
      this.#memory = memory;
      if (this.#descriptor !== undefined) this.#ring = IoRing.open(memory, PIECES_MAX);
    }
    return this.#ring !== undefined && this.#memory === memory;
  }

  /**
   * Keeps the pieces of a read, and clears what of it has no place in the file.
   *
   * @returns False, with none of them kept, if they are too many, or the image is out of use.
   */
  #keepPieces(sector: number, lengthBytes: number, buffer: DataBuffer): boolean {
    const { disk } = this;
    try {
      disk.assertUsable();
    } catch {
      return false;
    }
    const first = this.#pieces;
    let run = 0;
    let runOffset = 0;
    for (let done = 0; done < lengthBytes;) {
      const extent = disk.resolve(sector + done / this.#sectorBytes, lengthBytes - done);
      const position = disk.resolvedPosition;
      for (let covered = 0; covered < extent;) {
        const address = buffer.runAddress(run) + runOffset;
        const rest = buffer.runLength(run) - runOffset;
        const length = Math.min(rest, extent - covered);
        if (position < 0) zeroBytes(buffer.bytes, address, address + length);
        else if (this.#pieces === PIECES_MAX) {
          this.#pieces = first;
          if (first === 0) return false;
          this.carryOut();
          return this.#keepPieces(sector, lengthBytes, buffer);
        } else {
          const piece = this.#pieces++;
          this.#positionsLow[piece] = (position + covered) | 0;
          this.#positionsHigh[piece] = (position + covered) / TWO_32;
          this.#addresses[piece] = address;
          this.#pieceLengths[piece] = length;
        }
        covered += length;
        runOffset += length;
        if (length < rest) continue;
        run++;
        runOffset = 0;
      }
      done += extent;
    }
    return true;
  }

  /** Reads what is cached, and then what has to be waited for. */
  #readPieces(pieces: number): void {
    this.#isRead.fill(0, 0, pieces);
    const left = this.#readByRing(pieces, pieces, true);
    this.#readByRing(pieces, left, false);
  }

  /** @param left - Pieces that are not read. @returns How many are not then. */
  #readByRing(pieces: number, left: number, onlyCached: boolean): number {
    const ring = this.#ring;
    // One by itself is quicker by the image's own call.
    if (ring === undefined || left < 2) return left;
    let added = 0;
    for (let piece = 0; piece < pieces; piece++) {
      if (this.#isRead[piece] !== 0) continue;
      ring.add(
        this.#descriptor!,
        this.#positionsLow[piece]!,
        this.#positionsHigh[piece]!,
        this.#addresses[piece]!,
        this.#pieceLengths[piece]!,
        onlyCached,
      );
      this.#pieceOf[added++] = piece;
    }
    ring.carryOut();
    for (let index = 0; index < added; index++) {
      const piece = this.#pieceOf[index]!;
      const result = ring.result(index);
      if (result === IO_UNSUPPORTED) this.#closeRing();
      if (result !== this.#pieceLengths[piece]) continue;
      this.#isRead[piece] = 1;
      left--;
    }
    return left;
  }
}
