import { expect, test } from "vitest";
import { compare, comparisonResult, median, significant } from "../src/comparison.js";
import { ProcessorTime, type Ticks } from "../src/processor-time.js";

/**
 * Measures work that takes the time its rate says.
 * @param disturbed - For each round of ours, whether others use half of the machine meanwhile.
 * @param order - Gets the rounds' sides.
 */
function measure(
  rates: { subject: number; peer: number },
  disturbed: (round: number) => boolean = () => false,
  order: string[] = [],
): ReturnType<typeof compare> {
  let busy = 0;
  let total = 0;
  let round = 0;
  const read = (): Ticks => ({ busy, total: (total += 100), own: 0 });
  return compare(
    {
      name: "work",
      unit: "units/s",
      subject: (amount) => {
        if (disturbed(round++)) busy += 50;
        order.push("ours");
        return Promise.resolve(amount / rates.subject);
      },
      peer: "a peer",
      peerRound: (amount) => {
        order.push("peer's");
        return Promise.resolve(amount / rates.peer);
      },
    },
    {
      runs: 3,
      roundSeconds: 0.5,
      processorTime: new ProcessorTime(60_000, read, () => Promise.resolve()),
      progress: () => undefined,
    },
  );
}

test("a comparison gives both rates, and ours by the peer's", async () => {
  expect(await measure({ subject: 3_000_000, peer: 4_000_000 })).toEqual({
    name: "work",
    value: 3_000_000,
    unit: "units/s",
    peer: "a peer",
    peerValue: 4_000_000,
    ratio: 0.75,
    runs: 3,
  });
});

test("the ratio is the median of the pairs' own, whose rounds are of the same moment", () => {
  const pairs = [
    { subject: 300, peer: 400, othersShare: 0 },
    // The machine has become ten times as fast: medians of either side by itself are of different machines.
    { subject: 3000, peer: 4000, othersShare: 0 },
    { subject: 310, peer: 3900, othersShare: 0.5 },
    { subject: 3000, peer: 4000, othersShare: 0 },
    { subject: 290, peer: 390, othersShare: 0 },
  ];
  expect(comparisonResult({ name: "work", unit: "units/s", peer: "a peer" }, pairs)).toEqual({
    name: "work",
    value: 310,
    unit: "units/s",
    peer: "a peer",
    peerValue: 3900,
    ratio: 0.75,
    runs: 5,
    noisyRuns: 1,
  });
});

test("either side is first in turns", async () => {
  const order: string[] = [];
  await measure({ subject: 1000, peer: 1000 }, undefined, order);
  // Behind two rounds of warm-up of each.
  expect(order.slice(4)).toEqual(["ours", "peer's", "peer's", "ours", "ours", "peer's"]);
});

test("a pair that others disturbed is measured again, and named if they go on", async () => {
  const rates = { subject: 1000, peer: 1000 };
  // The warm-up takes two rounds at this rate.
  const once = await measure(rates, (round) => round === 3);
  expect(once.noisyRuns).toBeUndefined();
  const always = await measure(rates, () => true);
  expect(always.noisyRuns).toBe(3);
});

test("medians and digits", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
  expect(significant(123_456)).toBe(123_500);
});
