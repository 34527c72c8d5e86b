import type { Timers } from "@hyperv-is/vmbus-core";
import type { DataBuffer } from "./data-buffer.js";
import type { AsyncDiskBackend, BackendEnded, DiskBackend } from "./disk-backend.js";
import { ImmediateBackend } from "./immediate-backend.js";

/** A call on its way. */
interface DelayedCall {
  readonly deadlineMs: number;
  readonly work: () => void;
}

/**
 * A backend in front of another one that takes its time: each call does its work, and ends, when it has been
 * there for a while, however many others are. So a benchmark can tell what requests in flight are good for.
 */
export class DelayedBackend implements AsyncDiskBackend {
  readonly disk: DiskBackend;
  readonly #immediate: ImmediateBackend;
  readonly #timers: Timers;
  readonly #delayMs: number;
  /** In order of their deadlines. */
  readonly #calls: DelayedCall[] = [];
  #isArmed = false;

  /** @param timers - as exact as the thread's pump runs them: it must not sleep while this backend `isBusy`. */
  constructor(disk: DiskBackend, delayUs: number, timers: Timers) {
    if (!(delayUs >= 0)) throw new RangeError(`a delay is 0 us or more, not ${delayUs}`);
    this.disk = disk;
    this.#immediate = new ImmediateBackend(disk);
    this.#timers = timers;
    this.#delayMs = delayUs / 1e3;
  }

  /** True while calls are on their way. */
  get isBusy(): boolean {
    return this.#calls.length > 0;
  }

  read(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    this.#delay(() => this.#immediate.read(sector, lengthBytes, buffer, ended));
  }

  write(sector: number, lengthBytes: number, buffer: DataBuffer, ended: BackendEnded): void {
    this.#delay(() => this.#immediate.write(sector, lengthBytes, buffer, ended));
  }

  flush(ended: BackendEnded): void {
    this.#delay(() => this.#immediate.flush(ended));
  }

  whenIdle(work: () => void): void {
    // Deadlines keep the order of calls, and each does its work in one piece.
    this.#delay(work);
  }

  #delay(work: () => void): void {
    this.#calls.push({ deadlineMs: this.#timers.now() + this.#delayMs, work });
    if (this.#isArmed) return;
    this.#isArmed = true;
    this.#timers.after(this.#delayMs, this.#due);
  }

  readonly #due = (): void => {
    const now = this.#timers.now();
    let next = this.#calls[0];
    for (; next !== undefined && next.deadlineMs <= now; next = this.#calls[0]) {
      this.#calls.shift();
      next.work();
    }
    // Calls that the work has brought about are behind this one.
    if (next === undefined) this.#isArmed = false;
    else this.#timers.after(next.deadlineMs - now, this.#due);
  };
}
