import type {
  MachineChannel,
  MachineStats,
  MachineSummary,
  MachineViolation,
} from "../control/index.js";
import {
  counterTable,
  formatBytes,
  formatDuration,
  printable,
  textTable,
  type Column,
  type Since,
} from "./text-table.js";

/** A machine in the list of machines. */
export type ListedMachine =
  | ({ readonly state: "running"; readonly path: string } & MachineSummary)
  /** One that listens, and does not answer as it should. */
  | {
      readonly state: "unreachable";
      readonly path: string;
      readonly name: string;
      readonly error: string;
    };

/** Lines of `hyperv-host list`. */
export function listText(machines: readonly ListedMachine[]): string[] {
  const row = (machine: ListedMachine): string[] =>
    machine.state === "running"
      ? [
          printable(machine.name),
          machine.state,
          String(machine.processorCount),
          formatBytes(machine.memoryBytes),
          formatDuration(machine.uptimeMs),
          machine.busVersion ?? "-",
          String(machine.violations),
          String(machine.processId),
          printable(machine.program),
        ]
      : [printable(machine.name), machine.state, ...new Array<string>(7).fill("-")];
  const titles = ["NAME", "STATE", "CPUS", "MEMORY", "UPTIME", "VMBUS", "VIOLATIONS", "PID"];
  return textTable([[...titles, "PROGRAM"], ...machines.map(row)], [2, 3, 4, 6, 7]);
}

type Controller = MachineStats["controllers"][number] & { readonly index: number };
type Disk = Controller["disks"][number] & { readonly controller: number };
type Adapter = MachineStats["adapters"][number] & { readonly index: number };

const channelColumns: readonly Column<MachineChannel>[] = [
  { title: "CHANNEL", text: ({ relid }) => String(relid ?? "-") },
  { title: "DEVICE", text: ({ device }) => device },
  { title: "SUB", text: ({ subChannelIndex }) => String(subChannelIndex) },
  { title: "STATE", text: ({ state }) => state },
  { title: "VCPU", text: ({ targetVp }) => String(targetVp ?? "-") },
  { title: "PACKETS IN", count: ({ packetsIn = 0 }) => packetsIn },
  { title: "OUT", count: ({ packetsOut = 0 }) => packetsOut },
  { title: "SIGNALS", count: ({ interrupts = 0 }) => interrupts },
  {
    title: "INTERRUPTS",
    count: ({ signalsSent = 0, spaceSignalsSent = 0 }) => signalsSent + spaceSignalsSent,
  },
  { title: "RING FULL", count: ({ outgoingFull = 0 }) => outgoingFull },
];

const controllerColumns: readonly Column<Controller>[] = [
  { title: "CONTROLLER", text: ({ index }) => `SCSI ${index}` },
  { title: "REQUESTS", count: ({ requests }) => requests },
  { title: "DELAYED", count: ({ completionsDelayed }) => completionsDelayed },
  { title: "FAULTS", count: ({ faults }) => faults },
];

const diskColumns: readonly Column<Disk>[] = [
  { title: "DISK", text: ({ controller, lun }) => `SCSI ${controller}:${lun}` },
  { title: "READS", count: ({ reads }) => reads },
  { title: "READ", count: ({ readBytes }) => readBytes, isBytes: true },
  { title: "WRITES", count: ({ writes }) => writes },
  { title: "WRITTEN", count: ({ writtenBytes }) => writtenBytes, isBytes: true },
  { title: "FLUSHES", count: ({ flushes }) => flushes },
  { title: "UNMAPS", count: ({ unmaps }) => unmaps },
  { title: "ERRORS", count: ({ errors }) => errors },
];

const adapterColumns: readonly Column<Adapter>[] = [
  { title: "ADAPTER", text: ({ index }) => `hn${index}` },
  { title: "NVSP", text: ({ version }) => version ?? "-" },
  { title: "LINK", text: ({ isLinkUp }) => (isLinkUp ? "up" : "down") },
  { title: "SENT", count: ({ transmitFrames }) => transmitFrames },
  { title: "BYTES OUT", count: ({ transmitBytes }) => transmitBytes, isBytes: true },
  { title: "RECEIVED", count: ({ receiveFrames }) => receiveFrames },
  { title: "BYTES IN", count: ({ receiveBytes }) => receiveBytes, isBytes: true },
  {
    title: "NO ROOM",
    count: ({ receiveNoSlot, receiveRingFull }) => receiveNoSlot + receiveRingFull,
  },
  { title: "ERRORS", count: ({ transmitErrors, receiveFailed }) => transmitErrors + receiveFailed },
];

/** What to count from: how a machine was a moment ago, or undefined for its start. */
export interface Earlier {
  readonly stats: MachineStats | undefined;
}

/** Lines of `hyperv-host stats` about a machine: what it counted in all, or in each second since `earlier`. */
export function statsText(stats: MachineStats, program: string, earlier?: Earlier): string[] {
  const { name, bus, violations } = stats;
  const faults = stats.faults.reduce((sum, { happened }) => sum + happened, 0);
  const table = <Row>(
    columns: readonly Column<Row>[],
    rowsOf: (stats: MachineStats) => readonly Row[],
    keyOf: (row: Row) => string,
  ): string[] => {
    const rows = rowsOf(stats);
    const then = new Map(
      (earlier?.stats ? rowsOf(earlier.stats) : []).map((row) => [keyOf(row), row]),
    );
    const since: Since<Row> | undefined = earlier && {
      seconds: Math.max(1, stats.uptimeMs - (earlier.stats?.uptimeMs ?? 0)) / 1000,
      row: (row) => then.get(keyOf(row)),
    };
    return rows.length === 0 ? [] : ["", ...counterTable(columns, rows, since)];
  };
  const closed = stats.channels.length - activeChannels(stats).length;
  return [
    `${printable(name)}: ${printable(program)}, up ${formatDuration(stats.uptimeMs)}`,
    `VMBus ${bus.version ?? "-"} ${bus.state}: ${bus.messagesIn} messages in, ${bus.messagesOut} out, ${bus.backlog} waiting; ` +
      `${closed} channels closed; ${violations.total} violations; ${faults} faults`,
    ...table(channelColumns, activeChannels, ({ relid, instanceId, subChannelIndex }) =>
      [relid, instanceId, subChannelIndex].join(),
    ),
    ...table(controllerColumns, controllersOf, ({ instanceId }) => instanceId),
    ...table(diskColumns, disksOf, ({ controller, path, target, lun }) =>
      [controller, path, target, lun].join(),
    ),
    ...disksOf(stats).flatMap(({ controller, lun, lastError }) =>
      lastError === undefined
        ? []
        : [`SCSI ${controller}:${lun} failed last with: ${printable(lastError)}`],
    ),
    ...table(adapterColumns, adaptersOf, ({ instanceId }) => instanceId),
    ...faultLines(stats),
    ...countLines("VIOLATION", violations.rules),
  ];
}

function activeChannels({ channels }: MachineStats): MachineChannel[] {
  return channels.filter(({ state }) => state !== "closed" && state !== "client-released");
}

function controllersOf({ controllers }: MachineStats): Controller[] {
  return controllers.map((controller, index) => ({ ...controller, index }));
}

function disksOf(stats: MachineStats): Disk[] {
  return controllersOf(stats).flatMap(({ index, disks }) =>
    disks.map((disk) => ({ ...disk, controller: index })),
  );
}

function adaptersOf({ adapters }: MachineStats): Adapter[] {
  return adapters.map((adapter, index) => ({ ...adapter, index }));
}

function faultLines({ faults }: MachineStats): string[] {
  if (faults.length === 0) return [];
  const row = ({ kind, device, lun, operation, happened }: (typeof faults)[number]): string[] => [
    [kind, device, lun === undefined ? undefined : `LUN ${lun}`, operation]
      .filter((word) => word !== undefined)
      .join(" "),
    String(happened),
  ];
  return ["", ...textTable([["FAULT", "HAPPENED"], ...faults.map(row)], [1])];
}

function countLines(title: string, counts: Readonly<Record<string, number>>): string[] {
  const rows = Object.entries(counts).map(([name, count]) => [printable(name), String(count)]);
  return rows.length === 0 ? [] : ["", ...textTable([[title, "TIMES"], ...rows], [1])];
}

/** A violation, or more of a rule that were counted without being kept. */
export type ListedViolation = MachineViolation | { readonly rule: string; readonly more: number };

/** A line of `hyperv-host violations`. */
export function violationLine(name: string, violation: ListedViolation): string {
  const rule = printable(violation.rule);
  if ("more" in violation)
    return `${printable(name)} ${"".padStart(14)}  ${"".padEnd(5)} ${rule}: ${violation.more} more`;
  const { atMs, relid, detail } = violation;
  const seconds = (atMs / 1000).toFixed(3);
  return `${printable(name)} ${seconds.padStart(14)}  ${String(relid ?? "-").padEnd(5)} ${rule}: ${printable(detail)}`;
}
