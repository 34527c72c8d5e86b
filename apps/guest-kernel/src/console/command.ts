import type { ShutdownAction } from "@hyperv-is/vmbus-core";
import type { FileTree } from "../kernel/file-tree.js";
import type { GuestSystem } from "../kernel/guest-system.js";
import type { ByteSink } from "./byte-pipe.js";

/** What a command has to work with. */
export interface CommandContext {
  readonly system: GuestSystem;
  readonly files: FileTree;
  /** Arguments, without the command's name. */
  readonly args: readonly string[];
  readonly stdin: AsyncIterable<Uint8Array>;
  readonly stdout: ByteSink;
  /** True if `stdin` is another command of a pipe. */
  readonly piped: boolean;
  /** Fires on Ctrl-C, and when the console goes away. */
  readonly signal: AbortSignal;
  /** True if somebody watches: progress may be shown on standard error. */
  readonly interactive: boolean;
  /** Writes a line to standard output. */
  readonly print: (line?: string) => Promise<void>;
  /** Writes a line to standard error. */
  readonly warn: (line: string) => void;
  /** Has the machine shut down when the command line has ended. */
  readonly shutDown: (action: ShutdownAction) => void;
}

/** A command of the console. */
export interface Command {
  readonly name: string;
  /** One line for `help`. */
  readonly summary: string;
  /** How it is called, as FreeBSD prints it, without `usage: `. */
  readonly usage: string;
  /** What its first operand can be, where that is a verb. */
  readonly verbs?: readonly string[];
  /** @returns Exit status. A `CommandError` becomes a message and a status. */
  run(context: CommandContext): Promise<number>;
}

/** A failure that the command reports in FreeBSD's words: `name: message`. */
export class CommandError extends Error {
  readonly status: number;

  constructor(message: string, status = 1) {
    super(message);
    this.name = "CommandError";
    this.status = status;
  }
}

/** The arguments were wrong: prints the usage. */
export class UsageError extends Error {
  constructor(message = "") {
    super(message);
    this.name = "UsageError";
  }
}

/** Letters of options in front of the operands, as getopt takes them: `-vn name`, `--`. */
export interface ParsedOptions {
  readonly flags: ReadonlySet<string>;
  readonly values: ReadonlyMap<string, string>;
  readonly operands: readonly string[];
}

/**
 * Splits arguments into options and operands.
 * @param letters - known options; a letter followed by `:` takes a value. Throws `UsageError` for any other.
 */
export function getopt(args: readonly string[], letters: string): ParsedOptions {
  const flags = new Set<string>();
  const values = new Map<string, string>();
  let index = 0;
  for (; index < args.length; index++) {
    const arg = args[index]!;
    if (arg === "--") {
      index++;
      break;
    }
    if (!arg.startsWith("-") || arg === "-") break;
    for (let at = 1; at < arg.length; at++) {
      const letter = arg[at]!;
      const known = letters.indexOf(letter);
      if (known < 0 || letter === ":") throw new UsageError(`illegal option -- ${letter}`);
      if (letters[known + 1] !== ":") {
        flags.add(letter);
        continue;
      }
      const value = arg.slice(at + 1) || args[++index];
      if (value === undefined) throw new UsageError(`option requires an argument -- ${letter}`);
      values.set(letter, value);
      break;
    }
  }
  return { flags, values, operands: args.slice(index) };
}
