import { expect, test } from "vitest";
import { run } from "./crash-campaign.js";

/** A round to repeat: `SEED=1007 npx vitest run packages/vhd/test/crash.test`. */
const again = process.env["SEED"];
/** A longer campaign takes more: `CRASH_SECONDS=600`. */
const seconds = Number(process.env["CRASH_SECONDS"] ?? 1);

// Rounds that have caught something: reused space, space of unmapped blocks, a full log.
const kept = again === undefined ? [1002, 1007, 1014] : [Number(again)];

test.each(kept)(
  "a loss of power loses nothing that was flushed: seed %d",
  { timeout: 60_000 },
  (seed) => {
    expect(run({ seed, rounds: 1 }).images).toBeGreaterThan(10);
  },
);

// Has caught a flush that did not wait for writes in flight, and one that forgot those that ended meanwhile.
test.skipIf(again !== undefined)(
  "nor does one with many calls in flight: seed 1000",
  { timeout: 60_000 },
  () => {
    expect(run({ seed: 1000, rounds: 1, concurrent: true }).images).toBeGreaterThan(10);
  },
);

test.skipIf(again !== undefined).each([
  ["one call after the other", false],
  ["many in flight", true],
])(
  "a loss of power loses nothing that was flushed: new seeds, %s",
  { timeout: 60_000 + seconds * 2000 },
  (name, concurrent) => {
    const seed = Date.now() % 1_000_000_000;
    const report = run({ seed, deadline: Date.now() + seconds * 1000, concurrent });
    console.info(`crash campaign from seed ${seed}, ${name}: ${JSON.stringify(report)}`);
    expect(report.replayed).toBeGreaterThan(0);
  },
);
