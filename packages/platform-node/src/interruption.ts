const statuses = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
type InterruptingSignal = keyof typeof statuses;

/** What a shell says of a program that wrote to a pipe which nobody reads any more. */
const BROKEN_PIPE_STATUS = 141;

/** How long what runs may take to end when it is interrupted. */
const GRACE_MS = 1000;

/**
 * SIGINT, SIGTERM and SIGHUP while a machine runs. The first of them asks for the end in good order; another ends
 * the program at once, as if nobody listened. Standard output that takes no more asks for the end too.
 */
export class Interruption {
  readonly #program: string;
  readonly #abort = new AbortController();
  #status: number | undefined;

  /** @param program - its name, for what standard error is told. */
  constructor(program: string) {
    this.#program = program;
    for (const name of Object.keys(statuses)) process.on(name, this.#receive);
    process.stdout.on("error", this.#fail);
  }

  /** Fires with the first of these. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Exit status that says what came; undefined when nothing has. */
  get status(): number | undefined {
    return this.#status;
  }

  /** Resolves with what `work` resolves with, or with undefined when it goes on for too long after that. */
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
    this.#letSignalsKill();
    process.stdout.off("error", this.#fail);
  }

  #letSignalsKill(): void {
    for (const name of Object.keys(statuses)) process.off(name, this.#receive);
  }

  #end(status: number): void {
    this.#status ??= status;
    this.#abort.abort();
  }

  readonly #receive = (name: InterruptingSignal): void => {
    this.#letSignalsKill();
    this.#end(statuses[name]);
  };

  readonly #fail = (error: NodeJS.ErrnoException): void => {
    const broken = error.code === "EPIPE";
    if (!broken && !this.signal.aborted)
      process.stderr.write(`${this.#program}: standard output: ${error.message}\n`);
    this.#end(broken ? BROKEN_PIPE_STATUS : 1);
  };
}
