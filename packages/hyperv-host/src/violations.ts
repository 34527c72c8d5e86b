import type { Clock } from "@hyperv-is/vmbus-core";

/** A rule of the protocol that the guest broke. */
export interface Violation {
  /** Stable name of the rule. */
  readonly rule: string;
  /** What was wrong this time, for people. */
  readonly detail: string;
  /** The channel it was about, where there is one. */
  readonly relid?: number;
  /** Milliseconds of the host's clock. */
  readonly atMs: number;
}

/** What was wrong so far: plain data. */
export interface SavedViolations {
  readonly list: readonly Violation[];
  readonly counts: Readonly<Record<string, number>>;
}

/** Violations whose details are kept unless told otherwise. */
const DEFAULT_LIMIT = 1000;

/**
 * The log of what the guest did wrong. The first `limit` are kept whole, since the first mistake explains
 * the others; all are counted by rule.
 */
export class Violations {
  readonly #clock: Clock;
  readonly #limit: number;
  readonly #list: Violation[] = [];
  readonly #counts = new Map<string, number>();
  #total = 0;

  constructor(clock: Clock, limit = DEFAULT_LIMIT) {
    this.#clock = clock;
    this.#limit = limit;
  }

  /** Records a violation, or several of one rule at once. */
  record(rule: string, detail: string, relid?: number, count = 1): void {
    this.#total += count;
    this.#counts.set(rule, (this.#counts.get(rule) ?? 0) + count);
    if (this.#list.length >= this.#limit) return;
    this.#list.push({
      rule,
      detail,
      ...(relid !== undefined && { relid }),
      atMs: this.#clock.now(),
    });
  }

  /** Those kept, oldest first. */
  get list(): readonly Violation[] {
    return this.#list;
  }

  /** How many there were, the ones not kept included. */
  get total(): number {
    return this.#total;
  }

  /** How many there were of each rule. */
  counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts);
  }

  /** All of it, as plain data. */
  save(): SavedViolations {
    return { list: this.#list.slice(), counts: this.counts() };
  }

  /** Goes on from what was saved. */
  restore({ list, counts }: SavedViolations): void {
    this.clear();
    this.#list.push(...list.slice(0, this.#limit));
    for (const [rule, count] of Object.entries(counts)) {
      this.#counts.set(rule, count);
      this.#total += count;
    }
  }

  /** Forgets all, for a new guest. */
  clear(): void {
    this.#list.length = 0;
    this.#counts.clear();
    this.#total = 0;
  }
}
