import { describe, test } from "vitest";
import { run as runVhdx } from "./crash-campaign.js";
import { run as runVhd } from "./vhd-crash-campaign.js";

const first = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const rounds = Number(process.env["SOAK_COUNT"] ?? 200);
/** Rounds between two lines about them. */
const STEP = 25;

describe(`${rounds} sessions that lose power at every point, from seed ${first}`, () => {
  test.each([
    ["VHDX", runVhdx, false],
    ["VHDX with many calls in flight", runVhdx, true],
    ["dynamic VHD", runVhd, false],
  ])("%s", (name, run, concurrent) => {
    for (let done = 0; done < rounds; done += STEP) {
      const count = Math.min(STEP, rounds - done);
      const report = run({ seed: first + done, rounds: count, concurrent });
      console.log(`${name}, from seed ${first + done}: ${JSON.stringify(report)}`);
    }
  });
});
