import {
  closeSync,
  fstatSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { threadId } from "node:worker_threads";
import { lockFile } from "@hyperv-is/platform-node";
import { KvpError } from "../errors.js";

const POLL_MS = 1;
/** Nobody has the lock for so long: by then its process id may be that of another process, as after a reboot. */
const STALE_MS = 10_000;
const never = new Int32Array(new SharedArrayBuffer(4));

/**
 * Runs `work` while no other program of this package changes the pools of a directory: `.kvp_pool.lock` holds the
 * process id of the one that may. A lock that a dead process left is taken over, and one that is old.
 *
 * @throws KvpError `ERR_KVP_LOCKED` when that is over.
 */
export function withPoolLock<Result>(
  directory: string,
  patienceMs: number,
  work: () => Result,
): Result {
  const path = join(directory, ".kvp_pool.lock");
  const own = `${path}.${process.pid}.${threadId}`;
  waitFor(
    () => isTaken(path, own),
    patienceMs,
    () => `${path}: process ${String(livingOwner(path))} keeps the pools locked`,
  );
  try {
    return work();
  } finally {
    rmSync(path, { force: true });
  }
}

/**
 * Runs `work` while no stock daemon writes a pool's file, if it is there: they lock it by `fcntl`. Where there are no such
 * locks it is just run, see `lockFile`.
 *
 * @throws KvpError `ERR_KVP_LOCKED` when the patience is over.
 */
export function withRecordLock<Result>(
  path: string,
  patienceMs: number,
  work: () => Result,
): Result {
  for (;;) {
    const descriptor = openIfThere(path);
    if (descriptor === undefined) return work();
    try {
      waitFor(
        () => lockFile(descriptor) !== "busy",
        patienceMs,
        () => `${path}: another program keeps it locked`,
      );
      // What was replaced meanwhile is locked for nothing.
      if (fstatSync(descriptor).ino === statSync(path, { throwIfNoEntry: false })?.ino)
        return work();
    } finally {
      closeSync(descriptor);
    }
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function waitFor(isTaken: () => boolean, patienceMs: number, complaint: () => string): void {
  for (let waitedMs = 0; !isTaken(); waitedMs += POLL_MS) {
    if (waitedMs >= patienceMs) throw new KvpError("ERR_KVP_LOCKED", complaint());
    Atomics.wait(never, 0, 0, POLL_MS);
  }
}

/** Links the lock into place, so that nobody sees one without its owner; false while somebody else has it. */
function isTaken(path: string, own: string): boolean {
  writeFileSync(own, `${process.pid}\n`);
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    if (livingOwner(path) === undefined) removeStale(path, own);
    return false;
  } finally {
    rmSync(own, { force: true });
  }
}

/** Moves a dead process's lock away; of several that do this at once only one finds it. */
function removeStale(path: string, aside: string): void {
  try {
    renameSync(path, aside);
    // Another was faster and has the lock by now: it gets it back.
    if (livingOwner(aside) !== undefined) linkSync(aside, path);
  } catch {
    // Gone, or taken: the next attempt tells.
  }
}

function livingOwner(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, "latin1"));
    if (!(pid > 0)) return undefined;
    if (Math.abs(Date.now() - statSync(path).mtimeMs) > STALE_MS) return undefined;
    process.kill(pid, 0);
    return pid;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return undefined;
    return Number(readFileSync(path, "latin1"));
  }
}
