import { statSync } from "node:fs";
import { createRequire } from "node:module";
import { PlatformError } from "./errors.js";

/**
 * What is used of the C library. Addresses are numbers; arrays are passed in place, shared ones too, which costs more than
 * the address of one that does not move. A call that fails returns -1, and `errno` says why.
 */
export interface LibC {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  fcntl(fd: number, command: number, argument: Uint8Array): number;
  /** The argument is a number where the request says so. */
  ioctlNumber(fd: number, request: number, argument: number): number;
  socket(family: number, type: number, protocol: number): number;
  setns(fd: number, type: number): number;
  send(fd: number, bytes: Uint8Array, lengthBytes: number, flags: number): number;
  recv(fd: number, bytes: Uint8Array, lengthBytes: number, flags: number): number;
  read(fd: number, address: number, lengthBytes: number): number;
  write(fd: number, address: number, lengthBytes: number): number;
  /** @param vectors - Where they are: pairs of an address and a length, 64 bits each. */
  readv(fd: number, vectors: bigint, count: number): number;
  writev(fd: number, vectors: bigint, count: number): number;
  shutdown(fd: number, how: number): number;
  setsockopt(
    fd: number,
    level: number,
    option: number,
    value: Uint8Array,
    lengthBytes: number,
  ): number;
  /**
   * @param entries - Where they are, 8 bytes each: fd i32, events u16, returned events u16.
   * @param timeout - Where it is: seconds and nanoseconds, 64 bits each. 0 for none.
   * @param signals - 0: those of the thread.
   */
  ppoll(entries: number, count: number, timeout: number, signals: number): number;
  eventfd(initial: number, flags: number): number;
  /** @param thread - 0 for the one that calls. @param set - A bit for each CPU. */
  schedGetAffinity(thread: number, setBytes: number, set: Uint8Array): number;
  schedSetAffinity(thread: number, setBytes: number, set: Uint8Array): number;
  /** What a system call that the library has no function for returns; see `syscall(2)`. */
  syscall(
    number: number,
    first: number,
    second: number,
    third: number,
    fourth: number,
    fifth: number,
    sixth: number,
  ): number;
  /** @returns Where the map is; -1 if there is none. */
  mmap(
    address: number,
    lengthBytes: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ): number;
  munmap(address: number, lengthBytes: number): number;
  /** Memory of the process, which stays as long as the array is used. */
  view(address: number, lengthBytes: number): ArrayBuffer;
  /** Of files that were opened here: Node warns of those that it does not know. */
  close(fd: number): number;
  /** Where an array begins in memory. */
  addressOf(bytes: Uint8Array): number;
  errno(): number;
  /** `EPERM`. */
  errorName(errno: number): string;
}

/** A library by koffi: functions by their definitions in C. */
interface Library {
  func(definition: string): (...values: unknown[]) => number;
}

/** What is used of koffi. */
interface Koffi {
  load(library: string | null): Library;
  errno(): number;
  view(address: number, lengthBytes: number): ArrayBuffer;
  readonly os: { readonly errno: Readonly<Record<string, number>> };
}

let loadedKoffi: Koffi | undefined;
let loaded: LibC | undefined;

/**
 * The C library, by koffi, which is loaded by the first call of a thread.
 *
 * @param user - What needs it, for people.
 * @throws PlatformError `ERR_KOFFI_MISSING`, with what to do.
 */
export function libc(user = "TAP devices"): LibC {
  loaded ??= bind((loadedKoffi ??= loadKoffi(user)));
  return loaded;
}

/**
 * A library of this process; null for the program itself and all that it is linked with.
 *
 * @throws PlatformError `ERR_KOFFI_MISSING`, with what to do.
 */
export function library(name: string | null): Library {
  return (loadedKoffi ??= loadKoffi("watched files")).load(name);
}

function loadKoffi(user: string): Koffi {
  if (process.platform !== "linux")
    throw new PlatformError("ERR_TAP_UNSUPPORTED", "TAP devices are those of Linux");
  try {
    // Node 20 follows no links on its way to a package while the last file that it was asked about is a socket or a pipe:
    // koffi would not find its binary where pnpm has linked it.
    statSync(process.execPath);
    return createRequire(import.meta.url)("koffi") as Koffi;
  } catch (cause) {
    throw new PlatformError(
      "ERR_KOFFI_MISSING",
      `${user} need the package koffi, which is optional and not installed: npm install koffi`,
      { cause },
    );
  }
}

function bind(koffi: Koffi): LibC {
  // With this name both glibc and musl are found: the process has one of them.
  const library = koffi.load("libc.so.6");
  const memset = library.func("uintptr_t memset(void *p, int c, size_t n)");
  const mmap = library.func(
    "uintptr_t mmap(uintptr_t address, size_t n, int protection, int flags, int fd, int64_t offset)",
  );
  const names = new Map(Object.entries(koffi.os.errno).map(([name, code]) => [code, name]));
  return {
    ioctl: library.func("int ioctl(int fd, unsigned long request, void *argument)"),
    fcntl: library.func("int fcntl(int fd, int command, void *argument)"),
    ioctlNumber: library.func("int ioctl(int fd, unsigned long request, unsigned long argument)"),
    socket: library.func("int socket(int family, int type, int protocol)"),
    setns: library.func("int setns(int fd, int type)"),
    send: library.func("int64_t send(int fd, void *p, size_t n, int flags)"),
    recv: library.func("int64_t recv(int fd, void *p, size_t n, int flags)"),
    read: library.func("int64_t read(int fd, uintptr_t address, size_t n)"),
    write: library.func("int64_t write(int fd, uintptr_t address, size_t n)"),
    readv: library.func("int64_t readv(int fd, uintptr_t vectors, int count)"),
    writev: library.func("int64_t writev(int fd, uintptr_t vectors, int count)"),
    shutdown: library.func("int shutdown(int fd, int how)"),
    setsockopt: library.func(
      "int setsockopt(int fd, int level, int option, void *value, unsigned int n)",
    ),
    ppoll: library.func(
      "int ppoll(uintptr_t entries, unsigned long count, uintptr_t timeout, uintptr_t signals)",
    ),
    close: library.func("int close(int fd)"),
    syscall: library.func(
      "long syscall(long number, long a, uintptr_t b, long c, long d, uintptr_t e, size_t f)",
    ),
    mmap: (...values) => {
      const address: unknown = mmap(...values);
      // No map can be where a number does not reach.
      return typeof address === "number" ? address : -1;
    },
    munmap: library.func("int munmap(uintptr_t address, size_t n)"),
    view: (address, lengthBytes) => koffi.view(address, lengthBytes),
    eventfd: library.func("int eventfd(unsigned int initial, int flags)"),
    schedGetAffinity: library.func("int sched_getaffinity(int thread, size_t n, void *set)"),
    schedSetAffinity: library.func("int sched_setaffinity(int thread, size_t n, void *set)"),
    // It returns its first argument.
    addressOf: (bytes) => memset(bytes, 0, 0),
    errno: () => koffi.errno(),
    errorName: (errno) => names.get(errno) ?? `errno ${errno}`,
  };
}
