import { expect, test } from "vitest";
import { run } from "./kill-campaign.js";

test("a killed writer loses nothing that it flushed", { timeout: 120_000 }, async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_000);
  const seconds = Number(process.env["KILL_SECONDS"] ?? 4);
  const deadline = Date.now() + seconds * 1000;
  console.info(`kill campaign from seed ${seed}`);
  const report = await run({ seed, rounds: 1000, deadline });
  console.info(`kill campaign: ${JSON.stringify(report)}`);
  expect(report.rounds).toBeGreaterThan(0);
});
