import type { StorvscController } from "@hyperv-is/hv-storvsc";
import { formatVersion } from "@hyperv-is/vmbus-core/protocol";
import { Prng, Simulation, SimulationError } from "@hyperv-is/conformance";
import type { Failure } from "./operation-ledger.js";
import { check } from "./simulated-machine.js";
import { StorageMachine } from "./storage-machine.js";
import { Plan, type ScheduleOptions } from "./storage-plan.js";
import { StorageWorkload } from "./storage-workload.js";

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
  /** Sub-channels that were open, requests that they carried, and those of them that the host took away. */
  readonly subChannels: number;
  readonly subChannelRequests: number;
  readonly subChannelRescinds: number;
  /** Times that the host did something wrong with sub-channels. */
  readonly subChannelFaults: number;
  readonly busVersion: string;
}

/** Turns after which a schedule that has not ended counts as a livelock. */
const STEP_BOUND = 400_000;
/** A turn of a CPU takes up to this long. */
const TURN_MS = 1 / 64;
/** How long programs may take in all: longer than every time-out of the driver. */
const PATIENCE_MS = 600_000;

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
    const cpus = [machine.guest, ...machine.others.map(({ actor }) => actor)];
    // The programs use the disks of every CPU.
    await simulation.complete(story, STEP_BOUND, cpus);
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
      plan.lost > 0 && workload.ledger.pending > 0 && workload.ledger.pending <= plan.lost,
      `${workload.ledger.pending} operations have not ended, ${plan.lost} may be lost`,
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
  const { ledger } = workload;
  ledger.throwIfWrong();
  for (const failure of ledger.failures)
    check(isExplained(plan, failure), `${failure.what} failed with ${failure.code}, and no fault`);
  if (!plan.has("rescind"))
    check(machine.attachErrors.length === 0, `attaching failed: ${String(machine.attachErrors)}`);
  check(ledger.pending === 0, `${ledger.pending} operations never ended`);
  check(ledger.orphans === 0, `the memory of ${ledger.orphans} operations was never released`);
  workload.verifyBackends();

  const mayLeak = plan.has(
    "rescind",
    "rescind-sub-channel",
    "lost-completion",
    "late-completion",
    "stalled-ring",
  );
  machine.inspect(mayLeak);

  const queues = machine.queues.map(({ counters }) => counters);
  const subChannels = machine.queues.filter(
    ({ description }) => description.channel.subChannelIndex > 0,
  );
  const hosts = machine.hostControllers;
  const misdeeds = machine.partition
    .stats()
    .faults.filter(({ kind }) => kind.includes("sub-channel"));
  return {
    steps: machine.simulation.steps,
    operations: ledger.begun,
    succeeded: ledger.succeeded,
    failed: ledger.failures.length,
    timedOut: ledger.failures.filter(({ code }) => code === "ERR_SCSI_TIMEOUT").length,
    attentions: ledger.failures.filter(({ code }) => code === "outcome unitAttention").length,
    bounced: queues.reduce((sum, { bounced }) => sum + bounced, 0),
    fullRings:
      queues.reduce((sum, { ring_full }) => sum + ring_full, 0) +
      hosts.reduce((sum, { counters }) => sum + counters.completionsDelayed, 0),
    faults: hosts.reduce((sum, { counters }) => sum + counters.faults, 0),
    rescinds: machine.everAttached.filter(isRescinded).length,
    subChannels: subChannels.length,
    subChannelRequests: subChannels.reduce((sum, { counters }) => sum + counters.send_req, 0),
    subChannelFaults: misdeeds.reduce((sum, { happened }) => sum + happened, 0),
    subChannelRescinds: subChannels.filter(({ closedReason }) => closedReason === "rescinded")
      .length,
    busVersion: formatVersion(machine.busVersion),
  };
}

function isRescinded({ queue }: StorvscController): boolean {
  return queue.closedReason === "rescinded";
}

/** True if a fault of the plan can have made an operation fail so. */
function isExplained(plan: Plan, { what, code }: Failure): boolean {
  switch (code) {
    case "ERR_RESCINDED":
    case "ERR_CLOSED":
    case "outcome closed":
      return plan.has("rescind", "rescind-sub-channel") || plan.lost > 0;
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
