import { nextTick } from "node:process";
import type { Clock, Timers } from "@hyperv-is/vmbus-core";
import { AdaptiveSpin, spinLimitUs } from "./adaptive-spin.js";
import { NodeClock } from "./clock.js";
import type { Doorbell } from "./doorbell.js";
import { FileWait } from "./file-wait.js";
import { NodeLoop } from "./node-loop.js";
import { PollEvent } from "./poll-set.js";
import { settle } from "./settle.js";
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
  /**
   * Longest stretch of work without a turn of Node's event loop; unless told 50 us, or 5 ms if blocking. Eight times as long
   * where Node is served and has had nothing to do for a while.
   */
  readonly turnUs?: number;
  readonly clock?: Clock;
}

/** Turns that are under way, and who waits for their end. */
interface Turns {
  readonly pumped: Pumped;
  readonly resolve: (idle: boolean) => void;
  readonly reject: (error: unknown) => void;
}

const TURN_US = { async: 50, blocking: 5_000 } as const;
const SETTLED = Promise.resolve();
/** Looks of a spin for each one at the clock, timers and files. */
const LOOKS_PER_CLOCK = 128;
/** A turn of Node's event loop that took less has served nothing. */
const QUIET_TURN_MS = 0.02;
/** After so many of these in a row the turns of the pump are so many times as long. */
const QUIET_TURNS = 16;
const QUIET_FACTOR = 8;
/** Spins count whole microseconds up to here: a fraction, or more, is garbage where it is handed over. */
const MOST_US = 2 ** 31 - 1;
/** The longest delay of Node's timers. */
const LONGEST_DELAY_MS = 2 ** 31 - 1;

/**
 * The loop of a thread: drain, spin for a while, sleep until the doorbell rings, a timer is due, or a watched file can be
 * read.
 *
 * What it drives does not know which kind of pump it is on. Promises settled by a drain go on at least once per turn:
 * on an async pump, whose turns are longer where Node has had nothing to serve for a while, also once there is nothing
 * more to drain; on a blocking one also before the thread sleeps.
 *
 * A look is a drain, and the timers that are due behind it: what they are to follow up on has been done by then.
 *
 * While it watches files it does not spin, but for an answer that a drain has asked for (`turnNow`), or for news of a file
 * then: what comes there is sent by threads that need a core. It sleeps in one system call instead, from which the
 * doorbell, a file, a timer, or an event of Node wakes it, whichever kind of pump it is.
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
  /** Turns of Node's event loop in a row that have served nothing. */
  #quietTurns = 0;
  #turning: Turns | undefined;
  /** On the pump's clock: when the turn is over, and since when Node serves its events. */
  #turnEndsAt = 0;
  #servesSince = 0;
  /** When Node had served its events last. */
  #servedAt = 0;
  /** The turn has ended for want of work. */
  #isIdle = false;
  /** No promise has been settled by work since all went on. */
  #isSettled = true;
  /** While spinning, when that began; otherwise 0. */
  #spinning = 0;
  #sleeps = 0;
  /** There once a file was watched. */
  #files: FileWait | undefined;
  #node: NodeLoop | undefined;
  /** The turn is an immediate's: promises can go on within it, and the thread may sleep at files. */
  #isImmediate = false;
  /** What is driven, while Node's events have the thread. */
  #served: Pumped | undefined;
  /** They have it until the doorbell rings, or until `#wakesAt` on the pump's clock. */
  #isAsleep = false;
  #wakesAt = Infinity;
  /** A drain has asked a peer for something that may come at once. */
  #isAsking = false;
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
   * @param news - Called before a look when the file can be read, so that looks need not try: at least once a turn, and
   *   behind every sleep.
   * @throws PlatformError `ERR_KOFFI_MISSING`, or `ERR_NODE_LOOP`.
   */
  watch(fd: number, news?: () => void): () => void {
    this.#node ??= new NodeLoop();
    this.#files ??= new FileWait(this.doorbell, this.#node);
    const unwatch = this.#files.watch(fd, news);
    this.doorbell.ring();
    return unwatch;
  }

  /**
   * Changes what a watched file ends sleeps with, and what is news of it: that it can be read, that it can be written.
   * That it is broken does in any case, once.
   */
  watchFor(fd: number, input: boolean, output: boolean): void {
    this.#files?.ask(fd, (input ? PollEvent.input : 0) | (output ? PollEvent.output : 0));
  }

  /**
   * Drives `pumped` until a stop is requested through the doorbell; until then the process stays alive.
   * Rejects with whatever a drain or a timer throws.
   */
  async run(pumped: Pumped): Promise<void> {
    const keepAlive = setInterval(() => undefined, LONGEST_DELAY_MS);
    try {
      while (!this.doorbell.stopRequested) {
        const isIdle = await this.#turns(pumped);
        if (!isIdle) continue;
        if (this.#serving > 0) await this.#sleepServing(pumped);
        else this.#sleepBlocking(pumped);
      }
    } finally {
      clearInterval(keepAlive);
      this.#closeFiles();
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
   * Within a drain it is put off until there is nothing else to do. Does nothing while the pump does not run or does not
   * serve Node's events. What a drain throws ends the pump.
   */
  turnNow(): void {
    const pumped = this.#served;
    if (pumped === undefined) {
      this.#isAsking = true;
      return;
    }
    if (this.#failure !== undefined) return;
    this.#served = undefined;
    try {
      // Who looks by itself needs no ring.
      if (this.#isAsleep) this.doorbell.disarm();
      try {
        this.#spinForAnswer(pumped);
      } finally {
        // Goes on with the sleep.
        if (this.#isAsleep) this.doorbell.arm();
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

  #spinForAnswer(pumped: Pumped): boolean {
    const began = this.#clock.now();
    const { budgetUs } = this.#answerSpin;
    for (let now = began; ;) {
      const found = this.#look(pumped, now) || this.#files?.takeNews() === true;
      now = this.#clock.now();
      const spunUs = Math.min((now - began) * 1e3, MOST_US) | 0;
      if (!found && spunUs < budgetUs) continue;
      if (found || budgetUs > 0) this.#answerSpin.spun(spunUs, found);
      if (found) this.#isSettled = false;
      return found;
    }
  }

  /** Works and spins, with turns of Node's event loop in between, until there is nothing to do (true) or a stop is requested (false). */
  #turns(pumped: Pumped): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#turning = { pumped, resolve, reject };
      this.#beginTurn();
    });
  }

  #beginTurn(): void {
    this.#turnEndsAt = this.#endOfTurn(this.#clock.now());
    this.#isSettled = true;
    this.#isIdle = false;
    this.#files?.takeNews();
    this.#goOn();
  }

  #endOfTurn(now: number): number {
    const factor = this.#quietTurns >= QUIET_TURNS ? QUIET_FACTOR : 1;
    return now + this.#turnMs * factor;
  }

  /** Goes on with a turn. It is no async function: each of its pauses would leave garbage, at every batch of packets. */
  readonly #goOn = (): void => {
    const { pumped, reject } = this.#turning!;
    try {
      const state = this.#work(pumped);
      if (state === "pause") {
        void SETTLED.then(this.#goOnAfterPromises);
        return;
      }
      this.#isIdle = state === "idle";
      this.#servesSince = this.#clock.now();
      this.#beginServing(pumped);
      setImmediate(this.#endTurn);
    } catch (error) {
      reject(error);
    }
  };

  /** After a turn Node has served what was ready. */
  readonly #endTurn = (): void => {
    const { resolve, reject } = this.#turning!;
    try {
      this.#endServing();
      this.#servedAt = this.#clock.now();
      const isQuiet = this.#serving > 0 && this.#servedAt - this.#servesSince < QUIET_TURN_MS;
      this.#quietTurns = isQuiet ? this.#quietTurns + 1 : 0;
      this.#isImmediate = true;
      const watches = this.#files?.isWatching === true;
      if (watches) this.#node!.forgetImmediate();
      const isIdle = this.#isIdle && !watches;
      if (isIdle || this.doorbell.stopRequested) resolve(isIdle);
      else this.#beginTurn();
    } catch (error) {
      reject(error);
    } finally {
      this.#isImmediate = false;
    }
  };

  /** A tick that is asked for by a promise's reaction comes once all promises have gone on, as far as they do by themselves. */
  readonly #goOnAfterPromises = (): void => nextTick(this.#goOn);

  /** Works and spins until the turn is over, there is nothing to do, or promises are to go on first. */
  #work(pumped: Pumped): "over" | "idle" | "pause" {
    for (;;) {
      const now = this.#clock.now();
      const spunUs = Math.min((now - this.#spinning) * 1e3, MOST_US) | 0;
      if (this.#look(pumped, now) || (this.#spinning !== 0 && lookAgain(pumped))) {
        if (this.#spinning !== 0) this.#spin.spun(spunUs, true);
        this.#spinning = 0;
        this.#isSettled = false;
      } else if (this.#files?.isWatching === true) {
        if (!this.#isImmediate) return "over";
        if (!this.#isSettled) settle!();
        this.#isSettled = true;
        const isAsking = this.#isAsking;
        this.#isAsking = false;
        if (!(isAsking && this.#spinForAnswer(pumped)) && this.#sleepAtFiles(pumped, now))
          return "over";
      } else if (!this.#isSettled && this.#serving > 0) {
        // What the work settled goes on before the thread spins.
        this.#isSettled = true;
        if (!this.#isImmediate || settle === undefined) return "pause";
        settle();
      } else if (this.#spinning === 0) {
        if (this.#spin.budgetUs === 0) return "idle";
        this.#spinning = now;
      } else if (spunUs >= this.#spin.budgetUs) {
        this.#spin.spun(spunUs, false);
        this.#spinning = 0;
        return "idle";
      }
      if (now >= this.#turnEndsAt || this.doorbell.stopRequested) return "over";
    }
  }

  /** Node's events have the thread from here to `#endServing`. */
  #beginServing(pumped: Pumped): void {
    if (this.#serving > 0) this.#served = pumped;
  }

  #endServing(): void {
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
    const hasWorked = pumped.drain();
    // Asked first: to hand a time over makes garbage.
    return (this.#timers.nextDeadline <= now && this.#timers.runDue(now)) || hasWorked;
  }

  /** Sleeps at the files and the doorbell. @returns True if Node is to have its turn first. */
  #sleepAtFiles(pumped: Pumped, now: number): boolean {
    const files = this.#files!;
    files.arm();
    try {
      if (this.#hasMore(pumped, now)) {
        this.#isSettled = false;
        return false;
      }
      // Its clock stands still between two turns of its.
      const untilNodeMs = this.#node!.timeoutMs() - (now - this.#servedAt);
      if (untilNodeMs <= 0) return true;
      this.#sleeps++;
      const untilTimerMs = Math.max(0, this.#timers.nextDeadline - now);
      const isWoken = files.wait(Math.min(untilTimerMs, untilNodeMs));
      if (isWoken && files.hasListeners) {
        this.#answerSpin.slept((this.#clock.now() - now) * 1e3);
        files.tellNews();
      }
      if (isWoken ? files.hasNodeEvents : untilNodeMs <= untilTimerMs) return true;
      // Node had nothing to serve until now.
      this.#turnEndsAt = this.#endOfTurn(this.#clock.now());
      return false;
    } finally {
      files.disarm();
    }
  }

  #sleepBlocking(pumped: Pumped): void {
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
      this.#beginServing(pumped);
      await doorbell.waitAsync(sequence);
      this.#endServing();
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

  #closeFiles(): void {
    this.#files?.close();
    this.#files = undefined;
  }
}

/** Several looks between two at the clock, which costs as much as one. */
function lookAgain(pumped: Pumped): boolean {
  for (let look = 0; look < LOOKS_PER_CLOCK; look++) if (pumped.drain()) return true;
  return false;
}
