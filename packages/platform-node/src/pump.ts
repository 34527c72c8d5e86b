import type { Clock, Timers } from "@hyperv-is/vmbus-core";
import { AdaptiveSpin, spinLimitUs } from "./adaptive-spin.js";
import { NodeClock } from "./clock.js";
import type { Doorbell } from "./doorbell.js";
import { FileAlarm } from "./file-alarm.js";
import { FileWait } from "./file-wait.js";
import { NodeTimers } from "./timers.js";

/** What a pump drives: the rings, interrupts and messages of one thread. */
export interface Pumped {
  /** Does what there is to do, within a budget of its own. @returns True if there was work or there is more. */
  drain(): boolean;
}

/**
 * How a pump sleeps. `blocking`: the thread itself waits on the doorbell, for threads that only move packets.
 * `async`: Node's events are served in between and meanwhile, for threads with sockets, consoles, daemons.
 */
export type PumpKind = "async" | "blocking";

/** How long a pump does what before it does the next. */
export interface PumpOptions {
  /** Longest spin before a sleep, in microseconds; `spinLimitUs()` unless told. */
  readonly spinLimitUs?: number;
  /** Longest stretch of work without a turn of Node's event loop; unless told 50 us, or 5 ms if blocking. */
  readonly turnUs?: number;
  readonly clock?: Clock;
}

const TURN_US = { async: 50, blocking: 5_000 } as const;
/** Awaiting it lets other promises go on. */
const SETTLED = Promise.resolve();
/** The longest delay of Node's timers. */
const LONGEST_DELAY_MS = 2 ** 31 - 1;

/**
 * The loop of a thread: drain, spin for a while, sleep until the doorbell rings, a timer is due, or a watched file can be
 * read.
 *
 * What it drives does not know which kind of pump it is on. Promises settled by a drain go on at once on an
 * async pump; on a blocking one they go on before the thread sleeps, and at least once per turn.
 *
 * While it watches files it does not spin: what comes there is sent by threads that need a core. For as long as it would
 * spin it naps instead, in one system call, which Node's events wait for. A pump that serves those has a thread of its own
 * wait for the files when it sleeps for longer.
 */
export class Pump {
  readonly doorbell: Doorbell;
  readonly #clock: Clock;
  readonly #timers: NodeTimers;
  readonly #spin: AdaptiveSpin;
  /** The same for `turnNow`: how soon peers answer does not say how soon they ask. */
  readonly #answerSpin: AdaptiveSpin;
  readonly #turnMs: number;
  /** Reasons to serve Node's events instead of blocking. */
  #serving: number;
  /** While spinning, when that began; otherwise 0. */
  #spinning = 0;
  #sleeps = 0;
  readonly #watched: number[] = [];
  /** There once a file was watched. */
  #files: FileWait | undefined;
  /** There once a pump with files has served Node's events. */
  #alarm: FileAlarm | undefined;
  /** What is driven, while Node's events have the thread. */
  #served: Pumped | undefined;
  /** They have it until the doorbell rings, or until `#wakesAt` on the pump's clock. */
  #isAsleep = false;
  #wakesAt = Infinity;
  /** What has gone wrong in `turnNow`. */
  #failure: { readonly error: unknown } | undefined;

  constructor(kind: PumpKind, doorbell: Doorbell, options: PumpOptions = {}) {
    this.doorbell = doorbell;
    this.#clock = options.clock ?? new NodeClock();
    // A timer may be made by one of Node's events, while the pump sleeps until a later one.
    this.#timers = new NodeTimers(this.#clock, () => doorbell.ring());
    const limitUs = options.spinLimitUs ?? spinLimitUs();
    this.#spin = new AdaptiveSpin(limitUs);
    this.#answerSpin = new AdaptiveSpin(limitUs);
    this.#turnMs = (options.turnUs ?? TURN_US[kind]) / 1e3;
    this.#serving = kind === "async" ? 1 : 0;
  }

  /** Timers of this thread: they run between two drains, and end a sleep. */
  get timers(): Timers {
    return this.#timers;
  }

  /** How often the thread went to sleep. */
  get sleeps(): number {
    return this.#sleeps;
  }

  /**
   * Ends sleeps when a file can be read as well, from now on: what reads it is part of what is driven. The file stays open
   * until the function that is returned has been called.
   *
   * Throws `PlatformError`: `ERR_KOFFI_MISSING`, or `ERR_FILE_ALARM` for a file that cannot be waited for.
   */
  watch(fd: number): () => void {
    this.#files ??= new FileWait(this.doorbell);
    this.#alarm?.add(fd);
    this.#files.add(fd);
    this.#watched.push(fd);
    this.doorbell.ring();
    return () => {
      const at = this.#watched.indexOf(fd);
      if (at < 0) return;
      this.#watched.splice(at, 1);
      this.#files?.remove(fd);
      this.#alarm?.remove(fd);
    };
  }

  /**
   * Drives `pumped` until a stop is requested through the doorbell; until then the process stays alive.
   * Rejects with whatever a drain or a timer throws.
   */
  async run(pumped: Pumped): Promise<void> {
    const keepAlive = setInterval(() => undefined, LONGEST_DELAY_MS);
    try {
      while (!this.doorbell.stopRequested) {
        const idle = await this.#turn(pumped);
        await this.#serve(pumped, eventLoopTurn());
        if (!idle) continue;
        if (this.#serving > 0) await this.#sleepServing(pumped);
        else this.#sleepBlocking(pumped);
      }
    } finally {
      clearInterval(keepAlive);
      await this.#closeFiles();
    }
  }

  /** Serves Node's events while `work` is pending, on a pump of either kind: for an import or a file on a thread that blocks otherwise. */
  async during<T>(work: Promise<T>): Promise<T> {
    this.#serving++;
    try {
      return await work;
    } finally {
      this.#serving--;
      this.doorbell.ring();
    }
  }

  /**
   * A turn from within one of Node's events, which has asked a peer for something: looks for work and spins for it, as
   * long as that is worth it. So the answer costs no way through the event loop, and a peer that is quick wakes nobody.
   * Does nothing while the pump does not run or does not serve Node's events. What a drain throws ends the pump.
   */
  turnNow(): void {
    const pumped = this.#served;
    if (pumped === undefined || this.#failure !== undefined) return;
    this.#served = undefined;
    try {
      // Who looks by itself needs no ring.
      if (this.#isAsleep) this.doorbell.disarm();
      try {
        this.#spinForAnswer(pumped);
      } finally {
        if (this.#isAsleep) this.#rearm();
      }
      // What came before it was armed again has woken nobody.
      if (
        this.#isAsleep &&
        (this.#hasMore(pumped, this.#clock.now()) || this.#timers.nextDeadline < this.#wakesAt)
      )
        this.doorbell.ring();
    } catch (error) {
      this.#failure = { error };
      this.doorbell.ring();
    }
    this.#served = pumped;
  }

  /** Goes on with the sleep that `turnNow` came into. */
  #rearm(): void {
    this.doorbell.arm();
    this.#alarm?.arm();
  }

  #spinForAnswer(pumped: Pumped): void {
    const began = this.#clock.now();
    const { budgetUs } = this.#answerSpin;
    for (let now = began; ;) {
      const found = this.#look(pumped, now);
      now = this.#clock.now();
      const spunUs = (now - began) * 1e3;
      if (!found && spunUs < budgetUs) continue;
      if (found || budgetUs > 0) this.#answerSpin.spun(spunUs, found);
      return;
    }
  }

  /** Works and spins until the turn ends (false) or there is nothing to do (true). */
  async #turn(pumped: Pumped): Promise<boolean> {
    const turnEnds = this.#clock.now() + this.#turnMs;
    for (;;) {
      const now = this.#clock.now();
      if (this.#look(pumped, now)) {
        if (this.#spinning !== 0) this.#spin.spun((now - this.#spinning) * 1e3, true);
        this.#spinning = 0;
      } else if (this.#watched.length > 0) {
        // What the last look settled goes on before the thread blocks.
        await SETTLED;
        if (!this.#nap(pumped)) return true;
      } else if (this.#spinning === 0) {
        if (this.#spin.budgetUs === 0) return true;
        this.#spinning = now;
      } else if ((now - this.#spinning) * 1e3 >= this.#spin.budgetUs) {
        this.#spin.spun((now - this.#spinning) * 1e3, false);
        this.#spinning = 0;
        return true;
      }
      if (now >= turnEnds || this.doorbell.stopRequested) return false;
      if (this.#serving > 0) await SETTLED;
    }
  }

  /** Waits while Node's events have the thread. */
  async #serve(pumped: Pumped, waiting: Promise<void>): Promise<void> {
    if (this.#serving > 0) this.#served = pumped;
    await waiting;
    this.#served = undefined;
    if (this.#failure === undefined) return;
    const { error } = this.#failure;
    this.#failure = undefined;
    throw error;
  }

  /** The look between `arm` and a sleep; true if there must be none. */
  #hasMore(pumped: Pumped, now: number): boolean {
    return this.doorbell.stopRequested || this.#look(pumped, now);
  }

  #look(pumped: Pumped, now: number): boolean {
    const timed = this.#timers.runDue(now);
    return pumped.drain() || timed;
  }

  /** Waits for the files and the doorbell for as long as others spin. @returns True if there is to be another look. */
  #nap(pumped: Pumped): boolean {
    const { budgetUs } = this.#spin;
    if (budgetUs === 0) return false;
    const before = this.#clock.now();
    const isWoken = this.#sleepAtFiles(pumped, before, budgetUs / 1e3);
    const sleptUs = (this.#clock.now() - before) * 1e3;
    this.#spin.spun(Math.min(sleptUs, budgetUs), isWoken);
    return isWoken;
  }

  /** @returns False after `timeoutMs`; true if something ended the sleep, or kept the thread from it. */
  #sleepAtFiles(pumped: Pumped, now: number, timeoutMs: number): boolean {
    const files = this.#files!;
    files.arm();
    try {
      if (this.#hasMore(pumped, now)) return true;
      const untilTimerMs = Math.max(0, this.#timers.nextDeadline - now);
      return files.wait(Math.min(timeoutMs, untilTimerMs)) || untilTimerMs < timeoutMs;
    } finally {
      files.disarm();
    }
  }

  #sleepBlocking(pumped: Pumped): void {
    if (this.#watched.length > 0) {
      this.#sleeps++;
      const before = this.#clock.now();
      this.#sleepAtFiles(pumped, before, Infinity);
      this.#spin.slept((this.#clock.now() - before) * 1e3);
      return;
    }
    const doorbell = this.doorbell;
    const sequence = doorbell.arm();
    try {
      const before = this.#clock.now();
      if (this.#hasMore(pumped, before)) return;
      this.#sleeps++;
      if (doorbell.wait(sequence, Math.max(0, this.#timers.nextDeadline - before)))
        this.#spin.slept((this.#clock.now() - before) * 1e3);
    } finally {
      doorbell.disarm();
    }
  }

  async #sleepServing(pumped: Pumped): Promise<void> {
    const doorbell = this.doorbell;
    const sequence = doorbell.arm();
    let alarm: NodeJS.Timeout | undefined;
    try {
      if (this.#watched.length > 0) {
        this.#alarm ??= new FileAlarm(doorbell, this.#watched);
        this.#alarm.arm();
      }
      const before = this.#clock.now();
      if (this.#hasMore(pumped, before)) return;
      this.#sleeps++;
      const deadline = this.#timers.nextDeadline;
      if (deadline !== Infinity)
        alarm = setTimeout(
          () => doorbell.ring(),
          Math.min(Math.ceil(deadline - before), LONGEST_DELAY_MS),
        );
      this.#wakesAt = deadline;
      this.#isAsleep = true;
      await this.#serve(pumped, doorbell.waitAsync(sequence));
      const now = this.#clock.now();
      if (now >= deadline) return;
      this.#spin.slept((now - before) * 1e3);
      this.#answerSpin.slept((now - before) * 1e3);
    } finally {
      this.#isAsleep = false;
      clearTimeout(alarm);
      doorbell.disarm();
    }
  }

  async #closeFiles(): Promise<void> {
    const alarm = this.#alarm;
    this.#alarm = undefined;
    await alarm?.close();
    this.#files?.close();
    this.#files = undefined;
    this.#watched.length = 0;
  }
}

/** Lets Node serve what is ready: promises, messages, sockets. About 1 us. */
function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
