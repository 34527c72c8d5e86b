import {
  frameworkVersions,
  IcMessageType,
  NT_TO_UNIX_100NS,
  TIME_SYNC_V4,
  TimeSync,
  TimeSync4,
  TimeSyncFlag,
  timeSyncVersions,
  type IcVersion,
} from "@hyperv-is/hv-utils/protocol";
import { Machine, step, type Step, type Tick, type Timers } from "@hyperv-is/vmbus-core";
import { Component, type ComponentStats } from "./component.js";
import type { ComponentSpeech } from "./component-session.js";

/** Time from an answer of the guest to the next sample. Source: OpenVMM. */
export const TIME_SAMPLE_INTERVAL_MS = 5000;

export type TimeSourceState =
  | { readonly name: "absent" }
  /** The guest has been told the time; `syncNext`: it is to set its clock as soon as it has answered. */
  | { readonly name: "waiting"; readonly syncNext: boolean }
  | { readonly name: "resting"; readonly deadline: number };

export type TimeSourceInput =
  | { readonly kind: "agreed" }
  /** The guest is to set its clock now. */
  | { readonly kind: "sync" }
  | { readonly kind: "answered" }
  | { readonly kind: "lost" };

/** Tell the guest the time, with these flags. */
export interface TellTime {
  readonly flags: number;
}

type TimeSourceStep = Step<TimeSourceState, TellTime>;

/** The guest is told to set its clock when it is there, and what time it is a while after each answer. */
export function stepTimeSource(
  state: TimeSourceState,
  input: TimeSourceInput | Tick,
  now: number,
): TimeSourceStep {
  const tell = (flags: number): TimeSourceStep =>
    step({ name: "waiting", syncNext: false }, { flags });
  switch (input.kind) {
    case "agreed":
      return tell(TimeSyncFlag.sync);
    case "lost":
      return step({ name: "absent" });
    case "sync":
      if (state.name === "resting") return tell(TimeSyncFlag.sync);
      return step(state.name === "waiting" ? { ...state, syncNext: true } : state);
    case "answered":
      if (state.name !== "waiting") return step(state);
      if (state.syncNext) return tell(TimeSyncFlag.sync);
      return step({ name: "resting", deadline: now + TIME_SAMPLE_INTERVAL_MS });
    case "tick":
      if (state.name !== "resting" || now < state.deadline) return step(state);
      return tell(TimeSyncFlag.sample);
  }
}

/** What the guest has been told of the time; JSON. */
export interface TimeSourceStats extends ComponentStats {
  /** The host's clock, as it tells the guest: milliseconds since 1970. */
  readonly timeMs: number;
  /** By how much that is off the clock of the machine that the host runs on. */
  readonly offsetMs: number;
  /** Times that the guest was told to set its clock, and answered. */
  readonly syncs: number;
  /** Times that it was told what time it is, and answered. */
  readonly samples: number;
  /** Times that it answered with a failure. */
  readonly refused: number;
}

/** What tells the time. */
export interface TimeSourceOptions {
  readonly timers: Timers;
  /** The clock of the machine that the host runs on: 100 ns units since 1601, UTC. */
  readonly realTime: () => bigint;
}

const UNITS_PER_MS = 10_000;

/** The host's time synchronisation component. */
export class TimeSource {
  readonly component: Component;
  readonly #options: TimeSourceOptions;
  readonly #machine: Machine<TimeSourceState, TimeSourceInput, TellTime>;
  #offsetMs = 0;
  #syncs = 0;
  #samples = 0;
  #refused = 0;

  constructor(options: TimeSourceOptions, speech: Partial<ComponentSpeech> = {}) {
    this.#options = options;
    const { frameworks = frameworkVersions, messages = timeSyncVersions } = speech;
    this.component = new Component(
      { type: IcMessageType.timeSync, frameworks, messages },
      {
        agreed: () => this.#machine.input({ kind: "agreed" }),
        lost: () => this.#machine.input({ kind: "lost" }),
      },
    );
    this.#machine = new Machine<TimeSourceState, TimeSourceInput, TellTime>(
      options.timers,
      { name: "absent" },
      stepTimeSource,
      ({ flags }) => this.#tell(flags),
    );
  }

  /** Has the guest set its clock, now or when it has answered. @returns False if it has no such component. */
  sync(): boolean {
    this.#machine.input({ kind: "sync" });
    return this.#machine.state.name !== "absent";
  }

  /** Is off by so many milliseconds from now on, a whole number. */
  set offsetMs(offsetMs: number) {
    this.#offsetMs = offsetMs;
  }

  get stats(): TimeSourceStats {
    return {
      ...this.component.stats,
      timeMs: Number((this.#now() - NT_TO_UNIX_100NS) / 10n) / 1000,
      offsetMs: this.#offsetMs,
      syncs: this.#syncs,
      samples: this.#samples,
      refused: this.#refused,
    };
  }

  #now(): bigint {
    return this.#options.realTime() + BigInt(this.#offsetMs) * BigInt(UNITS_PER_MS);
  }

  #tell(flags: number): void {
    const version = this.component.versions?.message ?? 0;
    this.component.ask(this.#message(version, flags), (result) => {
      if (result.kind === "failed") return;
      if (result.status !== 0) this.#refused++;
      else if ((flags & TimeSyncFlag.sync) !== 0) this.#syncs++;
      else this.#samples++;
      this.#machine.input({ kind: "answered" });
    });
  }

  #message(version: IcVersion, flags: number): Uint8Array {
    const parentTime = this.#now();
    if (version < TIME_SYNC_V4)
      return TimeSync.emit({ parentTime, childTime: 0n, roundTripTime: 0n, flags });
    const referenceTime = BigInt(Math.floor(this.#options.timers.now() * UNITS_PER_MS));
    return TimeSync4.emit({ parentTime, referenceTime, flags, leapIndicator: 0, stratum: 0 });
  }
}
