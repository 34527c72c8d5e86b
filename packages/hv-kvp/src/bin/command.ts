import { statSync } from "node:fs";
import type { ParseArgsConfig } from "node:util";
import { KvpError } from "../errors.js";
import { dialectOf, poolDirectory } from "../node/locations.js";
import { PoolFiles, poolFileError } from "../node/pool-files.js";
import { poolNames } from "../pools.js";
import { KVP_POOL_COUNT } from "../protocol/index.js";

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
  run(values: OptionValues, words: readonly string[]): Promise<number>;
}

/** The options that commands about pools share. */
export const poolOptions = {
  pool: { type: "string" },
  json: { type: "boolean" },
  root: { type: "string" },
} as const;

/** Their help. */
export const poolHelp = `  --pool N                the pool: 0 external (from the host's administrator), 1 guest (to the
                          host), 2 auto, 3 auto-external (from the host), 4 auto-internal
  --root DIR              pools of the system below this directory
  --json                  print JSON`;

/** The pool that is meant; undefined when none is named. */
export function poolOption(values: OptionValues): number | undefined {
  const given = values["pool"];
  if (typeof given !== "string") return undefined;
  const pool = /^\d$/.test(given) ? Number(given) : poolNames.indexOf(given);
  if (pool < 0 || pool >= KVP_POOL_COUNT)
    throw new UsageError(`--pool ${given} is not 0 to ${KVP_POOL_COUNT - 1}`);
  return pool;
}

/** The files of the pools that are meant, for a command that makes what is missing. */
export function poolFiles(values: OptionValues): PoolFiles {
  const root = rootOption(values);
  if (!isDirectory(root))
    throw new KvpError(
      "ERR_KVP_POOL_FILE",
      `--root ${root}: no such directory; where is the guest's file system mounted?`,
    );
  return new PoolFiles(poolDirectory(dialectOf(root), root));
}

/** The files of the pools that are meant, for a command that makes none: they must be there. */
export function presentPools(values: OptionValues): PoolFiles {
  const files = poolFiles(values);
  if (!isDirectory(files.directory))
    throw new KvpError(
      "ERR_KVP_POOL_FILE",
      `${files.directory}: no pools there; a daemon makes them when it starts (the system's own, or 'hv-kvp daemon'), ` +
        "'hv-kvp set' makes one",
    );
  return files;
}

/** The root of the system that is meant. */
export function rootOption(values: OptionValues): string {
  const { root } = values;
  return typeof root === "string" ? root : "/";
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw poolFileError(path, error);
  }
}

/** As many words as a command takes. */
export function exactly(words: readonly string[], names: readonly string[]): string[] {
  if (words.length !== names.length)
    throw new UsageError(names.length === 0 ? "takes no words" : `give ${names.join(" and ")}`);
  return [...words];
}

/** Prints one JSON document. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}

/** Text from a pool for a terminal: control characters, which anybody may have written, as escapes. */
export function shown(text: string): string {
  return text.replace(/\p{Cc}/gu, (control) => {
    const code = control.charCodeAt(0);
    return `\\x${code.toString(16).padStart(2, "0")}`;
  });
}
