import { test } from "vitest";
import { offloads, runTcpCampaign } from "./tcp-campaign.js";

const megabytes = Number(process.env["SOAK_COUNT"] ?? 1024);

test(`${megabytes} MB each way in all combinations`, async () => {
  await runTcpCampaign({
    megabytes,
    channels: [1, 4],
    coalescing: [true, false],
    mtus: [1500, 9000],
    offloads: offloads.map(({ name }) => name),
    report: console.log,
  });
});
