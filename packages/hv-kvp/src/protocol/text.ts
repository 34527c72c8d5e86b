const utf16 = new TextDecoder("utf-16le", { fatal: true, ignoreBOM: true });
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenientUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

/**
 * UTF-16LE of `sizeBytes` bytes, the NUL at their end included, as text.
 *
 * @returns Undefined unless the size is even and within the bytes, the last unit is the only NUL, and every
 *   surrogate has its other half.
 */
export function parseUtf16(bytes: Uint8Array, sizeBytes: number): string | undefined {
  if (sizeBytes < 2 || sizeBytes % 2 !== 0 || sizeBytes > bytes.byteLength) return undefined;
  const text = decode(utf16, bytes.subarray(0, sizeBytes));
  if (text === undefined) return undefined;
  return text.indexOf("\0") === text.length - 1 ? text.slice(0, -1) : undefined;
}

/** UTF-16LE up to the first NUL of a field; undefined without a NUL, or with half a surrogate pair. */
export function parseUtf16Field(field: Uint8Array): string | undefined {
  for (let at = 0; at + 1 < field.byteLength; at += 2)
    if (field[at] === 0 && field[at + 1] === 0) return decode(utf16, field.subarray(0, at));
  return undefined;
}

/**
 * Writes text as UTF-16LE with a NUL into a zeroed field, cut between two characters where it does not fit.
 *
 * @param maxUnits - Units at most, the NUL not counted; what the field takes unless told.
 * @returns Bytes written, the NUL included.
 */
export function writeUtf16(
  field: Uint8Array,
  text: string,
  maxUnits = field.byteLength / 2 - 1,
): number {
  const units = unitsWithin(text, maxUnits);
  for (let index = 0; index < units; index++) {
    const unit = text.charCodeAt(index);
    field[2 * index] = unit & 0xff;
    field[2 * index + 1] = unit >>> 8;
  }
  return 2 * (units + 1);
}

/** UTF-8 up to the first NUL of a field; undefined without a NUL, or if it is not UTF-8. */
export function parseUtf8Field(field: Uint8Array): string | undefined {
  const end = field.indexOf(0);
  return end < 0 ? undefined : decode(utf8, field.subarray(0, end));
}

/** UTF-8 up to the first NUL, or to the end; what is not UTF-8 becomes U+FFFD. For what anybody may have written. */
export function readUtf8Field(field: Uint8Array): string {
  const end = field.indexOf(0);
  return lenientUtf8.decode(end < 0 ? field : field.subarray(0, end));
}

/**
 * Writes text as UTF-8 with a NUL into a zeroed field.
 *
 * @returns Bytes written, the NUL included; 0, and nothing written, if it does not fit or has a NUL in it.
 */
export function writeUtf8(field: Uint8Array, text: string): number {
  const bytes = encoder.encode(text);
  if (bytes.byteLength >= field.byteLength || bytes.includes(0)) return 0;
  field.set(bytes);
  return bytes.byteLength + 1;
}

/** Bytes of text as UTF-8. */
export function utf8Bytes(text: string): number {
  return encoder.encode(text).byteLength;
}

/** True if text has a NUL, a line feed, or another control character in it. */
export function hasControl(text: string): boolean {
  return /\p{Cc}/u.test(text);
}

/** Units of the longest part of text that has at most `maxUnits` and ends between two characters. */
function unitsWithin(text: string, maxUnits: number): number {
  if (text.length <= maxUnits) return text.length;
  const last = text.charCodeAt(maxUnits - 1);
  return last >= 0xd800 && last < 0xdc00 ? maxUnits - 1 : maxUnits;
}

function decode(
  decoder: { decode(bytes: Uint8Array): string },
  bytes: Uint8Array,
): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}
