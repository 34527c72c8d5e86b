import { expect, test } from "vitest";
import { run } from "./machine-kill-campaign.js";

test("a killed machine loses nothing that its guest flushed", { timeout: 120_000 }, async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_000);
  const seconds = Number(process.env["KILL_SECONDS"] ?? 3);
  console.info(`machine-kill campaign from seed ${seed}`);
  const report = await run({ seed, rounds: 1000, deadline: Date.now() + seconds * 1000 });
  console.info(`machine-kill campaign: ${JSON.stringify(report)}`);
  expect(report.rounds).toBeGreaterThan(0);
});
