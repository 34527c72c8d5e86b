import { copyWithinMemory, type GpaRuns, type GuestMemory } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

/** Pieces of pages in what lies behind the first `skipBytes` of a frame. */
export function pagePieces(frame: GpaRuns, skipBytes: number): number {
  let skip = skipBytes;
  let pieces = 0;
  for (let run = 0; run < frame.runs; run++) {
    const length = frame.runLength(run);
    const skipped = skip < length ? skip : length;
    skip -= skipped;
    if (skipped === length) continue;
    const first = frame.runAddress(run) + skipped;
    const last = first + length - skipped - 1;
    pieces += Math.floor(last / PAGE_SIZE) - Math.floor(first / PAGE_SIZE) + 1;
  }
  return pieces;
}

/** Copies the first `lengthBytes` of `runs` to `to`. */
export function copyRuns(
  memory: GuestMemory,
  runs: GpaRuns,
  lengthBytes: number,
  to: number,
): void {
  let rest = lengthBytes;
  for (let run = 0; run < runs.runs && rest > 0; run++) {
    const length = Math.min(runs.runLength(run), rest);
    copyWithinMemory(memory, to, runs.runAddress(run), length);
    to += length;
    rest -= length;
  }
}
