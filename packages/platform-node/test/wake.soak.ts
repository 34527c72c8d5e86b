import { test } from "vitest";
import { run } from "./wake-campaign.js";

const seed = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const count = Number(process.env["SOAK_COUNT"] ?? 10_000_000);

test(`${count} wake-ups from seed ${seed}`, async () => {
  await run({ seed, count, report: console.log });
});
