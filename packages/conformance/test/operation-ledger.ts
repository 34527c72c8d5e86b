/** An operation that failed: what for, and how. */
export interface Failure {
  readonly what: string;
  readonly code: string;
}

/** The books of a workload: each operation ends once, one way or the other. */
export class OperationLedger {
  readonly failures: Failure[] = [];
  begun = 0;
  ended = 0;
  succeeded = 0;
  /** Operations that were given up and whose memory the host has not let go of. */
  orphans = 0;
  #error: unknown;

  /** Operations under way. */
  get pending(): number {
    return this.begun - this.ended;
  }

  /** Keeps the first thing that was wrong. */
  wrong(error: unknown): void {
    this.#error ??= error;
  }

  /** Keeps what `check` throws. */
  judge(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.wrong(error);
    }
  }

  throwIfWrong(): void {
    if (this.#error !== undefined) throw this.#error as Error;
  }
}
