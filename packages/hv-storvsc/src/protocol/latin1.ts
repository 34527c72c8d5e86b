/** Text of a fixed-width field without its padding of spaces or zeroes; bytes past the end are missing. */
export function latin1(bytes: Uint8Array, at: number, width: number): string {
  const end = Math.min(at + width, bytes.byteLength);
  let text = "";
  for (let index = at; index < end; index++) text += String.fromCharCode(bytes[index]!);
  return text.replace(/[ \0]+$/u, "");
}

/** Writes text into a fixed-width field, padded with spaces; an empty text leaves the field as it is. */
export function putLatin1(target: Uint8Array, at: number, width: number, text: string): void {
  if (text.length === 0) return;
  for (let index = 0; index < width; index++)
    target[at + index] = index < text.length ? text.charCodeAt(index) : 0x20;
}
