import type { StorvscController } from "@hyperv-is/hv-storvsc";
import { vstorVersions } from "@hyperv-is/hv-storvsc/protocol";
import type { Fault, FaultOperation, FaultPlanData } from "@hyperv-is/hyperv-host";
import { formatVersion, protocolVersions, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { Prng, Simulation, SimulationError } from "@hyperv-is/conformance";
import {
  StorageMachine,
  type ControllerPlan,
  type PlantedMutant,
  type StorageMachineOptions,
} from "./storage-machine.js";
import { StorageWorkload, type Failure, type WorkloadPlan } from "./storage-workload.js";

export interface ScheduleOptions {
  readonly seed: number;
  /** A fault to put into one end of every channel; the host misbehaves in no other way then. */
  readonly mutant?: PlantedMutant;
}

/** What one schedule did; equal for equal options. */
export interface ScheduleResult {
  readonly steps: number;
  readonly operations: number;
  readonly succeeded: number;
  readonly failed: number;
  /** Operations that were given up, and those that met a unit attention. */
  readonly timedOut: number;
  readonly attentions: number;
  readonly bounced: number;
  readonly fullRings: number;
  readonly faults: number;
  readonly rescinds: number;
  readonly busVersion: string;
}

/** Turns after which a schedule that has not ended counts as a livelock. */
const STEP_BOUND = 400_000;
/** A turn of a CPU takes up to this long. */
const TURN_MS = 1 / 64;
/** How long programs may take in all: longer than every time-out of the driver. */
const PATIENCE_MS = 600_000;

/** Interrupt page and monitor pages. */
const CONNECTION_PAGES = 3;

const dataOperations = ["read", "write", "flush", "unmap"] as const;
const queryOperations = [
  "inquiry",
  "read-capacity",
  "test-unit-ready",
  "mode-sense",
  "report-luns",
  "other",
] as const;

/** Sense keys and codes of check conditions: final ones, passing ones, and news. */
const senses = [
  [0x01, 0x17, 0x00],
  [0x02, 0x04, 0x01],
  [0x03, 0x11, 0x00],
  [0x04, 0x44, 0x00],
  [0x05, 0x24, 0x00],
  [0x06, 0x29, 0x00],
  [0x06, 0x2a, 0x01],
  [0x06, 0x2a, 0x09],
  [0x06, 0x3f, 0x0e],
  [0x0b, 0x00, 0x00],
] as const;

/** Where the used part of a disk begins: before and at the ends of what the forms of READ can address. */
const origins = [0, 0, 0, 0x1f_ffe0, 0xffff_ffe0] as const;

/** Draws everything about a schedule but its interleavings. */
class Plan {
  readonly machine: Omit<StorageMachineOptions, "simulation">;
  readonly workload: WorkloadPlan;
  readonly rescindsAtEnd: boolean;
  readonly #prng: Prng;

  constructor({ seed, mutant }: ScheduleOptions) {
    const prng = (this.#prng = new Prng(Math.imul(seed, 0x9e37_79b1) ^ 0x5107));
    const bus = this.#busVersions();
    // Rings so small, and so many requests, that both ends have to wait for room.
    const tight = prng.chance(1, 3);
    const controllers = Array.from({ length: 1 + Number(prng.chance(1, 4)) }, () =>
      this.#controller(mutant !== undefined, tight),
    );
    // More programs than the driver has buffers for.
    const crowd = prng.chance(1, 5);
    const faults = this.#faults(bus.common);
    const losesSome = faults.faults.some(({ kind }) => kind === "lost-completion");
    this.machine = {
      ...bus,
      crowded: prng.chance(1, 8),
      budget: prng.pick([1, 2, 8, 64]),
      sloth: prng.pick([0, 0, 1, 4]),
      workers: controllers.length === 2 && prng.chance(1, 2) ? 2 : 1,
      faults: mutant === undefined ? faults : { faults: [] },
      // A host that polls makes waiting for a lost completion too long.
      controllers: controllers.map((one) => ({ ...one, monitored: one.monitored && !losesSome })),
      mutant,
    };
    this.workload = {
      tasks: crowd ? 24 : prng.below(5),
      operations: crowd ? 4 : 2 + prng.below(12),
      fastRequests: tight ? 300 : prng.chance(2, 3) ? 10 + prng.below(80) : 0,
      fastDepth: tight ? 120 : prng.pick([1, 4, 16, 64, 120]),
      fastBlocks: tight ? 2 : 8,
      resizes: prng.chance(1, 4) ? 3 : 0,
    };
    this.rescindsAtEnd = prng.chance(1, 2);
  }

  /** True if a fault of one of these kinds is planned. */
  has(...kinds: Fault["kind"][]): boolean {
    return this.machine.faults.faults.some(({ kind }) => kinds.includes(kind));
  }

  /** True if a fault is planned for what a driver asks about its disks. */
  get queriesFail(): boolean {
    return this.machine.faults.faults.some(
      ({ kind, operation }) =>
        kind !== "stalled-ring" &&
        kind !== "refused-version" &&
        (operation === undefined || queryOperations.some((query) => query === operation)),
    );
  }

  /** Operations that may never end because the host loses completions, each worker by its own count. */
  get lost(): number {
    return this.machine.faults.faults
      .filter(({ kind }) => kind === "lost-completion")
      .reduce((sum, { count = 1 }) => sum + count * this.machine.workers, 0);
  }

  /** Versions of both ends, and the newest that they share. */
  #busVersions(): {
    readonly hostVersions: readonly ProtocolVersion[];
    readonly guestVersions: readonly ProtocolVersion[];
    readonly common: readonly ProtocolVersion[];
  } {
    const all = protocolVersions.map(({ version }) => version);
    const shared = this.#prng.pick(all);
    const some = (): readonly ProtocolVersion[] =>
      all.filter((version) => version === shared || this.#prng.chance(1, 2));
    const hostVersions = some();
    const guestVersions = some();
    const common = hostVersions.filter((version) => guestVersions.includes(version));
    return { hostVersions, guestVersions, common };
  }

  #controller(isMutant: boolean, tight: boolean): ControllerPlan {
    const prng = this.#prng;
    const values = vstorVersions.map(({ value }) => value);
    const shared = prng.pick(values);
    const some = (): readonly number[] =>
      values.filter((value) => value === shared || prng.chance(1, 2));
    const luns = Array.from({ length: 1 + prng.below(3) }, (_, lun) => lun * (1 + prng.below(3)));
    return {
      host: {
        versions: some(),
        maxTransferBytes: prng.pick([8, 16, 64]) * 1024,
        absentLun: prng.pick(["openvmm", "windows"]),
      },
      guest:
        !tight && prng.chance(1, 16)
          ? undefined
          : {
              versions: some(),
              startPacketBytes: prng.pick([48, 64]),
              ringPages: tight ? 2 : prng.pick([2, 2, 3, 5]),
              slots: tight ? 256 : prng.pick([40, 64, 256]),
              bounceBuffers: 8 + prng.below(9),
              minimumCdbBytes: prng.pick([6, 10, 12, 16]),
              targets: 1 + prng.below(2),
              luns: 8,
              drainTimeoutMs: prng.pick([50, 5000, 60_000]),
              ...(!isMutant && prng.chance(1, 8) && { pollIntervalMs: 20_000 }),
            },
      monitored: !isMutant && prng.chance(1, 10),
      disks: [...new Set(luns)].map((lun) => ({
        lun,
        blockBytes: prng.pick([512, 512, 4096]),
        origin: prng.pick(origins),
        blocks: 24 + prng.below(100),
        readOnly: prng.chance(1, 10),
      })),
    };
  }

  #faults(common: readonly ProtocolVersion[]): FaultPlanData {
    const count = this.#prng.chance(1, 4) ? 0 : 1 + this.#prng.below(4);
    const faults = Array.from({ length: count }, () => this.#fault(common));
    return { seed: this.#prng.below(1000), faults };
  }

  #fault(common: readonly ProtocolVersion[]): Fault {
    const prng = this.#prng;
    const kinds = [
      "late-completion",
      "lost-completion",
      "duplicate-completion",
      "short-transfer",
      "check-condition",
      "stalled-ring",
      "rescind",
      "refused-version",
    ] as const;
    const kind = prng.pick(kinds);
    const operation: FaultOperation = prng.chance(1, 6)
      ? prng.pick(queryOperations)
      : prng.pick(dataOperations);
    const when = {
      operation,
      count: 1 + prng.below(3),
      ...prng.pick([
        { nth: 1 + prng.below(30) },
        { every: 1 + prng.below(12) },
        { probability: (1 + prng.below(8)) / 16 },
      ]),
    };
    switch (kind) {
      case "late-completion":
        return { kind, ...when, delayMs: prng.below(200) / 8 };
      case "lost-completion":
      case "duplicate-completion":
        return { kind, ...when };
      case "short-transfer":
        return { kind, ...when, bytes: prng.pick([0, 512, 4096, 6000]) };
      case "check-condition": {
        const [senseKey, additionalCode, additionalQualifier] = prng.pick(senses);
        return { kind, ...when, senseKey, additionalCode, additionalQualifier };
      }
      case "stalled-ring":
        return {
          kind,
          durationMs: prng.below(400) / 8,
          every: 1 + prng.below(10),
          count: 1 + prng.below(5),
        };
      case "rescind": {
        const back = prng.chance(3, 4) ? { reofferAfterMs: prng.below(160) / 8 } : {};
        return prng.chance(1, 2)
          ? { kind, ...when, count: 1, ...back }
          : { kind, device: "scsi", afterMs: prng.below(320) / 8, ...back };
      }
      case "refused-version": {
        // One that is left must be an older one.
        const refusable = common.slice(0, -1);
        if (refusable.length === 0) return { kind: "duplicate-completion", ...when };
        return { kind, version: prng.pick(refusable) };
      }
    }
  }
}

/** What is drawn from a seed, for people who look into a failure. */
export function describeSchedule(options: ScheduleOptions): string {
  const { machine, workload } = new Plan(options);
  return JSON.stringify({ ...machine, workload }, undefined, 1);
}

/**
 * Runs one schedule of the storage driver against our host. Throws a `SimulationError` that names the seed
 * when an operation fails without a reason, finds other data than the model, ends twice or never; when the
 * host noted a violation; when memory is not accounted for; when the machine does not come to rest.
 */
export async function runSchedule(options: ScheduleOptions): Promise<ScheduleResult> {
  const simulation = new Simulation(options.seed, { turnMs: TURN_MS });
  const plan = new Plan(options);
  try {
    const machine = new StorageMachine({ simulation, ...plan.machine });
    const workload = new StorageWorkload(
      machine,
      new Prng(Math.imul(options.seed, 0x85eb_ca6b) ^ 0x10ad),
      plan.workload,
    );
    const story = tell(plan, machine, workload);
    await simulation.complete(story, STEP_BOUND, machine.guest);
    simulation.run(STEP_BOUND);
    return inspect(plan, machine, workload);
  } catch (error) {
    if (error instanceof SimulationError) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new SimulationError(options.seed, message, { cause: error });
  }
}

/** The machine from power on to power off. */
async function tell(plan: Plan, machine: StorageMachine, workload: StorageWorkload): Promise<void> {
  await machine.boot();
  const expected = plan.has("rescind") || plan.queriesFail ? 0 : machine.disks.length;
  const found = machine.controllers.reduce((sum, { disks }) => sum + disks.length, 0);
  check(found >= expected, `${found} of ${expected} disks were found`);
  const programs = workload.run();
  const inTime = await settledWithin(machine, programs, PATIENCE_MS);
  if (inTime) {
    await programs;
    if (!plan.has("rescind", "lost-completion") && !plan.queriesFail) await workload.verify();
  } else {
    check(
      plan.lost > 0 && workload.pending > 0 && workload.pending <= plan.lost,
      `${workload.pending} operations have not ended, ${plan.lost} may be lost`,
    );
    workload.stop();
    if (plan.rescindsAtEnd)
      for (const { instanceId } of machine.disks) machine.partition.rescind(instanceId);
  }
  await machine.shutdown();
  await programs;
}

function settledWithin(
  machine: StorageMachine,
  programs: Promise<void>,
  delayMs: number,
): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = machine.timers.after(delayMs, () => resolve(false));
    programs.then(() => {
      timer.cancel();
      resolve(true);
    }, reject);
  });
}

/** What must hold after every schedule. */
function inspect(plan: Plan, machine: StorageMachine, workload: StorageWorkload): ScheduleResult {
  workload.throwIfWrong();
  for (const failure of workload.failures)
    check(isExplained(plan, failure), `${failure.what} failed with ${failure.code}, and no fault`);
  if (!plan.has("rescind"))
    check(machine.attachErrors.length === 0, `attaching failed: ${String(machine.attachErrors)}`);
  check(workload.pending === 0, `${workload.pending} operations never ended`);
  check(workload.orphans === 0, `the memory of ${workload.orphans} operations was never released`);
  workload.verifyBackends();

  const { partition, arena } = machine;
  const violations = partition.violations.list.map(({ rule, detail }) => `${rule}: ${detail}`);
  check(violations.length === 0, `the host noted: ${violations.join("; ")}`);
  const stats = partition.stats();
  check(stats.state === "disconnected", `the host is ${stats.state}`);
  check(stats.workers.flat().length === 0, "the host still serves channels");
  check(stats.backlog === 0, "messages wait for the guest");

  const pages = arena.freePages + arena.leakedPages;
  const all = machine.arenaPages;
  check(pages === all, `${all - pages} pages are neither free nor leaked`);
  const mayLeak = plan.has("rescind", "lost-completion", "late-completion", "stalled-ring");
  // The oldest hosts do not confirm that they let go of the connection's pages.
  const unconfirmed = machine.busVersion < ProtocolVersion.v1_1 ? CONNECTION_PAGES : 0;
  const leaked = arena.leakedPages - unconfirmed;
  check(leaked === 0 || (mayLeak && leaked > 0), `${leaked} pages leaked without a reason`);

  const queues = machine.everAttached.map((controller) => controller.channels[0]!.queue.counters);
  const hosts = machine.hostControllers;
  return {
    steps: machine.simulation.steps,
    operations: workload.begun,
    succeeded: workload.succeeded,
    failed: workload.failures.length,
    timedOut: workload.failures.filter(({ code }) => code === "ERR_SCSI_TIMEOUT").length,
    attentions: workload.failures.filter(({ code }) => code === "outcome unitAttention").length,
    bounced: queues.reduce((sum, { bounced }) => sum + bounced, 0),
    fullRings:
      queues.reduce((sum, { ring_full }) => sum + ring_full, 0) +
      hosts.reduce((sum, { counters }) => sum + counters.completionsDelayed, 0),
    faults: hosts.reduce((sum, { counters }) => sum + counters.faults, 0),
    rescinds: machine.everAttached.filter(isRescinded).length,
    busVersion: formatVersion(machine.busVersion),
  };
}

function isRescinded({ channels }: StorvscController): boolean {
  return channels[0]!.queue.closedReason === "rescinded";
}

/** True if a fault of the plan can have made an operation fail so. */
function isExplained(plan: Plan, { what, code }: Failure): boolean {
  switch (code) {
    case "ERR_RESCINDED":
    case "ERR_CLOSED":
    case "outcome closed":
      return plan.has("rescind") || plan.lost > 0;
    case "ERR_SCSI_SHORT_TRANSFER":
    case "outcome overrun":
      return plan.has("short-transfer");
    case "ERR_SCSI_CHECK_CONDITION":
    case "outcome checkCondition":
      return plan.has("check-condition");
    case "outcome unitAttention":
      return plan.has("check-condition") || plan.workload.resizes > 0;
    case "ERR_SCSI_TIMEOUT":
      return what.startsWith("timed") || plan.lost > 0;
    case "ERR_SCSI_NOT_THERE":
    case "ERR_SCSI_DISK_CHANGED":
      return plan.queriesFail;
    default:
      return false;
  }
}

function check(holds: boolean, message: string): void {
  if (!holds) throw new Error(message);
}
