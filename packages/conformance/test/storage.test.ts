import { describe, expect, test } from "vitest";
import { ringMutants } from "@hyperv-is/conformance";
import seeds from "./seeds.json" with { type: "json" };
import { describeSchedule, runSchedule } from "./storage-campaign.js";
import type { PlantedMutant } from "./simulated-machine.js";
import { subChannelFaults, type SubChannelFault } from "./storage-plan.js";

const replayed = process.env["SIM_SEED"];
/** With `SIM_SEED`: what the host is to do wrong with sub-channels. */
const replayedFault = subChannelFaults.find((kind) => kind === process.env["SIM_FAULT"]);
/** First seed of this run; `SIM_SEED=N` replays one schedule, and tells what was drawn for it. */
const first = Number(replayed ?? Date.now() % 1_000_000_007);
/** How long the share of the campaign takes that runs every time. */
const SHARE_MS = 5_000;
/** As many schedules there are at least: one of six takes a controller away, and some are to. */
const SHARE_SCHEDULES = 60;
/** Schedules of each way in which a host may fail with its sub-channels, at least and at most: in four of ten a request uses one. */
const SUB_CHANNEL_SCHEDULES = 12;
const SUB_CHANNEL_SCHEDULES_MAX = 60;
/** Schedules in which a mutant has to be caught. */
const MUTANT_SCHEDULES = 300;

const replay = (seed: number, fault?: SubChannelFault): string =>
  `SIM_SEED=${seed} ${fault === undefined ? "" : `SIM_FAULT=${fault} `}` +
  "npx vitest run packages/conformance/test/storage";

// Registered only when it is asked for: a skipped test counts as a failed one.
if (replayed !== undefined)
  test(`one schedule, seed ${first}`, async () => {
    const options = {
      seed: first,
      ...(replayedFault !== undefined && { subChannelFault: replayedFault }),
    };
    console.log(describeSchedule(options));
    console.log(await runSchedule(options));
  });

describe.runIf(replayed === undefined)(`storage under seeded schedules, from ${first}`, () => {
  test.each(seeds.storage)("seed %i, which failed once, passes", async (seed) => {
    await runSchedule({ seed, oneCpu: true });
  });

  test.each(seeds.smp)("seed %i, which failed once with several CPUs, passes", async (seed) => {
    await runSchedule({ seed });
  });

  test(
    "a time-boxed share of the campaign passes",
    async () => {
      const end = performance.now() + SHARE_MS;
      let [schedules, faults, fullRings, bounced, rescinds] = [0, 0, 0, 0, 0];
      let subChannelRequests = 0;
      for (let seed = first; performance.now() < end || schedules < SHARE_SCHEDULES; seed++) {
        try {
          const result = await runSchedule({ seed });
          faults += result.faults;
          fullRings += result.fullRings;
          bounced += result.bounced;
          rescinds += result.rescinds;
          subChannelRequests += result.subChannelRequests;
        } catch (error) {
          throw new Error(`replay with: ${replay(seed)}`, { cause: error });
        }
        schedules++;
      }
      console.log(`${schedules} schedules from seed ${first}`);
      for (const seen of [faults, fullRings, bounced, rescinds, subChannelRequests])
        expect(seen).toBeGreaterThan(0);
    },
    6 * SHARE_MS,
  );

  test.each(subChannelFaults)("%s do no harm", async (subChannelFault) => {
    let [happened, requests] = [0, 0];
    for (let run = 0; run < SUB_CHANNEL_SCHEDULES_MAX; run++) {
      if (run >= SUB_CHANNEL_SCHEDULES && happened > 0 && requests > 0) break;
      const seed = first + run;
      try {
        const result = await runSchedule({ seed, subChannelFault });
        happened += result.subChannelFaults;
        requests += result.subChannelRequests;
      } catch (error) {
        throw new Error(`replay with: ${replay(seed, subChannelFault)}`, { cause: error });
      }
    }
    expect(happened).toBeGreaterThan(0);
    expect(requests).toBeGreaterThan(0);
  });

  test("the same seed gives the same schedule", async () => {
    expect(await runSchedule({ seed: 4 })).toEqual(await runSchedule({ seed: 4 }));
  });
});

/**
 * A host that waits for room looks again by itself after a while, because FreeBSD's drivers do not tell it:
 * it outlives the mutant of the waiting writer. Its own event flags are the hypervisor's, not memory that it
 * shares with the guest.
 */
const mutants: readonly PlantedMutant[] = [
  ...ringMutants.map((mutant) => ({ side: "guest" as const, mutant })),
  { side: "host", mutant: "no-recheck-after-unmask" },
  { side: "host", mutant: "mask-read-before-publish" },
];

describe.runIf(replayed === undefined)("mutants in one end of the storage channel", () => {
  test.each(mutants)(
    "$mutant in the $side is caught",
    async (mutant) => {
      let message = "";
      for (let seed = 1; seed <= MUTANT_SCHEDULES && message === ""; seed++)
        await runSchedule({ seed, mutant }).catch((error: unknown) => (message = String(error)));
      expect(message).toMatch(/wake-up was lost|have not ended|disks were found/);
    },
    120_000,
  );

  test("a host that does not look again for room is outlived by its timer", async () => {
    const mutant = { side: "host", mutant: "pending-size-not-rechecked" } as const;
    for (let seed = 1; seed <= 50; seed++) await runSchedule({ seed, mutant });
  });
});
