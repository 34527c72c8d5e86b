import { setTimeout as pause } from "node:timers/promises";
import { writeOut } from "./standard-output.js";

const statuses = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

const INTERVAL_MS = 1000;

/** A command that looks again each second, until a signal comes or nobody reads what it shows. */
export class Watch implements Disposable {
  readonly #abort = new AbortController();
  readonly #forget: readonly (() => void)[];
  #status = 0;
  #hasDrawn = false;

  constructor() {
    this.#forget = Object.entries(statuses).map(([name, status]) => {
      const receive = (): void => {
        this.#status ||= status;
        this.#abort.abort();
        // Another one ends the program as if nobody listened.
        this[Symbol.dispose]();
      };
      process.on(name, receive);
      return () => process.off(name, receive);
    });
  }

  /** Fires when the command is to end. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Exit status that says what signal came; 0 if none has. */
  get status(): number {
    return this.#status;
  }

  /** Resolves after a second, or when one of these does; true if there is to be another look. */
  async next(sooner: readonly Promise<unknown>[]): Promise<boolean> {
    const over = new AbortController();
    const signal = AbortSignal.any([this.signal, over.signal]);
    const waited = pause(INTERVAL_MS, undefined, { signal }).catch(() => undefined);
    await Promise.race([waited, ...sooner]);
    over.abort();
    return !this.signal.aborted;
  }

  /** Adds lines to the output. */
  async append(lines: readonly string[]): Promise<void> {
    if (lines.length > 0 && !(await writeOut(`${lines.join("\n")}\n`))) this.#abort.abort();
  }

  /** Shows lines in place of those before: on a terminal; elsewhere they follow them, after an empty line. */
  async draw(lines: readonly string[]): Promise<void> {
    const { isTTY, columns, rows } = process.stdout;
    const first = !this.#hasDrawn;
    this.#hasDrawn = true;
    if (!isTTY) return this.append(first ? lines : ["", ...lines]);
    if (!(await writeOut(redrawn(lines, columns, rows, first)))) this.#abort.abort();
  }

  [Symbol.dispose](): void {
    for (const forget of this.#forget) forget();
  }
}

/** What makes a terminal of this size show these lines from its first row on; what does not fit is cut off. */
export function redrawn(
  lines: readonly string[],
  columns: number,
  rows: number,
  isFirst: boolean,
): string {
  const shown = lines.slice(0, rows - 1).map((line) => `${line.slice(0, columns)}\x1b[K\n`);
  return `${isFirst ? "\x1b[2J" : ""}\x1b[H${shown.join("")}\x1b[J`;
}
