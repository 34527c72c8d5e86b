import { expect, test } from "vitest";
import { deviceDialects } from "../src/protocol/index.js";
import { runDeviceCampaign } from "./device-campaign.js";
import { temporaryDirectory } from "./temporary-directory.js";

const path = temporaryDirectory();
const seed = Number(process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_007);
const messages = Number(process.env["SOAK_COUNT"] ?? 100_000);

test.each(deviceDialects)(`${messages} messages over the device node of $name`, async (dialect) => {
  const started = performance.now();
  const count = await runDeviceCampaign({ path: path(dialect.name), dialect, seed, messages });
  const seconds = (performance.now() - started) / 1000;
  console.log(`${dialect.name}: ${count} messages in ${seconds.toFixed(1)} s, seed ${seed}`);
  expect(count).toBe(messages);
});
