import { readFileSync } from "node:fs";
import {
  formatVersion,
  negotiationOrder,
  parseVersion,
  protocolVersions,
} from "@hyperv-is/vmbus-core/protocol";
import { ControlError } from "../control/control-error.js";
import { CONTROLLERS_MAX, type DiskPlacement } from "../disk-placement.js";
import { FaultPlanError, parseFaultPlan } from "../fault-rules.js";
import type { FaultPlanData } from "../faults.js";
import { TraceError } from "../trace/trace-error.js";
import { parseTraceChannels } from "../trace/trace-channels.js";
import type { ImageSource } from "../storvsp/controller-config.js";
import type { BusOptions } from "../vmbus/connection.js";
import { controlPath } from "./control-address.js";
import type { TraceFileOptions } from "./trace-file.js";

/** A command line that says something of the host that it cannot do. */
export class HostOptionError extends Error {}

/** What the user of a program that boots machines may say of their host: options for `util.parseArgs`. */
export const hostOptions = {
  disk: { type: "string", multiple: true },
  faults: { type: "string" },
  trace: { type: "string" },
  "trace-channels": { type: "string" },
  "trace-data": { type: "string" },
  control: { type: "string" },
  ceiling: { type: "string" },
  violations: { type: "string" },
} as const;

/** The lines that explain them. */
export const hostOptionsUsage = `  --disk FILE[,ro][,io=async][,controller=N]  attach a VHD or VHDX, read only with ,ro; controllers are 0 to ${CONTROLLERS_MAX - 1};
                           with ,io=async requests wait for slow storage side by side
  --faults FILE            a fault plan: how the host is to misbehave (JSON)
  --trace FILE             record what host and guest exchange; 'hyperv-host trace FILE' decodes it
  --trace-channels LIST    packets of these channels only: relids, instance ids, classes (scsi), or none
  --trace-data BYTES       record so much of each request's data as well (0)
  --control NAME|PATH      control socket for 'hyperv-host list', 'stats', 'violations': a name, or a path with a / in it
  --ceiling VERSION        newest protocol version that the host accepts, such as 4.0
  --violations fail        exit with status 3 if the guest broke a rule of the protocol
`;

/** Values as `util.parseArgs` returns them. */
export interface HostOptionValues {
  readonly disk?: readonly string[] | undefined;
  readonly faults?: string | undefined;
  readonly trace?: string | undefined;
  readonly "trace-channels"?: string | undefined;
  readonly "trace-data"?: string | undefined;
  readonly control?: string | undefined;
  readonly ceiling?: string | undefined;
  readonly violations?: string | undefined;
}

/** The same, understood. */
export interface HostOptions {
  readonly disks: readonly DiskPlacement[];
  readonly faults: FaultPlanData | undefined;
  readonly trace: TraceFileOptions | undefined;
  /** Name of the machine, or path of its control socket. */
  readonly control: string | undefined;
  readonly bus: BusOptions | undefined;
  readonly failOnViolations: boolean;
}

/** Throws `HostOptionError`. */
export function parseHostOptions(values: HostOptionValues): HostOptions {
  const { disk = [], faults, control, ceiling, violations } = values;
  if (violations !== undefined && violations !== "fail")
    throw new HostOptionError(`--violations ${violations}: only "fail" is known`);
  return {
    disks: disk.map(parseDisk),
    faults: faults === undefined ? undefined : readFaults(faults),
    trace: parseTrace(values),
    control: control === undefined ? undefined : parseControl(control),
    bus: ceiling === undefined ? undefined : { versions: parseCeiling(ceiling) },
    failOnViolations: violations !== undefined,
  };
}

/** Bytes of a size such as 256M or 1G. Throws `HostOptionError`. @param option - that the text is of. */
export function parseMemorySize(option: string, text: string): number {
  const match = /^(\d+)([MmGg])$/.exec(text);
  if (match === null) throw new HostOptionError(`${option} ${text}: write it as 256M or 1G`);
  return Number(match[1]) * (match[2]!.toLowerCase() === "m" ? 2 ** 20 : 2 ** 30);
}

/**
 * A disk as a command line has it: `FILE[,ro][,io=sync|async][,controller=N]`. Words after the last ones that are
 * ours belong to the file's name, commas and all. Throws `HostOptionError`.
 */
export function parseDisk(text: string): DiskPlacement & { readonly source: ImageSource } {
  const match = /^(.*?)((?:,ro|,io=[^,]*|,controller=[^,]*)*)$/s.exec(text)!;
  const [, path = "", words = ""] = match;
  if (path === "") throw new HostOptionError(`--disk ${text}: the file's name is missing`);
  const controller = /,controller=([^,]*)/.exec(words)?.[1];
  if (controller !== undefined && !/^[0-3]$/.test(controller))
    throw new HostOptionError(`--disk ${text}: controllers are 0 to ${CONTROLLERS_MAX - 1}`);
  const io = /,io=([^,]*)/.exec(words)?.[1];
  if (io !== undefined && io !== "sync" && io !== "async")
    throw new HostOptionError(`--disk ${text}: io is sync or async`);
  const readOnly = words.split(",").includes("ro");
  return {
    source: { kind: "image", path, readOnly, ...(io !== undefined && { io }) },
    ...(controller !== undefined && { controller: Number(controller) }),
  };
}

function readFaults(path: string): FaultPlanData {
  try {
    return parseFaultPlan(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    const lines = error instanceof FaultPlanError ? error.problems : [(error as Error).message];
    throw new HostOptionError(lines.map((line) => `${path}: ${line}`).join("\n"));
  }
}

function parseTrace(values: HostOptionValues): TraceFileOptions | undefined {
  const { trace: path, "trace-channels": channels, "trace-data": data = "0" } = values;
  if (path === undefined) {
    if (channels === undefined && values["trace-data"] === undefined) return undefined;
    throw new HostOptionError("--trace-channels and --trace-data say what --trace FILE records");
  }
  if (!/^\d{1,9}$/.test(data))
    throw new HostOptionError(`--trace-data ${data}: a number of bytes, please`);
  try {
    return {
      path,
      dataLimitBytes: Number(data),
      ...(channels !== undefined && { channels: parseTraceChannels(channels) }),
    };
  } catch (error) {
    if (!(error instanceof TraceError)) throw error;
    throw new HostOptionError(`--trace-channels: ${error.message}`);
  }
}

function parseControl(address: string): string {
  try {
    controlPath(address);
    return address;
  } catch (error) {
    if (!(error instanceof ControlError)) throw error;
    throw new HostOptionError(`--control: ${error.message}`);
  }
}

function parseCeiling(text: string): ReturnType<typeof negotiationOrder> {
  const version = parseVersion(text);
  if (version !== undefined) return negotiationOrder(version);
  const known = protocolVersions.map((row) => formatVersion(row.version)).join(", ");
  throw new HostOptionError(`--ceiling ${text}: versions are ${known}`);
}
