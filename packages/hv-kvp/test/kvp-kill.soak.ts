import { expect, test } from "vitest";
import { runKillCampaign } from "./kill-campaign.js";
import { temporaryDirectory } from "./temporary-directory.js";

const path = temporaryDirectory();
const seed = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const sets = Number(process.env["SOAK_COUNT"] ?? 10_000);

test(`daemons are killed during ${sets} SETs from seed ${seed}`, async () => {
  const report = await runKillCampaign({ directory: path("pool"), seed, sets });
  console.log(report);
  expect(report.sets).toBeGreaterThanOrEqual(sets);
});
