import {
  frameworkVersions,
  Heartbeat,
  heartbeatVersions,
  IcMessageType,
  nextSequence,
  parseHeartbeat,
  ApplicationState,
} from "@hyperv-is/hv-utils/protocol";
import { Machine, step, type Step, type Tick, type Timers } from "@hyperv-is/vmbus-core";
import { Component, type ComponentResult, type ComponentStats } from "./component.js";
import type { ComponentSpeech } from "./component-session.js";

/** Time between two heartbeats: about what Hyper-V leaves. */
export const HEARTBEAT_INTERVAL_MS = 2000;
/** Beats in a row that stay without an answer until the guest counts as lost. */
export const HEARTBEAT_MISSED_LIMIT = 2;

/** How the guest is, in the words of Hyper-V's PowerShell module. */
export type HeartbeatStatus =
  /** The guest has no heartbeat, or has not begun. */
  | "NoContact"
  /** It had one. */
  | "LostCommunication"
  | "OkApplicationsUnknown"
  | "OkApplicationsHealthy"
  | "OkApplicationsCritical";

/** What the host knows of a guest's heart; JSON. */
export interface HeartbeatStats extends ComponentStats {
  readonly status: HeartbeatStatus;
  /** As the guest told it last: 0 unknown, 1 healthy, 2 critical, 3 stopped. */
  readonly applicationState: ApplicationState;
  readonly sent: number;
  readonly answered: number;
  /** Beats that have no answer, each interval without one counted. */
  readonly lost: number;
  /** Of them, those in a row until now. */
  readonly missed: number;
  /** Since the last answer; null before the first. */
  readonly sinceAnswerMs: number | null;
  /** How long the last answer took; null before the first. */
  readonly latencyMs: number | null;
}

/** What is counted, whatever the state. */
interface HeartbeatFacts {
  /** Number of the next heartbeat. */
  readonly sequence: bigint;
  readonly sent: number;
  readonly answered: number;
  readonly lost: number;
  readonly missed: number;
  readonly lastAnswerMs: number | undefined;
  readonly latencyMs: number | undefined;
  readonly applicationState: ApplicationState;
}

export type HeartbeatState = HeartbeatFacts &
  (
    | { readonly name: "absent" }
    /** A heartbeat is outstanding; another one may not be sent before its answer. */
    | { readonly name: "waiting"; readonly sentMs: number; readonly deadline: number }
    | { readonly name: "resting"; readonly deadline: number }
  );

export type HeartbeatInput =
  | { readonly kind: "agreed" }
  | { readonly kind: "result"; readonly result: ComponentResult }
  | { readonly kind: "lost" };

export type HeartbeatEffect =
  | { readonly kind: "ask"; readonly body: Uint8Array }
  | { readonly kind: "violation"; readonly rule: string; readonly detail: string };

/** The state before the guest has opened the channel. */
export const heartbeatAbsent: HeartbeatState = {
  name: "absent",
  sequence: 0n,
  sent: 0,
  answered: 0,
  lost: 0,
  missed: 0,
  lastAnswerMs: undefined,
  latencyMs: undefined,
  applicationState: ApplicationState.unknown,
};

type HeartbeatStep = Step<HeartbeatState, HeartbeatEffect>;

/** One heartbeat after the other, and a count of those that the guest does not answer. */
export function stepHeartbeatMonitor(
  state: HeartbeatState,
  input: HeartbeatInput | Tick,
  now: number,
): HeartbeatStep {
  switch (input.kind) {
    case "agreed":
      return beat({ ...state, missed: 0 }, now);
    case "lost":
      return step({ ...factsOf(state), name: "absent", missed: 0 });
    case "tick":
      if (state.name === "absent" || now < state.deadline) return step(state);
      if (state.name === "resting") return beat(state, now);
      return step({ ...missedOne(state), deadline: state.deadline + HEARTBEAT_INTERVAL_MS });
    case "result":
      if (state.name !== "waiting") return step(state);
      return take(state, input.result, now);
  }
}

function beat(state: HeartbeatState, now: number): HeartbeatStep {
  const { sequence } = state;
  const body = Heartbeat.emit({ sequence, applicationState: ApplicationState.unknown });
  return step(
    {
      ...factsOf(state),
      name: "waiting",
      sent: state.sent + 1,
      sentMs: now,
      deadline: now + HEARTBEAT_INTERVAL_MS,
    },
    { kind: "ask", body },
  );
}

function take(
  state: HeartbeatState & { readonly name: "waiting" },
  result: ComponentResult,
  now: number,
): HeartbeatStep {
  const resting = { name: "resting", deadline: state.deadline } as const;
  // A refused heartbeat is none; one that found the conversation elsewhere is sent again.
  if (result.kind === "failed" || result.status !== 0)
    return step({ ...factsOf(missedOne(state)), ...resting });
  const answer = parseHeartbeat(result.body);
  const expected = nextSequence(state.sequence);
  if (answer?.sequence !== expected) {
    const [rule, detail] =
      answer === undefined
        ? ["heartbeat-short", `${result.body.byteLength} bytes`]
        : ["heartbeat-sequence", `${answer.sequence} instead of ${expected}`];
    return step({ ...factsOf(state), name: "absent" }, { kind: "violation", rule, detail });
  }
  return step({
    ...factsOf(state),
    ...resting,
    sequence: expected,
    answered: state.answered + 1,
    missed: 0,
    lastAnswerMs: now,
    latencyMs: now - state.sentMs,
    applicationState: answer.applicationState,
  });
}

function missedOne<State extends HeartbeatFacts>(state: State): State {
  return { ...state, lost: state.lost + 1, missed: state.missed + 1 };
}

function factsOf(state: HeartbeatState): HeartbeatFacts {
  const { sequence, sent, answered, lost, missed, lastAnswerMs, latencyMs, applicationState } =
    state;
  return { sequence, sent, answered, lost, missed, lastAnswerMs, latencyMs, applicationState };
}

/** How the guest is. */
export function heartbeatStatus(state: HeartbeatState): HeartbeatStatus {
  if (state.name === "absent" || state.lastAnswerMs === undefined) return "NoContact";
  if (state.missed >= HEARTBEAT_MISSED_LIMIT) return "LostCommunication";
  switch (state.applicationState) {
    case ApplicationState.healthy:
      return "OkApplicationsHealthy";
    case ApplicationState.critical:
    case ApplicationState.stopped:
      return "OkApplicationsCritical";
    default:
      return "OkApplicationsUnknown";
  }
}

/** The host's heartbeat component. */
export class HeartbeatMonitor {
  readonly component: Component;
  readonly #timers: Timers;
  readonly #machine: Machine<HeartbeatState, HeartbeatInput, HeartbeatEffect>;

  constructor(timers: Timers, speech: Partial<ComponentSpeech> = {}) {
    this.#timers = timers;
    const { frameworks = frameworkVersions, messages = heartbeatVersions } = speech;
    this.component = new Component(
      { type: IcMessageType.heartbeat, frameworks, messages },
      {
        agreed: () => this.#machine.input({ kind: "agreed" }),
        lost: () => this.#machine.input({ kind: "lost" }),
      },
    );
    this.#machine = new Machine<HeartbeatState, HeartbeatInput, HeartbeatEffect>(
      timers,
      heartbeatAbsent,
      stepHeartbeatMonitor,
      (effect) => {
        if (effect.kind === "violation") this.component.fail(effect.rule, effect.detail);
        else
          this.component.ask(effect.body, (result) =>
            this.#machine.input({ kind: "result", result }),
          );
      },
    );
  }

  get stats(): HeartbeatStats {
    const { state } = this.#machine;
    const { applicationState, sent, answered, lost, missed, lastAnswerMs, latencyMs } = state;
    const since = lastAnswerMs === undefined ? null : this.#timers.now() - lastAnswerMs;
    return {
      ...this.component.stats,
      status: heartbeatStatus(state),
      applicationState,
      sent,
      answered,
      lost,
      missed,
      sinceAnswerMs: since === null ? null : toMicroseconds(since),
      latencyMs: latencyMs === undefined ? null : toMicroseconds(latencyMs),
    };
  }
}

/** Milliseconds, to the microsecond. */
function toMicroseconds(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}
