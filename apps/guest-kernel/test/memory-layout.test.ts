import { expect, test } from "vitest";
import { layoutMemory } from "../src/smp/memory-layout.js";

const MEGABYTE = 2 ** 20;

test.each([
  [32, 1],
  [32, 5],
  [256, 2],
  [256, 64],
  [4096, 64],
])("%i MiB for %i CPUs: parts of whole pages, none over another", (megabytes, cpus) => {
  const { arenas, programs } = layoutMemory(megabytes * MEGABYTE, cpus);
  expect(arenas).toHaveLength(cpus);
  const parts = [...arenas, programs].sort((left, right) => left.address - right.address);
  let end = 64 * 1024;
  for (const { address, lengthBytes } of parts) {
    expect([address % 4096, lengthBytes % 4096]).toEqual([0, 0]);
    expect(address).toBeGreaterThanOrEqual(end);
    expect(lengthBytes).toBeGreaterThanOrEqual(2 * MEGABYTE);
    end = address + lengthBytes;
  }
  expect(end).toBeLessThanOrEqual(megabytes * MEGABYTE);
  // Nothing to speak of is wasted.
  expect(end).toBeGreaterThan(megabytes * MEGABYTE - cpus * 4096);
});

test.each([
  [31, 1, /32M to 4096M/],
  [4097, 1, /32M to 4096M/],
  [32, 64, /32M of memory: 64 CPUs need at least 252M/],
  [128.5, 1, /whole MiB/],
])("%d MiB for %i CPUs are refused", (megabytes, cpus, message) => {
  expect(() => layoutMemory(megabytes * MEGABYTE, cpus)).toThrow(message);
});
