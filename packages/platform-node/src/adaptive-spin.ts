import { availableParallelism } from "node:os";
import { PlatformError } from "./errors.js";

const DEFAULT_LIMIT_US = 100;
/** Below this a budget is not worth the look at the clock. */
const LEAST_US = 5;
/** What waking a thread on an idle core costs, about. */
const WAKE_US = 50;

/**
 * How long a thread may look for work before it sleeps, in microseconds.
 *
 * `HYPERV_IS_SPIN=off` means not at all, `HYPERV_IS_SPIN_US=N` at most N. Without either it is 100, and 0 where
 * there is only one core, because a spinning thread would keep its peer from running.
 *
 * @throws PlatformError `ERR_BAD_SETTING`
 */
export function spinLimitUs(environment: NodeJS.ProcessEnv = process.env): number {
  const { HYPERV_IS_SPIN: spin = "", HYPERV_IS_SPIN_US: limit = "" } = environment;
  if (spin === "off") return 0;
  if (spin !== "" && spin !== "on")
    throw new PlatformError("ERR_BAD_SETTING", `HYPERV_IS_SPIN is "on" or "off", not "${spin}"`);
  if (limit === "") return availableParallelism() > 1 ? DEFAULT_LIMIT_US : 0;
  if (!/^\d{1,9}$/.test(limit))
    throw new PlatformError(
      "ERR_BAD_SETTING",
      `HYPERV_IS_SPIN_US is a whole number of microseconds, not "${limit}"`,
    );
  return Number(limit);
}

/**
 * How long to spin this time, from how it went before: half the limit at first, doubled when spinning
 * found work, halved when it did not, and soon 0. A sleep that ended so soon that spinning would have done
 * brings it back.
 */
export class AdaptiveSpin {
  readonly limitUs: number;
  #budgetUs: number;

  constructor(limitUs: number) {
    this.limitUs = limitUs;
    this.#budgetUs = limitUs / 2;
  }

  get budgetUs(): number {
    return this.#budgetUs;
  }

  /** Work came while spinning. */
  succeeded(): void {
    this.#budgetUs = Math.min(this.limitUs, Math.max(this.#budgetUs * 2, this.limitUs / 2));
  }

  /** The budget ended without work. */
  failed(): void {
    this.#budgetUs = this.#budgetUs / 2 < LEAST_US ? 0 : this.#budgetUs / 2;
  }

  /** Work ended a sleep. */
  wokenAfter(sleptUs: number): void {
    if (sleptUs < this.limitUs + WAKE_US) this.succeeded();
  }
}
