import { formatVersion } from "@hyperv-is/vmbus-core/protocol";
import { Prng, Simulation, SimulationError } from "@hyperv-is/conformance";
import type { NetvscQueueCounters } from "@hyperv-is/hv-netvsc";
import type { NicCounters, PortCounters } from "@hyperv-is/hyperv-host";
import { NetworkMachine } from "./network-machine.js";
import type { Excuses } from "./network-model.js";
import { NetworkPlan, type NetworkScheduleOptions } from "./network-plan.js";
import { NetworkWorkload, type TrafficTotals } from "./network-workload.js";
import { check } from "./simulated-machine.js";

/** What one schedule did; equal for equal options. */
export interface NetworkScheduleResult extends TrafficTotals {
  readonly steps: number;
  /** Units that did not arrive. */
  readonly missing: number;
  /** Times that an end found its ring full. */
  readonly fullRings: number;
  readonly noSlots: number;
  readonly coalesced: number;
  readonly faults: number;
  readonly attaches: number;
  readonly rescinds: number;
  readonly mtuChanges: number;
  readonly subChannels: number;
  readonly subChannelFrames: number;
  readonly subChannelFaults: number;
  readonly busVersion: string;
}

/** Turns after which a schedule that has not ended counts as a livelock. */
const STEP_BOUND = 400_000;
/** A turn of a CPU takes up to this long. */
const TURN_MS = 1 / 64;
/** How long everything may take to come to rest: longer than the guest is told of links late. */
const REST_MS = 30_000;
const LOOK_MS = 50;

/** What is drawn from a seed, for people who look into a failure. */
export function describeNetworkSchedule(options: NetworkScheduleOptions): string {
  const { machine, workload } = new NetworkPlan(options);
  return JSON.stringify({ ...machine, workload }, undefined, 1);
}

/**
 * Runs one schedule of the network driver against our host. Throws a `SimulationError` that names the seed when a
 * frame arrives changed, twice, out of order or at somebody else; when one is missing that nobody has counted; when a
 * section, a descriptor or a receive slot is not free in the end; when the host noted a violation; when memory is
 * not accounted for; when the machine does not come to rest.
 */
export async function runNetworkSchedule(
  options: NetworkScheduleOptions,
): Promise<NetworkScheduleResult> {
  const simulation = new Simulation(options.seed, { turnMs: TURN_MS });
  const plan = new NetworkPlan(options);
  try {
    const machine = new NetworkMachine({ simulation, ...plan.machine });
    const workload = new NetworkWorkload(
      machine,
      new Prng(Math.imul(options.seed, 0x85eb_ca6b) ^ 0x6e65),
      plan.workload,
      excusesOf(plan),
    );
    const story = tell(plan, machine, workload);
    const cpus = [machine.guest, ...machine.others.map(({ actor }) => actor)];
    // The programs use the ports of every CPU.
    const result = await simulation.complete(story, STEP_BOUND, cpus);
    simulation.run(STEP_BOUND);
    machine.inspect(mayLeak(plan));
    return { ...result, steps: simulation.steps };
  } catch (error) {
    if (error instanceof SimulationError) throw error;
    const message = error instanceof Error ? error.message : String(error);
    throw new SimulationError(options.seed, message, { cause: error });
  }
}

/** The machine from power on to power off. */
async function tell(
  plan: NetworkPlan,
  machine: NetworkMachine,
  workload: NetworkWorkload,
): Promise<NetworkScheduleResult> {
  await machine.boot();
  await workload.run();
  const faults = machine.partition.stats().faults;
  const happened = faults.reduce((sum, fault) => sum + fault.happened, 0);
  const dropped = machine.switchFaults.counts.reduce((sum, count) => sum + count, 0);
  await machine.stopFaults();
  await comeToRest(plan, machine, workload);
  await workload.verify();
  await comeToRest(plan, machine, workload);
  const result = inspect(plan, machine, workload);
  await machine.shutdown();
  workload.throwIfWrong();
  const misdeeds = faults.filter(({ kind }) => kind.includes("sub-channel"));
  return {
    ...result,
    faults: happened + dropped,
    subChannelFaults: misdeeds.reduce((sum, fault) => sum + fault.happened, 0),
  };
}

/** Waits until every adapter is attached, and nothing is held, lent, or on its way. */
async function comeToRest(
  plan: NetworkPlan,
  machine: NetworkMachine,
  workload: NetworkWorkload,
): Promise<void> {
  const { timers } = machine;
  const deadline = timers.now() + REST_MS;
  for (;;) {
    await machine.settled();
    workload.releaseAll();
    await workload.sleep(LOOK_MS);
    workload.throwIfWrong();
    machine.checkViolations();
    const why = notAttached(machine) ?? workload.checkAtRest(plan.lost);
    if (why === undefined) return;
    check(timers.now() < deadline, `${why}; ${machine.log.slice(-3).join("; ")}`);
  }
}

function notAttached({ adapters }: NetworkMachine): string | undefined {
  for (const { index, hn, host } of adapters) {
    if (hn === undefined) return `adapter ${index} is not attached`;
    if (!hn.link.up) return `adapter ${index} has no link`;
    const { channels } = host.stats();
    if (channels !== hn.channels.length)
      return `adapter ${index} has ${channels} channels at the host, and ${hn.channels.length}`;
  }
  return undefined;
}

function excusesOf(plan: NetworkPlan): Excuses {
  return {
    duplicates: plan.has("duplicate-frame"),
    // Frames of a flow go another way when their channel is no more.
    reordering:
      plan.has("late-frame", "rescind-sub-channel", "late-sub-channels", "fewer-sub-channels") ||
      plan.closesChannels,
    spoils: plan.has("corrupt-frame", "wrong-checksum-flags"),
  };
}

/** Memory that the host may still read is not used again. */
function mayLeak(plan: NetworkPlan): boolean {
  return (
    plan.closesChannels ||
    plan.losesAnswers ||
    plan.has("lost-completion", "late-completion", "stalled-ring")
  );
}

/** What must hold when all is at rest. */
function inspect(
  plan: NetworkPlan,
  machine: NetworkMachine,
  workload: NetworkWorkload,
): Omit<NetworkScheduleResult, "faults" | "subChannelFaults"> {
  const { totals } = workload;
  const ports = machine.queues;
  const guest = (name: keyof NetvscQueueCounters): number =>
    ports.reduce((sum, { counters }) => sum + counters[name], 0);
  const hosts = machine.adapters.map(({ host }) => host);
  const nic = (name: keyof NicCounters): number =>
    hosts.reduce((sum, { counters }) => sum + counters[name], 0);
  const port = (name: keyof PortCounters): number =>
    hosts.reduce((sum, { port: { counters } }) => sum + counters[name], 0);

  check(guest("txPackets") === totals.sent, `${totals.sent} sent, ${guest("txPackets")} counted`);
  check(guest("rxPackets") === workload.received, `${workload.received} received`);
  check(nic("transmitErrors") === 0, `${nic("transmitErrors")} sends were malformed`);
  const sentLost = totals.sent - nic("transmitFrames");
  const receivedLost = nic("receiveFrames") - guest("rxPackets") - guest("rxDropped");
  const damaged = plan.has("malformed-rndis", "malformed-transfer");
  // A request that the host has failed fails, whatever became of it, and with it the attach.
  const closes = plan.closesChannels || plan.losesAnswers || plan.has("failed-completion");
  check(sentLost === 0 || (closes && sentLost > 0), `${sentLost} sends did not reach the host`);
  check(
    receivedLost === 0 || closes || damaged,
    `${receivedLost} frames did not get from the host to the driver`,
  );
  if (!plan.has("malformed-rndis", "malformed-transfer"))
    check(guest("malformed") === 0, `${guest("malformed")} packets of the host were malformed`);
  if (!plan.has("duplicate-completion", "stray-completion"))
    check(guest("unknownIds") === 0, `${guest("unknownIds")} completions of nothing`);

  const drops =
    sentLost +
    Math.max(receivedLost, 0) +
    guest("rxDropped") +
    guest("rsc_drop") +
    port("droppedVlan") +
    port("droppedLinkDown") +
    port("droppedBandwidth") +
    port("droppedByEnd") +
    nic("receiveRingFull") +
    (plan.has("dropped-frame", "late-frame", "link-flap") ? port("faults") : 0) +
    totals.spoiled;
  check(workload.missing === 0 || drops > 0, `${workload.missing} units are missing, and no drop`);
  // A super-frame is up to 64 units, and one to all is one at each.
  const perFrame = (totals.superFrames > 0 ? 64 : 1) * (hosts.length - 1);
  check(
    workload.missing <= perFrame * drops,
    `${workload.missing} units are missing, ${drops} drops are counted`,
  );
  check(port("droppedSpoofed") + port("droppedShort") === 0, "the switch took frames for others'");

  // Memory of control messages that the host does not give back is not used again.
  const causes = closes || plan.has("lost-completion");
  for (const { what, code } of workload.failures)
    check(causes, `${what} failed with ${code}, and no fault`);
  if (!causes) check(machine.losses.length === 0, `lost: ${machine.losses.join()}`);
  if (!causes)
    check(machine.attachErrors.length === 0, `attaching failed: ${String(machine.attachErrors)}`);

  const subs = ports.filter(({ description }) => description.channel.subChannelIndex > 0);
  return {
    ...totals,
    steps: machine.simulation.steps,
    missing: workload.missing,
    fullRings: guest("agg_flush_failed") + guest("rx_ack_failed") + nic("completionsDelayed"),
    noSlots: nic("receiveNoSlot"),
    coalesced: guest("rsc_pkts"),
    attaches: machine.everAttached.length,
    rescinds: machine.losses.filter((code) => code === "ERR_RESCINDED").length,
    mtuChanges: plan.workload.disturbances.filter((kind) => kind === "mtu").length,
    subChannels: subs.length,
    subChannelFrames: subs.reduce(
      (sum, { counters }) => sum + counters.txPackets + counters.rxPackets,
      0,
    ),
    busVersion: formatVersion(machine.busVersion),
  };
}
