import { test } from "vitest";
import { run } from "./machine-kill-campaign.js";

const seed = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const rounds = Number(process.env["SOAK_COUNT"] ?? 200);

test(`${rounds} kills of booted machines from seed ${seed}`, async () => {
  console.log(await run({ seed, rounds, report: console.log }));
});
