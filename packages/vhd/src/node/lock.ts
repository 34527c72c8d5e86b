import {
  linkSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { threadId } from "node:worker_threads";

/** The right to write an image, held until it is released or the process ends. */
export interface Lock {
  release(): void;
}

/** Somebody else has the lock. */
export interface LockHolder {
  /** Undefined when the system does not tell, as for processes of other users. */
  readonly pid: number | undefined;
}

/** Which file a lock is for. */
export interface LockedFile {
  /** Absolute, with symbolic links resolved. */
  readonly path: string;
  readonly device: bigint;
  readonly inode: bigint;
}

/** One way of keeping other writers of this package away from a file. */
export interface LockMethod {
  /** Takes the lock, or tells who has it. */
  acquire(file: LockedFile): Promise<Lock | LockHolder>;
  /** Who has the lock now, without taking it; undefined when nobody does, or nobody can tell. */
  holder(file: LockedFile): LockHolder | undefined;
}

/** Bytes of an abstract socket's name, whatever the release of Node makes of shorter ones. */
const SOCKET_NAME_BYTES = 108;

/**
 * Linux: an abstract unix socket named by device and inode.
 *
 * It needs no file, sees through links and renames, and disappears with its process, however that
 * ends. It is visible in one network namespace only.
 */
export const socketLock: LockMethod = {
  async acquire(file) {
    // Unreferenced: the lock must not keep a program alive. Nobody ever connects.
    const server = createServer().unref();
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      server.once("error", resolve);
      const path = `\0${socketName(file)}`.padEnd(SOCKET_NAME_BYTES, "\0");
      server.listen({ path, exclusive: true }, () => resolve(undefined));
    });
    if (error === undefined) return { release: () => void server.close() };
    if (error.code !== "EADDRINUSE") throw error;
    return socketLock.holder(file) ?? { pid: undefined };
  },

  holder(file) {
    const inode = socketInode(socketName(file));
    return inode === undefined ? undefined : { pid: socketOwner(inode) };
  },
};

function socketName(file: LockedFile): string {
  return `hyperv-is/vhd:${file.device}:${file.inode}`;
}

/** The inode of a bound abstract socket: the kernel lists names with `@` for their zero bytes. */
function socketInode(name: string): string | undefined {
  for (const line of readOrNothing(() => readFileSync("/proc/net/unix", "latin1")).split("\n")) {
    const [, inode, path] = /^(?:\S+ +){6}(\d+) @([^@]*)@*$/.exec(line) ?? [];
    if (path === name) return inode;
  }
  return undefined;
}

function socketOwner(inode: string): number | undefined {
  const link = `socket:[${inode}]`;
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    // Empty for a process that has ended, or is another user's.
    const descriptors = readOrNothing(() => readdirSync(`/proc/${pid}/fd`).join(" "));
    for (const descriptor of descriptors.split(" "))
      if (readOrNothing(() => readlinkSync(`/proc/${pid}/fd/${descriptor}`)) === link)
        return Number(pid);
  }
  return undefined;
}

/**
 * Elsewhere: a file `PATH.lock` that holds its owner's process id.
 *
 * One that a dead process left behind is taken over. It is named by path, so two links to one file are
 * two locks.
 */
export const fileLock: LockMethod = {
  acquire(file) {
    const path = lockPath(file);
    const own = `${path}.${process.pid}.${threadId}`;
    for (;;) {
      // Linked into place, so that nobody sees a lock file without its process id.
      writeFileSync(own, `${process.pid}\n`);
      try {
        linkSync(own, path);
        return Promise.resolve({ release: () => rmSync(path, { force: true }) });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        const holder = fileLock.holder(file);
        if (holder !== undefined) return Promise.resolve(holder);
        removeStale(path, own);
      } finally {
        rmSync(own, { force: true });
      }
    }
  },

  holder(file) {
    const pid = livingOwner(lockPath(file));
    return pid === undefined ? undefined : { pid };
  },
};

/** Moves a dead process's lock file away; of several that do this at once only one finds it. */
function removeStale(path: string, aside: string): void {
  try {
    renameSync(path, aside);
    // Another was faster and has the lock by now: give it back.
    if (livingOwner(aside) !== undefined) linkSync(aside, path);
  } catch {
    // Gone, or taken: the next attempt tells.
  }
}

function livingOwner(path: string): number | undefined {
  const pid = Number(readOrNothing(() => readFileSync(path, "latin1")));
  return pid > 0 && isAlive(pid) ? pid : undefined;
}

function lockPath(file: LockedFile): string {
  return `${file.path}.lock`;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** For files that come and go with their processes. */
function readOrNothing(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

/** The method for this system. */
export const lockMethod: LockMethod = process.platform === "linux" ? socketLock : fileLock;
