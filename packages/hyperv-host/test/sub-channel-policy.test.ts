import { expect, test } from "vitest";
import { subChannelsFor, type SubChannelPolicy } from "../src/index.js";

test.each<[SubChannelPolicy, readonly [processors: number, subChannels: number][]]>([
  [
    "one-per-cpu",
    [
      [1, 0],
      [2, 1],
      [4, 3],
      [64, 63],
    ],
  ],
  [
    "one-per-4-cpus",
    [
      [1, 0],
      [4, 0],
      [5, 1],
      [8, 1],
      [9, 2],
      [64, 15],
    ],
  ],
  [
    "above-5-cpus",
    [
      [1, 0],
      [5, 0],
      [6, 1],
      [8, 1],
      [9, 2],
    ],
  ],
  [
    3,
    [
      [1, 3],
      [64, 3],
    ],
  ],
  [0, [[8, 0]]],
])("sub-channels by the rule %s", (policy, rows) => {
  for (const [processors, subChannels] of rows)
    expect([processors, subChannelsFor(policy, processors)]).toEqual([processors, subChannels]);
});

test.each([-1, 0.5, 1024])("%d sub-channels are refused", (count) => {
  expect(() => subChannelsFor(count, 4)).toThrow(RangeError);
});
