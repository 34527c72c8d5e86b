import { expect, test } from "vitest";
import { run } from "./vhd-crash-campaign.js";

test("a loss of power at any point loses nothing that was flushed", { timeout: 120_000 }, () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_000);
  const seconds = Number(process.env["CRASH_SECONDS"] ?? 1.5);
  const report = run({ seed, deadline: Date.now() + seconds * 1000 });
  console.info(`VHD crash campaign from seed ${seed}: ${JSON.stringify(report)}`);
  expect(report.images).toBeGreaterThan(0);
});
