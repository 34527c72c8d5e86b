/** Monotonic milliseconds: the only clock that the bus, a driver or the host may read. */
export interface Clock {
  now(): number;
}

/** A clock that can also call back; time-outs of the control plane and late completions use it. */
export interface Timers extends Clock {
  /** Calls `run` once, `delayMs` from now, on the same CPU. */
  after(delayMs: number, run: () => void): Timer;
}

/** A call-back to come. */
export interface Timer {
  /** Has it happen `delayMs` from now: instead of when it was to, or once more. */
  again(delayMs: number): void;
  /** Makes sure that it will not happen; idempotent. */
  cancel(): void;
}
