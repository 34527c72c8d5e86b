import { execFileSync } from "node:child_process";
import { cpus, release, totalmem, type } from "node:os";

/** One number of a benchmark, as JSON has it. */
export interface BenchmarkResult {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** What ran beside it in the same run; null for a number that has no peer, and so no ratio. */
  readonly peer: string | null;
  readonly peerValue: number | null;
  /** Above 1: ours is better. The median of the pairs' ratios, which need not be that of the medians. */
  readonly ratio: number | null;
  /** Measurements that the medians are of. */
  readonly runs: number;
  /** Of these, how many other processes disturbed; absent when none was. */
  readonly noisyRuns?: number;
}

/** What a benchmark prints with `--json`. */
export interface BenchmarkReport {
  readonly bench: string;
  /** Of the sources that ran: `git describe`, or `unknown`. */
  readonly revision: string;
  readonly machine: string;
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly results: readonly BenchmarkResult[];
}

/** Adds to results where and when they came about. */
export function report(bench: string, results: readonly BenchmarkResult[]): BenchmarkReport {
  return {
    bench,
    revision: revision(),
    machine: machine(),
    date: new Date().toISOString(),
    results,
  };
}

/** The report in a file, if it is one; throws an Error that says what is wrong with it. */
export function parseReport(text: string): BenchmarkReport {
  const found = JSON.parse(text) as Partial<BenchmarkReport> | null;
  const results: unknown = found?.results;
  if (typeof found?.bench !== "string" || !Array.isArray(results))
    throw new Error("it has no `bench` and `results`");
  return found as BenchmarkReport;
}

function revision(): string {
  try {
    return execFileSync("git", ["describe", "--always", "--dirty", "--abbrev=12"], {
      cwd: import.meta.dirname,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  } catch {
    return "unknown";
  }
}

function machine(): string {
  const processors = cpus();
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`;
  const model = processors[0]?.model.trim() ?? "unknown processor";
  return `${processors.length} x ${model}, ${memory}, ${type()} ${release()}, Node ${process.versions.node}`;
}
