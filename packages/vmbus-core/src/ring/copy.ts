import type { GuestMemory } from "../guest-memory.js";

/** Up to this many bytes four 64-bit elements at a time are faster than `copyWithin`, whose call alone costs more. */
const ELEMENTS_MAX_BYTES = 512;

/** Copies inside guest memory; the ranges do not overlap. */
export function copyWithinMemory(
  memory: GuestMemory,
  to: number,
  from: number,
  lengthBytes: number,
): void {
  const core = memory.ringCore;
  if (core !== undefined) {
    core.copy(to | 0, from | 0, lengthBytes);
    return;
  }
  if (lengthBytes > ELEMENTS_MAX_BYTES || ((to | from | lengthBytes) & 7) !== 0) {
    memory.bytes.copyWithin(to, from, from + lengthBytes);
    return;
  }
  const quads = memory.quads;
  let target = to >>> 3;
  let source = from >>> 3;
  let count = lengthBytes >>> 3;
  for (; count >= 4; count -= 4) {
    quads[target] = quads[source]!;
    quads[target + 1] = quads[source + 1]!;
    quads[target + 2] = quads[source + 2]!;
    quads[target + 3] = quads[source + 3]!;
    target += 4;
    source += 4;
  }
  for (; count > 0; count--) quads[target++] = quads[source++]!;
}
