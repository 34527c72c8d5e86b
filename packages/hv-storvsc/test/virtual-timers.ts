import type { Timer, Timers } from "@hyperv-is/vmbus-core";

/** Time that only moves when told to. */
export class VirtualTimers implements Timers {
  #now = 0;
  #pending: { at: number; run: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(delayMs: number, run: () => void): Timer {
    const entry = { at: this.#now + delayMs, run };
    this.#pending.push(entry);
    return { cancel: () => (this.#pending = this.#pending.filter((other) => other !== entry)) };
  }

  /** When the next call-back is due; infinite without any. */
  get next(): number {
    return Math.min(Infinity, ...this.#pending.map((entry) => entry.at));
  }

  /** Moves time on, and calls back whatever is due meanwhile. */
  advance(delayMs: number): void {
    const until = this.#now + delayMs;
    for (;;) {
      const due = this.#pending
        .filter((entry) => entry.at <= until)
        .sort((left, right) => left.at - right.at)[0];
      if (due === undefined) break;
      this.#pending = this.#pending.filter((entry) => entry !== due);
      this.#now = Math.max(this.#now, due.at);
      due.run();
    }
    this.#now = until;
  }
}
