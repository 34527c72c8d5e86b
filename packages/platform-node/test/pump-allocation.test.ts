import { getHeapStatistics } from "node:v8";
import { expect, test } from "vitest";
import { createDoorbells, Pump } from "@hyperv-is/platform-node";

const BATCHES = 20_000;
const LOOKS_PER_BATCH = 100;
const ROUNDS_MAX = 60;
/** What a batch may leave: looks at the clock, and its share of a turn of Node's event loop. A pause for promises is 150 more than the 70 that it is. */
const ENOUGH_BYTES = 100;

test("an async pump leaves little garbage for a batch of work", async () => {
  const pump = new Pump("async", createDoorbells(1)[0]!, { spinLimitUs: 1_000_000 });
  let looks = 0;
  let batches = 0;
  let rounds = 0;
  let least = Infinity;
  let before = NaN;
  await pump.run({
    drain() {
      if (++looks % LOOKS_PER_BATCH !== 0) return false;
      if (++batches % BATCHES !== 0) return true;
      const heap = getHeapStatistics().used_heap_size;
      // A negative difference means that garbage was collected meanwhile: that round says nothing.
      if (heap >= before) least = Math.min(least, (heap - before) / BATCHES);
      before = getHeapStatistics().used_heap_size;
      if (++rounds === ROUNDS_MAX || least < ENOUGH_BYTES) pump.doorbell.requestStop();
      return true;
    },
  });
  expect(least).toBeLessThan(ENOUGH_BYTES);
});
