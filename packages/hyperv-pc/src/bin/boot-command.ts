import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { placeDisks, type DiskSource, type Violation } from "@hyperv-is/hyperv-host";
import {
  HostOptionError,
  hostOptions,
  hostOptionsUsage,
  networkOptions,
  networkOptionsUsage,
  parseHostOptions,
  parseMemorySize,
  parseNetworkOptions,
  type HostOptions,
} from "@hyperv-is/hyperv-host/node";
import { Interruption } from "@hyperv-is/platform-node";
import { bootPc, type PcEnd, type PcMachine } from "../node/pc-machine.js";
import type { PcOptions } from "../node/pc-parts.js";
import { preferQuickCompilation } from "../node/quick-compilation.js";
import { UsageMistake, complaint, failureOf } from "./failure.js";

/** Exit status when the guest broke a rule and `--violations fail` was given. */
const STATUS_VIOLATIONS = 3;

/** What a guest writes to its console when it wants to be saved. */
const SNAPSHOT_MARK = "hyperv-pc: snapshot";

/** Ends the program, as in other programs that take the terminal over: Ctrl-]. */
const ESCAPE = 0x1d;

export const bootUsage = `usage: hyperv-pc boot --kernel FILE [--initrd FILE] [--append TEXT] [options]
       hyperv-pc boot --cdrom FILE | --boot-disk FILE [options]

Boots an unmodified 32-bit guest, with its own Hyper-V drivers, on the embedded host. Its serial console is
on the terminal; Ctrl-] ends the machine.

  --kernel FILE            a 32-bit Linux kernel (bzImage)
  --initrd FILE            its initial file system
  --append TEXT            its command line; console=ttyS0 is added if there is no console in it
  --cdrom FILE             a CD-ROM image, to boot from unless there is a kernel
  --boot-disk FILE         a disk image (raw, VHD, VHDX) to boot from: the PC's own IDE disk, not one of Hyper-V
  --memory SIZE            guest memory, 64M to 1G (256M)
  --bios DIRECTORY         SeaBIOS: bios.bin and vgabios-stdvga.bin (/usr/share/seabios)
${networkOptionsUsage()}${hostOptionsUsage}  --snapshot FILE          go on from the machine in FILE if it fits; otherwise boot, and save it there ...
  --snapshot-at TEXT       ... when the guest writes this to its console (${SNAPSHOT_MARK})
  --json                   print one JSON object at the end, with the console in it
`;

interface BootArguments {
  readonly pc: PcOptions;
  readonly failOnViolations: boolean;
  readonly json: boolean;
}

/** What a machine is known by from one boot to the next; by nothing if it keeps nothing. */
function machineIdentity({ control, disks }: HostOptions, bootDisk: string | undefined): string {
  if (control !== undefined) return `control ${control}`;
  const kept = [bootDisk, ...disks.map(({ source }) => writtenImage(source))];
  const path = kept.find((each) => each !== undefined);
  return path === undefined ? randomUUID() : `disk ${resolve(path)}`;
}

function writtenImage(source: DiskSource): string | undefined {
  return source.kind === "image" && source.readOnly !== true ? source.path : undefined;
}

function parseBootArguments(args: readonly string[]): BootArguments {
  const options = {
    ...hostOptions,
    ...networkOptions,
    kernel: { type: "string" },
    initrd: { type: "string" },
    append: { type: "string" },
    cdrom: { type: "string" },
    "boot-disk": { type: "string" },
    memory: { type: "string" },
    bios: { type: "string" },
    snapshot: { type: "string" },
    "snapshot-at": { type: "string" },
    json: { type: "boolean" },
  } as const;
  try {
    const { values } = parseArgs({ args: [...args], options });
    const { kernel, initrd, append, cdrom, bios, memory = "256M" } = values;
    const bootDisk = values["boot-disk"];
    if (kernel === undefined && cdrom === undefined && bootDisk === undefined)
      throw new UsageMistake("nothing to boot: give --kernel, --cdrom or --boot-disk");
    const { snapshot, "snapshot-at": mark } = values;
    if (snapshot === undefined && mark !== undefined)
      throw new UsageMistake("--snapshot-at says when --snapshot FILE is made");
    const host = parseHostOptions(values);
    const network = parseNetworkOptions(values, machineIdentity(host, bootDisk));
    return {
      pc: {
        controllers: placeDisks(host.disks),
        memoryBytes: parseMemorySize("--memory", memory),
        ...(network && { network }),
        ...(kernel !== undefined && { kernel }),
        ...(initrd !== undefined && { initrd }),
        ...(append !== undefined && { append }),
        ...(cdrom !== undefined && { cdrom }),
        ...(bootDisk !== undefined && { bootDisk }),
        ...(bios !== undefined && { bios }),
        ...(snapshot !== undefined && {
          snapshot: { path: snapshot, at: mark ?? SNAPSHOT_MARK },
        }),
        ...(host.faults && { faults: host.faults }),
        ...(host.trace && { trace: host.trace }),
        ...(host.control !== undefined && { control: host.control }),
        ...(host.bus && { bus: host.bus }),
      },
      failOnViolations: host.failOnViolations,
      json: values.json ?? false,
    };
  } catch (error) {
    const code = (error as { readonly code?: string }).code ?? "";
    if (error instanceof HostOptionError || code.startsWith("ERR_PARSE_ARGS"))
      throw new UsageMistake((error as Error).message);
    throw error;
  }
}

/** Joins the terminal and the guest's console. @returns Takes them apart again. */
function joinTerminal(machine: PcMachine, leave: () => void): () => void {
  const { stdin } = process;
  const typed = (bytes: Uint8Array): void => {
    const escape = stdin.isTTY ? bytes.indexOf(ESCAPE) : -1;
    machine.serial.write(escape < 0 ? bytes : bytes.subarray(0, escape));
    if (escape >= 0) leave();
  };
  if (machine.isRestored) process.stdout.write(machine.serial.transcript);
  if (stdin.isTTY) stdin.setRawMode(true);
  stdin.on("data", typed);
  return () => {
    stdin.off("data", typed);
    if (stdin.isTTY) stdin.setRawMode(false);
    stdin.pause();
  };
}

/** What happened, when the machine has ended. */
interface Outcome {
  readonly end: PcEnd;
  readonly resets: number;
  readonly violations: readonly Violation[];
  readonly stats: ReturnType<PcMachine["host"]["stats"]>;
}

const counted = (count: number, noun: string): string =>
  `${count} ${noun}${count === 1 ? "" : "s"}`;

/** A few lines about the host, for people. */
function summary({ end, resets, violations, stats }: Outcome): string {
  const lines = [
    `The machine has ended: ${end}${resets > 0 ? ` after ${counted(resets, "restart")}` : ""}.`,
    `VMBus ${stats.version ?? "not connected"}: ${counted(stats.messagesIn, "message")} from the guest, ${stats.messagesOut} to it, ` +
      `${counted(stats.channels.filter(({ state }) => state === "open").length, "channel")} open.`,
  ];
  for (const [controller, { disks }] of stats.controllers.entries())
    for (const { lun, reads, readBytes, writes, writtenBytes, errors, lastError } of disks) {
      lines.push(
        `Disk at controller ${controller}, LUN ${lun}: ${counted(reads, "read")} (${readBytes} bytes), ${counted(writes, "write")} (${writtenBytes} bytes).`,
      );
      if (errors > 0)
        lines.push(
          `  The host failed ${counted(errors, "command")}, the last with: ${String(lastError)}`,
        );
    }
  for (const {
    mac,
    transmitFrames,
    transmitBytes,
    receiveFrames,
    receiveBytes,
  } of stats.adapters ?? [])
    lines.push(
      `Network adapter ${mac}: ${counted(transmitFrames, "frame")} sent (${transmitBytes} bytes), ${receiveFrames} received (${receiveBytes} bytes).`,
    );
  if (violations.length > 0) {
    lines.push(`The guest broke ${counted(violations.length, "rule")} of the protocol:`);
    for (const { rule, detail } of violations) lines.push(`  ${rule}: ${detail}`);
  }
  return `${lines.join("\n")}\n`;
}

/** Runs `hyperv-pc boot`. @returns Exit status. */
export async function bootCommand(args: readonly string[]): Promise<number> {
  const parsed = parseBootArguments(args);
  const interruption = new Interruption("hyperv-pc");
  try {
    return await runMachine(parsed, interruption);
  } finally {
    interruption.stop();
  }
}

async function runMachine(
  { pc, failOnViolations, json }: BootArguments,
  interruption: Interruption,
): Promise<number> {
  const { signal } = interruption;
  let booted: Promise<unknown> = Promise.resolve();
  const machine = await new Promise<PcMachine>((resolve, reject) => {
    preferQuickCompilation();
    booted = bootPc({
      ...pc,
      onRunning: resolve,
      ...(!json && { onConsole: (bytes: Uint8Array) => void process.stdout.write(bytes) }),
    });
    booted.catch(reject);
  });
  // What goes wrong with the end of the machine is told by `ended`.
  const stop = (): void => void machine.stop().catch(() => undefined);
  const takeApart = json ? () => undefined : joinTerminal(machine, stop);
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  let end: PcEnd;
  let missing: unknown;
  try {
    // A snapshot that is to be made is made; without it this has happened by now.
    await booted.catch((error: unknown) => (missing = error));
    end = await machine.ended;
  } finally {
    takeApart();
  }
  const { host, resets } = machine;
  const outcome: Outcome = { end, resets, violations: host.violations, stats: host.stats() };
  if (json) {
    const error = missing === undefined ? {} : { error: failureOf(missing) };
    await print(
      `${JSON.stringify({ ...outcome, console: machine.serial.transcript, ...error }, null, 2)}\n`,
    );
  } else process.stderr.write(`\n${summary(outcome)}`);
  if (missing !== undefined) process.stderr.write(complaint(missing));
  if (failOnViolations && outcome.violations.length > 0) return STATUS_VIOLATIONS;
  return interruption.status ?? (missing === undefined ? 0 : 1);
}

/** Resolves when standard output has it, or takes nothing any more. */
function print(text: string): Promise<void> {
  return new Promise((resolve) => process.stdout.write(text, () => resolve()));
}
