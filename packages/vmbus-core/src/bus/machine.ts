import type { Timer, Timers } from "../clock.js";

/** What a transition returns. */
export interface Step<State, Effect> {
  readonly state: State;
  /** What is to be done now, in this order. */
  readonly effects: readonly Effect[];
}

/** The input that a machine gets when its state's deadline has passed. */
export interface Tick {
  readonly kind: "tick";
}

/** A state of a machine. */
export interface MachineState {
  readonly name: string;
  /** When the wait in this state is over, in milliseconds of the clock; undefined: it waits for ever. */
  readonly deadline?: number;
}

/** A step to `state`. */
export function step<State, Effect>(state: State, ...effects: Effect[]): Step<State, Effect> {
  return { state, effects };
}

/** The same step, with `effect` before its own. */
export function prepend<State, Effect>(
  effect: Effect,
  { state, effects }: Step<State, Effect>,
): Step<State, Effect> {
  return { state, effects: [effect, ...effects] };
}

/**
 * Runs a state machine that is a pure function: keeps its state, arms the timer for its deadline, and
 * hands the effects to the owner. Inputs that an effect brings about wait until all effects are done.
 */
export class Machine<State extends MachineState, Input, Effect> {
  readonly #timers: Timers;
  readonly #transition: (state: State, input: Input | Tick, now: number) => Step<State, Effect>;
  readonly #carryOut: (effect: Effect) => void;
  readonly #inputs: (Input | Tick)[] = [];
  #state: State;
  #running = false;
  #timer: Timer | undefined;
  #armedFor: number | undefined;

  constructor(
    timers: Timers,
    initial: State,
    transition: (state: State, input: Input | Tick, now: number) => Step<State, Effect>,
    carryOut: (effect: Effect) => void,
  ) {
    this.#timers = timers;
    this.#state = initial;
    this.#transition = transition;
    this.#carryOut = carryOut;
  }

  get state(): State {
    return this.#state;
  }

  input(input: Input | Tick): void {
    this.#inputs.push(input);
    if (this.#running) return;
    this.#running = true;
    try {
      for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
        const { state, effects } = this.#transition(this.#state, next, this.#timers.now());
        this.#state = state;
        this.#arm();
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#running = false;
    }
  }

  #arm(): void {
    const { deadline } = this.#state;
    if (deadline === this.#armedFor) return;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#armedFor = deadline;
    if (deadline === undefined) return;
    this.#timer = this.#timers.after(Math.max(0, deadline - this.#timers.now()), () => {
      this.#armedFor = undefined;
      this.input({ kind: "tick" });
    });
  }
}
