import { setTimeout as pause } from "node:timers/promises";
import { Interruption } from "@hyperv-is/platform-node";
import { writeOut } from "./standard-output.js";

const INTERVAL_MS = 1000;

/** A command that looks again each second, until it is interrupted or nobody reads what it shows. */
export class Watch implements Disposable {
  readonly #interruption = new Interruption("hyperv-host");
  #hasDrawn = false;

  /** Fires when the command is to end. */
  get signal(): AbortSignal {
    return this.#interruption.signal;
  }

  /** Exit status that says what ended it; undefined if nothing has. */
  get status(): number | undefined {
    return this.#interruption.status;
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
    if (lines.length > 0) await writeOut(`${lines.join("\n")}\n`);
  }

  /** Shows lines in place of those before: on a terminal; elsewhere they follow them, after an empty line. */
  async draw(lines: readonly string[]): Promise<void> {
    const { isTTY, columns, rows } = process.stdout;
    const first = !this.#hasDrawn;
    this.#hasDrawn = true;
    if (isTTY) await writeOut(redrawn(lines, columns, rows, first));
    else await this.append(first ? lines : ["", ...lines]);
  }

  [Symbol.dispose](): void {
    this.#interruption.stop();
  }
}

/** What makes a terminal of this size show these lines from its first row on; what does not fit is cut off. */
export function redrawn(
  lines: readonly string[],
  columns: number,
  rows: number,
  isFirst: boolean,
): string {
  // In the last column some terminals would take the last character for erased.
  const shown = lines.slice(0, rows - 1).map((line) => `${line.slice(0, columns - 1)}\x1b[K\n`);
  return `${isFirst ? "\x1b[2J" : ""}\x1b[H${shown.join("")}\x1b[J`;
}
