import { randomFillSync } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, realpathSync, rmSync } from "node:fs";
import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { type Finding } from "../finding.js";
import {
  checkImage,
  createImage,
  type CreateImageOptions,
  describeImage,
  type ImageDescription,
  openImage,
  type OpenImageOptions,
} from "../image.js";
import { type Random } from "../random.js";
import { type ImageFormat, type MappedDisk } from "../virtual-disk.js";
import { fileError } from "./file-error.js";
import { type Lock, type LockedFile, type LockHolder, lockMethod } from "./lock.js";
import { NodeFile } from "./node-file.js";

/** How to open a file. */
export interface OpenFileOptions {
  /** Takes no lock. */
  readonly readOnly?: boolean | undefined;
  /** Makes the file when it is missing. */
  readonly create?: boolean | undefined;
  /** With `create`: refuses a file that is there. */
  readonly exclusive?: boolean | undefined;
  /** With `readOnly`: reads a file that somebody is writing, whose content then is not to be relied on. */
  readonly allowLocked?: boolean | undefined;
}

/** Random bytes from the system. */
export const systemRandom: Random = { fill: (target) => void randomFillSync(target) };

/**
 * Opens a regular file, for writing with an exclusive lock.
 *
 * The lock keeps other users of this package out, not other programs, and frees itself when the process
 * ends in any way. Readers take none: any number of them may read one file, but a file that is being
 * written is refused to them unless they allow it, and nothing keeps a writer from coming later.
 *
 * @throws ImageError `ERR_IMAGE_LOCKED` (naming the holder's process id where the system tells),
 *   `ERR_IMAGE_READ_ONLY` (no permission to write), `ERR_IMAGE_FILE` (missing, a directory, ...).
 */
export async function openFile(path: string, options: OpenFileOptions = {}): Promise<BlockFile> {
  const { readOnly = false, create = false, exclusive = false, allowLocked = false } = options;
  const descriptor = openDescriptor(path, readOnly, create, exclusive);
  try {
    const file = lockedFile(path, descriptor);
    if (readOnly) {
      const holder = allowLocked ? undefined : lockMethod.holder(file);
      if (holder !== undefined) throw lockedError(path, holder);
      return new NodeFile(path, descriptor, true);
    }
    const lock = await lockMethod.acquire(file);
    if (!isLock(lock)) throw lockedError(path, lock);
    return new NodeFile(path, descriptor, false, lock);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/**
 * Opens the image in a file; see `openFile` for the lock and `openImage` for the rest.
 * Closing the image closes the file and releases the lock.
 */
export async function openImageFile(
  path: string,
  options: Pick<OpenFileOptions, "readOnly" | "allowLocked"> &
    Partial<Pick<OpenImageOptions, "format" | "random">> = {},
): Promise<MappedDisk> {
  const { readOnly = false, allowLocked, format, random = systemRandom } = options;
  const file = await openFile(path, { readOnly, allowLocked });
  try {
    return openImage(file, { random, readOnly, format });
  } catch (error) {
    file.close();
    throw naming(path, error);
  }
}

/**
 * Makes a new image in a file that must not be there yet; what fails leaves no file behind.
 *
 * @throws ImageError `ERR_IMAGE_FILE` when the file exists; see `createImage` for the rest.
 */
export async function createImageFile(
  path: string,
  options: Omit<CreateImageOptions, "random" | "unixSeconds"> & { readonly random?: Random },
): Promise<MappedDisk> {
  const file = await openFile(path, { create: true, exclusive: true });
  const unixSeconds = Math.floor(Date.now() / 1000);
  try {
    return createImage(file, { random: systemRandom, unixSeconds, ...options });
  } catch (error) {
    file.close();
    rmSync(path, { force: true });
    throw naming(path, error);
  }
}

/** Checks the image in a file that nobody is writing; see `checkImage`. */
export async function checkImageFile(path: string, format?: ImageFormat): Promise<Finding[]> {
  return reading(path, false, (file) => checkImage(file, format));
}

/** Describes the image in a file, even while it is being written; see `describeImage`. */
export async function describeImageFile(
  path: string,
  format?: ImageFormat,
): Promise<ImageDescription> {
  return reading(path, true, (file) => describeImage(file, format));
}

async function reading<Result>(
  path: string,
  allowLocked: boolean,
  use: (file: BlockFile) => Result,
): Promise<Result> {
  const file = await openFile(path, { readOnly: true, allowLocked });
  try {
    return use(file);
  } catch (error) {
    throw naming(path, error);
  } finally {
    file.close();
  }
}

/** The error, with the name of the file whose image it is about. */
export function naming(path: string, error: unknown): unknown {
  if (error instanceof ImageError && !error.message.includes(path))
    error.message = `${path}: ${error.message}`;
  return error;
}

function openDescriptor(
  path: string,
  readOnly: boolean,
  create: boolean,
  exclusive: boolean,
): number {
  const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NONBLOCK } = constants;
  const making = (create ? O_CREAT : 0) | (create && exclusive ? O_EXCL : 0);
  try {
    // Not to wait for the other end when the path is a pipe.
    return openSync(path, (readOnly ? O_RDONLY : O_RDWR) | making | O_NONBLOCK, 0o666);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EISDIR") throw notRegular(path, "a directory");
    const refused = code === "EACCES" || code === "EPERM" || code === "EROFS";
    if (!readOnly && refused && isReadable(path)) {
      const reason =
        code === "EROFS" ? "its file system is read-only" : "its permissions forbid it";
      throw new ImageError("ERR_IMAGE_READ_ONLY", {
        structure: path,
        text: `the file cannot be opened for writing, ${reason} (${code})`,
        advice: "Open it read-only, or change that.",
        cause: error,
      });
    }
    throw fileError(error, path, "opening");
  }
}

function isReadable(path: string): boolean {
  try {
    closeSync(openSync(path, "r"));
    return true;
  } catch {
    return false;
  }
}

function lockedFile(path: string, descriptor: number): LockedFile {
  const stat = fstatSync(descriptor, { bigint: true });
  if (!stat.isFile())
    throw notRegular(path, stat.isDirectory() ? "a directory" : "a device or pipe");
  return { path: realpathSync(path), device: stat.dev, inode: stat.ino };
}

function notRegular(path: string, what: string): ImageError {
  return new ImageError("ERR_IMAGE_FILE", {
    structure: path,
    text: `it is ${what}, not a regular file`,
    advice: "Give the path of an image file.",
  });
}

function isLock(result: Lock | LockHolder): result is Lock {
  return "release" in result;
}

function lockedError(path: string, { pid }: LockHolder): ImageError {
  const holder =
    pid === undefined
      ? "another process"
      : pid === process.pid
        ? `this process (${pid})`
        : `process ${pid}`;
  return new ImageError("ERR_IMAGE_LOCKED", {
    structure: path,
    text: `the image is open for writing in ${holder}`,
  });
}
