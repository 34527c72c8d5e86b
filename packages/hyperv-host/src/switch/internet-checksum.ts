import type { GpaRuns } from "@hyperv-is/vmbus-core";
import type { FrameMemory } from "./frame-memory.js";

// One's complement sums of 16-bit words in network order, as IP, TCP and UDP have them (RFC 1071). A sum is a
// number from 0 to 0xffff: sums of parts may be added, and `foldSum` brings the result back into the range.

/** Brings a sum of several back to 16 bits. */
export function foldSum(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/** The sum of the same bytes one place further on. */
export function swapSum(sum: number): number {
  return ((sum & 0xff) << 8) | (sum >>> 8);
}

/** Sum of at most 128 KiB; an odd byte at the end counts as if a zero followed. */
export function sumBytes(memory: FrameMemory, at: number, lengthBytes: number): number {
  const { bytes, words } = memory;
  const end = at + lengthBytes;
  // Bytes at even and at odd addresses, so that words can be taken as they lie.
  let even = 0;
  let odd = 0;
  let next = at;
  for (; next < end && (next & 3) !== 0; next++) {
    if ((next & 1) === 0) even += bytes[next]!;
    else odd += bytes[next]!;
  }
  let low = 0;
  let high = 0;
  let word = next >>> 2;
  const last = end >>> 2;
  if (word < last) {
    for (; word + 4 <= last; word += 4) {
      const a = words[word]!;
      const b = words[word + 1]!;
      const c = words[word + 2]!;
      const d = words[word + 3]!;
      low += (a & 0xffff) + (b & 0xffff) + (c & 0xffff) + (d & 0xffff);
      high += (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16);
    }
    for (; word < last; word++) {
      const a = words[word]!;
      low += a & 0xffff;
      high += a >>> 16;
    }
    next = word << 2;
  }
  for (; next < end; next++) {
    if ((next & 1) === 0) even += bytes[next]!;
    else odd += bytes[next]!;
  }
  // So far the words are little-endian, and their low bytes those at even addresses.
  const sum = foldSum(foldSum(low) + foldSum(high) + foldSum(even + (odd << 8)));
  return (at & 1) === 0 ? swapSum(sum) : sum;
}

/** Sum of bytes that lie in runs of memory, `offset` from the start of the first. */
export function sumRuns(
  memory: FrameMemory,
  runs: GpaRuns,
  offset: number,
  lengthBytes: number,
): number {
  let skip = offset;
  let rest = lengthBytes;
  let sum = 0;
  for (let run = 0; rest > 0 && run < runs.runs; run++) {
    const length = runs.runLength(run);
    if (skip >= length) {
      skip -= length;
      continue;
    }
    const piece = Math.min(length - skip, rest);
    const ofPiece = sumBytes(memory, runs.runAddress(run) + skip, piece);
    sum = foldSum(sum + (((lengthBytes - rest) & 1) === 0 ? ofPiece : swapSum(ofPiece)));
    rest -= piece;
    skip = 0;
  }
  return sum;
}

/** What a checksum field has to hold for a sum of everything else. */
export function checksumOf(sum: number): number {
  return ~sum & 0xffff;
}

/** Reads a 16-bit integer in network order. */
export function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** Writes a 16-bit integer in network order. */
export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
