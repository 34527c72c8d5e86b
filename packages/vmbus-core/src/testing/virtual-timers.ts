import type { Timer, Timers } from "../clock.js";

interface Alarm {
  readonly atMs: number;
  readonly run: () => void;
}

/** A clock that stands still until it is told how much time has passed, and the timers that it runs. */
export class VirtualTimers implements Timers {
  #nowMs = 0;
  readonly #alarms = new Set<Alarm>();

  /** Milliseconds since the clock was made. */
  now(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const alarm = { atMs: this.#nowMs + delayMs, run };
    this.#alarms.add(alarm);
    return { cancel: () => void this.#alarms.delete(alarm) };
  }

  /** Call-backs that have not happened yet. */
  get pending(): number {
    return this.#alarms.size;
  }

  /** When the next call-back is due, on this clock; infinite without any. */
  get nextMs(): number {
    let nextMs = Infinity;
    for (const { atMs } of this.#alarms) nextMs = Math.min(nextMs, atMs);
    return nextMs;
  }

  /** Lets time pass: what becomes due runs in the order of its time, then of its making. */
  advance(elapsedMs: number): void {
    const endMs = this.#nowMs + elapsedMs;
    for (let nextMs = this.nextMs; nextMs <= endMs; nextMs = this.nextMs) {
      const due = [...this.#alarms].find(({ atMs }) => atMs === nextMs)!;
      this.#alarms.delete(due);
      this.#nowMs = nextMs;
      due.run();
    }
    this.#nowMs = endMs;
  }
}
