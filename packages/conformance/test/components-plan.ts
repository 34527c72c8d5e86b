import { kvpVersions } from "@hyperv-is/hv-kvp";
import { freebsdDialect, linuxDialect } from "@hyperv-is/hv-kvp/protocol";
import { kvpDamages, messageDamages, type Fault, type FaultPlanData } from "@hyperv-is/hyperv-host";
import { protocolVersions } from "@hyperv-is/vmbus-core/protocol";
import { Prng } from "@hyperv-is/conformance";
import type { ComponentMachineOptions } from "./components-machine.js";

/** What the host's administrator does. */
export interface AdministratorPlan {
  readonly requests: number;
  /** One request in so many comes behind a rescind of some component; 0: none. */
  readonly rescindEvery: number;
}

const devices = ["heartbeat", "shutdown", "timeSync", "kvp", "kvp", "kvp"] as const;
const kinds = [
  "late-request",
  "repeated-request",
  "renegotiation",
  "malformed-message",
  "malformed-kvp",
  "stalled-ring",
] as const;

/** Everything that a seed says of a schedule of the integration components. */
export class ComponentPlan {
  readonly machine: Omit<ComponentMachineOptions, "simulation">;
  readonly administrator: AdministratorPlan;
  /** What draws the administrator's requests. */
  readonly prng: Prng;
  readonly #kinds: ReadonlySet<Fault["kind"]>;

  constructor(seed: number) {
    const prng = (this.prng = new Prng(Math.imul(seed, 0x9e37_79b1) ^ 0x1c));
    const all = protocolVersions.map(({ version }) => version);
    const faults = this.#faults();
    this.#kinds = new Set(faults.faults.map(({ kind }) => kind));
    const messages = prng.pick([kvpVersions, ...kvpVersions.map((version) => [version])]);
    this.machine = {
      hostVersions: prng.chance(1, 3) ? [prng.pick(all)] : all,
      guestVersions: all,
      crowded: true,
      budget: 1 + prng.below(8),
      workers: 1,
      cpus: 1,
      unoptimizedCpus: [],
      sloth: prng.below(4),
      faults,
      dialect: prng.pick([freebsdDialect, linuxDialect]),
      config: { kvp: { messages } },
      daemon: {
        prng: new Prng(seed ^ 0xdae),
        slowEvery: prng.pick([0, 0, 5, 12]),
        diesEvery: prng.pick([0, 0, 6, 12]),
      },
    };
    this.administrator = { requests: 6 + prng.below(30), rescindEvery: prng.pick([0, 0, 8]) };
  }

  /** True if the host does any of this wrong. */
  has(...wanted: readonly Fault["kind"][]): boolean {
    return wanted.some((kind) => this.#kinds.has(kind));
  }

  #faults(): FaultPlanData {
    const { prng } = this;
    const count = prng.chance(1, 4) ? 0 : 1 + prng.below(4);
    return {
      seed: prng.below(1000),
      faults: Array.from({ length: count }, () => this.#fault()),
    };
  }

  #fault(): Fault {
    const { prng } = this;
    const kind = prng.pick(kinds);
    const when = {
      device: prng.pick(devices),
      count: 1 + prng.below(6),
      ...prng.pick([
        { nth: 1 + prng.below(10) },
        { every: 1 + prng.below(4) },
        { probability: (1 + prng.below(8)) / 16 },
      ]),
    };
    switch (kind) {
      case "late-request":
        return { kind, ...when, delayMs: prng.below(3000) };
      case "repeated-request":
      case "renegotiation":
        return { kind, ...when };
      case "malformed-message":
        return { kind, ...when, damage: prng.pick(messageDamages) };
      case "malformed-kvp":
        return { kind, ...when, device: "kvp", damage: prng.pick(kvpDamages) };
      case "stalled-ring":
        return { kind, ...when, durationMs: prng.below(400) / 8 };
    }
  }
}
