import type { parseArgs, ParseArgsConfig } from "node:util";
import type { MeasuringOptions } from "./comparison.js";
import type { BenchmarkResult } from "./report.js";

/** The command line asks for something that does not exist or makes no sense: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** A benchmark cannot run here, or what it measured did not do its work: exit code 1, and no stack. */
export class BenchmarkError extends Error {
  override readonly name = "BenchmarkError";
}

/** The options of a command line, as `parseArgs` gives them. */
export type OptionValues = ReturnType<typeof parseArgs>["values"];

/** One of the program's benchmarks. */
export interface Benchmark {
  /** One line for the program's help. */
  readonly summary: string;
  /** The lines of the benchmark's own options in its help. */
  readonly help: string;
  readonly options: NonNullable<ParseArgsConfig["options"]>;
  /** What the numbers do not include, a line each. */
  readonly leftOut: readonly string[];
  run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]>;
}

/** An option that is a whole number from `least` to `most`. */
export function wholeNumber(
  values: OptionValues,
  name: string,
  least: number,
  most: number,
): number {
  return wholeNumbers(values, name, least, most)[0]!;
}

/** An option that is a list of whole numbers from `least` to `most`, with commas between them. */
export function wholeNumbers(
  values: OptionValues,
  name: string,
  least: number,
  most: number,
): number[] {
  const text = String(values[name]);
  const numbers = text
    .split(",")
    .map((digits) => (/^\d{1,15}$/.test(digits) ? Number(digits) : NaN));
  if (numbers.some((number) => !(number >= least && number <= most)))
    throw new UsageError(`--${name} ${text}: whole numbers from ${least} to ${most} are expected`);
  return numbers;
}
