/** What a virtual processor can do wrong with the hypervisor, by rule; the order is that of the counters. */
export const guestFaultRules = [
  /** A hypercall before GUEST_OS_ID was set. */
  "hypercall-without-guest-os-id",
  "hypercall-code",
  /** Reserved bits of the control word, or a fast call of an input that does not fit registers. */
  "hypercall-control",
  "hypercall-input-alignment",
  "hypercall-input-outside-memory",
  /** Message type, payload size or reserved word. */
  "post-message-input",
  "post-message-connection",
  /** Flag number or reserved word. */
  "signal-event-input",
  "signal-event-connection",
  /** A synthetic MSR that does not exist, or a write to a read-only one. */
  "msr-access",
  /** A value that the MSR does not take. */
  "msr-value",
] as const;

/** Rule that a virtual processor broke. */
export type GuestFaultRule = (typeof guestFaultRules)[number];

/** Words that the counters take: how often, and the number that says most about the last time. */
export const GUEST_FAULT_WORDS = guestFaultRules.length * 2;

/**
 * Faults of virtual processors on their way to the log of violations, which another thread keeps.
 * Counted, not queued: a processor must not wait for its critic.
 */
export class FaultCounters {
  readonly #words: Int32Array;
  readonly #first: number;

  /** @param first - word index of the counters. */
  constructor(words: Int32Array, first: number) {
    this.#words = words;
    this.#first = first;
  }

  /** Counts a fault. @param value - the offending value, as far as 32 bits hold it. */
  count(rule: GuestFaultRule, value: number): void {
    const at = this.#first + guestFaultRules.indexOf(rule) * 2;
    Atomics.store(this.#words, at + 1, value);
    Atomics.add(this.#words, at, 1);
  }

  /** Hands over what was counted since the last call. @param value - the newest offending value, unsigned. */
  collect(report: (rule: GuestFaultRule, count: number, value: number) => void): void {
    for (const [index, rule] of guestFaultRules.entries()) {
      const at = this.#first + index * 2;
      if (Atomics.load(this.#words, at) === 0) continue;
      const count = Atomics.exchange(this.#words, at, 0);
      report(rule, count, Atomics.load(this.#words, at + 1) >>> 0);
    }
  }
}
