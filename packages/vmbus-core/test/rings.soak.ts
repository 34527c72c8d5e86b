import { test } from "vitest";
import { compareRings } from "./ring-campaign.js";

const STEP = 10_000;

const first = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const count = Number(process.env["SOAK_COUNT"] ?? 1_000_000);

test(`${count} sequences of what ring ends and hostile peers do, from seed ${first}`, () => {
  for (let done = 0; done < count; done += STEP) {
    compareRings(Math.min(STEP, count - done), first + done);
    console.log(`${Math.min(done + STEP, count)} sequences`);
  }
});
