import { test } from "vitest";
import { run } from "./wake-campaign.js";

const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_007);

test.each([
  { kind: "blocking", watches: false },
  { kind: "async", watches: false },
  { kind: "blocking", watches: true },
  { kind: "async", watches: true },
] as const)(
  `no wake-up of a pump that is $kind is lost, files: $watches, seed ${seed}`,
  { timeout: 120_000 },
  async ({ kind, watches }) => {
    await run({ seed, count: 1_500, kinds: [kind], watches });
  },
);
