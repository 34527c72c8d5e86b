import type { DecodedRecord } from "./trace-decoder.js";

/** Bytes of payloads and data that a line shows. */
const DIGITS_MAX = 64;

const arrows = { "guest-to-host": ">", "host-to-guest": "<" } as const;

/** A decoded record as one line without its end: time, direction, virtual processor, channel, name, fields. */
export function traceLine(record: DecodedRecord): string {
  const { seconds, direction, vp, relid, device, name, fields } = record;
  const where = relid === undefined ? "bus" : `${relid}${device === undefined ? "" : `.${device}`}`;
  return [
    seconds.toFixed(7).padStart(13),
    direction === undefined ? "-" : arrows[direction],
    (vp === undefined ? "" : `vp${vp}`).padEnd(4),
    where.padEnd(12),
    name,
    ...Object.entries(fields).map(([key, value]) => `${key}=${shown(String(value))}`),
  ].join(" ");
}

function shown(text: string): string {
  if (/^[0-9a-f]+$/.test(text) && text.length > DIGITS_MAX)
    return `${text.slice(0, DIGITS_MAX)}...`;
  // Keys, values and messages are texts of host and guest.
  return text === "" || /[\s\p{Cc}]/u.test(text) ? quoted(text) : text;
}

/** As JSON has it, with nothing left that a terminal would obey. */
function quoted(text: string): string {
  return JSON.stringify(text).replace(
    /\p{Cc}/gu,
    (control) => `\\u00${control.charCodeAt(0).toString(16)}`,
  );
}
