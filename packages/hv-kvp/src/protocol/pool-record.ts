import { KvpLimit } from "./operations.js";
import { readUtf8Field, writeUtf8 } from "./text.js";

/** A record of a pool file: 512 bytes of key, 2048 of value. */
export const POOL_RECORD_BYTES = KvpLimit.keyBytes + KvpLimit.valueBytes;

/** A key and its value, as text. */
export interface KvpItem {
  readonly key: string;
  readonly value: string;
}

/**
 * The records of a pool file, in its order. A partial one at the end is left out: somebody is writing it, or was
 * killed while doing so. Each text ends at its first NUL, behind which stock daemons leave old bytes.
 */
export function parsePool(bytes: Uint8Array): KvpItem[] {
  const items: KvpItem[] = [];
  for (let at = 0; at + POOL_RECORD_BYTES <= bytes.byteLength; at += POOL_RECORD_BYTES) {
    const value = at + KvpLimit.keyBytes;
    items.push({
      key: readUtf8Field(bytes.subarray(at, value)),
      value: readUtf8Field(bytes.subarray(value, at + POOL_RECORD_BYTES)),
    });
  }
  return items;
}

/** The bytes of a pool file. Throws a RangeError if an item fits no record. */
export function emitPool(items: readonly KvpItem[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(items.length * POOL_RECORD_BYTES);
  items.forEach(({ key, value }, index) => {
    const record = bytes.subarray(index * POOL_RECORD_BYTES, (index + 1) * POOL_RECORD_BYTES);
    if (
      writeUtf8(record.subarray(0, KvpLimit.keyBytes), key) === 0 ||
      writeUtf8(record.subarray(KvpLimit.keyBytes), value) === 0
    )
      throw new RangeError(`record ${index}: key or value does not fit`);
  });
  return bytes;
}
