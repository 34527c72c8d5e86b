import { setTimeout as delay } from "node:timers/promises";
import { boot } from "@hyperv-is/guest-kernel";
import { wholeNumber, wholeNumbers, type Benchmark, type OptionValues } from "../benchmark.js";
import { median, significant, type MeasuringOptions } from "../comparison.js";
import { ProcessorTime } from "../processor-time.js";
import type { BenchmarkResult } from "../report.js";

const CPUS_MAX = 64;
/** What a machine does after its boot, compiling what it has run, has ended by then. */
const SETTLING_MS = 3_000;

async function run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  const seconds = wholeNumber(values, "seconds", 1, 3_600);
  const results: BenchmarkResult[] = [];
  for (const cpus of wholeNumbers(values, "cpus", 1, CPUS_MAX))
    results.push(await measure(cpus, seconds, measuring));
  return results;
}

/** What a booted machine uses of the processor while nobody asks anything of it: guest, host and all. */
async function measure(
  cpus: number,
  seconds: number,
  { runs, processorTime, progress }: MeasuringOptions,
): Promise<BenchmarkResult> {
  const name = `idle guest, ${cpus} CPU${cpus === 1 ? "" : "s"}`;
  const identity = Uint8Array.from({ length: 16 }, (_, at) => at + 1);
  await using machine = await boot({
    cpus,
    disks: [{ kind: "ram", sizeBytes: 64 * 2 ** 20, identity }],
  });
  await machine.exec("dd if=/dev/da0 of=/dev/null bs=64k count=64 status=none");
  await delay(SETTLING_MS);
  const shares: number[] = [];
  let noisyRuns = 0;
  while (shares.length < runs) {
    progress(`${name}: run ${shares.length + 1} of ${runs}`);
    await processorTime.untilIdle();
    const others = processorTime.watch();
    const before = process.cpuUsage();
    const from = performance.now();
    await delay(seconds * 1e3);
    const { user, system } = process.cpuUsage(before);
    shares.push(((user + system) / 1e3 / (performance.now() - from)) * 100);
    if (ProcessorTime.isNoisy(others())) noisyRuns++;
  }
  return {
    name,
    value: significant(median(shares)),
    unit: "% of a core",
    peer: null,
    peerValue: null,
    ratio: null,
    runs,
    ...(noisyRuns > 0 && { noisyRuns }),
  };
}

/** A guest that nobody uses. */
export const idle: Benchmark = {
  summary: "what a booted guest costs while nobody uses it: processor time of guest and host",
  help: `  --seconds N       how long a run lasts; 30 unless given
  --cpus LIST       CPUs of the guest; 1,4 unless given
`,
  options: {
    seconds: { type: "string", default: "30" },
    cpus: { type: "string", default: "1,4" },
  },
  leftOut: ["the boot, and the first 3 seconds after it."],
  run,
};
