import { parseArgs } from "node:util";
import manifest from "../../package.json" with { type: "json" };
import { controlPath } from "../node/control-address.js";
import { captureCommand } from "./capture-command.js";
import { machineCommand, machineVerbs, type MachineVerb } from "./machine-command.js";
import { vmCommand, vmVerbs, type VmCommandOptions } from "./vm-command.js";
import { vmKvpCommand, vmKvpUsage } from "./vm-kvp-command.js";

const usage = `usage: hyperv-host list [VM]               list the machines that run (boot --control)
       hyperv-host stats [VM]              what a machine has counted: channels, controllers, disks, faults
       hyperv-host violations [VM]         the rules of the protocol that its guest broke
                                          VM is a name, or the path of a control socket (with a / in it);
                                          without it: all machines with a name
                                          --json; --watch: each second, until it ends or Ctrl-C
       hyperv-host capture VM ADAPTER -w FILE [--count N] [--seconds N] [--snap BYTES] [--json]
                                          write the frames of a network adapter (hn0) as pcapng, until there
                                          are enough or Ctrl-C; --stop instead of -w ends one that goes on
       hyperv-host vm heartbeat VM         how its guest is, and which heartbeats it has not answered
       hyperv-host vm shutdown VM          have its guest shut down, and the machine switched off
       hyperv-host vm restart VM           have its guest shut down, and start anew
                                          --force: even if applications object; --message TEXT: for its users
       hyperv-host vm time VM              what its guest has been told of the time
                                          --offset MS: tell it a time that is off by so much; --sync: have it
                                          set its clock
${vmKvpUsage}       hyperv-host offers [--json]        list what the host offers to every machine
       hyperv-host versions [--json]      list the protocol versions it speaks
       hyperv-host faults [--json]        list the faults it can be told to make
       hyperv-host faults check FILE      check a fault plan
       hyperv-host trace FILE [--json] [--channel N]
                                          decode a trace, one line a message; only channel N (a relid)
       hyperv-host --version

The host itself runs inside a machine: 'guest-kernel boot' and 'hyperv-pc boot' start both.
`;

/** The command line was wrong. */
class UsageMistake extends Error {}

/** Does what may find a mistake in the command line. */
function parsed<Values>(parse: () => Values): Values {
  try {
    return parse();
  } catch (error) {
    throw new UsageMistake(`${(error as Error).message}\n`);
  }
}

async function trace(args: readonly string[], json: boolean): Promise<number> {
  const options = { channel: { type: "string" } } as const;
  const { values, positionals } = parsed(() =>
    parseArgs({ args: [...args], options, allowPositionals: true }),
  );
  const [path, ...rest] = positionals;
  if (path === undefined || rest.length > 0) throw new UsageMistake("trace: one FILE, please\n");
  const { channel } = values;
  if (channel !== undefined && !/^\d+$/.test(channel))
    throw new UsageMistake(`--channel ${channel}: a relid is a number\n`);
  const { traceCommand } = await import("./trace-command.js");
  return traceCommand({ path, json, ...(channel !== undefined && { relid: Number(channel) }) });
}

function machines(verb: MachineVerb, args: readonly string[], json: boolean): Promise<number> {
  const options = { watch: { type: "boolean" } } as const;
  const { values, positionals } = parsed(() =>
    parseArgs({ args: [...args], options, allowPositionals: true }),
  );
  const [vm, ...rest] = positionals;
  if (rest.length > 0) throw new UsageMistake(`${verb}: one VM, please, or none for all\n`);
  if (vm !== undefined) parsed(() => controlPath(vm));
  return machineCommand(verb, { vm, json, watch: values.watch ?? false });
}

function capture(args: readonly string[], json: boolean): Promise<number> {
  const options = {
    w: { type: "string", short: "w" },
    stop: { type: "boolean" },
    count: { type: "string" },
    seconds: { type: "string" },
    snap: { type: "string" },
  } as const;
  const { values, positionals } = parsed(() =>
    parseArgs({ args: [...args], options, allowPositionals: true }),
  );
  const [vm, adapter, ...rest] = positionals;
  if (vm === undefined || adapter === undefined || rest.length > 0)
    throw new UsageMistake("capture: one VM and one of its adapters, please\n");
  parsed(() => controlPath(vm));
  const { w: path, stop = false } = values;
  if ((path === undefined) !== stop) throw new UsageMistake("capture: -w FILE, or --stop\n");
  if (path === "-") throw new UsageMistake("-w -: the machine writes the file, name one\n");
  const number = (name: "count" | "seconds" | "snap", pattern: RegExp): number | undefined => {
    const text = values[name];
    if (text === undefined) return undefined;
    if (!pattern.test(text) || !(Number(text) > 0))
      throw new UsageMistake(`--${name} ${text}: a number above 0, please\n`);
    return Number(text);
  };
  return captureCommand({
    vm,
    adapter,
    path,
    count: number("count", /^\d{1,9}$/),
    seconds: number("seconds", /^\d{1,6}(\.\d{1,3})?$/),
    snapBytes: number("snap", /^\d{1,6}$/),
    json,
  });
}

function vm(args: readonly string[], json: boolean): Promise<number> {
  const options = {
    force: { type: "boolean" },
    message: { type: "string" },
    offset: { type: "string" },
    sync: { type: "boolean" },
  } as const;
  const { values, positionals } = parsed(() =>
    parseArgs({ args: [...args], options, allowPositionals: true }),
  );
  const [name, machine, ...rest] = positionals;
  const verb = vmVerbs.find((known) => known === name);
  if (verb === undefined)
    throw new UsageMistake(`vm ${name ?? ""}: one of ${vmVerbs.join(", ")}, please\n`);
  if (machine === undefined || rest.length > 0)
    throw new UsageMistake(`vm ${verb}: one VM, please\n`);
  parsed(() => controlPath(machine));
  const { force, message, offset, sync } = values;
  const ends = verb === "shutdown" || verb === "restart";
  if (!ends && (force ?? message) !== undefined)
    throw new UsageMistake("--force and --message are for shutdown and restart\n");
  if (verb !== "time" && (sync ?? offset) !== undefined)
    throw new UsageMistake("--offset and --sync are for time\n");
  if (offset !== undefined && !/^-?\d{1,13}$/.test(offset))
    throw new UsageMistake(`--offset ${offset}: a whole number of milliseconds, please\n`);
  const asked: VmCommandOptions = {
    vm: machine,
    json,
    force: force ?? false,
    message: message ?? "",
    sync: sync ?? false,
    ...(offset !== undefined && { offsetMs: Number(offset) }),
  };
  return vmCommand(verb, asked);
}

async function keyValuePairs(
  noun: "kvp" | "ip",
  args: readonly string[],
  json: boolean,
): Promise<number> {
  try {
    const status = await vmKvpCommand(noun, args, json);
    if (status !== undefined) return status;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (!code.startsWith("ERR_PARSE_ARGS") && !(error instanceof RangeError)) throw error;
    throw new UsageMistake(`${(error as Error).message}\n`);
  }
  throw new UsageMistake(`vm ${[noun, ...args].join(" ")}: not as below\n`);
}

const catalogueVerbs: ReadonlySet<unknown> = new Set(["offers", "versions", "faults"]);

/** Commands are loaded when they are used: the host is large, and most of them need little of it. */
async function run(args: readonly string[]): Promise<number> {
  const json = args.includes("--json");
  const [verb, ...rest] = args.filter((arg) => arg !== "--json");
  const plain = rest.length === 0;
  const isCheck = verb === "faults" && rest[0] === "check" && rest.length === 2;
  if (isCheck || (plain && catalogueVerbs.has(verb))) {
    const catalogue = await import("./catalogue.js");
    if (isCheck) return catalogue.checkFaults(rest[1]!);
    return catalogue[verb as "offers" | "versions" | "faults"](json);
  }
  if (["--help", "-h", "help"].includes(verb ?? "") || rest.includes("--help")) {
    process.stdout.write(usage);
    return 0;
  }
  if (verb === "trace") return trace(rest, json);
  if (verb === "capture") return capture(rest, json);
  if (verb === "vm" && (rest[0] === "kvp" || rest[0] === "ip"))
    return keyValuePairs(rest[0], rest.slice(1), json);
  if (verb === "vm") return vm(rest, json);
  const machineVerb = machineVerbs.find((known) => known === verb);
  if (machineVerb !== undefined) return machines(machineVerb, rest, json);
  if (verb === "--version") {
    process.stdout.write(`hyperv-host ${manifest.version}\n`);
    return 0;
  }
  throw new UsageMistake(verb === undefined ? "" : `unknown command '${args.join(" ")}'\n`);
}

/**
 * Runs the program `hyperv-host`, which prints on the standard streams.
 *
 * @param args - The command line behind the program's name.
 * @returns Exit status.
 */
export async function hypervHostCommand(args: readonly string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    if (!(error instanceof UsageMistake)) throw error;
    process.stderr.write(`${error.message === "" ? "" : `hyperv-host: ${error.message}`}${usage}`);
    return 2;
  }
}
