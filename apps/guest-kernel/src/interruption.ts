const statuses = { SIGINT: 130, SIGTERM: 143 } as const;
type InterruptingSignal = keyof typeof statuses;

/** How long what runs may take to end when it is interrupted. */
const GRACE_MS = 1000;

/**
 * SIGINT and SIGTERM while a machine runs. The first of them asks for the end in good order; another ends
 * the program at once, as if nobody listened.
 */
export class Interruption {
  readonly #abort = new AbortController();
  #status: number | undefined;

  constructor() {
    for (const name of Object.keys(statuses)) process.on(name, this.#receive);
  }

  /** Fires with the first signal. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Exit status that says which signal came; undefined when none has. */
  get status(): number | undefined {
    return this.#status;
  }

  /** Resolves with what `work` resolves with, or with undefined when it goes on for too long after a signal. */
  async during<T>(work: Promise<T>): Promise<T | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      this.signal.addEventListener("abort", () => {
        timer = setTimeout(() => resolve(undefined), GRACE_MS);
      });
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Leaves signals to do what they do by themselves. */
  stop(): void {
    for (const name of Object.keys(statuses)) process.off(name, this.#receive);
  }

  readonly #receive = (name: InterruptingSignal): void => {
    this.stop();
    this.#status = statuses[name];
    this.#abort.abort();
  };
}
