// What the stock Linux guest's shell is told about the pools of its hv_kvp_daemon, by tests and by the program that
// records sessions.
import { Buffer } from "node:buffer";

const POOLS = "/var/lib/hyperv/.kvp_pool_";
const KEY_BYTES = 512;
const RECORD_BYTES = 2560;

/** Prints a pool's file for `itemsOf`. @param {number} pool */
export const readPool = (pool) => `base64 -w 0 ${POOLS}${pool}`;

/** The keys and values of a pool's file; behind the NUL that ends each is what the daemon had in its memory. @param {string} text - base64. */
export function itemsOf(text) {
  const file = Buffer.from(text, "base64");
  /** @param {number} start */
  const field = (start) => file.toString("utf8", start, file.indexOf(0, start));
  const count = file.byteLength / RECORD_BYTES;
  return Array.from({ length: count }, (_, index) => {
    const start = index * RECORD_BYTES;
    return { key: field(start), value: field(start + KEY_BYTES) };
  });
}

/**
 * Adds an item to pool 1, as a program of the guest does: a record of both fields, filled up with NUL.
 *
 * @param {string} key @param {string} value - both without quotes.
 */
export const addGuestItem = (key, value) =>
  `{ printf %s '${key}' | dd bs=${KEY_BYTES} conv=sync; printf %s '${value}' | dd bs=${RECORD_BYTES - KEY_BYTES} conv=sync; } ` +
  `2>/dev/null >>${POOLS}1`;
