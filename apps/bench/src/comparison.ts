import { ProcessorTime } from "./processor-time.js";
import type { BenchmarkResult } from "./report.js";

/** One side of a comparison: does an amount of work, checks what came of it, and says how many seconds it took. */
export type Round = (amount: number) => Promise<number>;

/** Something of ours beside its peer, both measured in amounts of the same work per second. */
export interface Comparison {
  readonly name: string;
  readonly unit: string;
  readonly subject: Round;
  readonly peer: string;
  readonly peerRound: Round;
}

/** How to measure, and where to tell how far it is. */
export interface MeasuringOptions {
  /** Pairs of rounds that the medians are of. */
  readonly runs: number;
  /** How long a round is to last. */
  readonly roundSeconds: number;
  readonly processorTime: ProcessorTime;
  readonly progress: (text: string) => void;
}

/** A round of either side, one after the other, in amounts of work per second. */
export interface Pair {
  readonly subject: number;
  readonly peer: number;
  /** Share of the machine that other processes used. */
  readonly othersShare: number;
}

const FIRST_AMOUNT = 1_000;

/** Measures both sides, as `measurePairs` does, and sums up. */
export async function compare(
  comparison: Comparison,
  options: MeasuringOptions,
): Promise<BenchmarkResult> {
  return comparisonResult(comparison, await measurePairs(comparison, options));
}

/**
 * Measures both sides in turns, in one program and on one machine: after a warm-up that finds out how much
 * work a round takes and is dropped, `runs` pairs, each once the machine is idle, and each in the other order than
 * the one before. A pair that others disturbed is measured once more, and the better of the two counts.
 */
export async function measurePairs(
  { name, subject, peerRound }: Comparison,
  options: MeasuringOptions,
): Promise<Pair[]> {
  const { runs, roundSeconds, processorTime, progress } = options;
  progress(`${name}: warm-up`);
  const amount = await findAmount(subject, roundSeconds);
  const peerAmount = await findAmount(peerRound, roundSeconds);
  const pairs: Pair[] = [];
  const measure = async (): Promise<Pair> => {
    const others = processorTime.watch();
    const isPeerFirst = pairs.length % 2 === 1;
    const before = isPeerFirst ? await peerRound(peerAmount) : 0;
    const seconds = await subject(amount);
    const peerSeconds = isPeerFirst ? before : await peerRound(peerAmount);
    return {
      subject: amount / seconds,
      peer: peerAmount / peerSeconds,
      othersShare: others(),
    };
  };
  while (pairs.length < runs) {
    progress(`${name}: run ${pairs.length + 1} of ${runs}`);
    const idle = await processorTime.untilIdle();
    const first = await measure();
    const again = idle && ProcessorTime.isNoisy(first.othersShare) ? await measure() : first;
    pairs.push(again.othersShare < first.othersShare ? again : first);
  }
  return pairs;
}

/**
 * The medians of some pairs, at least one. The ratio is the median of the pairs' own, each of which is of two rounds
 * of about the same moment: a machine that changes between pairs moves both sides of one.
 */
export function comparisonResult(
  { name, unit, peer }: Pick<Comparison, "name" | "unit" | "peer">,
  pairs: readonly Pair[],
): BenchmarkResult {
  const noisyRuns = pairs.filter(({ othersShare }) => ProcessorTime.isNoisy(othersShare)).length;
  return {
    name,
    value: significant(median(pairs.map((pair) => pair.subject))),
    unit,
    peer,
    peerValue: significant(median(pairs.map((pair) => pair.peer))),
    ratio: significant(median(pairs.map((pair) => pair.subject / pair.peer))),
    runs: pairs.length,
    ...(noisyRuns > 0 && { noisyRuns }),
  };
}

/** The middle one of some numbers, or the mean of the two in the middle; there is at least one. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** A number without a peer. @param runs - that it is the median or the least of. */
export function cost(name: string, value: number, unit: string, runs = 1): BenchmarkResult {
  return {
    name,
    value: significant(value),
    unit,
    peer: null,
    peerValue: null,
    ratio: null,
    runs,
  };
}

/** Four digits: no measurement here is good for more. */
export function significant(value: number): number {
  return Number(value.toPrecision(4));
}

/**
 * Work for a round of about `roundSeconds`, found by rounds that grow; these are the warm-up. Each amount is tried
 * twice, because a hold-up makes a small amount look like a large one.
 */
async function findAmount(round: Round, roundSeconds: number): Promise<number> {
  for (let amount = FIRST_AMOUNT; ;) {
    const factor = roundSeconds / Math.min(await round(amount), await round(amount));
    if (factor <= 2) return Math.max(1, Math.round(amount * factor));
    amount = Math.round(amount * Math.min(factor, 16));
  }
}
