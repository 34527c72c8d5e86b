import { unwatchFile, watch, watchFile } from "node:fs";
import type { KvpItem, KvpPool } from "../protocol/index.js";
import type { PoolFiles } from "./pool-files.js";

/** A change of a pool, whoever made it. */
export type PoolChange =
  | {
      readonly kind: "set";
      readonly pool: KvpPool;
      readonly key: string;
      readonly value: string;
      /** Undefined for a key that is new. */
      readonly previous: string | undefined;
    }
  | {
      readonly kind: "delete";
      readonly pool: KvpPool;
      readonly key: string;
      readonly previous: string;
    };

/** Changes of the system's file times that nobody announces are looked for this often. */
const POLL_MS = 1000;

/**
 * The changes of pools from now on, in the order in which they are found, until the signal is aborted. What is
 * changed and changed back between two looks is not seen. The directory must exist.
 */
export async function* watchPools(
  files: PoolFiles,
  pools: readonly KvpPool[],
  signal: AbortSignal,
): AsyncGenerator<PoolChange> {
  const bell = new Bell();
  const touched = (): void => bell.ring();
  const known = new Map(pools.map((pool) => [pool, valuesOf(files.items(pool))]));
  // kqueue tells nothing of writes to the files of a directory, hence the second watch.
  const directory = watch(files.directory, touched);
  for (const pool of pools) watchFile(files.path(pool), { interval: POLL_MS }, touched);
  signal.addEventListener("abort", touched);
  try {
    while (!signal.aborted) {
      for (const pool of pools) {
        const values = valuesOf(files.items(pool));
        yield* changes(pool, known.get(pool)!, values);
        known.set(pool, values);
      }
      await bell.rung();
    }
  } finally {
    directory.close();
    for (const pool of pools) unwatchFile(files.path(pool), touched);
    signal.removeEventListener("abort", touched);
  }
}

/** Rings once for all that happened since the last time. */
class Bell {
  #isRung = false;
  #wake: () => void = () => undefined;

  ring(): void {
    this.#isRung = true;
    this.#wake();
  }

  async rung(): Promise<void> {
    if (!this.#isRung) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#isRung = false;
  }
}

function valuesOf(items: readonly KvpItem[]): ReadonlyMap<string, string> {
  return new Map(items.map(({ key, value }) => [key, value]));
}

function* changes(
  pool: KvpPool,
  before: ReadonlyMap<string, string>,
  after: ReadonlyMap<string, string>,
): Generator<PoolChange> {
  for (const [key, value] of after) {
    const previous = before.get(key);
    if (previous !== value) yield { kind: "set", pool, key, value, previous };
  }
  for (const [key, previous] of before)
    if (!after.has(key)) yield { kind: "delete", pool, key, previous };
}
