import { preferLatency, type Machine } from "@hyperv-is/guest-kernel";
import { BenchmarkError, type Benchmark, type OptionValues } from "../benchmark.js";
import { compare, cost, median, significant, type MeasuringOptions } from "../comparison.js";
import { versionOf } from "../peer-program.js";
import { hostThreadsMeasured } from "../placement.js";
import type { BenchmarkResult } from "../report.js";
import { NetworkPath, type Transfer } from "./network-path.js";
import { measureTapAllocation } from "./tap-allocation.js";

const UNIT = "Mbit/s";
const FORWARDER = "native/forward.c: two TAPs, two threads, read and write";
const PINGS = 20;
/**
 * Ports of the far side and of the near one of each flow. Where a flow goes follows from the hash of its ports, and these go
 * over four channels; neighbouring ones would all go over one. The near ones move by a multiple of 64 for each run.
 */
const FLOWS = [
  { far: 5200, near: 40_960 },
  { far: 5202, near: 40_968 },
  { far: 5204, near: 40_976 },
  { far: 5206, near: 40_984 },
] as const;
const PORTS_OF_A_RUN = 64;

async function run(_values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  if (process.platform !== "linux" || process.getuid?.() !== 0)
    throw new BenchmarkError("TAP devices and network namespaces need Linux, and root: sudo");
  // As `guest-kernel boot` does.
  preferLatency();
  const { processorTime } = measuring;
  const iperf = `iperf3 ${await versionOf("iperf3", "iperf3")}`;
  const vdeTitle = `vde_switch ${await versionOf("vde_switch", "vde2")} and vde_plug2tap`;
  const [guest, machine] = await NetworkPath.ofGuest(processorTime, { cpus: 1 });
  await using ours = guest;
  const results: BenchmarkResult[] = [];
  const tcp = (
    name: string,
    title: string,
    peer: NetworkPath,
    transfer?: Transfer,
    subject = ours,
  ): Promise<BenchmarkResult> =>
    compare(
      {
        name,
        unit: UNIT,
        subject: (megabits) => subject.send(megabits, transfer),
        peer: `${iperf} over ${title}`,
        peerRound: (megabits) => peer.send(megabits, transfer),
      },
      measuring,
    );
  {
    await using forwarder = await NetworkPath.ofForwarder(processorTime, true);
    results.push(await tcp("TCP, TSO on", FORWARDER, forwarder));
    results.push(await tcp("TCP to the guest, TSO on", FORWARDER, forwarder, { isBack: true }));
    results.push(...(await costs(ours, machine, measuring)));
    results.push(await latency("ping over an idle path", ours, forwarder, measuring));
    for (const [hostThreads, suffix] of hostThreadsMeasured.slice(1)) {
      const [other, otherMachine] = await NetworkPath.ofGuest(processorTime, {
        cpus: 1,
        hostThreads,
      });
      await using subject = other;
      results.push(await tcp(`TCP, TSO on${suffix}`, FORWARDER, forwarder, {}, subject));
      results.push(await latency(`ping over an idle path${suffix}`, subject, forwarder, measuring));
      checkViolations(otherMachine);
    }
  }
  {
    await using vde = await NetworkPath.ofVde(processorTime);
    results.push(await tcp("TCP, TSO on", vdeTitle, vde));
    ours.setSegmentation(false);
    results.push(await tcp("TCP, TSO off", vdeTitle, vde));
  }
  {
    await using forwarder = await NetworkPath.ofForwarder(processorTime, false);
    results.push(await tcp("TCP, TSO off", FORWARDER, forwarder));
  }
  checkViolations(machine);
  results.push(...(await spread(measuring)));
  results.push(...measureTapAllocation(measuring));
  return results;
}

/** Signals in both directions at load. */
async function costs(
  path: NetworkPath,
  machine: Machine,
  { roundSeconds, runs }: MeasuringOptions,
): Promise<BenchmarkResult[]> {
  const [sent, received]: [number[], number[]] = [[], []];
  for (let round = 0; round < runs; round++) {
    const before = await channelsOf(machine);
    await path.send(Math.ceil(roundSeconds * 4000));
    const after = await channelsOf(machine);
    const grown = (count: (channel: ChannelState) => number): number =>
      after.reduce((sum, state, index) => sum + count(state) - count(before[index]!), 0);
    const packets = grown(({ counters }) => counters.txPackets + counters.rxPackets);
    sent.push((grown(({ channel }) => channel.signalsSent) / packets) * 1000);
    received.push((grown(({ channel }) => channel.interrupts) / packets) * 1000);
  }
  return [
    cost("signals to the host, TSO on", median(sent), "per 1000 packets", runs),
    cost("interrupts of the guest, TSO on", median(received), "per 1000 packets", runs),
  ];
}

async function latency(
  name: string,
  path: NetworkPath,
  peer: NetworkPath,
  { runs, progress, processorTime }: MeasuringOptions,
): Promise<BenchmarkResult> {
  const [own, others]: [number[], number[]] = [[], []];
  for (let round = 0; round < runs; round++) {
    progress(`${name}: run ${round + 1} of ${runs}`);
    await processorTime.untilIdle();
    own.push(await path.ping(PINGS));
    others.push(await peer.ping(PINGS));
  }
  return {
    name,
    value: significant(median(own)),
    unit: "us",
    peer: FORWARDER,
    peerValue: significant(median(others)),
    ratio: significant(median(others) / median(own)),
    runs,
  };
}

/** Several flows over as many channels, and how evenly they are used. */
async function spread({
  roundSeconds,
  runs,
  progress,
  processorTime,
}: MeasuringOptions): Promise<BenchmarkResult[]> {
  const [path, machine] = await NetworkPath.ofGuest(processorTime, { cpus: FLOWS.length });
  await using used = path;
  await used.listen(FLOWS.map(({ far }) => far));
  const megabits = Math.ceil(roundSeconds * 8000);
  const rates: number[] = [];
  const least: number[] = [];
  const most: number[] = [];
  for (let round = 0; round < runs; round++) {
    progress(`${FLOWS.length} flows: run ${round + 1} of ${runs}`);
    const before = await channelsOf(machine);
    const seconds = await Promise.all(
      FLOWS.map(({ near, far }) =>
        used.send(megabits / FLOWS.length, {
          ports: { near: near + round * PORTS_OF_A_RUN, far },
        }),
      ),
    );
    rates.push(megabits / Math.max(...seconds));
    const after = await channelsOf(machine);
    const packets = after.map(({ counters: { txPackets, rxPackets } }, index) => {
      const { counters } = before[index]!;
      return txPackets + rxPackets - counters.txPackets - counters.rxPackets;
    });
    const evenShare = packets.reduce((sum, count) => sum + count) / packets.length;
    least.push((Math.min(...packets) / evenShare) * 100);
    most.push((Math.max(...packets) / evenShare) * 100);
  }
  checkViolations(machine);
  const name = `TCP, TSO on, ${FLOWS.length} flows, ${FLOWS.length} channels`;
  return [
    cost(name, median(rates), UNIT, runs),
    cost(`${name}: least used channel`, median(least), "% of an even share", runs),
    cost(`${name}: most used channel`, median(most), "% of an even share", runs),
  ];
}

interface ChannelState {
  readonly counters: { readonly txPackets: number; readonly rxPackets: number };
  readonly channel: { readonly signalsSent: number; readonly interrupts: number };
}

async function channelsOf(machine: Machine): Promise<readonly ChannelState[]> {
  const { interfaces } = (await machine.inspect()) as unknown as {
    readonly interfaces: readonly { readonly channels: readonly ChannelState[] }[];
  };
  return interfaces[0]!.channels;
}

function checkViolations({ host }: Machine): void {
  const [violation] = host.violations;
  if (violation !== undefined)
    throw new Error(`the guest broke the rule ${violation.rule}: ${violation.detail}`);
}

/** A guest whose network stack is Linux's, across netvsc and the virtual switch. */
export const net: Benchmark = {
  summary: "TCP and ping from a guest's TAP to the host's, beside a forwarder in C and vde_switch",
  help: "",
  options: {},
  leftOut: [
    "a network: both ends, iperf3, guest and host share the processors of this machine.",
    "UDP and IPv6.",
  ],
  run,
};
