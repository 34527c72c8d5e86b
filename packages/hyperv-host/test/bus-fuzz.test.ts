import { expect, test } from "vitest";
import { tryBus } from "./bus-campaign.js";

test("any sequence of what guest, worker and host can do keeps memory, ports and relids in step", () => {
  const seen = tryBus(400);
  // The acts are not so wild that they never get anywhere.
  expect(seen.size).toBe(10);
});
