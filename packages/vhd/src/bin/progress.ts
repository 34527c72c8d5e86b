import { formatSize } from "./sizes.js";

/** Redraws are at least so far apart. */
const INTERVAL_MS = 100;

/** A line on the terminal that says how far a long job is; nothing at all when standard error is no terminal. */
export class Progress {
  readonly #totalBytes: number;
  readonly #isShown = process.stderr.isTTY;
  readonly #startMs = performance.now();
  #lastMs = 0;

  constructor(totalBytes: number) {
    this.#totalBytes = totalBytes;
  }

  update(doneBytes: number): void {
    const nowMs = performance.now();
    if (!this.#isShown || nowMs - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = nowMs;
    const percent = Math.floor((doneBytes / this.#totalBytes) * 100);
    const perSecond = Math.floor((doneBytes / (nowMs - this.#startMs)) * 1000);
    const amount = `${formatSize(doneBytes)} of ${formatSize(this.#totalBytes)}`;
    process.stderr.write(`\r\x1b[K${percent} %  ${amount}  ${formatSize(perSecond)}/s`);
  }

  /** Wipes the line. */
  end(): void {
    if (this.#isShown) process.stderr.write("\r\x1b[K");
  }
}
