import { parseArgs } from "node:util";
import { ImageError } from "../errors.js";
import { check } from "./check.js";
import { type Command, printJson, UsageError } from "./command.js";
import { convert } from "./convert.js";
import { create } from "./create.js";
import { info } from "./info.js";

const commands: ReadonlyMap<string, Command> = new Map([
  ["create", create],
  ["info", info],
  ["check", check],
  ["convert", convert],
]);

const help = `Usage: vhd COMMAND [options] FILE...

Makes, describes, checks and converts VHD and VHDX disk images.

${[...commands].map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`).join("\n")}

'vhd COMMAND --help' explains a command. Exit codes: 0 done, 1 failed or damaged, 2 wrong usage.
`;

/**
 * Runs the program `vhd`, which prints on the standard streams.
 *
 * @param args - The command line behind the program's name.
 * @returns Exit code.
 */
export async function vhdCommand(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(help);
    return 0;
  }
  const command = commands.get(name ?? "");
  if (name === undefined || command === undefined) {
    process.stderr.write(name === undefined ? help : `vhd: there is no command '${name}'\n${help}`);
    return 2;
  }
  const asJson = rest.includes("--json");
  try {
    const { values, positionals } = parseCommand(command, rest);
    if (values["help"] === true) {
      process.stdout.write(`${command.help}\n`);
      return 0;
    }
    return await command.run(values, positionals);
  } catch (error) {
    if (error instanceof UsageError) {
      process.stderr.write(`vhd ${name}: ${error.message}. Try 'vhd ${name} --help'.\n`);
      return 2;
    }
    if (!(error instanceof ImageError)) throw error;
    const { code, structure, offset, message } = error;
    if (asJson) printJson({ error: { code, structure, offset, message } });
    process.stderr.write(`vhd ${name}: ${message}\n`);
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
