import { test } from "vitest";
import { run } from "./wake-campaign.js";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_007);

test.each(["blocking", "async"] as const)(
  `no wake-up of a pump that is %s is lost, seed ${seed}`,
  { timeout: 120_000 },
  async (kind) => {
    await run({ seed, count: 3_000, kinds: [kind] });
  },
);
