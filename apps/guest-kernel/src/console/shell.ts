import type { ShutdownAction } from "@hyperv-is/vmbus-core";
import { parse } from "shell-quote";
import type { FileTree } from "../kernel/file-tree.js";
import type { GuestSystem } from "../kernel/guest-system.js";
import { BrokenPipe, BytePipe, noBytes, type ByteSink } from "./byte-pipe.js";
import { CommandError, UsageError, type Command, type CommandContext } from "./command.js";
import { commands } from "./commands/index.js";

/** Where a command line writes, and what can end it. */
export interface ShellIo {
  readonly stdout: ByteSink;
  stderr(text: string): void;
  /** What is written from now on is of the next list of the line. */
  listBegins(): void;
  readonly signal: AbortSignal;
  readonly interactive: boolean;
}

/** A list of pipelines, each with what decides whether it runs: the one before it. */
interface Step {
  readonly when: ";" | "&&" | "||";
  readonly pipeline: readonly string[][];
}

/** A list of pipelines joined by `&&` and `||`, and the status it ended with. */
export interface ListResult {
  text: string;
  status: number;
  /** How long it ran. */
  seconds: number;
}

/** Status of a command that does not exist, and of one that was interrupted, as shells have it. */
const NOT_FOUND = 127;
const INTERRUPTED = 130;

/** A word of a line: quoted parts, escaped characters and others. What begins with # ends the line. */
const WORD = /(?:"(?:\\[^]|[^"\\])*"|'[^']*'|\\[^]|[^\s"'\\])+/y;

/** Refuses a quote that is not closed, which the library would take for a character. */
function checkQuotes(line: string): void {
  let at = 0;
  for (;;) {
    while (/\s/.test(line.charAt(at))) at++;
    if (at === line.length || line.charAt(at) === "#") return;
    WORD.lastIndex = at;
    if (!WORD.test(line)) throw new CommandError("Syntax error: Unterminated quoted string", 2);
    at = WORD.lastIndex;
  }
}

/** Splits a command line; throws `CommandError` with sh's words for what this shell does not have. */
export function parseLine(line: string): Step[] {
  const steps: Step[] = [];
  let words: string[] = [];
  let pipeline: string[][] = [];
  let when: Step["when"] = ";";
  checkQuotes(line);
  const endCommand = (operator: string): void => {
    if (words.length === 0) throw new CommandError(`Syntax error: "${operator}" unexpected`, 2);
    pipeline.push(words);
    words = [];
  };
  const endPipeline = (operator: string): void => {
    endCommand(operator);
    steps.push({ when, pipeline });
    pipeline = [];
  };
  for (const entry of parse(line)) {
    if (typeof entry === "string") words.push(entry);
    else if ("comment" in entry) break;
    else if (entry.op === "glob" && "pattern" in entry) words.push(entry.pattern);
    else if (entry.op === "|") endCommand("|");
    else if (entry.op === ";" || entry.op === "&&" || entry.op === "||") {
      endPipeline(entry.op);
      when = entry.op;
    } else throw new CommandError(`"${entry.op}" is not supported by this shell`, 2);
  }
  if (words.length > 0 || pipeline.length > 0) endPipeline("newline");
  else if (when === "&&" || when === "||")
    throw new CommandError("Syntax error: end of line unexpected", 2);
  return steps;
}

function commandNamed(name: string | undefined): Command | undefined {
  return commands.find((command) => command.name === name);
}

/** The guest's shell: pipes, `;`, `&&` and `||` over the commands of the console. */
export class Shell {
  readonly #system: GuestSystem;
  readonly #files: FileTree;
  readonly #shutDown: (action: ShutdownAction) => void;

  constructor(system: GuestSystem, files: FileTree, shutDown: (action: ShutdownAction) => void) {
    this.#system = system;
    this.#files = files;
    this.#shutDown = shutDown;
  }

  /** Runs a command line. @returns What became of each of its lists; none for an empty line. */
  async run(line: string, io: ShellIo): Promise<ListResult[]> {
    const results: ListResult[] = [];
    let steps: Step[];
    try {
      steps = parseLine(line);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      io.listBegins();
      io.stderr(`sh: ${error.message}\n`);
      return [{ text: line, status: error.status, seconds: 0 }];
    }
    for (const { when, pipeline } of steps) {
      const text = pipeline.map((words) => words.join(" ")).join(" | ");
      const last = results.at(-1);
      if (last === undefined || when === ";") {
        results.push({ text, status: 0, seconds: 0 });
        io.listBegins();
      } else last.text += ` ${when} ${text}`;
      const list = results.at(-1)!;
      if ((when === "&&" && list.status !== 0) || (when === "||" && list.status === 0)) continue;
      const started = performance.now();
      list.status = io.signal.aborted ? INTERRUPTED : await this.#pipeline(pipeline, io);
      list.seconds += (performance.now() - started) / 1000;
    }
    return results;
  }

  /** What the last word of a line could become. */
  complete(line: string): string[] {
    const words = line
      .slice(line.search(/[^;|&]*$/))
      .trimStart()
      .split(/\s+/);
    const last = words.at(-1)!;
    const candidates =
      words.length === 1 ? commands.map(({ name }) => name) : this.#operands(words);
    return candidates.filter((word) => word.startsWith(last)).sort();
  }

  /** What the last of these words could be, behind the name of a command. */
  #operands(words: readonly string[]): string[] {
    const [name, ...operands] = words;
    const last = operands.at(-1)!;
    // An operand of dd: the path begins behind its name.
    const operand = last.slice(0, last.indexOf("=") + 1);
    const paths = this.#files.complete(last.slice(operand.length));
    return [
      ...paths.map((path) => operand + path),
      ...this.#system.disks.map((disk) => disk.name),
      ...(name === "sysctl" ? this.#system.sysctl.all().map(([leaf]) => leaf) : []),
      ...(operands.length === 1 ? (commandNamed(name)?.verbs ?? []) : []),
    ];
  }

  async #pipeline(pipeline: readonly string[][], io: ShellIo): Promise<number> {
    const pipes = pipeline.slice(1).map(() => new BytePipe());
    const statuses = await Promise.all(
      pipeline.map(async (words, index) => {
        const source = pipes[index - 1];
        const target = pipes[index];
        try {
          return await this.#command(words, io, source, target ?? io.stdout);
        } finally {
          target?.end();
          source?.close();
        }
      }),
    );
    return statuses.at(-1) ?? 0;
  }

  async #command(
    words: readonly string[],
    io: ShellIo,
    source: BytePipe | undefined,
    stdout: ByteSink,
  ): Promise<number> {
    const [name = "", ...args] = words;
    const command = commandNamed(name);
    if (command === undefined) {
      io.stderr(`sh: ${name}: not found\n`);
      return NOT_FOUND;
    }
    const encoder = new TextEncoder();
    const context: CommandContext = {
      system: this.#system,
      files: this.#files,
      args,
      stdin: source ?? noBytes,
      stdout,
      piped: source !== undefined,
      signal: io.signal,
      interactive: io.interactive,
      print: (line = "") => stdout.write(encoder.encode(`${line}\n`)),
      warn: (line) => io.stderr(`${line}\n`),
      shutDown: this.#shutDown,
    };
    try {
      return await command.run(context);
    } catch (error) {
      return this.#failed(command, context, error);
    }
  }

  #failed(command: Command, context: CommandContext, error: unknown): number {
    if (error instanceof BrokenPipe) return 0;
    if (context.signal.aborted) return INTERRUPTED;
    if (error instanceof UsageError) {
      if (error.message !== "") context.warn(`${command.name}: ${error.message}`);
      context.warn(`usage: ${command.usage.split("\n").join("\n       ")}`);
      return 1;
    }
    const status = error instanceof CommandError ? error.status : 1;
    context.warn(`${command.name}: ${error instanceof Error ? error.message : String(error)}`);
    return status;
  }
}
