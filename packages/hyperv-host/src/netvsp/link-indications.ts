import type { Timer, Timers } from "@hyperv-is/vmbus-core";

/** Linux does not see two changes of a link that follow each other sooner. Source: OpenVMM. */
const LINK_DELAY_MS = 5000;

/** Decides when a guest is told that its link is up or down: each time it is not what it was told last, but not too often. */
export class LinkIndications {
  readonly #timers: Timers;
  readonly #indicate: (isUp: boolean) => void;
  /** What the guest knows. */
  #told: boolean;
  #isUp: boolean;
  #isStarted = false;
  #quietUntilMs = 0;
  #timer: Timer | undefined;

  /** @param indicate - is called when the guest is to be told. */
  constructor(timers: Timers, isUp: boolean, indicate: (isUp: boolean) => void) {
    this.#timers = timers;
    this.#indicate = indicate;
    this.#isUp = isUp;
    // A guest takes a link for up until it asks.
    this.#told = true;
  }

  /** The guest can be told from now on. */
  start(): void {
    this.#isStarted = true;
    this.#update();
  }

  /** The guest has no driver any more. */
  stop(): void {
    this.#isStarted = false;
    this.#told = true;
    this.#quietUntilMs = 0;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  changed(isUp: boolean): void {
    this.#isUp = isUp;
    this.#update();
  }

  #update(): void {
    if (!this.#isStarted || this.#timer !== undefined || this.#isUp === this.#told) return;
    const nowMs = this.#timers.now();
    if (nowMs < this.#quietUntilMs) {
      this.#timer = this.#timers.after(this.#quietUntilMs - nowMs, () => {
        this.#timer = undefined;
        this.#update();
      });
      return;
    }
    this.#told = this.#isUp;
    this.#quietUntilMs = nowMs + LINK_DELAY_MS;
    this.#indicate(this.#isUp);
  }
}
