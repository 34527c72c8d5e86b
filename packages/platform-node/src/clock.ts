import { performance } from "node:perf_hooks";
import type { Clock } from "@hyperv-is/vmbus-core";

/**
 * Monotonic milliseconds since the machine started, with fractions.
 *
 * `performance.now()` counts from the start of each thread; this clock reads the same on all of them, to
 * within some microseconds.
 */
export class NodeClock implements Clock {
  readonly #originMs = Math.max(sampleOrigin(), sampleOrigin(), sampleOrigin());

  now(): number {
    return performance.now() + this.#originMs;
  }
}

/** When this thread's `performance.now()` was 0. A thread that is held up between the two reads sees too little. */
function sampleOrigin(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e3 + nanoseconds / 1e6 - performance.now();
}
