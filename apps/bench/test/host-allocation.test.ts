import { expect, test } from "vitest";
import { measureHostAllocation } from "../src/storage/host-allocation.js";

test("the host's path of a transfer allocates nothing of its own, offsets above 4 GiB included", async () => {
  // The engine compiles in its own time, and later where other tests need the processors.
  const results = await measureHostAllocation({ runs: 20, progress: () => undefined });
  const [reads, readSync, writes, writeSync] = results.map(({ value }) => value);
  expect(reads! - readSync!).toBeLessThan(1);
  expect(writes! - writeSync!).toBeLessThan(1);
  // What `readSync` leaves behind is a number that does not fit into 32 bits; `writeSync` of Node 20 leaves more.
  expect(reads!).toBeLessThanOrEqual(32);
});
