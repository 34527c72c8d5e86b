import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  BenchmarkError,
  UsageError,
  wholeNumber,
  type Benchmark,
  type OptionValues,
} from "./benchmark.js";
import { ProcessorTime } from "./processor-time.js";
import { parseReport, report, type BenchmarkReport } from "./report.js";
import { formatChanges, formatChart, formatTable } from "./report-text.js";
import { idle } from "./idle/idle-benchmark.js";
import { nbd } from "./nbd/nbd-benchmark.js";
import { net } from "./net/net-benchmark.js";
import { realGuest } from "./real-guest/real-guest-benchmark.js";
import { ring } from "./ring/ring-benchmark.js";
import { storage } from "./storage/storage-benchmark.js";

const benchmarks: ReadonlyMap<string, Benchmark> = new Map([
  ["ring", ring],
  ["storage", storage],
  ["nbd", nbd],
  ["net", net],
  ["real-guest", realGuest],
  ["idle", idle],
]);

const commonOptions = {
  json: { type: "boolean" },
  runs: { type: "string", default: "5" },
  "round-ms": { type: "string", default: "500" },
  "wait-s": { type: "string", default: "60" },
  compare: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

const commonHelp = `  --json            print one JSON object instead of a table
  --runs N          measurements of each side that a median is of; 5 unless given
  --round-ms N      how long a measurement lasts; 500 unless given
  --wait-s N        how long to wait in all for other processes to leave the machine idle; 60 unless given
  --compare FILE    print the changes since an earlier run with --json, in percent
`;

const help = `Usage: bench NAME [options]

Measures parts of the system in turns with a peer, and prints both and their ratio; above 1 ours is faster.

${[...benchmarks].map(([name, { summary }]) => `  ${name.padEnd(12)}${summary}`).join("\n")}

${commonHelp}
'bench NAME --help' shows the options of one. Exit codes: 0 done, 1 failed, 2 wrong usage.
`;

async function main(args: readonly string[]): Promise<number> {
  const [name = "", ...rest] = args;
  if (name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(help);
    return 0;
  }
  const benchmark = benchmarks.get(name);
  if (benchmark === undefined) {
    process.stderr.write(name === "" ? help : `bench: there is no benchmark '${name}'\n\n${help}`);
    return 2;
  }
  try {
    const values = parse(benchmark, rest);
    if (values["help"] === true)
      process.stdout.write(
        `Usage: bench ${name} [options]\n\n${benchmark.summary}\n\n${benchmark.help}${commonHelp}`,
      );
    else await measure(name, benchmark, values);
    return 0;
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`bench ${name}: ${error.message}. Try 'bench ${name} --help'.\n`);
      return 2;
    }
    if (!(error instanceof BenchmarkError)) throw error;
    process.stderr.write(`bench ${name}: ${error.message}\n`);
    return 1;
  }
}

function parse(benchmark: Benchmark, args: string[]): OptionValues {
  try {
    return parseArgs({ args, options: { ...commonOptions, ...benchmark.options } }).values;
  } catch (error) {
    throw new UsageError((error as Error).message.replace(/\.?$/, ""), { cause: error });
  }
}

async function measure(name: string, benchmark: Benchmark, values: OptionValues): Promise<void> {
  const processorTime = new ProcessorTime(wholeNumber(values, "wait-s", 0, 86_400) * 1e3);
  const isWatched = process.stderr.isTTY;
  const progress = (text: string): void => {
    if (isWatched) process.stderr.write(`\r\x1b[K${text}`);
  };
  const runs = wholeNumber(values, "runs", 1, 1_000);
  const roundSeconds = wholeNumber(values, "round-ms", 1, 60_000) / 1e3;
  // Before the work: a file that is no report should not cost a minute.
  const earlier = earlierReport(name, values["compare"]);
  const options = { runs, roundSeconds, processorTime, progress };
  const results = await benchmark.run(values, options).finally(() => progress(""));
  const notes = benchmark.leftOut.map((line) => `Not included: ${line}\n`);
  if (results.some(({ noisyRuns }) => noisyRuns !== undefined))
    notes.push(
      "Noisy: other processes used more than 6 % of the machine; such numbers prove nothing.\n",
    );
  if (!processorTime.isKnown)
    notes.push("Nothing is known about other processes on this system: noise goes unnoticed.\n");
  const done = report(name, results);
  if (values["json"] === true) {
    process.stdout.write(`${JSON.stringify(done)}\n`);
    process.stderr.write(notes.join(""));
    if (earlier !== undefined) process.stderr.write(formatChanges(done, earlier));
    return;
  }
  process.stdout.write(`${formatTable(done, earlier)}\n`);
  if (process.stdout.isTTY)
    process.stdout.write(`${formatChart(results, process.stdout.columns)}\n`);
  process.stdout.write(notes.join(""));
}

function earlierReport(name: string, path: unknown): BenchmarkReport | undefined {
  if (typeof path !== "string") return undefined;
  let earlier: BenchmarkReport;
  try {
    earlier = parseReport(readFileSync(path, "utf8"));
  } catch (error) {
    const { message } = error as Error;
    throw new UsageError(`--compare ${path} cannot be used: ${message}`, { cause: error });
  }
  if (earlier.bench !== name)
    throw new UsageError(`--compare ${path} holds the benchmark '${earlier.bench}'`);
  return earlier;
}

// A signal ends the program as a return would: what was made for the run is removed on exit.
for (const [signal, number] of [
  ["SIGINT", 2],
  ["SIGTERM", 15],
] as const)
  process.once(signal, () => process.exit(128 + number));
process.exitCode = await main(process.argv.slice(2));
