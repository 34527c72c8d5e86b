import fc from "fast-check";
import { expect, test } from "vitest";
import { unmapBatches } from "../src/unmap-batches.js";

test("batches name the same blocks in the same order, within every limit", () => {
  const range = fc.record({ lba: fc.nat(2 ** 40), blocks: fc.nat(200) });
  fc.assert(
    fc.property(
      fc.array(range, { maxLength: 12 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 300 }),
      (ranges, rangesMax, blocksMax) => {
        const batches = [...unmapBatches(ranges, rangesMax, blocksMax)];
        const within = batches.every(
          (batch) =>
            batch.length > 0 &&
            batch.length <= rangesMax &&
            batch.reduce((sum, { blocks }) => sum + blocks, 0) <= blocksMax,
        );
        expect(within).toBe(true);
        const blocksOf = (list: typeof ranges): number[] =>
          list.flatMap(({ lba, blocks }) => Array.from({ length: blocks }, (_, at) => lba + at));
        expect(blocksOf(batches.flat()).join()).toBe(blocksOf(ranges).join());
      },
    ),
  );
});

test("a descriptor's count is 32 bits wide", () => {
  const batches = [...unmapBatches([{ lba: 7, blocks: 2 ** 33 }], 2, Infinity)];
  expect(batches).toEqual([
    [
      { lba: 7, blocks: 0xffff_ffff },
      { lba: 7 + 0xffff_ffff, blocks: 0xffff_ffff },
    ],
    [{ lba: 7 + 2 * 0xffff_ffff, blocks: 2 }],
  ]);
});
