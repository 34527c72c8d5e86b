import type { GuestMemory } from "../guest-memory.js";

/**
 * Copies inside guest memory; the ranges do not overlap.
 * Up to 64 bytes an element loop is faster than `copyWithin`, whose call alone costs more.
 */
export function copyWithinMemory(
  memory: GuestMemory,
  to: number,
  from: number,
  lengthBytes: number,
): void {
  if (lengthBytes <= 64 && ((to | from | lengthBytes) & 7) === 0) {
    const quads = memory.quads;
    let target = to / 8;
    let source = from / 8;
    for (let count = lengthBytes >>> 3; count > 0; count--) quads[target++] = quads[source++]!;
    return;
  }
  memory.bytes.copyWithin(to, from, from + lengthBytes);
}
