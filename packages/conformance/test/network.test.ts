import { describe, expect, test } from "vitest";
import { describeNetworkSchedule, runNetworkSchedule } from "./network-campaign.js";
import { networkMutants } from "./network-mutants.js";
import { networkStories, type NetworkStory } from "./network-plan.js";
import seeds from "./seeds.json" with { type: "json" };

const replayed = process.env["SIM_SEED"];
/** With `SIM_SEED`: what is to happen, whatever the seed says. */
const replayedStory = networkStories.find((story) => story === process.env["SIM_FAULT"]);
/** First seed of this run; `SIM_SEED=N` replays one schedule, and tells what was drawn for it. */
const first = Number(replayed ?? Date.now() % 1_000_000_007);
/** How long the share of the campaign takes that runs every time. */
const SHARE_MS = 2_500;
/** As many schedules there are at least: a third to a half of them see each thing that is to be seen. */
const SHARE_SCHEDULES = 24;
/** Schedules in which a mutant has to be caught. */
const MUTANT_SCHEDULES = 60;

const replay = (seed: number, story?: NetworkStory): string =>
  `SIM_SEED=${seed} ${story === undefined ? "" : `SIM_FAULT=${story} `}` +
  "npx vitest run packages/conformance/test/network.test";

// Registered only when it is asked for: a skipped test counts as a failed one.
if (replayed !== undefined)
  test(`one schedule, seed ${first}`, async () => {
    const options = { seed: first, ...(replayedStory !== undefined && { story: replayedStory }) };
    console.log(describeNetworkSchedule(options));
    console.log(await runNetworkSchedule(options));
  });

describe.runIf(replayed === undefined)(`the network under seeded schedules, from ${first}`, () => {
  test.each(seeds.network)("seed %i, which failed once, passes", async (seed) => {
    await runNetworkSchedule({ seed });
  });

  test(
    "a time-boxed share of the campaign passes",
    async () => {
      const end = performance.now() + SHARE_MS;
      const seen = { arrived: 0, fullRings: 0, faults: 0, subChannelFrames: 0, superFrames: 0 };
      let schedules = 0;
      // Each story has its turn: about half of the schedules have one on top of what is drawn.
      for (
        let seed = first;
        performance.now() < end || schedules < SHARE_SCHEDULES;
        seed++, schedules++
      ) {
        const story =
          seed % 2 === 0 ? undefined : networkStories[(seed >>> 1) % networkStories.length]!;
        try {
          const result = await runNetworkSchedule({ seed, ...(story !== undefined && { story }) });
          for (const name of Object.keys(seen) as (keyof typeof seen)[]) seen[name] += result[name];
        } catch (error) {
          throw new Error(`replay with: ${replay(seed, story)}`, { cause: error });
        }
      }
      console.log(`${schedules} schedules from seed ${first}`);
      for (const count of Object.values(seen)) expect(count).toBeGreaterThan(0);
    },
    10 * SHARE_MS,
  );

  test("the same seed gives the same schedule", async () => {
    expect(await runNetworkSchedule({ seed: 4 })).toEqual(await runNetworkSchedule({ seed: 4 }));
  });
});

describe.runIf(replayed === undefined)("mistakes in one end of the network's channels", () => {
  test.each(networkMutants)("%s is caught", async (sabotage) => {
    let caught = "";
    for (let seed = 1; seed <= MUTANT_SCHEDULES && caught === ""; seed++)
      await runNetworkSchedule({ seed, sabotage }).catch(
        (error: unknown) => (caught = String(error)),
      );
    console.log(`${sabotage}: ${caught}`);
    expect(caught).toMatch(
      /netvsp-completion-unknown|have not come back|has changed|have not ended|no frame that was sent|lost/,
    );
  });
});
