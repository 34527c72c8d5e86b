import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import type { Frame } from "./frame.js";
import type { HeldFrame, HeldFramePool } from "./held-frame.js";
import type { BandwidthOptions } from "./switch-port.js";

const DEFAULT_BURST_BYTES = 64 * 1024;
const DEFAULT_QUEUE_BYTES = 512 * 1024;

/** Keeps what a port sends below a rate: what comes too early waits its turn, and what does not fit is dropped. */
export class BandwidthLimit {
  readonly #timers: Timers;
  readonly #pool: HeldFramePool;
  readonly #send: (frame: Frame) => void;
  readonly #flush: () => void;
  readonly #bytesPerMs: number;
  readonly #burstBytes: number;
  readonly #queueBytes: number;
  readonly #waiting: HeldFrame[] = [];
  #waitingBytes = 0;
  /** Bytes that may be sent, by `#countedMs`; below 0 after a frame larger than what there was. */
  #credit: number;
  #countedMs: number;
  #timer: Timer | undefined;

  /**
   * @param send - is called with each frame when its time has come.
   * @param flush - is called after frames that had to wait.
   */
  constructor(
    options: BandwidthOptions,
    timers: Timers,
    pool: HeldFramePool,
    send: (frame: Frame) => void,
    flush: () => void,
  ) {
    if (!(options.bitsPerSecond > 0)) throw new RangeError("a bandwidth is more than 0 bit/s");
    this.#timers = timers;
    this.#pool = pool;
    this.#send = send;
    this.#flush = flush;
    this.#bytesPerMs = options.bitsPerSecond / 8000;
    this.#burstBytes = options.burstBytes ?? DEFAULT_BURST_BYTES;
    this.#queueBytes = options.queueBytes ?? DEFAULT_QUEUE_BYTES;
    this.#credit = this.#burstBytes;
    this.#countedMs = timers.now();
  }

  /** Sends a frame now or later. @returns False if it was dropped. */
  offer(frame: Frame): boolean {
    if (this.#waiting.length === 0 && this.#take(frame.lengthBytes)) {
      this.#send(frame);
      return true;
    }
    if (this.#waitingBytes + frame.lengthBytes > this.#queueBytes) return false;
    this.#waiting.push(this.#pool.hold(frame));
    this.#waitingBytes += frame.lengthBytes;
    this.#sendLater();
    return true;
  }

  /** Forgets what waits. */
  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    for (const frame of this.#waiting.splice(0)) this.#pool.giveBack(frame);
    this.#waitingBytes = 0;
  }

  #take(lengthBytes: number): boolean {
    const nowMs = this.#timers.now();
    const earned = (nowMs - this.#countedMs) * this.#bytesPerMs;
    this.#credit = Math.min(this.#credit + earned, this.#burstBytes);
    this.#countedMs = nowMs;
    if (this.#credit <= 0) return false;
    this.#credit -= lengthBytes;
    return true;
  }

  #sendLater(): void {
    if (this.#timer !== undefined) return;
    // A millisecond at least: timers are no finer.
    const delayMs = Math.max(-this.#credit / this.#bytesPerMs, 1);
    this.#timer = this.#timers.after(delayMs, () => {
      this.#timer = undefined;
      this.#sendDue();
      this.#flush();
    });
  }

  #sendDue(): void {
    for (;;) {
      const [next] = this.#waiting;
      if (next === undefined) return;
      if (!this.#take(next.lengthBytes)) break;
      this.#waiting.shift();
      this.#waitingBytes -= next.lengthBytes;
      this.#send(next);
      this.#pool.giveBack(next);
    }
    this.#sendLater();
  }
}
