import {
  emitIcMessage,
  emitIcOffer,
  icRequest,
  IcFlag,
  IcMessageType,
  parseIcChoice,
  parseIcMessage,
  type IcMessage,
  type IcStatus,
  type IcVersionLists,
  type IcVersions,
} from "@hyperv-is/hv-utils/protocol";
import { step, type Step, type Tick } from "@hyperv-is/vmbus-core";

/** What the host offers of a component, and which messages are its own. */
export interface ComponentSpeech extends IcVersionLists {
  readonly type: IcMessageType;
}

/** Where the conversation with the guest's component stands. */
export type ComponentState =
  /** The guest has not opened the channel. */
  | { readonly name: "closed" }
  /** Versions were offered. A component that needs a daemon may answer when that comes: there is no limit. */
  | { readonly name: "negotiating" }
  /** The guest has none of the versions; until it opens the channel again. */
  | { readonly name: "refused" }
  | { readonly name: "ready"; readonly versions: IcVersions }
  /** A request is outstanding. */
  | { readonly name: "asked"; readonly versions: IcVersions; readonly deadline?: number }
  /** Its time is up, but it is outstanding still: nothing else may be asked. */
  | { readonly name: "overdue"; readonly versions: IcVersions }
  /** The guest broke the protocol. */
  | { readonly name: "broken" };

/** Why a request has no answer. */
export type ComponentFailure =
  /** The guest has no such component, or has not agreed on versions yet. */
  | "not-ready"
  /** Another request is outstanding. */
  | "busy"
  /** The guest did not answer in time. */
  | "silent"
  /** The channel closed, or the conversation began anew, before the guest answered. */
  | "gone";

export type ComponentInput =
  | { readonly kind: "opened" }
  /** A packet of the guest: its payload. */
  | { readonly kind: "packet"; readonly payload: Uint8Array }
  /** A request to the guest; without a time it may take as long as it likes. */
  | { readonly kind: "ask"; readonly body: Uint8Array; readonly timeoutMs?: number | undefined }
  /** Versions are to be agreed on anew. */
  | { readonly kind: "renegotiate" }
  | { readonly kind: "closed" };

export type ComponentEffect =
  | { readonly kind: "send"; readonly payload: Uint8Array }
  | { readonly kind: "agreed"; readonly versions: IcVersions }
  | { readonly kind: "answered"; readonly status: IcStatus; readonly body: Uint8Array }
  /** An answer came whose time was up. */
  | { readonly kind: "late"; readonly status: IcStatus; readonly body: Uint8Array }
  | { readonly kind: "failed"; readonly why: ComponentFailure }
  /** Versions that were agreed on are so no more: the guest's component is gone, or the conversation begins anew. */
  | { readonly kind: "lost" }
  /** The guest broke a rule: the channel is to be closed. */
  | { readonly kind: "violation"; readonly rule: string; readonly detail: string };

type ComponentStep = Step<ComponentState, ComponentEffect>;

const UNNEGOTIATED: IcVersions = { framework: 0, message: 0 };
const hex = (value: number): string => `0x${value.toString(16)}`;

/**
 * The host's side of the conversation with an integration component: offer versions, then one request at a time.
 *
 * A request that was not answered in time stays outstanding, since the guest may answer it at any later time, and
 * could not tell that answer from one to the next request.
 */
export function stepComponent(
  speech: ComponentSpeech,
  state: ComponentState,
  input: ComponentInput | Tick,
  now: number,
): ComponentStep {
  switch (input.kind) {
    case "opened":
      return offer(speech);
    case "renegotiate":
      // An offer that the guest has not answered yet will do: it would answer both.
      if (["closed", "broken", "negotiating"].includes(state.name)) return step(state);
      return abandon(state, offer(speech));
    case "closed":
      return abandon(state, step({ name: state.name === "broken" ? "broken" : "closed" }));
    case "ask":
      return ask(speech, state, input.body, input.timeoutMs, now);
    case "tick":
      if (state.name !== "asked" || state.deadline === undefined || now < state.deadline)
        return step(state);
      return step({ name: "overdue", versions: state.versions }, { kind: "failed", why: "silent" });
    case "packet":
      return hear(speech, state, input.payload);
  }
}

function offer(speech: ComponentSpeech): ComponentStep {
  const request = icRequest(IcMessageType.negotiate, emitIcOffer(speech), UNNEGOTIATED);
  return step({ name: "negotiating" }, { kind: "send", payload: emitIcMessage(request) });
}

function ask(
  speech: ComponentSpeech,
  state: ComponentState,
  body: Uint8Array,
  timeoutMs: number | undefined,
  now: number,
): ComponentStep {
  if (state.name !== "ready") {
    const why = state.name === "asked" || state.name === "overdue" ? "busy" : "not-ready";
    return step(state, { kind: "failed", why });
  }
  const { versions } = state;
  const deadline = timeoutMs === undefined ? {} : { deadline: now + timeoutMs };
  const payload = emitIcMessage(icRequest(speech.type, body, versions));
  return step({ name: "asked", versions, ...deadline }, { kind: "send", payload });
}

/** What is outstanding fails, and what was agreed on is void, before anything else happens. */
function abandon(state: ComponentState, next: ComponentStep): ComponentStep {
  if (!("versions" in state)) return next;
  const effects: ComponentEffect[] =
    state.name === "asked" ? [{ kind: "failed", why: "gone" }] : [];
  return { ...next, effects: [...effects, { kind: "lost" }, ...next.effects] };
}

function broken(state: ComponentState, rule: string, detail: string): ComponentStep {
  return abandon(state, step({ name: "broken" }, { kind: "violation", rule, detail }));
}

function hear(speech: ComponentSpeech, state: ComponentState, payload: Uint8Array): ComponentStep {
  if (state.name === "broken") return step(state);
  const message = parseIcMessage(payload);
  if (typeof message === "string")
    return broken(state, `ic-message-${message}`, `${payload.byteLength} bytes`);
  const { flags, transactionId, type } = message;
  const wanted = IcFlag.transaction | IcFlag.response;
  if ((flags & (wanted | IcFlag.request)) !== wanted)
    return broken(state, "ic-answer-flags", `flags ${hex(flags)}`);
  if (transactionId !== 0)
    return broken(state, "ic-transaction-id", `an answer to transaction ${transactionId}`);
  switch (state.name) {
    case "negotiating":
      // An answer to what was asked before the conversation began anew.
      if (type !== IcMessageType.negotiate) return step(state);
      return agree(speech, message);
    case "asked":
    case "overdue": {
      if (type !== speech.type)
        return broken(state, "ic-answer-type", `type ${type} instead of ${speech.type}`);
      const { status, body } = message;
      const kind = state.name === "asked" ? "answered" : "late";
      return step({ name: "ready", versions: state.versions }, { kind, status, body });
    }
    default:
      return broken(state, "ic-unsolicited", `a message of type ${type} that nobody asked for`);
  }
}

function agree(speech: ComponentSpeech, { status, body }: IcMessage): ComponentStep {
  const choice = parseIcChoice(body);
  if (choice === undefined)
    return broken({ name: "negotiating" }, "ic-version-short", `${body.byteLength} bytes`);
  // FreeBSD refuses with a status and leaves the counts, Linux refuses with the counts.
  if (choice === "none" || status !== 0) return step({ name: "refused" });
  const { framework, message } = choice;
  if (!speech.frameworks.includes(framework) || !speech.messages.includes(message))
    return broken(
      { name: "negotiating" },
      "ic-version-not-offered",
      `framework ${hex(framework)}, messages ${hex(message)}`,
    );
  return step({ name: "ready", versions: choice }, { kind: "agreed", versions: choice });
}
