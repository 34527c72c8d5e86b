import { expect, test } from "vitest";
import { compare, median, significant } from "../src/comparison.js";
import { ProcessorTime, type Ticks } from "../src/processor-time.js";

/**
 * Measures work that takes the time its rate says.
 * @param disturbed - For each round of ours, whether others use half of the machine meanwhile.
 */
function measure(
  rates: { subject: number; peer: number },
  disturbed: (round: number) => boolean = () => false,
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
        return Promise.resolve(amount / rates.subject);
      },
      peer: "a peer",
      peerRound: (amount) => Promise.resolve(amount / rates.peer),
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
