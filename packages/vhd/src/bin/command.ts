import { type ParseArgsConfig } from "node:util";
import { type ImageFormat } from "../virtual-disk.js";
import { parseSize } from "./sizes.js";

/** The command line asks for something that does not exist or contradicts itself: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** The values of a command's options, as `parseArgs` gives them. */
export type OptionValues = Readonly<
  Record<string, string | boolean | readonly (string | boolean)[] | undefined>
>;

/** One of the program's verbs. */
export interface Command {
  /** One line for the program's own help. */
  readonly summary: string;
  /** All of the command's help. */
  readonly help: string;
  readonly options: NonNullable<ParseArgsConfig["options"]>;
  /** Does the work and returns the exit code; prints what it found. */
  run(values: OptionValues, paths: readonly string[]): Promise<number>;
}

/** The formats of images that can be made. */
export const imageFormats: readonly ImageFormat[] = [
  "vhd-fixed",
  "vhd-dynamic",
  "vhdx-fixed",
  "vhdx-dynamic",
];

/** The one path that a command takes. */
export function onePath(paths: readonly string[]): string {
  const [path] = paths;
  if (path === undefined || paths.length !== 1) throw new UsageError("give exactly one file");
  return path;
}

/** An option that must be one of `choices`; undefined when it is not given. */
export function choiceOption<Choice extends string>(
  values: OptionValues,
  name: string,
  choices: readonly Choice[],
): Choice | undefined {
  const given = values[name];
  if (typeof given !== "string") return undefined;
  const choice = choices.find((known) => known === given);
  if (choice === undefined)
    throw new UsageError(`--${name} ${given} is not one of ${choices.join(", ")}`);
  return choice;
}

/** An option that is a size; undefined when it is not given. */
export function sizeOption(values: OptionValues, name: string): number | undefined {
  const given = values[name];
  if (typeof given !== "string") return undefined;
  const bytes = parseSize(given);
  if (bytes === undefined || bytes === 0)
    throw new UsageError(`--${name} ${given} is not a size such as 512, 127M or 40G`);
  return bytes;
}

/** What the options for a new image's geometry may be. */
export interface Layout {
  readonly blockBytes: number | undefined;
  readonly logicalSectorBytes: 512 | 4096 | undefined;
  readonly physicalSectorBytes: 512 | 4096 | undefined;
}

/** The options `--block-size`, `--logical-sector` and `--physical-sector`, checked as far as the command line can. */
export function layoutOptions(values: OptionValues, format: ImageFormat): Layout {
  const blockBytes = sizeOption(values, "block-size");
  if (blockBytes !== undefined && format === "vhd-fixed")
    throw new UsageError("a fixed VHD has no blocks");
  const logicalSectorBytes = sectorOption(values, "logical-sector");
  const physicalSectorBytes = sectorOption(values, "physical-sector");
  return { blockBytes, logicalSectorBytes, physicalSectorBytes };
}

function sectorOption(values: OptionValues, name: string): 512 | 4096 | undefined {
  const choice = choiceOption(values, name, ["512", "4096"]);
  return choice === undefined ? undefined : choice === "512" ? 512 : 4096;
}

/** The part of `parseArgs` and of the help that creating and converting share. */
export const layoutArguments = {
  options: {
    "block-size": { type: "string" },
    "logical-sector": { type: "string" },
    "physical-sector": { type: "string" },
    force: { type: "boolean" },
    json: { type: "boolean" },
  },
  help: `  --block-size SIZE       what a dynamic image grows by: 4K to 256M (VHD, default 2M),
                          1M to 256M (VHDX); powers of two
  --logical-sector N      512 or 4096 (VHDX only)
  --physical-sector N     512 or 4096 (VHDX only)
  --force                 replace a file that is there
  --json                  print the new image's description as JSON`,
} as const;

/** Prints one JSON document. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}
