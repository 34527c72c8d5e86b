import { KvpError } from "./errors.js";
import {
  isKey,
  KVP_POOL_COUNT,
  KvpLimit,
  type KvpPool,
  utf8Bytes,
  type KvpItem,
} from "./protocol/index.js";

/** The guest's pools, as the daemon uses them. Calls throw a `KvpError` when the pool cannot be read or written. */
export interface Pools {
  /** The items of a pool, in its order. Keys may occur more than once: programs append without looking. */
  items(pool: KvpPool): readonly KvpItem[];
  /** Sets a key's value, and leaves no other item with this key. */
  set(pool: KvpPool, item: KvpItem): void;
  /** Removes every item with a key. @returns False if there was none. */
  delete(pool: KvpPool, key: string): boolean;
}

/** How messages and the command line name the pools. */
export const poolNames: readonly string[] = [
  "external",
  "guest",
  "auto",
  "auto-external",
  "auto-internal",
];

/** The value of a key; of several the last one counts, as it does to hosts. */
export function findValue(items: readonly KvpItem[], key: string): string | undefined {
  return items.findLast((item) => item.key === key)?.value;
}

/** Throws `ERR_KVP_POOL`, `ERR_KVP_KEY` or `ERR_KVP_VALUE` for what no pool's file can hold. */
export function checkItem(pool: KvpPool, { key, value }: KvpItem): void {
  checkPool(pool);
  if (!isKey(key))
    throw new KvpError(
      "ERR_KVP_KEY",
      `a key has 1 to ${KvpLimit.keyBytes - 1} bytes of UTF-8 and no control character`,
    );
  if (value.includes("\0") || utf8Bytes(value) >= KvpLimit.valueBytes)
    throw new KvpError(
      "ERR_KVP_VALUE",
      `a value has at most ${KvpLimit.valueBytes - 1} bytes of UTF-8 and no NUL`,
    );
}

/** Throws `ERR_KVP_POOL` unless the pool has a file. */
export function checkPool(pool: number): void {
  if (!Number.isInteger(pool) || pool < 0 || pool >= KVP_POOL_COUNT)
    throw new KvpError("ERR_KVP_POOL", `pool ${pool}: there are pools 0 to ${KVP_POOL_COUNT - 1}`);
}

const DEFAULT_CHUNK_BYTES = 1024;

/**
 * A text that is longer than a value may be, as several items: `key|0`, `key|1`, ... One key for all pieces would
 * lose all but one of them on the host.
 *
 * @param maxBytes - Of UTF-8 in a piece, 4 to 2047; 1024 unless told, which is what Azure takes. Pieces end between two characters.
 */
export function splitValue(key: string, value: string, maxBytes = DEFAULT_CHUNK_BYTES): KvpItem[] {
  if (!(maxBytes >= 4 && maxBytes < KvpLimit.valueBytes))
    throw new RangeError(`pieces of ${maxBytes} bytes`);
  const pieces: string[] = [];
  let piece = "";
  let bytes = 0;
  for (const character of value) {
    const more = utf8Bytes(character);
    if (bytes + more > maxBytes) {
      pieces.push(piece);
      piece = "";
      bytes = 0;
    }
    piece += character;
    bytes += more;
  }
  if (piece !== "" || pieces.length === 0) pieces.push(piece);
  return pieces.map((text, index) => ({ key: `${key}|${index}`, value: text }));
}
