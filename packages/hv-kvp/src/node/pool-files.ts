import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeSync,
  type Stats,
} from "node:fs";
import { join } from "node:path";
import { KvpError } from "../errors.js";
import { checkItem, checkPool, type Pools } from "../pools.js";
import {
  emitPool,
  KVP_POOL_COUNT,
  parsePool,
  POOL_RECORD_BYTES,
  type KvpItem,
  type KvpPool,
} from "../protocol/index.js";
import { withPoolLock, withRecordLock } from "./pool-lock.js";

const DIRECTORY_MODE = 0o755;
const FILE_MODE = 0o644;
/** How long a change waits for those who have the pools locked. */
const PATIENCE_MS = 5000;
const NOTHING = new Uint8Array(0);

/**
 * The pools as FreeBSD's and Linux's daemons keep them: `.kvp_pool_0` to `.kvp_pool_4` in one directory.
 *
 * Every call reads the file, so that what other programs append is seen. A new item is appended in one write, as
 * cloud-init does it; every other change replaces the file by one that is complete, so that whoever is killed, and
 * whenever, leaves the old content or the new. A partial record at the end is left out, and gone with the next change.
 * Programs of this package keep each other out while they write. Stock daemons lock the file that they have opened when
 * they started: on Linux and with the package koffi they are kept out, too, until a change has replaced it.
 */
export class PoolFiles implements Pools {
  readonly directory: string;
  readonly #patienceMs: number;

  /** Touches nothing yet. @param patienceMs - For who has the pools locked; a change throws `ERR_KVP_LOCKED` then. */
  constructor(directory: string, patienceMs = PATIENCE_MS) {
    this.directory = directory;
    this.#patienceMs = patienceMs;
  }

  /** Where a pool is. */
  path(pool: KvpPool): string {
    return join(this.directory, `.kvp_pool_${pool}`);
  }

  items(pool: KvpPool): readonly KvpItem[] {
    checkPool(pool);
    return parsePool(this.#read(pool));
  }

  set(pool: KvpPool, item: KvpItem): void {
    checkItem(pool, item);
    this.#change(pool, (bytes) => {
      const record = emitPool([item]);
      const keys = parsePool(bytes).map(({ key }) => key);
      const first = keys.indexOf(item.key);
      if (first < 0 && bytes.byteLength % POOL_RECORD_BYTES === 0) {
        this.#append(pool, record);
        return;
      }
      const kept = keys.map((key, index) =>
        index === first ? record : key === item.key ? NOTHING : recordAt(bytes, index),
      );
      this.#replace(pool, first < 0 ? [...kept, record] : kept);
    });
  }

  delete(pool: KvpPool, key: string): boolean {
    checkPool(pool);
    return this.#change(pool, (bytes) => {
      const records = parsePool(bytes).flatMap((item, index) =>
        item.key === key ? [] : [recordAt(bytes, index)],
      );
      if (records.length === Math.floor(bytes.byteLength / POOL_RECORD_BYTES)) return false;
      this.#replace(pool, records);
      return true;
    });
  }

  /** Makes directory and files as far as they are missing, as a daemon does when it starts. */
  create(): void {
    this.#locked(() => {
      for (let pool = 0; pool < KVP_POOL_COUNT; pool++) this.#append(pool, NOTHING);
    });
  }

  /** Empties a pool. */
  clear(pool: KvpPool): void {
    checkPool(pool);
    this.#change(pool, () => this.#replace(pool, []));
  }

  /** When a pool's file was written last, in milliseconds since the Unix epoch; undefined without a file. */
  changedMs(pool: KvpPool): number | undefined {
    return statSync(this.path(pool), { throwIfNoEntry: false })?.mtimeMs;
  }

  #change<Result>(pool: KvpPool, change: (bytes: Uint8Array) => Result): Result {
    return this.#locked(() =>
      withRecordLock(this.path(pool), this.#patienceMs, () => change(this.#read(pool))),
    );
  }

  #locked<Result>(work: () => Result): Result {
    try {
      mkdirSync(this.directory, { recursive: true, mode: DIRECTORY_MODE });
      return withPoolLock(this.directory, this.#patienceMs, work);
    } catch (error) {
      throw poolFileError(this.directory, error);
    }
  }

  #read(pool: KvpPool): Uint8Array {
    try {
      return readFileSync(this.path(pool));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Uint8Array(0);
      throw poolFileError(this.path(pool), error);
    }
  }

  #append(pool: KvpPool, bytes: Uint8Array): void {
    const { O_WRONLY, O_APPEND, O_CREAT } = constants;
    withFile(this.path(pool), O_WRONLY | O_APPEND | O_CREAT, (descriptor) =>
      writeAll(descriptor, bytes),
    );
  }

  #replace(pool: KvpPool, records: readonly Uint8Array[]): void {
    const path = this.path(pool);
    const found = statSync(path, { throwIfNoEntry: false });
    // One name for all, under the lock: a killed process leaves one such file, and the next change takes it over.
    const made = `${path}.new`;
    const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW } = constants;
    withFile(made, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, (descriptor) => {
      if (found !== undefined) keepPermissions(descriptor, found);
      writeAll(descriptor, Buffer.concat(records));
    });
    renameSync(made, path);
    withFile(this.directory, constants.O_RDONLY, fsyncSync);
  }
}

/** A record as it is: what others wrote into it stays. */
function recordAt(bytes: Uint8Array, index: number): Uint8Array {
  return bytes.subarray(index * POOL_RECORD_BYTES, (index + 1) * POOL_RECORD_BYTES);
}

function writeAll(descriptor: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength;) at += writeSync(descriptor, bytes, at);
  fsyncSync(descriptor);
}

function keepPermissions(descriptor: number, found: Stats): void {
  const made = fstatSync(descriptor);
  if ((made.mode & 0o7777) !== (found.mode & 0o7777)) fchmodSync(descriptor, found.mode & 0o7777);
  if (made.uid !== found.uid || made.gid !== found.gid)
    fchownSync(descriptor, found.uid, found.gid);
}

function withFile(path: string, flags: number, work: (descriptor: number) => void): void {
  const descriptor = openSync(path, flags, FILE_MODE);
  try {
    work(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** What the system says of a pool's file or of its directory. */
export function poolFileError(path: string, error: unknown): KvpError {
  if (error instanceof KvpError) return error;
  const { message, code } = error as NodeJS.ErrnoException;
  const reason =
    code === "EACCES" || code === "EPERM" ? "permission denied; only root may do this" : message;
  return new KvpError("ERR_KVP_POOL_FILE", `${path}: ${reason}`, { cause: error });
}
