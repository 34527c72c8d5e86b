import { availableParallelism } from "node:os";
import {
  BenchmarkError,
  UsageError,
  wholeNumbers,
  type Benchmark,
  type OptionValues,
} from "../benchmark.js";
import {
  comparisonResult,
  measurePairs,
  type Comparison,
  type MeasuringOptions,
  type Pair,
  type Round,
} from "../comparison.js";
import type { BenchmarkResult } from "../report.js";
import { CRing } from "./c-ring.js";
import { payloadChecksum } from "./payload.js";
import type { RingLanguage, RingRound } from "./ring-end.js";
import { PAYLOAD_BYTES_MAX, RingThreads } from "./ring-threads.js";

/** Data bytes of the ring on both sides. */
const RING_DATA_BYTES = 1 << 20;
const PEER = "C ring, two threads";
const UNIT = "packets/s";
/**
 * Both rings are started anew for each run, because where a ring's pages lie in caches, and so its speed, is each start's
 * own; and a run is several short pairs, because the machine's speed changes within seconds.
 */
const PAIRS_PER_START = 5;

/** Names of results end in these. */
const languages: ReadonlyMap<string, string> = new Map<RingLanguage, string>([
  ["wasm", ""],
  ["typescript", ", TypeScript"],
]);

/** What both rings can do. */
interface Ring {
  send(round: RingRound): Promise<{ seconds: number; checksum: number }>;
}

async function run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  const sizes = wholeNumbers(values, "sizes", 1, PAYLOAD_BYTES_MAX);
  const batches = wholeNumbers(values, "batch", 1, 1_000);
  const chosen = String(values["language"]).split(",") as RingLanguage[];
  for (const language of chosen)
    if (!languages.has(language))
      throw new UsageError(
        `--language ${language}: one of ${[...languages.keys()].join(", ")} is expected`,
      );
  if (availableParallelism() < 2)
    throw new BenchmarkError("two ends that poll need two processors, and this machine has one");
  const results: BenchmarkResult[] = [];
  for (const payloadBytes of sizes)
    for (const batch of batches)
      for (const language of chosen)
        results.push(await compareRings(language, payloadBytes, batch, measuring));
  return results;
}

async function compareRings(
  language: RingLanguage,
  payloadBytes: number,
  batch: number,
  measuring: MeasuringOptions,
): Promise<BenchmarkResult> {
  const name = `${payloadBytes} B, batch ${batch}${languages.get(language)!}`;
  const pairs: Pair[] = [];
  for (let start = 0; start < measuring.runs; start++) {
    // First: where it cannot be built, no thread of ours keeps the program from its end.
    const peer = await CRing.start(RING_DATA_BYTES);
    const ours = new RingThreads(language, RING_DATA_BYTES);
    measuring.processorTime.include(peer.pid);
    try {
      const comparison: Comparison = {
        name: `${name}, start ${start + 1}`,
        unit: UNIT,
        peer: PEER,
        subject: roundOf("our ring", ours, payloadBytes, batch),
        peerRound: roundOf("the C ring", peer, payloadBytes, batch),
      };
      pairs.push(
        ...(await measurePairs(comparison, {
          ...measuring,
          runs: PAIRS_PER_START,
          roundSeconds: measuring.roundSeconds / PAIRS_PER_START,
        })),
      );
    } finally {
      await ours.close();
      await peer.close();
    }
  }
  return comparisonResult({ name, unit: UNIT, peer: PEER }, pairs);
}

function roundOf(who: string, ring: Ring, payloadBytes: number, batch: number): Round {
  const expected = payloadChecksum(payloadBytes);
  return async (packets) => {
    const { seconds, checksum } = await ring.send({ payloadBytes, batch, packets });
    if (checksum !== expected)
      throw new BenchmarkError(`${who} delivered a wrong payload of ${payloadBytes} bytes`);
    return seconds;
  };
}

/** Packets through one ring between two threads. */
export const ring: Benchmark = {
  summary: "packets through a ring between two threads, beside a ring in C",
  help: `  --sizes LIST      payload bytes; 64,1514,4096,65536 unless given
  --batch LIST      packets that are published at a time; 1,32 unless given
  --language LIST   what our ring works in: wasm unless given, typescript

Each of the --runs is a start of both rings and ${PAIRS_PER_START} pairs of measurements of 1/${PAIRS_PER_START} of --round-ms.

`,
  options: {
    sizes: { type: "string", default: "64,1514,4096,65536" },
    batch: { type: "string", default: "1,32" },
    language: { type: "string", default: "wasm" },
  },
  leftOut: [
    "signals and sleeping; both ends poll, with signals masked.",
    "a driver or a host; payloads are copied in and out of the ring, and nobody looks at them.",
  ],
  run,
};
