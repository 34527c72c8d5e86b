import type { Clock } from "@hyperv-is/hyperv-host";

/** A machine's own time: milliseconds since its guest was first started, across saving and restoring. */
export class MachineClock implements Clock {
  readonly #originMs: number;

  /** @param nowMs - what it shows at first. */
  constructor(nowMs = 0) {
    this.#originMs = performance.now() - nowMs;
  }

  now(): number {
    return performance.now() - this.#originMs;
  }
}
