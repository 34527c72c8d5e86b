import { expect, test } from "vitest";
import { measureHostAllocation } from "../src/storage/host-allocation.js";

const MEASUREMENTS_MAX = 5;

test("the host's path of a transfer allocates nothing of its own, offsets above 4 GiB included", async () => {
  let [reads, readSync, writes, writeSync] = Array<number>(4).fill(Infinity);
  // The engine compiles in its own time, and later where other tests need the processors: a path that allocates does so in each
  // measurement.
  for (let measurement = 0; measurement < MEASUREMENTS_MAX; measurement++) {
    const results = await measureHostAllocation({ runs: 20, progress: () => undefined });
    [reads, readSync, writes, writeSync] = results.map(({ value }) => value);
    if (reads! - readSync! < 1 && writes! - writeSync! < 1) break;
  }
  expect(reads! - readSync!).toBeLessThan(1);
  expect(writes! - writeSync!).toBeLessThan(1);
  // What `readSync` leaves behind is a number that does not fit into 32 bits; `writeSync` of Node 20 leaves more.
  expect(reads!).toBeLessThanOrEqual(32);
});
