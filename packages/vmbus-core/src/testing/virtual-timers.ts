import type { Timer, Timers } from "../clock.js";

interface Alarm {
  atMs: number;
  readonly run: () => void;
}

/**
 * A clock that stands still until it is told how much time has passed, and the timers that it runs. One that is set again
 * leaves no garbage.
 */
export class VirtualTimers implements Timers {
  #nowMs = 0;
  /** In the order in which they were set. */
  readonly #alarms: Alarm[] = [];

  /** Milliseconds since the clock was made. */
  now(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Timer {
    const alarm = { atMs: Infinity, run };
    const again = (newDelayMs: number): void => {
      this.#remove(alarm);
      alarm.atMs = this.#nowMs + newDelayMs;
      this.#alarms.push(alarm);
    };
    again(delayMs);
    return { again, cancel: () => this.#remove(alarm) };
  }

  /** Call-backs that have not happened yet. */
  get pending(): number {
    return this.#alarms.length;
  }

  /** When the next call-back is due, on this clock; infinite without any. */
  get nextMs(): number {
    let nextMs = Infinity;
    for (const { atMs } of this.#alarms) nextMs = Math.min(nextMs, atMs);
    return nextMs;
  }

  /** Lets time pass: what becomes due runs in the order of its time, then of its setting. */
  advance(elapsedMs: number): void {
    const endMs = this.#nowMs + elapsedMs;
    for (let nextMs = this.nextMs; nextMs <= endMs; nextMs = this.nextMs) {
      const due = this.#alarms.find(({ atMs }) => atMs === nextMs)!;
      this.#remove(due);
      this.#nowMs = nextMs;
      due.run();
    }
    this.#nowMs = endMs;
  }

  #remove(alarm: Alarm): void {
    const at = this.#alarms.indexOf(alarm);
    if (at < 0) return;
    this.#alarms.copyWithin(at, at + 1);
    this.#alarms.pop();
  }
}
