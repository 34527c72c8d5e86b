import { describe, test } from "vitest";
import { run as runVhdx } from "./crash-campaign.js";
import { run as runVhd } from "./vhd-crash-campaign.js";

const first = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const rounds = Number(process.env["SOAK_COUNT"] ?? 200);
/** Rounds between two lines about them. */
const STEP = 25;

describe(`${rounds} sessions that lose power at every point, from seed ${first}`, () => {
  test.each([
    ["VHDX", runVhdx],
    ["dynamic VHD", runVhd],
  ])("%s", (name, run) => {
    for (let done = 0; done < rounds; done += STEP) {
      const report = run({ seed: first + done, rounds: Math.min(STEP, rounds - done) });
      console.log(`${name}, from seed ${first + done}: ${JSON.stringify(report)}`);
    }
  });
});
