import type { Timers } from "@hyperv-is/vmbus-core";

/** What call-backs leave for a command that waits. Holds a limited number; more are dropped and counted. */
export class Mailbox<Item> {
  readonly #timers: Timers;
  readonly #capacity: number;
  readonly #items: Item[] = [];
  #wake: (() => void) | undefined;
  #dropped = 0;

  constructor(timers: Timers, capacity: number) {
    this.#timers = timers;
    this.#capacity = capacity;
  }

  get dropped(): number {
    return this.#dropped;
  }

  get isFull(): boolean {
    return this.#items.length >= this.#capacity;
  }

  /** @returns False if the item was dropped. */
  put(item: Item): boolean {
    if (this.isFull) {
      this.#dropped++;
      return false;
    }
    this.#items.push(item);
    this.#wake?.();
    return true;
  }

  /**
   * Takes the oldest item, and waits for one if there is none.
   * @param untilMs - Time of the clock at which the wait is over; infinite for none.
   * @returns Undefined if that came first, or `signal` fired.
   */
  async take(untilMs: number, signal: AbortSignal): Promise<Item | undefined> {
    if (this.#items.length > 0) return this.#items.shift();
    const waitMs = untilMs - this.#timers.now();
    if (signal.aborted || waitMs <= 0) return undefined;
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        timer?.cancel();
        signal.removeEventListener("abort", wake);
        resolve();
      };
      const timer = waitMs === Infinity ? undefined : this.#timers.after(waitMs, wake);
      this.#wake = wake;
      signal.addEventListener("abort", wake, { once: true });
    });
    this.#wake = undefined;
    return this.#items.shift();
  }
}
