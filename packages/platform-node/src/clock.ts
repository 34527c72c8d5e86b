import type { Clock } from "@hyperv-is/vmbus-core";

const { hrtime } = process;

/**
 * Monotonic milliseconds since the machine started, with fractions: the same on all threads.
 *
 * `performance.now()` counts from the start of each thread, and leaves 16 bytes of garbage at each call; the array of this
 * one is never made once the engine has compiled who calls it.
 */
export class NodeClock implements Clock {
  now(): number {
    const time = hrtime();
    return time[0] * 1e3 + time[1] / 1e6;
  }
}
