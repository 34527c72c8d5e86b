import { join } from "node:path";
import { parseArgs } from "node:util";
import manifest from "../../package.json" with { type: "json" };
import { cacheDirectory } from "../cache-directory.js";
import { UsageMistake } from "../usage-mistake.js";

const usage = `usage: guest-kernel boot [options]    boot a guest on the embedded host
       guest-kernel demo              boot one with a sample disk and try it out
       guest-kernel demo failover [--stop] [--json]
                                      two hosts share an image: the guest is killed on one (with --stop shut down),
                                      starts on the other in another subnet, and gets its address from its host
       guest-kernel --version

'guest-kernel boot --help' lists the options.
`;

/** What the demo runs before it hands the console over. */
const TOUR = [
  "camcontrol devlist",
  "gpart show da0",
  "sha256 /dev/da0p1",
  "dd if=/dev/random of=/dev/da0 bs=1m seek=48 count=8",
  "dd if=/dev/da0 of=/dev/null bs=128k",
  "sysctl dev.storvsc.0.channel",
];

async function demo(args: readonly string[]): Promise<number> {
  if (args[0] === "failover") {
    const { stop, json } = failoverOptions(args.slice(1));
    const { failoverCommand } = await import("../demo/failover.js");
    return failoverCommand(stop ? "stop" : "kill", json);
  }
  const { makeDemoDisk } = await import("../demo/sample-disk.js");
  const path = join(cacheDirectory(), "sample.vhdx");
  await makeDemoDisk(path);
  process.stdout.write(`The sample disk is ${path}; it is made anew when it is missing.\n`);
  const { bootCommand } = await import("./boot-command.js");
  return bootCommand(["--disk", path, ...args], TOUR);
}

function failoverOptions(args: readonly string[]): { stop: boolean; json: boolean } {
  const options = { stop: { type: "boolean" }, json: { type: "boolean" } } as const;
  try {
    const { stop = false, json = false } = parseArgs({ args: [...args], options }).values;
    return { stop, json };
  } catch (error) {
    throw new UsageMistake((error as Error).message);
  }
}

async function run([command, ...args]: readonly string[]): Promise<number> {
  switch (command) {
    case "boot": {
      // Loaded where it is needed: it takes longer than all else that the program does before a guest boots.
      const { bootCommand, bootUsage } = await import("./boot-command.js");
      if (!args.includes("--help") && !args.includes("-h")) return bootCommand(args);
      process.stdout.write(bootUsage);
      return 0;
    }
    case "demo":
      if (!args.includes("--help") && !args.includes("-h")) return demo(args);
      process.stdout.write(usage);
      return 0;
    case "--version":
    case "-V":
      process.stdout.write(`guest-kernel ${manifest.version}\n`);
      return 0;
    case "--help":
    case "-h":
    case "help":
    case undefined:
      (command === undefined ? process.stderr : process.stdout).write(usage);
      return command === undefined ? 2 : 0;
    default:
      throw new UsageMistake(`unknown command '${command}'; 'guest-kernel --help' lists them`);
  }
}

/** Codes of machines that nobody can have asked for on purpose. */
const usageCodes: ReadonlySet<unknown> = new Set([
  "ERR_MEMORY",
  "ERR_CPUS",
  "ERR_TOO_MANY_DISKS",
  "ERR_CONTROL_ADDRESS",
  "ERR_NETWORK",
  "ERR_PIN",
  "ERR_AFFINITY",
]);

/**
 * Runs the program `guest-kernel`, which prints on the standard streams.
 *
 * @param args - The command line behind the program's name.
 * @returns Exit status.
 */
export async function guestKernelCommand(args: readonly string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    const { code, message }: NodeJS.ErrnoException =
      error instanceof Error ? error : new Error(String(error));
    const mistaken = error instanceof UsageMistake || usageCodes.has(code);
    if (!mistaken && args.includes("--json"))
      process.stdout.write(`${JSON.stringify({ error: { code, message } }, null, 2)}\n`);
    process.stderr.write(`guest-kernel: ${message.split("\n").join("\nguest-kernel: ")}\n`);
    return mistaken ? 2 : 1;
  }
}
