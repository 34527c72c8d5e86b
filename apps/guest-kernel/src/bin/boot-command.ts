import { accessSync, constants, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import type { ShutdownAction } from "@hyperv-is/vmbus-core";
import type { HostStats } from "@hyperv-is/hyperv-host";
import { dialectNames, type DialectName } from "../kernel/key-value-pairs.js";
import {
  SUB_CHANNELS_MAX,
  subChannelPolicies,
  type SubChannelPolicy,
} from "@hyperv-is/hyperv-host";
import {
  HostOptionError,
  hostOptions,
  hostOptionsUsage,
  networkOptions,
  networkOptionsUsage,
  parseHostOptions,
  parseMemorySize,
  parseSwitch,
  type HostOptions,
} from "@hyperv-is/hyperv-host/node";
import { Interruption } from "@hyperv-is/platform-node";
import { BootError } from "../boot-error.js";
import { PROMPT, runTerminal, writeTo } from "../console/terminal.js";
import { junitReport } from "./junit.js";
import { tune } from "../kernel/tunables.js";
import type { ExecResult, ExecutedList } from "../console/console-client.js";
import { CPUS_MAX, boot, type Machine } from "../machine.js";
import { UsageMistake } from "../usage-mistake.js";
import {
  parseHostThreads,
  parsePins,
  type HostThreads,
  type ThreadCpus,
} from "../machine-threads.js";
import { parseNbdExport, type NbdExportOptions } from "../nbd/export-address.js";
import {
  nicStackSyntax,
  parseNic,
  type NicOptions,
  type SwitchOptions,
} from "../machine-network.js";

/** Exit status when the guest broke a rule and `--violations fail` was given. */
const STATUS_VIOLATIONS = 3;
/** Exit status when the host has shut the guest down before the commands were done. */
const STATUS_SHUT_DOWN = 4;

export const bootUsage = `usage: guest-kernel boot [options]

Boots a guest on the embedded Hyper-V host and leaves you at its console, or runs commands there. Without a
terminal and --exec, a guest with --nbd, --control or stack=tap runs until it is interrupted, or shut down by its host.

  --cpus N                 virtual processors, 1 to ${CPUS_MAX} (1)
  --memory SIZE            guest memory, 32M to 4G (256M)
  --pin THREAD=CPU,...     keep threads on CPUs of this system: vcpu0 and so on, disks, network; needs koffi
  --host-threads WHICH     who serves the host's disks and network: own, threads of their own; vcpu0, that of
                           CPU 0; auto, vcpu0 on one or two CPUs if the guest serves others by NBD or a TAP (auto)
  --module FILE            load a driver module instead of the driver in tree
  --set NAME=VALUE         set a loader tunable, such as hw.vmbus.signal_optimization; may be repeated
  --sub-channels N         sub-channels that the host lets a controller have, or ${subChannelPolicies.join(", ")}
${networkOptionsUsage(nicStackSyntax)}  --nbd DISK=ADDRESS       serve a disk to NBD clients: da0=unix:PATH, or da0=127.0.0.1:10809 on a loopback
                           address; may be repeated
  --root DIR               keep files of the guest in a directory: its pools of key-value pairs, and in
                           etc/rc.conf and etc/resolv.conf the addresses that its host sets, for the next boot
  --dev DIR                make device nodes in a directory: DIR/hv_kvp_dev, a unix socket
  --dialect NAME           whose messages they speak: ${dialectNames.join(" or ")} (freebsd)
  --rc NAME=VALUE          set a variable of rc.conf: hv_kvpd_enable=NO leaves the guest's own daemon of
                           key-value pairs out, for another one at the device node
${hostOptionsUsage}  --exec 'CMD; CMD'        run commands, power off, exit non-zero if one failed; may be repeated.
                           Status 4: the host shut the guest down before they were done
  --report junit=FILE      write a JUnit report of the commands
  --json                   print one JSON object instead of the commands' output
  --quiet                  do not print the kernel's messages while booting
`;

interface BootArguments {
  readonly host: HostOptions;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly pin: ThreadCpus;
  readonly hostThreads: HostThreads;
  readonly modules: string[];
  readonly nbd: NbdExportOptions[];
  readonly nics: NicOptions[];
  readonly switches: SwitchOptions[];
  readonly tunables: Readonly<Record<string, string>>;
  readonly subChannels: SubChannelPolicy | undefined;
  readonly rootDirectory: string | undefined;
  readonly deviceDirectory: string | undefined;
  readonly dialect: DialectName | undefined;
  readonly keyValueDaemon: boolean;
  readonly lines: string[];
  readonly report: string | undefined;
  readonly json: boolean;
  readonly quiet: boolean;
  /** The host has restarted it: it runs until it is shut down. */
  readonly isRestarted: boolean;
}

/** Whether a report can be written is asked before the work, not after it. */
function parseReport(text: string): string {
  const path = /^junit=(.+)$/.exec(text)?.[1];
  if (path === undefined) throw new UsageMistake(`--report ${text}: write it as junit=FILE`);
  const directory = dirname(path);
  try {
    accessSync(directory, constants.W_OK);
  } catch (error) {
    throw new UsageMistake(`--report: ${directory}: ${(error as Error).message}`);
  }
  return path;
}

function parseNbd(text: string): NbdExportOptions {
  try {
    return parseNbdExport(text);
  } catch (error) {
    if (error instanceof BootError) throw new UsageMistake(error.message);
    throw error;
  }
}

function parseCpus(text: string): number {
  const cpus = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (cpus >= 1 && cpus <= CPUS_MAX) return cpus;
  throw new UsageMistake(`${`--cpus ${text}`.trim()}: write a number from 1 to ${CPUS_MAX}`);
}

/** Names and values; what they mean is for the kernel to know. */
function parseSettings(texts: readonly string[]): Readonly<Record<string, string>> {
  const settings: Record<string, string> = {};
  for (const text of texts) {
    const [, name, value] = /^([^=]+)=(.*)$/.exec(text) ?? [];
    if (name === undefined || value === undefined)
      throw new UsageMistake(`--set ${text}: write it as NAME=VALUE`);
    settings[name] = value;
  }
  try {
    tune(settings);
  } catch (error) {
    throw new UsageMistake(`--set: ${(error as Error).message}`);
  }
  return settings;
}

function parseSubChannels(text: string): SubChannelPolicy {
  const named = subChannelPolicies.find((policy) => policy === text);
  if (named !== undefined) return named;
  if (/^\d{1,4}$/.test(text) && Number(text) <= SUB_CHANNELS_MAX) return Number(text);
  throw new UsageMistake(
    `--sub-channels ${text}: a number up to ${SUB_CHANNELS_MAX}, or ${subChannelPolicies.join(", ")}`,
  );
}

function parseDialect(text: string): DialectName {
  const dialect = dialectNames.find((name) => name === text);
  if (dialect !== undefined) return dialect;
  throw new UsageMistake(`--dialect ${text}: ${dialectNames.join(" or ")}, please`);
}

/** @returns Whether the guest's own daemon of key-value pairs runs: the only variable that there is. */
function parseRc(texts: readonly string[]): boolean {
  let isEnabled = true;
  for (const text of texts) {
    const value = /^hv_kvpd_enable=(YES|NO)$/i.exec(text)?.[1];
    if (value === undefined)
      throw new UsageMistake(`--rc ${text}: write it as hv_kvpd_enable=YES or hv_kvpd_enable=NO`);
    isEnabled = value.toUpperCase() === "YES";
  }
  return isEnabled;
}

/** Throws `UsageMistake`, and `HostOptionError` for what is said of the host. */
function parseBootArguments(args: readonly string[]): BootArguments {
  const options = {
    ...hostOptions,
    ...networkOptions,
    cpus: { type: "string" },
    memory: { type: "string" },
    pin: { type: "string", multiple: true },
    "host-threads": { type: "string" },
    module: { type: "string", multiple: true },
    nbd: { type: "string", multiple: true },
    set: { type: "string", multiple: true },
    root: { type: "string" },
    dev: { type: "string" },
    dialect: { type: "string" },
    rc: { type: "string", multiple: true },
    "sub-channels": { type: "string" },
    exec: { type: "string", multiple: true },
    report: { type: "string" },
    json: { type: "boolean" },
    quiet: { type: "boolean" },
  } as const;
  const { values, positionals } = (() => {
    try {
      return parseArgs({ args: [...args], options, allowPositionals: true });
    } catch (error) {
      throw new UsageMistake((error as Error).message);
    }
  })();
  if (positionals.length > 0)
    throw new UsageMistake(
      `${positionals[0]!}: this program boots its own guest kernel, not the system on a disk.\n` +
        `To attach the image as a disk of that guest: guest-kernel boot --disk ${positionals[0]!}\n` +
        `To boot a 32-bit system from it, with its own drivers: hyperv-pc boot --boot-disk ${positionals[0]!}`,
    );
  return {
    host: parseHostOptions(values),
    cpus: parseCpus(values.cpus ?? "1"),
    memoryBytes: parseMemorySize("--memory", values.memory ?? "256M"),
    pin: parsePins(values.pin ?? []),
    hostThreads: parseHostThreads(values["host-threads"] ?? "auto"),
    modules: values.module ?? [],
    nbd: (values.nbd ?? []).map(parseNbd),
    nics: (values.nic ?? []).map(parseNic),
    switches: (values.switch ?? []).map(parseSwitch),
    tunables: parseSettings(values.set ?? []),
    subChannels:
      values["sub-channels"] === undefined ? undefined : parseSubChannels(values["sub-channels"]),
    rootDirectory: values.root,
    deviceDirectory: values.dev,
    dialect: values.dialect === undefined ? undefined : parseDialect(values.dialect),
    keyValueDaemon: parseRc(values.rc ?? []),
    lines: values.exec ?? [],
    report: values.report === undefined ? undefined : parseReport(values.report),
    json: values.json ?? false,
    quiet: values.quiet ?? false,
    isRestarted: false,
  };
}

/** How a machine has ended. */
interface MachineEnd {
  /** Exit status, if it is not to start anew. */
  readonly status: number;
  readonly action: ShutdownAction;
}

function understand(args: readonly string[]): BootArguments {
  try {
    return parseBootArguments(args);
  } catch (error) {
    if (error instanceof HostOptionError) throw new UsageMistake(error.message);
    throw error;
  }
}

function execute(
  machine: Machine,
  line: string,
  signal: AbortSignal,
  capture: boolean,
): Promise<ExecResult> {
  return machine.exec(line, {
    signal,
    ...(!capture && {
      onStdout: (chunk) => writeTo(process.stdout, chunk),
      onStderr: (text) => void process.stderr.write(text),
    }),
  });
}

/** Tells about a disk that somebody may have wanted to boot. */
function noteFreebsd(machine: Machine): void {
  for (const { name, partitionTypes } of machine.disks)
    if (partitionTypes.some((type) => /^freebsd(-(boot|ufs|zfs))?$/.test(type)))
      process.stderr.write(
        `${name} holds a FreeBSD system. It is attached as data: this program runs its own guest kernel, not the one\n` +
          `on the disk. 'gpart show ${name}' at the console lists its partitions; to boot the system itself, if it is one\n` +
          "for 32 bits: hyperv-pc boot --boot-disk FILE\n",
      );
}

/** Tells why the host could not do what the guest asked for: the guest has only heard that it could not. */
function noteHostErrors(stats: HostStats | undefined): void {
  for (const { disks } of stats?.controllers ?? [])
    for (const { lun, errors, lastError } of disks)
      if (errors > 0)
        process.stderr.write(
          `The host failed ${errors} commands to its disk at LUN ${lun}, the last of them with:\n  ${String(lastError)}\n`,
        );
}

/** Whether a command has no result since the host has shut the guest down, which ends what it runs. */
function isShutDown(error: unknown): boolean {
  return error instanceof BootError && error.code === "ERR_POWERED_OFF";
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/**
 * Runs `guest-kernel boot`.
 *
 * @param tour - Command lines to run first, shown as if somebody had typed them.
 * @returns Exit status.
 */
export async function bootCommand(
  args: readonly string[],
  tour: readonly string[] = [],
): Promise<number> {
  const parsed = understand(args);
  const interruption = new Interruption("guest-kernel");
  try {
    let end = await runMachine(parsed, tour, interruption);
    // The host wanted the machine to start anew: commands that were given are done.
    while (end.action === "restart")
      end = await runMachine({ ...parsed, lines: [], isRestarted: true }, [], interruption);
    return end.status;
  } finally {
    interruption.stop();
  }
}

async function runMachine(
  parsed: BootArguments,
  tour: readonly string[],
  interruption: Interruption,
): Promise<MachineEnd> {
  const { signal } = interruption;
  const { disks, faults, trace, control, bus, failOnViolations } = parsed.host;
  const interactive = parsed.lines.length === 0 && process.stdin.isTTY && !parsed.json;
  const showMessages = !parsed.quiet && !parsed.json && parsed.lines.length === 0;
  const machine = await boot({
    disks,
    cpus: parsed.cpus,
    memoryBytes: parsed.memoryBytes,
    pin: parsed.pin,
    hostThreads: parsed.hostThreads,
    modules: parsed.modules,
    nbd: parsed.nbd,
    nics: parsed.nics,
    switches: parsed.switches,
    tunables: parsed.tunables,
    keyValueDaemon: parsed.keyValueDaemon,
    ...(parsed.rootDirectory !== undefined && { rootDirectory: parsed.rootDirectory }),
    ...(parsed.deviceDirectory !== undefined && { deviceDirectory: parsed.deviceDirectory }),
    ...(parsed.dialect && { dialect: parsed.dialect }),
    ...(parsed.subChannels !== undefined && { subChannels: parsed.subChannels }),
    ...(faults && { faults }),
    ...(trace && { trace }),
    ...(bus && { bus }),
    ...(control !== undefined && { control }),
    onMessage: (line) => {
      if (showMessages) process.stdout.write(`${line}\n`);
    },
  });
  const executed: ExecResult[] = [];
  const executedLists = (): readonly ExecutedList[] => executed.flatMap(({ lists }) => lists);
  const work = async (): Promise<number> => {
    if (!parsed.json) noteFreebsd(machine);
    for (const [index, line] of [...tour, ...parsed.lines].entries()) {
      if (signal.aborted) break;
      if (index < tour.length && !parsed.json) process.stdout.write(`${PROMPT}${line}\n`);
      const capture = parsed.json || parsed.report !== undefined;
      const result = await execute(machine, line, signal, capture).catch((error: unknown) => {
        if (isShutDown(error)) return undefined;
        throw error;
      });
      if (result === undefined) {
        if ((await machine.ended) === "restart") break;
        process.stderr.write(`The host has shut the guest down; not done: ${line}\n`);
        return STATUS_SHUT_DOWN;
      }
      executed.push(result);
      if (!parsed.json && parsed.report !== undefined) {
        process.stdout.write(result.stdout);
        process.stderr.write(result.stderr);
      }
      if (result.poweredOff) break;
    }
    if (interactive && !signal.aborted) return runTerminal(machine, signal);
    const serves =
      parsed.nbd.length > 0 ||
      control !== undefined ||
      parsed.nics.some(({ stack }) => stack?.kind === "tap");
    if (parsed.isRestarted || (serves && parsed.lines.length === 0)) {
      if (!showMessages && !parsed.json)
        for (const { uri } of machine.nbd) process.stdout.write(`${uri}\n`);
      await Promise.race([machine.ended, aborted(signal)]);
    }
    return executedLists().find(({ status: each }) => each !== 0)?.status ?? 0;
  };
  let status: number | undefined;
  let stats: HostStats | undefined;
  try {
    status = await interruption.during(work());
    if (status === undefined)
      process.stderr.write(
        "A command waits for its disk. The guest shuts down, which may take a minute; interrupt again to end at once.\n",
      );
    // A machine that a command powered off has none any more.
    stats = await machine.host.stats().catch(() => undefined);
  } finally {
    await machine.shutdown();
  }
  const { violations } = machine.host;
  if (parsed.json)
    process.stdout.write(
      `${JSON.stringify({ dmesg: machine.dmesg, disks: machine.disks, nics: machine.nics, commands: executed, violations, stats }, null, 2)}\n`,
    );
  if (parsed.report !== undefined)
    writeFileSync(parsed.report, junitReport(executedLists(), violations, failOnViolations));
  if (!parsed.json) noteHostErrors(stats);
  if (violations.length > 0 && !parsed.json) {
    process.stderr.write(`The guest broke ${violations.length} rules of the protocol:\n`);
    for (const { rule, detail } of violations) process.stderr.write(`  ${rule}: ${detail}\n`);
  }
  const isBroken = failOnViolations && violations.length > 0;
  return {
    status: isBroken ? STATUS_VIOLATIONS : (interruption.status ?? status ?? 0),
    action: isBroken || signal.aborted ? "power-off" : await machine.ended,
  };
}
