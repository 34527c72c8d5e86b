#!/usr/bin/env node
import { parseArgs } from "node:util";
import { KvpError } from "../errors.js";
import { printJson, UsageError, type Command } from "./command.js";
import { daemon } from "./daemon-command.js";
import { get, list, remove, set, watch } from "./pool-commands.js";

const commands: ReadonlyMap<string, Command> = new Map([
  ["list", list],
  ["get", get],
  ["set", set],
  ["delete", remove],
  ["watch", watch],
  ["daemon", daemon],
]);

const help = `Usage: hv-kvp COMMAND [options] [words]

Key-value pairs between this guest and its Hyper-V host, in the files of the system's own daemon.

${[...commands].map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`).join("\n")}

'hv-kvp COMMAND --help' explains a command. Exit codes: 0 done, 1 failed or no such key, 2 wrong usage.
`;

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(help);
    return 0;
  }
  const command = commands.get(name ?? "");
  if (name === undefined || command === undefined) {
    process.stderr.write(
      name === undefined ? help : `hv-kvp: there is no command '${name}'\n${help}`,
    );
    return 2;
  }
  try {
    const { values, positionals } = parseCommand(command, rest);
    if (values["help"] === true) {
      process.stdout.write(`${command.help}\n`);
      return 0;
    }
    return await command.run(values, positionals);
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`hv-kvp ${name}: ${error.message}. Try 'hv-kvp ${name} --help'.\n`);
      return 2;
    }
    if (!(error instanceof KvpError)) throw error;
    const { code, message } = error;
    if (rest.includes("--json")) printJson({ error: { code, message } });
    process.stderr.write(`hv-kvp ${name}: ${message}\n`);
    return 1;
  }
}

function parseCommand(command: Command, args: string[]): ReturnType<typeof parseArgs> {
  const options = { ...command.options, help: { type: "boolean", short: "h" } } as const;
  try {
    return parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    throw new UsageError((error as Error).message.replace(/\.?$/, ""), { cause: error });
  }
}

process.exitCode = await main(process.argv.slice(2));
