import { step, type Step } from "@hyperv-is/vmbus-core";
import {
  chooseIcVersions,
  emitIcChoice,
  emitIcMessage,
  icAnswer,
  IcFlag,
  IcMessageType,
  IcStatus,
  parseIcMessage,
  parseIcOffer,
  type IcMessage,
  type IcMessageFlaw,
  type IcVersionLists,
  type IcVersions,
} from "./protocol/index.js";

/** A request of the host, and the transaction id of the packet that it came in. */
export interface IcRequest {
  readonly message: IcMessage;
  readonly idLow: number;
  readonly idHigh: number;
}

/** Where the conversation with the host stands. */
export type IcSessionState =
  /** Nothing is agreed on: the host has not asked yet, or nothing was in common. */
  | { readonly name: "unnegotiated" }
  | { readonly name: "ready"; readonly versions: IcVersions }
  /** The component has a request that is not answered yet. */
  | { readonly name: "busy"; readonly versions: IcVersions; readonly request: IcRequest }
  | { readonly name: "closed" };

/** What it reacts to. */
export type IcSessionInput =
  /** A packet of the host: its payload, padding included, and its transaction id. */
  | {
      readonly kind: "packet";
      readonly payload: Uint8Array;
      readonly idLow: number;
      readonly idHigh: number;
    }
  /** The component's answer to a request, now or later. */
  | {
      readonly kind: "answer";
      readonly request: IcRequest;
      readonly status: IcStatus;
      readonly body: Uint8Array;
    }
  /** The channel closed. */
  | { readonly kind: "closed" };

/** Why a request was answered without the component. */
export type IcRefusal =
  /** An offer of versions with which nothing is in common. */
  | "versions"
  /** An offer of versions that is none. */
  | "offer"
  /** A request before versions were agreed on. */
  | "unnegotiated"
  /** A request while another one is not answered yet. */
  | "busy"
  /** A request for another component. */
  | "type";

/** What its owner has to do then, in this order. */
export type IcSessionEffect =
  /** Send this payload, in an in-band packet with this transaction id. */
  | {
      readonly kind: "send";
      readonly payload: Uint8Array;
      readonly idLow: number;
      readonly idHigh: number;
    }
  /** Versions are agreed on, for the first time or again: what the component knew of the host is void. */
  | { readonly kind: "agreed"; readonly versions: IcVersions }
  /** Carry the request out, and give an `answer` input for it. */
  | { readonly kind: "request"; readonly request: IcRequest }
  /** The host no longer waits for the answer to this request: drop it. */
  | { readonly kind: "cancelled"; readonly request: IcRequest }
  /** A request was answered with a failure, or without a version; for counters. */
  | { readonly kind: "refused"; readonly why: IcRefusal }
  /** A packet was dropped, since there is nothing in it to answer; for counters. */
  | { readonly kind: "dropped"; readonly why: IcMessageFlaw | "response" };

/** What a component can speak, and which messages are its own. */
export interface IcSpeech extends IcVersionLists {
  readonly type: IcMessageType;
}

const NOTHING = new Uint8Array();

/** The state of a channel that has just been opened: the host speaks first. */
export const icSessionStart: IcSessionState = { name: "unnegotiated" };

/**
 * The guest's side of the conversation that all integration components have with the host: agree on versions,
 * then answer one request at a time.
 *
 * Whatever the host sends gets exactly one answer, unless it is no message or an answer itself. A negotiation is
 * taken at any time, and voids what went before: a request that is not answered yet is cancelled. A second request
 * meanwhile is refused: the host may have one outstanding.
 *
 * A function of state and input; time plays no part in it.
 */
export function icSession(
  speech: IcSpeech,
  state: IcSessionState,
  input: IcSessionInput,
): Step<IcSessionState, IcSessionEffect> {
  if (state.name === "closed") return step(state);
  switch (input.kind) {
    case "closed":
      return step<IcSessionState, IcSessionEffect>({ name: "closed" }, ...cancelled(state));
    case "answer": {
      const { request, status, body } = input;
      // The answer to a request that was cancelled meanwhile comes too late.
      if (state.name !== "busy" || state.request !== request) return step(state);
      return step({ name: "ready", versions: state.versions }, send(request, status, body));
    }
    case "packet": {
      const message = parseIcMessage(input.payload);
      if (typeof message === "string") return step(state, { kind: "dropped", why: message });
      if ((message.flags & IcFlag.response) !== 0)
        return step(state, { kind: "dropped", why: "response" });
      const request = { message, idLow: input.idLow, idHigh: input.idHigh };
      if (message.type === IcMessageType.negotiate) return negotiate(speech, state, request);
      return take(speech, state, request);
    }
  }
}

function negotiate(
  speech: IcSpeech,
  state: IcSessionState,
  request: IcRequest,
): Step<IcSessionState, IcSessionEffect> {
  const offer = parseIcOffer(request.message.body);
  const versions = offer && chooseIcVersions(speech, offer);
  const status = offer === undefined ? IcStatus.fail : IcStatus.ok;
  const answer = send(request, status, emitIcChoice(versions));
  if (versions === undefined)
    return step<IcSessionState, IcSessionEffect>(
      { name: "unnegotiated" },
      ...cancelled(state),
      { kind: "refused", why: offer === undefined ? "offer" : "versions" },
      answer,
    );
  return step<IcSessionState, IcSessionEffect>(
    { name: "ready", versions },
    ...cancelled(state),
    { kind: "agreed", versions },
    answer,
  );
}

function take(
  speech: IcSpeech,
  state: IcSessionState,
  request: IcRequest,
): Step<IcSessionState, IcSessionEffect> {
  const refuse = (why: IcRefusal, status: IcStatus): Step<IcSessionState, IcSessionEffect> =>
    step(state, { kind: "refused", why }, send(request, status, NOTHING));
  if (state.name === "unnegotiated") return refuse("unnegotiated", IcStatus.fail);
  if (request.message.type !== speech.type) return refuse("type", IcStatus.notSupported);
  if (state.name !== "ready") return refuse("busy", IcStatus.fail);
  return step({ name: "busy", versions: state.versions, request }, { kind: "request", request });
}

function cancelled(state: IcSessionState): IcSessionEffect[] {
  return state.name === "busy" ? [{ kind: "cancelled", request: state.request }] : [];
}

function send(request: IcRequest, status: IcStatus, body: Uint8Array): IcSessionEffect {
  const { message, idLow, idHigh } = request;
  const payload = emitIcMessage(icAnswer(message, status, body));
  return { kind: "send", payload, idLow, idHigh };
}
