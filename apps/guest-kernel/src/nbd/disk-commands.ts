import type { CamDisk, DiskExtent } from "../kernel/guest-system.js";
import { IoError, type Errno } from "../kernel/io-error.js";
import { NbdError } from "./protocol.js";

/** What the errors of a disk are to a client. */
const nbdErrors: Readonly<Record<Errno, NbdError>> = {
  EIO: NbdError.EIO,
  ENXIO: NbdError.ESHUTDOWN,
  EACCES: NbdError.EPERM,
  EINVAL: NbdError.EINVAL,
  ENOSPC: NbdError.ENOSPC,
};

/** Extents that one answer to a client has at most, and commands to the disk that it may cost. */
const EXTENTS_MAX = 2048;
const STATUS_COMMANDS_MAX = 32;
const PIECES_AT_ONCE = 4;

/** How a command of a disk ended, as a client hears it. */
export async function outcomeOf(command: Promise<unknown>): Promise<NbdError> {
  try {
    await command;
    return NbdError.none;
  } catch (error) {
    return errorOf(error);
  }
}

function errorOf(error: unknown): NbdError {
  if (!(error instanceof IoError)) throw error;
  return nbdErrors[error.code];
}

/** Guest memory of a connection that its slower commands share. */
export interface SharedAreas {
  readonly lengthBytes: number;
  /** GPA of zeros, which stay zeros. */
  readonly zeroes: number;
  /** GPA of what is read and not looked at. */
  readonly scratch: number;
}

/**
 * The commands that move no data of the client: each as the disk's commands through the guest's driver, with its
 * retries. What takes long ends early, with `ESHUTDOWN`, once `isWanted` says so. All reject with `IoError`s only.
 */
export class DiskCommands {
  readonly #disk: CamDisk;
  readonly #areas: SharedAreas;
  readonly #isWanted: () => boolean;

  constructor(disk: CamDisk, areas: SharedAreas, isWanted: () => boolean) {
    this.#disk = disk;
    this.#areas = areas;
    this.#isWanted = isWanted;
  }

  flush(): Promise<NbdError> {
    return outcomeOf(this.#disk.device.flush());
  }

  trim(position: number, lengthBytes: number): Promise<NbdError> {
    return outcomeOf(this.#disk.device.unmap(position, lengthBytes));
  }

  /** Reads the range for the sake of the caches below. */
  cache(position: number, lengthBytes: number): Promise<NbdError> {
    const { scratch } = this.#areas;
    return this.#inPieces(position, lengthBytes, (at, length) =>
      this.#disk.device.read(at, scratch, length),
    );
  }

  /**
   * Makes the range read as zeros. What the disk says to be a hole of zeros, perhaps once it was unmapped, is left
   * so unless `noHole`; the rest is written.
   *
   * @param fast - Only if nothing has to be written: else `ENOTSUP`, and nothing has changed.
   */
  async writeZeroes(
    position: number,
    lengthBytes: number,
    noHole: boolean,
    fast: boolean,
  ): Promise<NbdError> {
    if (noHole || !this.#disk.unmappedReadsZero)
      return fast ? NbdError.ENOTSUP : this.#write(position, lengthBytes);
    try {
      if (fast) {
        for await (const { isHole } of this.#walk(position, lengthBytes))
          if (!isHole) return NbdError.ENOTSUP;
        return NbdError.none;
      }
      if (this.#disk.unmapSupported) await this.#disk.device.unmap(position, lengthBytes);
      for await (const extent of this.#walk(position, lengthBytes)) {
        if (extent.isHole) continue;
        const written = await this.#write(extent.position, extent.lengthBytes);
        if (written !== NbdError.none) return written;
      }
      return NbdError.none;
    } catch (error) {
      return errorOf(error);
    }
  }

  /** What is known of the range: extents in a row from `position` on, at least one, perhaps not up to its end. */
  async extents(position: number, lengthBytes: number, one: boolean): Promise<DiskExtent[]> {
    const end = position + lengthBytes;
    const extents: DiskExtent[] = [];
    const most = one ? 1 : EXTENTS_MAX;
    let at = position;
    for (let commands = 0; commands < STATUS_COMMANDS_MAX && at < end; commands++) {
      const found = await this.#disk.allocation(at);
      if (found === undefined) break;
      for (const extent of found) {
        const clipped = clip(extent, end);
        const last = extents.at(-1);
        if (last?.isHole === clipped.isHole)
          extents[extents.length - 1] = {
            ...last,
            lengthBytes: last.lengthBytes + clipped.lengthBytes,
          };
        else if (extents.length === most) return extents;
        else extents.push(clipped);
        at = clipped.position + clipped.lengthBytes;
        if (at === end) return extents;
      }
    }
    return extents.length > 0 ? extents : [{ position, lengthBytes, isHole: false }];
  }

  /** All extents of a range; all of the rest counts as data once nobody wants it any more. */
  async *#walk(position: number, lengthBytes: number): AsyncIterable<DiskExtent> {
    const end = position + lengthBytes;
    for (let at = position; at < end;) {
      const rest = { position: at, lengthBytes: end - at, isHole: false };
      const extents = this.#isWanted() ? await this.extents(at, end - at, false) : [rest];
      yield* extents;
      const last = extents.at(-1)!;
      at = last.position + last.lengthBytes;
    }
  }

  #write(position: number, lengthBytes: number): Promise<NbdError> {
    const { zeroes } = this.#areas;
    return this.#inPieces(position, lengthBytes, (at, length) =>
      this.#disk.device.write(at, zeroes, length),
    );
  }

  /** One piece of a range after another, some at a time. */
  async #inPieces(
    position: number,
    lengthBytes: number,
    move: (position: number, lengthBytes: number) => Promise<void>,
  ): Promise<NbdError> {
    const end = position + lengthBytes;
    let next = position;
    let failure: NbdError = NbdError.none;
    const carry = async (): Promise<void> => {
      while (next < end && failure === NbdError.none) {
        const at = next;
        const length = Math.min(this.#areas.lengthBytes, end - at);
        next += length;
        const outcome = this.#isWanted() ? await outcomeOf(move(at, length)) : NbdError.ESHUTDOWN;
        if (outcome !== NbdError.none) failure = outcome;
      }
    };
    await Promise.all(Array.from({ length: PIECES_AT_ONCE }, carry));
    return failure;
  }
}

function clip(extent: DiskExtent, end: number): DiskExtent {
  const lengthBytes = Math.min(extent.lengthBytes, end - extent.position);
  return { ...extent, lengthBytes };
}
