import { nvspVersions } from "@hyperv-is/hv-netvsc/protocol";
import {
  rndisDamages,
  transferDamages,
  type Fault,
  type FaultOperation,
  type FaultPlanData,
} from "@hyperv-is/hyperv-host";
import { PAGE_SIZE, protocolVersions, type ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { Prng } from "@hyperv-is/conformance";
import type { FlowKind, FlowPlan } from "./network-frames.js";
import type { AdapterPlan, NetworkMachineOptions } from "./network-machine.js";
import type { NetworkMutant } from "./network-mutants.js";
import type { PlantedMutant } from "./simulated-machine.js";
import type { NetworkWorkloadPlan } from "./network-workload.js";

export interface NetworkScheduleOptions {
  readonly seed: number;
  /** What is to happen, whatever the seed says. */
  readonly story?: NetworkStory;
  /** A fault to put into one end of every ring; the host misbehaves in no other way then. */
  readonly mutant?: PlantedMutant;
  /** The same above the rings. */
  readonly sabotage?: NetworkMutant;
}

/** What a campaign must see happen under traffic; each can be asked for. */
export const networkStories = [
  "late-completion",
  "lost-completion",
  "duplicate-completion",
  "failed-completion",
  "stray-completion",
  "malformed-rndis",
  "malformed-transfer",
  "dropped-frame",
  "duplicate-frame",
  "late-frame",
  "corrupt-frame",
  "wrong-checksum-flags",
  "link-flap",
  "stalled-ring",
  "late-sub-channels",
  "fewer-sub-channels",
  "repeated-sub-channels",
  "rescind-sub-channel",
  "rescind",
  "mtu",
  "reattach",
] as const;
export type NetworkStory = (typeof networkStories)[number];

const subChannelFaults: readonly NetworkStory[] = [
  "late-sub-channels",
  "fewer-sub-channels",
  "repeated-sub-channels",
  "rescind-sub-channel",
];

/** What programs do to an interface or its device while frames are under way. */
export const disturbances = ["mtu", "reattach", "rescind", "link", "filter", "query"] as const;
export type Disturbance = (typeof disturbances)[number];

/** The largest payload that a plan's buffers have room for. */
const MTU_MAX = 4000;
const mtus = [600, 1500, 1500, 1500, 2500, MTU_MAX] as const;
/** Bytes of a slot besides the frame's payload, and slots for control messages. */
const SLOT_EXTRA_BYTES = 256 + 14 + 36;
const CONTROL_SLOTS = 16;
const SECTION_BYTES = 6144;

/** Everything about a schedule but its interleavings, drawn from its seed. */
export class NetworkPlan {
  readonly machine: Omit<NetworkMachineOptions, "simulation">;
  readonly workload: NetworkWorkloadPlan;
  readonly #prng: Prng;

  constructor({ seed, story, mutant, sabotage }: NetworkScheduleOptions) {
    const prng = (this.#prng = new Prng(Math.imul(seed, 0x9e37_79b1) ^ 0x6e65));
    const honest = mutant !== undefined || sabotage !== undefined;
    const elsewhere = sabotage?.endsWith("elsewhere") === true;
    const spread = elsewhere || subChannelFaults.some((kind) => kind === story);
    const cpus = prng.pick(spread ? [2, 4] : [1, 1, 2, 4]);
    // Rings so small, and so many sends, that both ends have to wait for room.
    const tight = prng.chance(1, 3);
    const trunk = prng.chance(1, 3);
    const adapters = Array.from({ length: 2 + Number(prng.chance(1, 6)) }, () =>
      this.#adapter(spread, honest, trunk, tight),
    );
    const count = honest || prng.chance(1, 5) ? 0 : 1 + prng.below(3);
    const faults = Array.from({ length: count }, () => this.#fault(this.#kind(cpus)));
    const disturbed = honest || prng.chance(1, 3) ? 0 : 1 + prng.below(4);
    const drawn = Array.from({ length: disturbed }, () => prng.pick(disturbances));
    if (story === "mtu" || story === "reattach" || story === "rescind") drawn.push(story);
    else if (story !== undefined) faults.push(this.#fault(story));
    this.machine = {
      ...this.#busVersions(spread),
      crowded: prng.chance(1, 12),
      budget: prng.pick(tight ? [1, 2] : [1, 2, 8, 64]),
      sloth: prng.pick([0, 0, 1, 4]),
      workers: 1,
      cpus,
      unoptimizedCpus: Array.from({ length: cpus }, (_, cpu) => cpu).filter(() =>
        prng.chance(1, 8),
      ),
      faults: { seed: prng.below(1000), faults } satisfies FaultPlanData,
      adapters,
      mutant,
      sabotage: sabotage && { mutant: sabotage, nth: 30 + prng.below(30) },
    };
    this.workload = {
      flows: this.#flows(adapters.length),
      frames: tight ? 100 : 10 + prng.below(50),
      burst: tight ? 60 : prng.pick([1, 3, 8, 20]),
      holdOneIn: prng.pick([0, 2, 2, 8]),
      holdMost: prng.pick([2, 8, 30]),
      superFrames: prng.chance(2, 3),
      disturbances: drawn,
      mtus: prng.chance(1, 2) ? [1500] : mtus,
    };
  }

  /** True if a fault of one of these kinds is planned. */
  has(...kinds: Fault["kind"][]): boolean {
    return this.machine.faults.faults.some(({ kind }) => kinds.includes(kind));
  }

  /** True if something of this is to be done to an interface. */
  does(...kinds: Disturbance[]): boolean {
    return this.workload.disturbances.some((kind) => kinds.includes(kind));
  }

  /** Channels close with frames under way. */
  get closesChannels(): boolean {
    return this.does("mtu", "reattach", "rescind") || this.has("rescind", "rescind-sub-channel");
  }

  /** Sends that the host may never complete. */
  get lost(): number {
    return this.machine.faults.faults
      .filter(({ kind, operation }) => kind === "lost-completion" && operation !== "control")
      .reduce((sum, { count = 1 }) => sum + count, 0);
  }

  /** Answers to control messages may not come. */
  get losesAnswers(): boolean {
    return this.machine.faults.faults.some(
      ({ kind, operation }) => kind === "lost-completion" && operation === "control",
    );
  }

  /** Versions of both ends, and at least one that they share. */
  #busVersions(spread: boolean): Pick<NetworkMachineOptions, "hostVersions" | "guestVersions"> {
    const all = protocolVersions.map(({ version }) => version);
    // Sub-channels take a bus that has them.
    const shared = spread ? all.at(-1)! : this.#prng.pick(all);
    const some = (): readonly ProtocolVersion[] =>
      all.filter((version) => version === shared || (!spread && this.#prng.chance(1, 2)));
    return { hostVersions: some(), guestVersions: some() };
  }

  #adapter(spread: boolean, honest: boolean, trunk: boolean, tight: boolean): AdapterPlan {
    const prng = this.#prng;
    const values = nvspVersions.map(({ value }) => value);
    const newest = values[0]!;
    const shared = spread ? newest : prng.pick([newest, newest, ...values]);
    const versions = values.filter((value) => value === shared || (!spread && prng.chance(1, 2)));
    const slots = CONTROL_SLOTS + prng.pick([6, 8, 16, 60]);
    return {
      host: {
        versions,
        subChannelsMax: spread ? 3 : prng.pick([0, 1, 3, 3]),
        receiveCoalescing: prng.chance(2, 3),
        partialChecksums: prng.chance(1, 2),
        ...(trunk && { vlan: { mode: "trunk", nativeId: 0 } as const }),
        ...(!honest &&
          prng.chance(1, 8) && {
            bandwidth: { bitsPerSecond: 20_000_000, burstBytes: 8192, queueBytes: 32_768 },
          }),
      },
      guest: {
        mtu: 1500,
        receiveBufferBytes: pagesFor(slots * (MTU_MAX + SLOT_EXTRA_BYTES)),
        sendBufferBytes: prng.chance(1, 6) ? 0 : pagesFor(prng.pick([4, 6, 16]) * SECTION_BYTES),
        ringPages: tight ? 2 : prng.pick([2, 2, 3, 5]),
        descriptors: tight ? 128 : prng.pick([8, 16, 64]),
        channelLimit: prng.pick([0, 0, 0, 2]),
        copyBytesMax: tight ? prng.pick([0, 100]) : prng.pick([0, 0, 200, 1000]),
        aggregationBytes: tight ? 0 : prng.pick([-1, -1, 0, 600]),
        aggregationPackets: prng.pick([-1, -1, 1, 3]),
        offloads: {
          largeSend: prng.chance(3, 4),
          receiveCoalescing: prng.chance(2, 3),
          udp4Checksum: prng.chance(3, 4),
        },
        subChannelTimeoutMs: prng.pick([0, 10, 2_000]),
        settleMs: prng.pick([0, 5, 200]),
        answerTimeoutMs: 1_000,
        drainTimeoutMs: prng.pick([50, 1_000]),
        ...(!honest && prng.chance(1, 8) && { keepaliveIntervalMs: 100 }),
      },
    };
  }

  #flows(adapters: number): FlowPlan[] {
    const prng = this.#prng;
    const kinds: readonly FlowKind[] = ["raw", "raw", "udp4", "udp6", "tcp4", "tcp4", "tcp6"];
    return Array.from({ length: 2 + prng.below(5) }, (_, index) => {
      const from = prng.below(adapters);
      const to = prng.chance(1, 10) ? "all" : (from + 1 + prng.below(adapters - 1)) % adapters;
      const kind = prng.pick(kinds);
      const tag = ((prng.below(8) << 13) | (1 + prng.below(4094))) >>> 0;
      return { id: index + 1, kind, from, to, vlanTag: prng.chance(1, 4) ? tag : -1 };
    });
  }

  #kind(cpus: number): NetworkStory {
    const kinds = networkStories.filter(
      (kind) =>
        kind !== "mtu" &&
        kind !== "reattach" &&
        kind !== "rescind" &&
        (cpus > 1 || !subChannelFaults.includes(kind)),
    );
    return this.#prng.pick(kinds);
  }

  #fault(kind: NetworkStory): Fault {
    const prng = this.#prng;
    const often = prng.pick([
      { nth: 1 + prng.below(40) },
      { every: 1 + prng.below(12) },
      { probability: (1 + prng.below(8)) / 16 },
    ]);
    const when = { ...often, count: 1 + prng.below(4) };
    const operation: FaultOperation = prng.pick(["transmit", "receive"]);
    const completed: FaultOperation = prng.chance(1, 4) ? "control" : "transmit";
    switch (kind) {
      case "late-completion":
        return { kind, ...when, operation: completed, delayMs: prng.below(200) / 8 };
      case "lost-completion":
      case "duplicate-completion":
        return { kind, ...when, operation: completed };
      case "failed-completion":
      case "stray-completion":
        return { kind, ...when, operation: "transmit" };
      case "malformed-rndis":
        return { kind, ...when, damage: prng.pick(rndisDamages) };
      case "malformed-transfer":
        return { kind, ...when, damage: prng.pick(transferDamages) };
      case "dropped-frame":
      case "duplicate-frame":
      case "wrong-checksum-flags":
        return { kind, ...when, operation };
      case "late-frame":
        return { kind, ...when, operation, delayMs: prng.below(200) / 8 };
      case "corrupt-frame":
        // The labels of a frame stay, so that it is known to be this one.
        return { kind, ...when, operation };
      case "link-flap":
        return { kind, ...when, operation, downMs: prng.below(80) / 8 };
      case "stalled-ring":
        return { kind, ...often, count: 1 + prng.below(5), durationMs: prng.below(400) / 8 };
      case "late-sub-channels":
        return { kind, delayMs: prng.below(400) / 8 };
      case "fewer-sub-channels":
        return { kind, offered: prng.below(3) };
      case "repeated-sub-channels":
        return { kind };
      case "rescind-sub-channel": {
        const back = prng.chance(3, 4) ? { reofferAfterMs: prng.below(160) / 8 } : {};
        return { kind, ...back, nth: 1 + prng.below(30), count: 3 };
      }
      case "rescind":
      case "mtu":
      case "reattach":
        throw new Error(`${kind} is done to an interface`);
    }
  }
}

function pagesFor(bytes: number): number {
  return Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE;
}
