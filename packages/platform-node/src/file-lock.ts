import { PlatformError } from "./errors.js";
import { libc, type LibC } from "./libc.js";

// Source: Linux include/uapi/asm-generic/fcntl.h.

/** Takes a lock that belongs to the open file: closing the same file elsewhere does not give it up. */
const F_OFD_SETLK = 37;
const F_WRLCK = 1;
/** Byte offsets of a `struct flock` where `long` has 64 bits. Zeros for start and length mean the whole file. */
const Flock = { type: 0, SIZE: 32 } as const;

/** What became of a lock. */
export type FileLock =
  | "locked"
  /** Another program has it, or another descriptor of this one. */
  | "busy"
  /** There are no such locks: this is no 64-bit Linux, the package koffi is missing, or the file system has none. */
  | "unsupported";

/** What POSIX lets it be, and what Linux calls the first one besides. */
const busyErrors: ReadonlySet<string> = new Set(["EAGAIN", "EWOULDBLOCK", "EACCES"]);
const isSupported = process.platform === "linux" && ["x64", "arm64"].includes(process.arch);
let system: LibC | "missing" | undefined;

/**
 * Locks a whole file, opened for writing, against all who lock it by `fcntl`: never waits. The lock ends when the
 * descriptor is closed. Programs that use `flock` do not see it.
 */
export function lockFile(descriptor: number): FileLock {
  system ??= isSupported ? libcOrMissing() : "missing";
  if (system === "missing") return "unsupported";
  const flock = new Uint8Array(Flock.SIZE);
  flock[Flock.type] = F_WRLCK;
  if (system.fcntl(descriptor, F_OFD_SETLK, flock) === 0) return "locked";
  return busyErrors.has(system.errorName(system.errno())) ? "busy" : "unsupported";
}

function libcOrMissing(): LibC | "missing" {
  try {
    return libc();
  } catch (error) {
    if (error instanceof PlatformError && error.code === "ERR_KOFFI_MISSING") return "missing";
    throw error;
  }
}
