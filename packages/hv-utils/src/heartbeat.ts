import { step, type Step, type SystemServices } from "@hyperv-is/vmbus-core";
import type { IcChannel, IcService } from "./ic-channel.js";
import type { IcRequest } from "./ic-session.js";
import {
  ApplicationState,
  frameworkVersions,
  Heartbeat,
  heartbeatVersions,
  IcMessageType,
  IcStatus,
  nextSequence,
  parseHeartbeat,
} from "./protocol/index.js";

/** What is known of the host's heartbeats. */
export interface HeartbeatState {
  /** Those that were answered. */
  readonly beats: number;
  /** When the last one came, on the guest's monotonic clock in milliseconds; undefined before the first. */
  readonly lastMs: number | undefined;
}

/** An answer to the host: the only effect that a heartbeat has. */
export interface HeartbeatAnswer {
  readonly status: IcStatus;
  readonly body: Uint8Array;
}

/** The state before the first heartbeat. */
export const heartbeatStart: HeartbeatState = { beats: 0, lastMs: undefined };

/**
 * A heartbeat of the host: answered with the next sequence number and, where the body has room for it, how the
 * guest is. The rest of the body goes back as it came, in the length that it had.
 *
 * @param health - undefined: not to be told; the state goes back as it came, as FreeBSD and Linux do.
 */
export function stepHeartbeat(
  state: HeartbeatState,
  body: Uint8Array,
  health: ApplicationState | undefined,
  now: number,
): Step<HeartbeatState, HeartbeatAnswer> {
  const beat = parseHeartbeat(body);
  if (beat === undefined)
    return step(state, { status: IcStatus.invalidArgument, body: new Uint8Array() });
  const answer = new Uint8Array(Math.max(body.byteLength, Heartbeat.SIZE));
  answer.set(body);
  const applicationState = health ?? beat.applicationState;
  const { sequence, applicationState: applications } = Heartbeat.fields;
  const view = new DataView(answer.buffer);
  sequence.write(view, nextSequence(beat.sequence));
  applications.write(view, applicationState);
  return step(
    { beats: state.beats + 1, lastMs: now },
    { status: IcStatus.ok, body: answer.subarray(0, body.byteLength) },
  );
}

/** What a heartbeat needs of the kernel. */
export interface HeartbeatContext {
  readonly timers: { now(): number };
  readonly system: Pick<SystemServices, "health">;
}

/** Answers the host's heartbeats. */
export class HeartbeatService implements IcService {
  readonly type = IcMessageType.heartbeat;
  readonly frameworks = frameworkVersions;
  readonly messages = heartbeatVersions;
  readonly #channel: IcChannel;
  readonly #context: HeartbeatContext;
  #state = heartbeatStart;

  constructor(channel: IcChannel, context: HeartbeatContext) {
    this.#channel = channel;
    this.#context = context;
  }

  get state(): HeartbeatState {
    return this.#state;
  }

  request(request: IcRequest): void {
    const { timers, system } = this.#context;
    const health = ApplicationState[system.health()];
    const { state, effects } = stepHeartbeat(
      this.#state,
      request.message.body,
      health,
      timers.now(),
    );
    this.#state = state;
    for (const { status, body } of effects) this.#channel.respond(request, status, body);
  }
}
