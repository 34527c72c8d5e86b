import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { DiskError, openDiskImage } from "@hyperv-is/hyperv-host/node";
import { PcError } from "../pc-error.js";

/** What a drive keeps its blocks in. */
interface Medium {
  readonly sizeBytes: number;
  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void;
  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void;
  close(): void;
}

/** The sectors of the PC's own drives. */
const SECTOR_BYTES = 512;

/**
 * A drive of the PC itself (not of Hyper-V), as firmware boots from it: in the shape that the emulator
 * takes for a disk image, but on a file.
 */
export class Drive {
  readonly byteLength: number;
  /** Set by the emulator. */
  onload: ((event: object) => void) | undefined = undefined;
  readonly #medium: Medium;

  private constructor(medium: Medium) {
    this.#medium = medium;
    this.byteLength = Math.floor(medium.sizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  }

  /** A CD-ROM: a raw image, read only. Rejects with `ERR_FILE`. */
  static cdrom(path: string): Drive {
    return new Drive(new RawFile(path, true));
  }

  /** A hard disk: VHD, VHDX or raw, written to. Rejects with `DiskError` or `ERR_FILE`. */
  static async disk(path: string): Promise<Drive> {
    try {
      return new Drive(await openDiskImage(path));
    } catch (error) {
      const isRaw = error instanceof DiskError && error.code === "ERR_IMAGE_FOREIGN";
      if (!isRaw) throw error;
      return new Drive(new RawFile(path, false));
    }
  }

  load(): void {
    this.onload?.({});
  }

  get(start: number, lengthBytes: number, done: (bytes: Uint8Array) => void): void {
    done(this.get_from_cache(start, lengthBytes));
  }

  /** The emulator wants the first sector at hand before it starts, for the geometry in its partition table. */
  get_and_cache(start: number, lengthBytes: number, done: (bytes: Uint8Array) => void): void {
    this.get(start, lengthBytes, done);
  }

  get_from_cache(start: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes);
    this.#medium.read(start, bytes, 0, lengthBytes);
    return bytes;
  }

  set(start: number, bytes: Uint8Array, done: () => void): void {
    this.#medium.write(start, bytes, 0, bytes.byteLength);
    done();
  }

  /** What is on a drive is no part of a saved machine. */
  get_state(): readonly never[] {
    return [];
  }

  set_state(): void {
    // See `get_state`.
  }

  close(): void {
    this.#medium.close();
  }
}

class RawFile implements Medium {
  readonly sizeBytes: number;
  readonly #file: number;

  constructor(path: string, readOnly: boolean) {
    try {
      this.#file = openSync(path, readOnly ? "r" : "r+");
    } catch (cause) {
      throw new PcError("ERR_FILE", `${path}: ${(cause as Error).message}`, { cause });
    }
    this.sizeBytes = fstatSync(this.#file).size;
  }

  read(position: number, target: Uint8Array, targetOffset: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;) {
      const count = readSync(
        this.#file,
        target,
        targetOffset + done,
        lengthBytes - done,
        position + done,
      );
      if (count === 0) return;
      done += count;
    }
  }

  write(position: number, source: Uint8Array, sourceOffset: number, lengthBytes: number): void {
    for (let done = 0; done < lengthBytes;)
      done += writeSync(
        this.#file,
        source,
        sourceOffset + done,
        lengthBytes - done,
        position + done,
      );
  }

  close(): void {
    closeSync(this.#file);
  }
}
