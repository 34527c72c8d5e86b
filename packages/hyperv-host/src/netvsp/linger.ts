import type { Timer, Timers } from "@hyperv-is/vmbus-core";

/** Until the next look at a ring that is left unwatched. Linux adds 50 us to a sleep of a thread. */
const LINGER_MS = 0.02;
/** So many packets without a pause are a stream; one is a question, whose sender waits for the answer before it sends more. */
const STREAM_PACKETS = 2;

/**
 * Whether the host, having read all that there is, looks again after a short while by itself instead of asking for a signal,
 * as network adapters moderate their interrupts: while packets come in a stream, the guest need not signal any.
 */
export class Linger {
  readonly #timers: Timers;
  readonly #look: () => void;
  #timer: Timer | undefined;
  /** Packets of this look, and since signals were asked for last. */
  #taken = 0;
  #stream = 0;

  /** @param look - Has the channel polled. */
  constructor(timers: Timers, look: () => void) {
    this.#timers = timers;
    this.#look = look;
  }

  /** A packet that counts was taken. */
  taken(): void {
    this.#taken++;
  }

  /** At the end of a look. @returns True if no signal is wanted: `look` is called, soon. */
  lookEnded(): boolean {
    this.#stream += this.#taken;
    const isStream = this.#taken > 0 && this.#stream >= STREAM_PACKETS;
    this.#taken = 0;
    if (!isStream) this.#stream = 0;
    else if (this.#timer === undefined) this.#timer = this.#timers.after(LINGER_MS, this.#look);
    else this.#timer.again(LINGER_MS);
    return isStream;
  }

  /** Calls `look` no more. */
  end(): void {
    this.#timer?.cancel();
  }
}
