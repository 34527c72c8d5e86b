import type { Timer, Timers } from "@hyperv-is/vmbus-core";

interface Entry {
  readonly at: number;
  readonly run: () => void;
}

/** A clock that stands still until a test moves it. */
export class VirtualTimers implements Timers {
  #now = 0;
  #pending: Entry[] = [];

  now(): number {
    return this.#now;
  }

  after(delayMs: number, run: () => void): Timer {
    const entry = { at: this.#now + delayMs, run };
    this.#pending.push(entry);
    return {
      cancel: () => void (this.#pending = this.#pending.filter((other) => other !== entry)),
    };
  }

  /** Call-backs that have not happened yet. */
  get pending(): number {
    return this.#pending.length;
  }

  /** Lets time pass, running what becomes due in the order of its time. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const next = this.#pending
        .filter((entry) => entry.at <= end)
        .reduce<Entry | undefined>(
          (least, entry) => (least === undefined || entry.at < least.at ? entry : least),
          undefined,
        );
      if (next === undefined) break;
      this.#pending = this.#pending.filter((entry) => entry !== next);
      this.#now = next.at;
      next.run();
    }
    this.#now = end;
  }
}
