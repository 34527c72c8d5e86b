import { linesOf } from "../byte-pipe.js";
import { CommandError, UsageError, getopt, type Command, type CommandContext } from "../command.js";

/** The input of a filter: standard input, or each file. */
async function* inputs(
  { files, stdin, signal }: CommandContext,
  operands: readonly string[],
): AsyncIterable<{ readonly name: string; readonly bytes: AsyncIterable<Uint8Array> }> {
  if (operands.length === 0) yield { name: "", bytes: stdin };
  for (const path of operands) {
    const node = await files.find(path);
    if (node === undefined) throw new CommandError(`${path}: No such file or directory`);
    if (node.kind === "directory") throw new CommandError(`${path}: Is a directory`);
    yield { name: path, bytes: files.bytes(node, signal) };
  }
}

/** The pattern as JavaScript writes it: fixed (-F), extended (-E), or basic, where a backslash makes operators. */
function sourceOf(pattern: string, flags: ReadonlySet<string>): string {
  if (flags.has("F")) return pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  if (flags.has("E")) return pattern;
  return pattern.replace(/\[\^?\]?[^\]]*\]|\\?[(){}|+?]|\\./g, (part) =>
    /^\\?[(){}|+?]$/.test(part) ? (part.length === 1 ? `\\${part}` : part.slice(1)) : part,
  );
}

export const grep: Command = {
  name: "grep",
  summary: "print the lines that match a pattern",
  usage: "grep [-Ecinqv] pattern [file ...]",
  async run(context) {
    const { flags, operands } = getopt(context.args, "EFcinqv");
    const [pattern, ...paths] = operands;
    if (pattern === undefined) throw new UsageError();
    let expression: RegExp;
    try {
      expression = new RegExp(sourceOf(pattern, flags), flags.has("i") ? "i" : "");
    } catch (error) {
      throw new CommandError(error instanceof Error ? error.message : String(error), 2);
    }
    let found = false;
    for await (const { name, bytes } of inputs(context, paths)) {
      const prefix = paths.length > 1 ? `${name}:` : "";
      let [number, count] = [0, 0];
      for await (const line of linesOf(bytes)) {
        number++;
        if (expression.test(line) === flags.has("v")) continue;
        found = true;
        count++;
        if (flags.has("q")) return 0;
        if (!flags.has("c"))
          await context.print(`${prefix}${flags.has("n") ? `${number}:` : ""}${line}`);
      }
      if (flags.has("c")) await context.print(`${prefix}${count}`);
    }
    return found ? 0 : 1;
  },
};

export const head: Command = {
  name: "head",
  summary: "print the first lines or bytes",
  usage: "head [-n lines | -c bytes] [file ...]",
  async run(context) {
    const args = context.args.map((arg) => (/^-\d+$/.test(arg) ? `-n${arg.slice(1)}` : arg));
    const { values, operands } = getopt(args, "n:c:");
    const limit = (letter: string, fallback: number): number => {
      const text = values.get(letter);
      if (text === undefined) return fallback;
      const value = Number(text);
      if (!Number.isInteger(value) || value <= 0)
        throw new CommandError(`illegal ${letter === "n" ? "line" : "byte"} count -- ${text}`);
      return value;
    };
    const lines = limit("n", 10);
    const bytesWanted = limit("c", 0);
    for await (const { bytes } of inputs(context, operands)) {
      if (bytesWanted > 0) {
        let rest = bytesWanted;
        for await (const chunk of bytes) {
          await context.stdout.write(chunk.subarray(0, rest));
          rest -= Math.min(rest, chunk.byteLength);
          if (rest === 0) break;
        }
        continue;
      }
      let rest = lines;
      for await (const line of linesOf(bytes)) {
        await context.print(line);
        if (--rest === 0) break;
      }
    }
    return 0;
  },
};

export const wc: Command = {
  name: "wc",
  summary: "count lines, words and bytes",
  usage: "wc [-clw] [file ...]",
  async run(context) {
    const { flags, operands } = getopt(context.args, "clw");
    const all = flags.size === 0;
    for await (const { name, bytes } of inputs(context, operands)) {
      let [lines, words, size, inWord] = [0, 0, 0, false];
      for await (const chunk of bytes) {
        size += chunk.byteLength;
        for (const byte of chunk) {
          if (byte === 10) lines++;
          const space = byte === 32 || (byte >= 9 && byte <= 13);
          if (!space && !inWord) words++;
          inWord = !space;
        }
      }
      const counts = [
        ...(all || flags.has("l") ? [lines] : []),
        ...(all || flags.has("w") ? [words] : []),
        ...(all || flags.has("c") ? [size] : []),
      ];
      const row = counts.map((count) => ` ${String(count).padStart(7)}`).join("");
      await context.print(name === "" ? row : `${row} ${name}`);
    }
    return 0;
  },
};
