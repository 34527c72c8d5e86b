/**
 * A GUID as lower-case text without braces (`f8615163-df3e-46c5-913f-f2d2f965ed0e`): the form in which
 * records and tables hold it, so that `===` compares two of them.
 */
export type Guid = `${string}-${string}-${string}-${string}-${string}`;

/** Bytes of a GUID on the wire. */
export const GUID_SIZE = 16;

/** The GUID of nobody. */
export const NIL_GUID: Guid = "00000000-0000-0000-0000-000000000000";

const TEXT = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * Place on the wire of each byte of the text: the first three groups are little-endian integers, the
 * last two are in text order.
 */
const WIRE_ORDER = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15] as const;

/** Parses text in either case, with or without braces; undefined if it is not a GUID. */
export function parseGuid(text: string): Guid | undefined {
  const bare = text.startsWith("{") && text.endsWith("}") ? text.slice(1, -1) : text;
  const guid = bare.toLowerCase();
  return TEXT.test(guid) ? (guid as Guid) : undefined;
}

/** Reads the 16 bytes at `offset`, which the caller has checked to be there. */
export function readGuid(bytes: Uint8Array, offset = 0): Guid {
  let text = "";
  for (let i = 0; i < GUID_SIZE; i++) {
    if (i === 4 || i === 6 || i === 8 || i === 10) text += "-";
    text += bytes[offset + WIRE_ORDER[i]!]!.toString(16).padStart(2, "0");
  }
  return text as Guid;
}

/** Writes the 16 wire bytes of `guid` at `offset`. Throws a RangeError if the text is no GUID. */
export function writeGuid(bytes: Uint8Array, offset: number, guid: Guid): void {
  const digits = parseGuid(guid)?.replaceAll("-", "");
  if (digits === undefined) throw new RangeError(`not a GUID: ${guid}`);
  for (let i = 0; i < GUID_SIZE; i++)
    bytes[offset + WIRE_ORDER[i]!] = Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16);
}
