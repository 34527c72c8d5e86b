import type { MachineStats, ViolationLog } from "../control/index.js";
import { machineName } from "../node/control-address.js";
import type { ControlClient } from "../node/control-client.js";
import { statsText, violationLine, type ListedViolation } from "./machine-text.js";

/** What a look at a machine shows. */
export interface Look {
  readonly lines: readonly string[];
  /** The same for `--json`: one value, or with `--watch` any number. */
  readonly values: readonly object[];
}

/** What a command shows of one machine, again and again. */
export interface View {
  readonly client: ControlClient;
  /** Rejects with `ControlError`. */
  look(): Promise<Look>;
}

/** The counters of a machine; with `isWatch` how they grow. */
export class StatsView implements View {
  readonly client: ControlClient;
  readonly #isWatch: boolean;
  #before: MachineStats | undefined;

  constructor(client: ControlClient, isWatch: boolean) {
    this.client = client;
    this.#isWatch = isWatch;
  }

  async look(): Promise<Look> {
    const stats = await this.client.call("stats", {});
    const earlier = this.#isWatch ? { stats: this.#before } : undefined;
    this.#before = stats;
    return { lines: statsText(stats, this.client.program, earlier), values: [stats] };
  }
}

/** The violations of a machine's guest: each look shows those that it has not shown yet. */
export class ViolationsView implements View {
  readonly client: ControlClient;
  readonly #isWatch: boolean;
  readonly #counts = new Map<string, number>();
  #next = 0;

  constructor(client: ControlClient, isWatch: boolean) {
    this.client = client;
    this.#isWatch = isWatch;
  }

  async look(): Promise<Look> {
    const name = machineName(this.client.path);
    const log = await this.client.call("violations", { after: this.#next });
    this.#next = log.next;
    const fresh: readonly ListedViolation[] = [...log.violations, ...this.#notKept(log)];
    const lines = fresh.map((violation) => violationLine(name, violation));
    if (this.#isWatch) return { lines, values: fresh.map((violation) => ({ name, ...violation })) };
    return {
      lines: lines.length > 0 ? lines : [`${name}: the guest has broken no rule`],
      values: [{ name, rules: log.rules, violations: log.violations }],
    };
  }

  /** What was counted since the last look and is not in the log, which keeps the first ones only. */
  #notKept({ rules, violations }: ViolationLog): ListedViolation[] {
    return Object.entries(rules).flatMap(([rule, count]) => {
      const kept = violations.filter((violation) => violation.rule === rule).length;
      const more = count - (this.#counts.get(rule) ?? 0) - kept;
      this.#counts.set(rule, count);
      return more > 0 ? [{ rule, more }] : [];
    });
  }
}
