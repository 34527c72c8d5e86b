import { describe, expect, test } from "vitest";
import { runComponentSchedule } from "./components-campaign.js";
import seeds from "./seeds.json" with { type: "json" };

const replayed = process.env["SIM_SEED"];
/** First seed of this run; `SIM_SEED=N` replays one schedule. */
const first = Number(replayed ?? Date.now() % 1_000_000_007);
/** How long the share of the campaign takes that runs every time. */
const SHARE_MS = 1_500;

const replay = (seed: number): string =>
  `SIM_SEED=${seed} npx vitest run packages/conformance/test/components`;

// Registered only when it is asked for: a skipped test counts as a failed one.
if (replayed !== undefined)
  test(`one schedule, seed ${first}`, async () => {
    console.log(await runComponentSchedule(first));
  });

describe.runIf(replayed === undefined)(`components under seeded schedules, from ${first}`, () => {
  test.each(seeds.components)("seed %i, which failed once, passes", async (seed) => {
    await runComponentSchedule(seed);
  });

  test("a time-boxed share of the campaign passes", async () => {
    const end = performance.now() + SHARE_MS;
    let [schedules, requests, failures, faults] = [0, 0, 0, 0];
    for (let seed = first; performance.now() < end; seed++) {
      try {
        const result = await runComponentSchedule(seed);
        requests += result.requests;
        failures += result.failures;
        faults += result.faults;
      } catch (error) {
        throw new Error(`replay with: ${replay(seed)}`, { cause: error });
      }
      schedules++;
    }
    console.log(`${schedules} schedules from seed ${first}`);
    expect(schedules).toBeGreaterThan(5);
    for (const seen of [requests, failures, faults]) expect(seen).toBeGreaterThan(0);
  });

  test("the same seed gives the same schedule", async () => {
    expect(await runComponentSchedule(4)).toEqual(await runComponentSchedule(4));
  });
});
