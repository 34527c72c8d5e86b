import type { RingCore } from "@hyperv-is/vmbus-core";

/** Memory that bytes of frames lie in, seen by several widths; `GuestMemory` is one, and so is a private buffer. */
export interface FrameMemory {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly quads: BigUint64Array;
  readonly view: DataView;
  readonly ringCore?: RingCore | undefined;
}

/** Memory of the host alone, zeroed. @param sizeBytes - a multiple of 8. */
export function privateMemory(sizeBytes: number): FrameMemory {
  const buffer = new ArrayBuffer(sizeBytes);
  return {
    bytes: new Uint8Array(buffer),
    words: new Int32Array(buffer),
    quads: new BigUint64Array(buffer),
    view: new DataView(buffer),
  };
}

/** Below this many bytes the copy of each by itself is fastest. */
const SHORT_BYTES = 16;

/** Copies bytes between memories, or inside one if the ranges do not overlap. Allocates nothing. */
export function copyFrameBytes(
  target: FrameMemory,
  to: number,
  source: FrameMemory,
  from: number,
  lengthBytes: number,
): void {
  if (target === source && lengthBytes >= SHORT_BYTES) {
    const core = source.ringCore;
    if (core === undefined) source.bytes.copyWithin(to, from, from + lengthBytes);
    else core.copy(to | 0, from | 0, lengthBytes);
    return;
  }
  if (lengthBytes < SHORT_BYTES) {
    copySingly(target.bytes, to, source.bytes, from, lengthBytes);
    return;
  }
  // The target is written by whole words; what precedes the first and follows the last goes singly.
  const isAligned = ((to ^ from) & 7) === 0;
  const width = isAligned ? 8 : 4;
  const lead = -to & (width - 1);
  const middle = (lengthBytes - lead) & -width;
  copySingly(target.bytes, to, source.bytes, from, lead);
  const at = to + lead;
  const start = from + lead;
  if (isAligned) copyQuads(target.quads, at >>> 3, source.quads, start >>> 3, middle >>> 3);
  else copyWords(target.words, at >>> 2, source.view, start, middle >>> 2);
  const done = lead + middle;
  copySingly(target.bytes, to + done, source.bytes, from + done, lengthBytes - done);
}

function copySingly(
  target: Uint8Array,
  to: number,
  source: Uint8Array,
  from: number,
  count: number,
): void {
  for (let index = 0; index < count; index++) target[to + index] = source[from + index]!;
}

function copyQuads(
  target: BigUint64Array,
  to: number,
  source: BigUint64Array,
  from: number,
  count: number,
): void {
  for (; count >= 4; count -= 4) {
    target[to] = source[from]!;
    target[to + 1] = source[from + 1]!;
    target[to + 2] = source[from + 2]!;
    target[to + 3] = source[from + 3]!;
    to += 4;
    from += 4;
  }
  for (; count > 0; count--) target[to++] = source[from++]!;
}

/** Words from any byte address, which a DataView reads in one instruction each. */
function copyWords(
  target: Int32Array,
  to: number,
  source: DataView,
  from: number,
  count: number,
): void {
  for (; count >= 4; count -= 4) {
    target[to] = source.getInt32(from, true);
    target[to + 1] = source.getInt32(from + 4, true);
    target[to + 2] = source.getInt32(from + 8, true);
    target[to + 3] = source.getInt32(from + 12, true);
    to += 4;
    from += 16;
  }
  for (; count > 0; count--) {
    target[to++] = source.getInt32(from, true);
    from += 4;
  }
}
