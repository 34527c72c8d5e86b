#!/usr/bin/env node
import manifest from "../../package.json" with { type: "json" };
import { bootCommand, bootUsage } from "./boot-command.js";
import { UsageMistake, complaint, failureOf, isUsageMistake } from "./failure.js";

const usage = `usage: hyperv-pc boot [options]    boot an unmodified 32-bit guest on the embedded host
       hyperv-pc --version

'hyperv-pc boot --help' lists the options.
`;

async function main([command, ...args]: readonly string[]): Promise<number> {
  switch (command) {
    case "boot":
      if (args.includes("--help") || args.includes("-h")) {
        process.stdout.write(bootUsage);
        return 0;
      }
      return bootCommand(args);
    case "--version":
    case "-V":
      process.stdout.write(`hyperv-pc ${manifest.version}\n`);
      return 0;
    case "--help":
    case "-h":
    case "help":
    case undefined:
      (command === undefined ? process.stderr : process.stdout).write(usage);
      return command === undefined ? 2 : 0;
    default:
      throw new UsageMistake(`unknown command '${command}'; 'hyperv-pc --help' lists them`);
  }
}

const argv = process.argv.slice(2);
try {
  process.exitCode = await main(argv);
} catch (error) {
  const mistaken = isUsageMistake(error);
  if (!mistaken && argv.includes("--json"))
    process.stdout.write(`${JSON.stringify({ error: failureOf(error) }, null, 2)}\n`);
  process.stderr.write(complaint(error));
  process.exitCode = mistaken ? 2 : 1;
}
