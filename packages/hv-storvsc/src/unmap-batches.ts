import type { UnmapRange } from "./protocol/index.js";

/** A descriptor's count is a u32. */
const DESCRIPTOR_BLOCKS_MAX = 0xffff_ffff;

/** Splits ranges into lists that one UNMAP may carry: at most so many ranges, and so many blocks in all. */
export function* unmapBatches(
  ranges: readonly UnmapRange[],
  rangesMax: number,
  blocksMax: number,
): Generator<readonly UnmapRange[]> {
  let batch: UnmapRange[] = [];
  let room = blocksMax;
  for (const range of ranges) {
    let { lba, blocks } = range;
    while (blocks > 0) {
      if (batch.length === rangesMax || room === 0) {
        yield batch;
        batch = [];
        room = blocksMax;
      }
      const piece = Math.min(blocks, room, DESCRIPTOR_BLOCKS_MAX);
      batch.push({ lba, blocks: piece });
      lba += piece;
      blocks -= piece;
      room -= piece;
    }
  }
  if (batch.length > 0) yield batch;
}
