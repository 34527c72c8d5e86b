import type { DataArea } from "./data-area.js";

/** Requests after which a pattern begins again: more than any cache of a processor covers. */
const PATTERN_REQUESTS = 1 << 17;
const SEED = 0x5eed;

/** Where to read, in which order: for the guest in positions on the disk, for the peer in positions in the file. */
export interface ReadPattern {
  readonly requestBytes: number;
  /** Over shared memory. */
  readonly diskPositions: Float64Array;
  readonly filePositions: Float64Array;
}

/** All places of the area one after the other. */
export function sequentialPattern(area: DataArea, requestBytes: number): ReadPattern {
  const places = area.sizeBytes / requestBytes;
  return pattern(area, requestBytes, places, (index) => index);
}

/** Places of the area in an order that is always the same and has no pattern. */
export function randomPattern(area: DataArea, requestBytes: number): ReadPattern {
  const places = area.sizeBytes / requestBytes;
  let state = SEED;
  return pattern(area, requestBytes, PATTERN_REQUESTS, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * places);
  });
}

function pattern(
  area: DataArea,
  requestBytes: number,
  count: number,
  indexOf: (request: number) => number,
): ReadPattern {
  const diskPositions = new Float64Array(new SharedArrayBuffer(count * 8));
  const filePositions = new Float64Array(count);
  for (let request = 0; request < count; request++) {
    const place = area.place(indexOf(request), requestBytes);
    diskPositions[request] = place.diskPosition;
    filePositions[request] = place.filePosition;
  }
  return { requestBytes, diskPositions, filePositions };
}
