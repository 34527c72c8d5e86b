import { describe, expect, test } from "vitest";
import { ringMutants, simulateChannel } from "@hyperv-is/conformance";

/** First seed of this run; `SIM_SEED=N` replays one schedule. */
const first = Number(process.env["SIM_SEED"] ?? Date.now() % 1_000_000_007);
const count = process.env["SIM_SEED"] === undefined ? 2000 : 1;

describe(`channel ends under seeded schedules, from seed ${first}`, () => {
  test("nothing is lost, doubled or changed, and nobody oversleeps", () => {
    let full = 0;
    for (let seed = first; seed < first + count; seed++)
      try {
        full += simulateChannel({ seed }).fullRings;
      } catch (cause) {
        const replay = `SIM_SEED=${seed} npx vitest run packages/conformance/test/channel-simulation`;
        throw new Error(`replay with: ${replay}`, { cause });
      }
    expect(full).toBeGreaterThan(0);
  });

  test("the same seed gives the same schedule", () => {
    expect(simulateChannel({ seed: 42 })).toEqual(simulateChannel({ seed: 42 }));
  });

  test.each(ringMutants)("the mutant %s is caught", (mutant) => {
    const caught = (): number => {
      for (let seed = 1; seed <= 5000; seed++) {
        try {
          simulateChannel({ seed, mutant });
        } catch (error) {
          expect(String(error)).toContain("a wake-up was lost");
          return seed;
        }
      }
      return -1;
    };
    expect(caught()).toBeGreaterThan(0);
  });
});
