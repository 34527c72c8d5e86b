import { expect, test } from "vitest";
import { play, tryBus } from "./bus-campaign.js";

test("any sequence of what guest, worker and host can do keeps memory, ports and relids in step", () => {
  const seen = tryBus(400);
  // The acts are not so wild that they never get anywhere.
  expect(seen.size).toBe(10);
});

test("a reserved sub-channel that is closed after its guest has left is gone", () => {
  play([
    ["create", 2],
    ["answer", 0],
    ["open-reserved", 2],
    ["answer", 0],
    ["sub-channels", 0],
    ["create", 3],
    ["answer", 0],
    ["open-reserved", 3],
    ["answer", 0],
    ["unload", 0],
    ["close-reserved", 4],
    ["answer", 0],
  ]);
});
