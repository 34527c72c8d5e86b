import { vstorVersions } from "@hyperv-is/hv-storvsc/protocol";
import type { Fault, FaultOperation, FaultPlanData } from "@hyperv-is/hyperv-host";
import { protocolVersions, type ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { Prng } from "@hyperv-is/conformance";
import type { PlantedMutant } from "./simulated-machine.js";
import type { ControllerPlan, StorageMachineOptions } from "./storage-machine.js";
import type { WorkloadPlan } from "./storage-workload.js";

export interface ScheduleOptions {
  readonly seed: number;
  /** One CPU, and no sub-channels, whatever the seed says. */
  readonly oneCpu?: boolean;
  /** Several CPUs, and what the host does wrong with their sub-channels, whatever the seed says. */
  readonly subChannelFault?: SubChannelFault;
  /** A fault to put into one end of every channel; the host misbehaves in no other way then. */
  readonly mutant?: PlantedMutant;
}

/** The ways in which a host does not keep its promise of sub-channels. */
export const subChannelFaults = [
  "late-sub-channels",
  "fewer-sub-channels",
  "repeated-sub-channels",
  "rescind-sub-channel",
] as const satisfies readonly Fault["kind"][];
export type SubChannelFault = (typeof subChannelFaults)[number];

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

/** What is drawn for several CPUs and their sub-channels. */
class SmpPlan {
  readonly cpus: number;
  readonly unoptimizedCpus: readonly number[];
  readonly faults: readonly Fault[];
  readonly #prng: Prng;
  readonly #mostSubChannels: readonly number[];

  /** @param wanted - A fault that is to happen. */
  constructor(prng: Prng, wanted: SubChannelFault | undefined) {
    this.#prng = prng;
    this.cpus = prng.pick(wanted === undefined ? [1, 2, 2, 3, 4] : [2, 3, 4]);
    this.#mostSubChannels = wanted === undefined ? [0, 1, 3, 3, 5] : [1, 3, 5];
    this.unoptimizedCpus = Array.from({ length: this.cpus }, (_, cpu) => cpu).filter(() =>
      prng.chance(1, 8),
    );
    if (wanted !== undefined) this.faults = [this.#fault(wanted)];
    else if (this.cpus > 1 && prng.chance(1, 2))
      this.faults = [this.#fault(prng.pick([...subChannelFaults, "rescind-sub-channel"]))];
    else this.faults = [];
  }

  controller({ host, guest }: ControllerPlan): Pick<ControllerPlan, "host" | "guest"> {
    const prng = this.#prng;
    return {
      host: { ...host, subChannelsMax: prng.pick(this.#mostSubChannels) },
      guest: guest && {
        ...guest,
        subChannelRule: prng.pick(["one-per-cpu", "one-per-cpu", "freebsd-10.2"]),
        channelLimit: prng.pick([0, 0, 0, 2]),
        subChannelTimeoutMs: prng.pick([0, 10, 2_000]),
      },
    };
  }

  #fault(kind: SubChannelFault): Fault {
    const prng = this.#prng;
    switch (kind) {
      case "late-sub-channels":
        return { kind, delayMs: prng.below(400) / 8 };
      case "fewer-sub-channels":
        return { kind, offered: prng.below(3) };
      case "repeated-sub-channels":
        return { kind };
      case "rescind-sub-channel": {
        const back = prng.chance(3, 4) ? { reofferAfterMs: prng.below(160) / 8 } : {};
        const nth = 1 + prng.below(60);
        return { kind, ...back, ...prng.pick([{ nth }, { every: nth }]), count: 3 };
      }
    }
  }
}

/** Everything about a schedule but its interleavings, drawn from its seed. */
export class Plan {
  readonly machine: Omit<StorageMachineOptions, "simulation">;
  readonly workload: WorkloadPlan;
  readonly rescindsAtEnd: boolean;
  readonly #prng: Prng;

  constructor({ seed, mutant, oneCpu = mutant !== undefined, subChannelFault }: ScheduleOptions) {
    const prng = (this.#prng = new Prng(Math.imul(seed, 0x9e37_79b1) ^ 0x5107));
    const bus = this.#busVersions();
    // Rings so small, and so many requests, that both ends have to wait for room.
    const tight = prng.chance(1, 3);
    const controllers = Array.from({ length: 1 + Number(prng.chance(1, 4)) }, () =>
      this.#controller(mutant !== undefined, tight),
    );
    // More programs than the driver has buffers for.
    const crowd = prng.chance(1, 5);
    const planned = this.#faults(bus.common);
    // Drawn apart, so that what a seed means with one CPU does not depend on this.
    const smp = oneCpu
      ? undefined
      : new SmpPlan(new Prng(Math.imul(seed, 0x27d4_eb2f) ^ 0x5107), subChannelFault);
    const faults = { ...planned, faults: [...planned.faults, ...(smp?.faults ?? [])] };
    const losesSome = faults.faults.some(({ kind }) => kind === "lost-completion");
    this.machine = {
      ...bus,
      crowded: prng.chance(1, 8),
      budget: prng.pick([1, 2, 8, 64]),
      sloth: prng.pick([0, 0, 1, 4]),
      workers: controllers.length === 2 && prng.chance(1, 2) ? 2 : 1,
      cpus: smp?.cpus ?? 1,
      unoptimizedCpus: smp?.unoptimizedCpus ?? [],
      faults: mutant === undefined ? faults : { faults: [] },
      // A host that polls makes waiting for a lost completion too long.
      controllers: controllers.map((one) => ({
        ...one,
        ...smp?.controller(one),
        monitored: one.monitored && !losesSome,
      })),
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
