import { expect, test } from "vitest";
import { runKillCampaign } from "./kill-campaign.js";
import { temporaryDirectory } from "./temporary-directory.js";

const path = temporaryDirectory();

test("a daemon that is killed leaves every pool readable, with all that it answered for", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_007);
  const deadline = performance.now() + 1000;
  const isOver = (): boolean => performance.now() > deadline;
  const report = await runKillCampaign({ directory: path("pool"), seed, sets: 10_000, isOver });
  console.info(`${JSON.stringify(report)} from seed ${seed}`);
  expect(report.kills).toBeGreaterThan(0);
});
