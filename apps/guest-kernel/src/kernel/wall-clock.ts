import type { Clock, RealTimeClock } from "@hyperv-is/vmbus-core";

const NS_PER_MS = 1e6;

/** The guest's wall clock: counts with the monotonic clock, from where it was last set. */
export class WallClock implements RealTimeClock {
  readonly #clock: Clock;
  #setNs: bigint;
  #setAtMs: number;

  /** @param clock - monotonic. @param nowMs - what the machine's battery-backed clock says: milliseconds since 1970. */
  constructor(clock: Clock, nowMs: number) {
    this.#clock = clock;
    this.#setNs = BigInt(Math.round(nowMs * 1e3)) * 1000n;
    this.#setAtMs = clock.now();
  }

  nowNs(): bigint {
    return this.#setNs + BigInt(Math.round((this.#clock.now() - this.#setAtMs) * NS_PER_MS));
  }

  /** Milliseconds since 1970. */
  nowMs(): number {
    return Number(this.nowNs() / 1000n) / 1e3;
  }

  set(timeNs: bigint): void {
    this.#setNs = timeNs;
    this.#setAtMs = this.#clock.now();
  }
}
