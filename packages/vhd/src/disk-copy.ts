import { assert } from "./assertion.js";
import { type VirtualDisk } from "./virtual-disk.js";

/** What is read at once. */
const CHUNK_BYTES = 4 << 20;
/** What is skipped when it is zero. */
const PIECE_BYTES = 64 << 10;

/**
 * Copies a whole disk onto an empty one that is at least as large, leaving out what is zero.
 *
 * Yields how many bytes of the source are dealt with, after every few MiB, so that the caller can show
 * progress, take a breath or stop. Nothing is flushed.
 */
export function* copyDisk(
  source: Pick<VirtualDisk, "sizeBytes" | "read" | "nextData">,
  target: Pick<VirtualDisk, "sizeBytes" | "write">,
): Generator<number, void> {
  assert(target.sizeBytes >= source.sizeBytes, "the target is smaller than the source");
  const chunk = new Uint8Array(CHUNK_BYTES);
  const words = new Int32Array(chunk.buffer);
  let position = 0;
  while (position < source.sizeBytes) {
    const data = source.nextData?.(position) ?? position;
    if (data === source.sizeBytes) break;
    // Whole chunks are skipped, so that reads stay aligned.
    position = Math.floor(data / CHUNK_BYTES) * CHUNK_BYTES;
    const length = Math.min(CHUNK_BYTES, source.sizeBytes - position);
    source.read(position, chunk, 0, length);
    let from = 0;
    while (from < length) {
      let to = from;
      while (to < length && !isZero(words, to, Math.min(to + PIECE_BYTES, length)))
        to = Math.min(to + PIECE_BYTES, length);
      if (to > from) target.write(position + from, chunk, from, to - from);
      from = to + PIECE_BYTES;
    }
    position += length;
    yield position;
  }
}

function isZero(words: Int32Array, fromBytes: number, toBytes: number): boolean {
  for (let index = fromBytes / 4; index < toBytes / 4; index++)
    if (words[index] !== 0) return false;
  return true;
}
