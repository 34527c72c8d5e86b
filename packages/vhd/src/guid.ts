import { type Random } from "./random.js";

/**
 * Byte of a stored GUID for each pair of digits of its text: the first three groups are stored
 * little-endian, the last two as written.
 */
const storedOrder = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15] as const;

const textForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The GUID of all zeros. */
export const ZERO_GUID = "00000000-0000-0000-0000-000000000000";

/** The text of the 16 stored bytes at `offset`: lower-case digits in groups of 8-4-4-4-12. */
export function readGuid(bytes: Uint8Array, offset = 0): string {
  const digits = storedOrder
    .map((at) => bytes[offset + at]!.toString(16).padStart(2, "0"))
    .join("");
  return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-${digits.slice(12, 16)}-${digits.slice(16, 20)}-${digits.slice(20)}`;
}

/** Writes the 16 stored bytes of a GUID's text to `offset`; throws `RangeError` on anything else. */
export function emitGuid(bytes: Uint8Array, offset: number, guid: string): void {
  if (!textForm.test(guid)) throw new RangeError(`'${guid}' is no GUID`);
  const digits = guid.replaceAll("-", "");
  for (let pair = 0; pair < 16; pair++)
    bytes[offset + storedOrder[pair]!] = Number.parseInt(digits.slice(pair * 2, pair * 2 + 2), 16);
}

/** A new random GUID (version 4) as text. */
export function randomGuid(random: Random): string {
  const bytes = new Uint8Array(16);
  random.fill(bytes);
  bytes[7] = (bytes[7]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return readGuid(bytes);
}
