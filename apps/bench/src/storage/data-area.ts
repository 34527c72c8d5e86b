import { statSync } from "node:fs";
import { openImageFile } from "@hyperv-is/vhd/node";
import { BenchmarkError } from "../benchmark.js";

/** Data is looked for in pieces of this size: the smallest block of a VHDX. */
const PIECE_BYTES = 1 << 20;
/** More than this is not read, so that the benchmark stays in the page cache of an ordinary machine. */
const MOST_PIECES = 1024;

/** A place to read: the same one on the disk and in the image file, as far as that can be known. */
export interface DataPlace {
  readonly diskPosition: number;
  readonly filePosition: number;
}

/**
 * The parts of an image that hold data, in pieces of 1 MiB, up to 1 GiB of them.
 *
 * Where exactly an image keeps a piece is its own business: the file positions are those of as many pieces at the
 * end of the file (but for what is no whole piece), which is where a freshly filled dynamic image has them.
 */
export class DataArea {
  readonly path: string;
  /** Where each piece begins on the disk. */
  readonly #pieces: readonly number[];
  readonly #fileStart: number;

  private constructor(path: string, pieces: readonly number[], fileStart: number) {
    this.path = path;
    this.#pieces = pieces;
    this.#fileStart = fileStart;
  }

  get sizeBytes(): number {
    return this.#pieces.length * PIECE_BYTES;
  }

  /** Finds the data of an image. Rejects with BenchmarkError when there is none, and with the image's errors. */
  static async find(path: string): Promise<DataArea> {
    const disk = await openImageFile(path, { readOnly: true });
    const pieces: number[] = [];
    try {
      for (let at = 0; at + PIECE_BYTES <= disk.sizeBytes && pieces.length < MOST_PIECES;) {
        const data = disk.nextData?.(at) ?? at;
        if (data === at) pieces.push(at);
        at = Math.max(at + PIECE_BYTES, Math.floor(data / PIECE_BYTES) * PIECE_BYTES);
      }
    } finally {
      disk.close();
    }
    const dataBytes = pieces.length * PIECE_BYTES;
    const fileStart = Math.floor((statSync(path).size - dataBytes) / PIECE_BYTES) * PIECE_BYTES;
    if (pieces.length === 0 || fileStart < 0)
      throw new BenchmarkError(`${path} holds no MiB of data: there is nothing to read`);
    return new DataArea(path, pieces, fileStart);
  }

  /** The nth place of `lengthBytes` that the area has; `lengthBytes` divides 1 MiB. */
  place(index: number, lengthBytes: number): DataPlace {
    const offset = index * lengthBytes;
    const inPiece = offset % PIECE_BYTES;
    return {
      diskPosition: this.#pieces[(offset - inPiece) / PIECE_BYTES]! + inPiece,
      filePosition: this.#fileStart + offset,
    };
  }
}
