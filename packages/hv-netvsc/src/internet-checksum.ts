import type { GpaRuns } from "@hyperv-is/vmbus-core";

/** Sum of 16-bit words in network order; an odd last byte counts as the upper half of a word. Not folded. */
export function sumBytes(bytes: Uint8Array, at: number, lengthBytes: number): number {
  const end = at + lengthBytes;
  let sum = 0;
  for (; at + 1 < end; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!;
  return at < end ? sum + (bytes[at]! << 8) : sum;
}

/** The same of what lies behind the first `from` bytes of `runs`. */
export function sumRuns(bytes: Uint8Array, runs: GpaRuns, from: number): number {
  let sum = 0;
  let odd = false;
  for (let run = 0; run < runs.runs; run++) {
    const skipped = Math.min(from, runs.runLength(run));
    from -= skipped;
    const lengthBytes = runs.runLength(run) - skipped;
    const part = foldSum(sumBytes(bytes, runs.runAddress(run) + skipped, lengthBytes));
    // A run that begins inside a word has its bytes in the other halves.
    sum += odd ? ((part & 0xff) << 8) | (part >>> 8) : part;
    if ((lengthBytes & 1) !== 0) odd = !odd;
  }
  return sum;
}

/** The ones' complement sum of 16 bits: carries added back in. */
export function foldSum(sum: number): number {
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x1_0000);
  return sum;
}
