import { expect, test } from "vitest";
import { measureHostAllocation } from "../src/storage/host-allocation.js";

test("the host's path of a transfer allocates nothing of its own, offsets above 4 GiB included", async () => {
  const results = await measureHostAllocation({ runs: 5, progress: () => undefined });
  const [reads, readSync, writes, writeSync] = results.map(({ value }) => value);
  expect(reads! - readSync!).toBeLessThan(1);
  expect(writes! - writeSync!).toBeLessThan(1);
  // What `readSync` leaves behind is a number that does not fit into 32 bits; `writeSync` of Node 20 leaves more.
  expect(reads!).toBeLessThanOrEqual(32);
});
