import {
  GuestError,
  type HeartbeatStats,
  type IntegrationStats,
  type TimeSourceStats,
} from "../integration/index.js";
import type { BusState } from "../vmbus/bus.js";
import { SHUTDOWN_MESSAGE_MAX } from "@hyperv-is/hv-utils/protocol";
import { captureMethods } from "./capture-methods.js";
import { CONTROL_PROTOCOL } from "./control-protocol.js";
import { ControlError } from "./control-error.js";
import { method, type ControlledMachine } from "./control-method.js";
import { keyValueMethods } from "./key-value-methods.js";
import { machineStats, type MachineStats } from "./machine-stats.js";

export type { MachineCapture } from "./capture-methods.js";
export type { ControlledCaptures, ControlledMachine, ControlMethod } from "./control-method.js";

/** What a machine speaks. */
export interface ControlVersion {
  readonly protocol: number;
  readonly program: string;
  readonly methods: readonly string[];
}

/** A machine in a list of machines. */
export interface MachineSummary {
  readonly name: string;
  readonly uptimeMs: number;
  readonly processorCount: number;
  readonly memoryBytes: number;
  readonly busState: BusState;
  /** Negotiated protocol version such as "5.3"; null while no guest is connected. */
  readonly busVersion: string | null;
  /** How many there were. */
  readonly violations: number;
  readonly program: string;
  readonly processId: number;
}

/** A rule of the protocol that the guest of a machine broke. */
export interface MachineViolation {
  readonly rule: string;
  readonly detail: string;
  /** Of the channel that it was about; null if it was about none. */
  readonly relid: number | null;
  /** Since the machine was started. */
  readonly atMs: number;
}

/** A part of the log of violations. */
export interface ViolationLog {
  /** How many there were of each rule, the ones not kept included. */
  readonly rules: Readonly<Record<string, number>>;
  /** Those kept, oldest first. */
  readonly violations: readonly MachineViolation[];
  /** What to give as `after` for those that follow. */
  readonly next: number;
}

/** A century. */
const OFFSET_LIMIT_MS = 100 * 366 * 86_400_000;

const shutdownParams = {
  force: { type: "boolean" },
  message: {
    type: "text",
    expected: `a text of at most ${SHUTDOWN_MESSAGE_MAX} characters`,
    parse: (text: string) => (text.length <= SHUTDOWN_MESSAGE_MAX ? text : undefined),
  },
} as const;

/**
 * The methods of a machine's control socket, for the server and for its clients. One that Hyper-V's
 * PowerShell module has is named after its cmdlet; the others are named after what they return.
 */
export const controlMethods = {
  /** What the machine speaks; refuses a client whose version of the protocol is newer. */
  version: method<{ readonly protocol?: number }, ControlVersion>({
    params: { protocol: { type: "integer", least: 1 } },
    run({ program }, { protocol = CONTROL_PROTOCOL }): ControlVersion {
      if (protocol > CONTROL_PROTOCOL)
        throw new ControlError(
          "ERR_CONTROL_VERSION",
          `the machine speaks version ${CONTROL_PROTOCOL} of the control protocol (${program}), its client ${protocol}: use the client of that release`,
        );
      return { protocol: CONTROL_PROTOCOL, program, methods: Object.keys(controlMethods) };
    },
  }),

  /** Get-VM. */
  "get-vm": method<object, MachineSummary>({
    params: {},
    run(machine) {
      const { name, processorCount, memoryBytes, program, processId } = machine;
      const { state, version = null } = machine.server.stats();
      return {
        name,
        uptimeMs: uptimeMs(machine),
        processorCount,
        memoryBytes,
        busState: state,
        busVersion: version,
        violations: machine.server.violations.total,
        program,
        processId,
      };
    },
  }),

  /** Counters of bus, channels, controllers, disks, faults and violations. */
  stats: method<object, MachineStats>({
    params: {},
    async run(machine) {
      const host = await machine.stats();
      return machineStats(machine.name, uptimeMs(machine), host);
    },
  }),

  /** The log of violations; with `after`, what has been added since the call that returned it as `next`. */
  violations: method<{ readonly after?: number }, ViolationLog>({
    params: { after: { type: "integer", least: 0 } },
    run({ server, startMs }, { after = 0 }) {
      const { violations } = server;
      return {
        rules: violations.counts(),
        violations: violations.list.slice(after).map(({ rule, detail, relid = null, atMs }) => ({
          rule,
          detail,
          relid,
          atMs: sinceStart(startMs, atMs),
        })),
        next: violations.list.length,
      };
    },
  }),
  /** Get-VMIntegrationService for the heartbeat, and `Heartbeat` of Get-VM. */
  "get-vm-heartbeat": method<object, HeartbeatStats>({
    params: {},
    run: async (machine) => (await integration(machine)).heartbeat,
  }),

  /** Stop-VM: the guest shuts down and the machine is off, once the guest is through; returns when it has agreed. */
  "stop-vm": method<{ readonly force?: boolean; readonly message?: string }, object>({
    params: shutdownParams,
    run: (machine, params) => shutDown(machine, "power-off", params),
  }),

  /** Restart-VM: the same, and the machine starts anew. */
  "restart-vm": method<{ readonly force?: boolean; readonly message?: string }, object>({
    params: shutdownParams,
    run: (machine, params) => shutDown(machine, "restart", params),
  }),

  /** What the guest has been told of the time. */
  "get-vm-time": method<object, TimeSourceStats>({
    params: {},
    run: async (machine) => (await integration(machine)).timeSync,
  }),

  /** Puts the clock that the guest is told off by so many milliseconds, and has the guest set its clock. */
  "set-vm-time": method<{ readonly offsetMs?: number; readonly sync?: boolean }, TimeSourceStats>({
    params: {
      offsetMs: { type: "integer", least: -OFFSET_LIMIT_MS, most: OFFSET_LIMIT_MS },
      sync: { type: "boolean" },
    },
    async run(machine, { offsetMs, sync = false }) {
      await machine.request({ kind: "time", offsetMs, sync });
      return (await integration(machine)).timeSync;
    },
  }),
  ...captureMethods,
  ...keyValueMethods,
} as const;

async function integration(machine: ControlledMachine): Promise<IntegrationStats> {
  const { integration: stats } = await machine.stats();
  if (stats !== undefined) return stats;
  throw new GuestError("ERR_GUEST_GONE", "the machine is being switched off");
}

async function shutDown(
  machine: ControlledMachine,
  action: "power-off" | "restart",
  { force = false, message = "" }: { readonly force?: boolean; readonly message?: string },
): Promise<object> {
  await machine.request({ kind: "shutdown", action, force, message });
  return {};
}

function uptimeMs({ clock, startMs }: ControlledMachine): number {
  return sinceStart(startMs, clock.now());
}

/** Milliseconds, to the microsecond. */
function sinceStart(startMs: number, nowMs: number): number {
  return Math.round((nowMs - startMs) * 1000) / 1000;
}

/** Name of a method of the control socket. */
export type ControlMethodName = keyof typeof controlMethods;

/** What a method takes. */
export type ControlParams<Name extends ControlMethodName> = Parameters<
  (typeof controlMethods)[Name]["run"]
>[1];

/** What a method returns. */
export type ControlResult<Name extends ControlMethodName> = Awaited<
  ReturnType<(typeof controlMethods)[Name]["run"]>
>;
