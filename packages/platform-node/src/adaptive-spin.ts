import { availableParallelism } from "node:os";
import { PlatformError } from "./errors.js";

const DEFAULT_LIMIT_US = 200;
/** Below this a budget is not worth the look at the clock. */
const LEAST_US = 5;
/** What waking a thread on an idle core costs, about. */
const WAKE_US = 50;
/** A spin that took so much longer than it was meant to lost its core to another thread. */
const LOST_CORE_US = 500;
/** Short sleeps in a row after which spinning is tried again: at first, and at most. */
const FIRST_SHORT_SLEEPS = 4;
const MOST_SHORT_SLEEPS = 1024;

/**
 * How long a thread may look for work before it sleeps, in microseconds.
 *
 * `HYPERV_IS_SPIN=off` means not at all, `HYPERV_IS_SPIN_US=N` at most N. Without either it is 200, and 0 where
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
 * found work, halved when it did not, and soon 0.
 *
 * Some sleeps that were so short that spinning would have done bring it back. But where threads outnumber
 * cores a sleep is short because the peer got this thread's core, and spinning keeps it from it: each time
 * that spinning was tried in vain it takes twice as many short sleeps.
 */
export class AdaptiveSpin {
  readonly limitUs: number;
  #budgetUs: number;
  #shortSleeps = 0;
  #neededSleeps = FIRST_SHORT_SLEEPS;

  constructor(limitUs: number) {
    this.limitUs = limitUs;
    this.#budgetUs = limitUs / 2;
  }

  get budgetUs(): number {
    return this.#budgetUs;
  }

  /** A spin ended after `spunUs`, because work came or because its budget was used up. */
  spun(spunUs: number, foundWork: boolean): void {
    const lostCore = spunUs > this.limitUs + LOST_CORE_US;
    if (foundWork && !lostCore) {
      this.#budgetUs = Math.min(this.limitUs, this.#budgetUs * 2);
      this.#neededSleeps = FIRST_SHORT_SLEEPS;
      return;
    }
    this.#budgetUs = lostCore || this.#budgetUs / 2 < LEAST_US ? 0 : this.#budgetUs / 2;
    if (this.#budgetUs > 0) return;
    this.#neededSleeps = Math.min(MOST_SHORT_SLEEPS, this.#neededSleeps * 2);
    this.#shortSleeps = 0;
  }

  /** Work ended a sleep. */
  slept(sleptUs: number): void {
    if (this.#budgetUs > 0) return;
    if (sleptUs >= this.limitUs + WAKE_US) this.#shortSleeps = 0;
    else if (++this.#shortSleeps >= this.#neededSleeps) {
      this.#shortSleeps = 0;
      // Whole: the peer may be asleep too, and its waking is part of what is waited for.
      this.#budgetUs = this.limitUs;
    }
  }
}
