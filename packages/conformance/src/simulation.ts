import type { Timer, Timers } from "@hyperv-is/vmbus-core";
import { Prng } from "./prng.js";

/** A CPU of the simulated machine: runs when it is awake, sleeps when it has nothing to do. */
export interface Actor {
  readonly name: string;
  /** Does one turn of work; true if there is more, so that it wants another turn. */
  step(): boolean;
}

/** What a run of the simulation found wrong; carries what replays it. */
export class SimulationError extends Error {
  readonly seed: number;

  constructor(seed: number, message: string, options?: ErrorOptions) {
    super(`${message} (seed ${seed})`, options);
    this.name = "SimulationError";
    this.seed = seed;
  }
}

interface Alarm extends Timer {
  atMs: number;
  readonly run: () => void;
  /** The CPU that it rings on. */
  readonly actor: Actor | undefined;
}

/** How a simulation differs from the simplest. */
export interface SimulationOptions {
  /** Virtual time that passes in a turn, at most; none unless told, so that time passes only when all sleep. */
  readonly turnMs?: number;
}

/** The clock goes in steps of a power of two, so that sums of times are exact. */
const CLOCK_STEPS_PER_MS = 1024;

/** One in this many yield points lets another actor run. */
const SWITCH_ONE_IN = 3;

/** Depth of actors interrupted by actors. */
const MAX_NESTING = 3;

/**
 * A machine in one thread, under virtual time and a seeded scheduler.
 *
 * Actors sleep until they are woken. Which awake actor runs next is drawn from the seed; and between any
 * two accesses to shared control words (`yieldPoint`) the scheduler may run any other actor that is not
 * itself interrupted already, which is what shows a lost wake-up. An interrupted actor goes on only when
 * the one that ran in between has ended its turn: interleavings in which two half-done turns alternate
 * are not reached.
 */
export class Simulation implements Timers {
  readonly seed: number;
  readonly prng: Prng;
  readonly #awake = new Set<Actor>();
  /** Actors that run or are interrupted: none of them can interrupt. */
  readonly #running: Actor[] = [];
  #nesting = 0;
  #alarms: Alarm[] = [];
  #nowMs = 0;
  #steps = 0;
  #alarmsRung = 0;
  #switching = true;
  /** Steps of the clock in the longest turn. */
  readonly #turnSteps: number;

  constructor(seed: number, options: SimulationOptions = {}) {
    this.seed = seed;
    this.prng = new Prng(seed);
    this.#turnSteps = Math.floor((options.turnMs ?? 0) * CLOCK_STEPS_PER_MS);
  }

  now(): number {
    return this.#nowMs;
  }

  /** Turns taken so far, interrupting ones included. */
  get steps(): number {
    return this.#steps;
  }

  after(delayMs: number, run: () => void): Timer {
    return this.#setAlarm(delayMs, run, undefined);
  }

  /** The timers of one CPU: what they call can be interrupted as its turns can. */
  timersOf(actor: Actor): Timers {
    return {
      now: () => this.#nowMs,
      after: (delayMs, run) => this.#setAlarm(delayMs, run, actor),
    };
  }

  #setAlarm(delayMs: number, run: () => void, actor: Actor | undefined): Timer {
    const alarm: Alarm = {
      atMs: 0,
      run,
      actor,
      again: (newDelayMs) => {
        alarm.cancel();
        alarm.atMs = this.#nowMs + Math.max(0, newDelayMs);
        this.#alarms.push(alarm);
      },
      cancel: () => {
        this.#alarms = this.#alarms.filter((other) => other !== alarm);
      },
    };
    alarm.again(delayMs);
    return alarm;
  }

  /** Makes an actor run again; the bell of its CPU. */
  wake(actor: Actor): void {
    this.#awake.add(actor);
  }

  /** Stops interrupting turns: the rest of the run is only scheduled between turns. */
  calm(): void {
    this.#switching = false;
  }

  /** A point where the hardware could let another CPU go first. Called before each access to shared control words. */
  yieldPoint(): void {
    if (!this.#switching || this.#nesting === 0 || this.#nesting >= MAX_NESTING) return;
    if (!this.prng.chance(1, SWITCH_ONE_IN)) return;
    const others = [...this.#awake].filter((actor) => !this.#running.includes(actor));
    if (others.length > 0) this.#turn(this.prng.pick(others));
  }

  /**
   * Runs until every actor sleeps and no alarm is set, or until `done` says so between turns.
   * Throws a `SimulationError` after `maxSteps` turns and alarms, so that a livelock fails instead of hanging.
   */
  run(maxSteps: number, done: () => boolean = () => false): void {
    const last = this.#moves + maxSteps;
    while (!done()) {
      if (this.#moves >= last)
        throw new SimulationError(this.seed, `no rest after ${maxSteps} steps`);
      if (this.#isDue() && this.#ring()) continue;
      if (this.#awake.size > 0) this.#turn(this.prng.pick([...this.#awake]));
      else if (!this.#ring()) return;
    }
  }

  /**
   * Runs an asynchronous story to its end: lets promises settle between turns, and fails when the machine
   * has come to rest while the story still waits.
   *
   * @param actors - The CPUs that the story's promises use: only other actors may interrupt them.
   */
  async complete<T>(
    story: Promise<T>,
    maxSteps: number,
    actors: readonly Actor[] = [],
  ): Promise<T> {
    const last = this.#moves + maxSteps;
    const state = { settled: false };
    const end = (): void => {
      state.settled = true;
    };
    story.then(end, end);
    // A promise chain may need several turns of the microtask queue before it wakes an actor again.
    for (let idle = 0; idle < 50;) {
      await this.#microtasks(actors);
      if (state.settled) return story;
      if (this.#moves >= last)
        throw new SimulationError(this.seed, `no end after ${maxSteps} steps`);
      if (this.#isDue() && this.#ring()) idle = 0;
      else if (this.#awake.size > 0) {
        this.#turn(this.prng.pick([...this.#awake]));
        idle = 0;
      } else if (idle > 20 && this.#ring()) idle = 0;
      else idle++;
    }
    throw new SimulationError(
      this.seed,
      "everything sleeps, and the story has not ended: a wake-up was lost",
    );
  }

  /** Lets what promises have to do happen, once around, as a part of the actors' work. */
  async #microtasks(actors: readonly Actor[]): Promise<void> {
    this.#enter(actors);
    await Promise.resolve();
    this.#leave(actors);
  }

  #enter(actors: readonly Actor[]): void {
    if (actors.length === 0) return;
    this.#running.push(...actors);
    this.#nesting++;
  }

  #leave(actors: readonly Actor[]): void {
    if (actors.length === 0) return;
    this.#running.length -= actors.length;
    this.#nesting--;
  }

  #turn(actor: Actor): void {
    this.#steps++;
    if (this.#turnSteps > 0)
      this.#nowMs += this.prng.below(this.#turnSteps + 1) / CLOCK_STEPS_PER_MS;
    this.#awake.delete(actor);
    const actors = [actor];
    this.#enter(actors);
    try {
      if (actor.step()) this.#awake.add(actor);
    } finally {
      this.#leave(actors);
    }
  }

  /** What bounds a run: alarms that set each other for the same moment never let time pass. */
  get #moves(): number {
    return this.#steps + this.#alarmsRung;
  }

  /** True if the time of an alarm has come while actors were awake. */
  #isDue(): boolean {
    return this.#turnSteps > 0 && this.#alarms.some((alarm) => alarm.atMs <= this.#nowMs);
  }

  /** Moves the clock to the next alarm and lets it ring; false if there is none. */
  #ring(): boolean {
    if (this.#alarms.length === 0) return false;
    this.#alarmsRung++;
    const atMs = Math.min(...this.#alarms.map((alarm) => alarm.atMs));
    const due = this.#alarms.filter((alarm) => alarm.atMs === atMs);
    const alarm = this.prng.pick(due);
    this.#alarms = this.#alarms.filter((other) => other !== alarm);
    this.#nowMs = Math.max(this.#nowMs, atMs);
    const actors = alarm.actor === undefined ? [] : [alarm.actor];
    this.#enter(actors);
    try {
      alarm.run();
    } finally {
      this.#leave(actors);
    }
    return true;
  }
}
