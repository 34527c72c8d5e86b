import { describe, expect, test } from "vitest";
import {
  icSession,
  icSessionStart,
  type IcRequest,
  type IcSessionEffect,
  type IcSessionInput,
  type IcSessionState,
  type IcSpeech,
} from "../src/index.js";
import * as ic from "../src/protocol/index.js";
import { vector } from "./vectors.js";

const v = ic.icVersion;
const speech: IcSpeech = {
  type: ic.IcMessageType.shutdown,
  frameworks: ic.frameworkVersions,
  messages: ic.shutdownVersions,
};
const versions = { framework: v(3), message: v(3, 2) };
const packet = (payload: Uint8Array, idLow = 7, idHigh = 9): IcSessionInput => ({
  kind: "packet",
  payload,
  idLow,
  idHigh,
});
const emitted = (message: Partial<ic.IcMessage>): Uint8Array =>
  ic.emitIcMessage({
    ...ic.icRequest(ic.IcMessageType.shutdown, Uint8Array.of(1, 2, 3), versions),
    ...message,
  });
const offered = (messages: readonly number[]): Uint8Array =>
  ic.emitIcMessage(
    ic.icRequest(
      ic.IcMessageType.negotiate,
      ic.emitIcOffer({ frameworks: [v(1), v(3)], messages }),
      {
        framework: 0,
        message: 0,
      },
    ),
  );
const request = emitted({ transactionId: 5 });
const pending: IcRequest = {
  message: ic.parseIcMessage(request) as ic.IcMessage,
  idLow: 7,
  idHigh: 9,
};

const states: Readonly<Record<string, IcSessionState>> = {
  unnegotiated: icSessionStart,
  ready: { name: "ready", versions },
  busy: { name: "busy", versions, request: pending },
  closed: { name: "closed" },
};

function brief(effect: IcSessionEffect): string {
  switch (effect.kind) {
    case "send": {
      const message = ic.parseIcMessage(effect.payload) as ic.IcMessage;
      expect(message.flags).toBe(5);
      expect([effect.idLow, effect.idHigh]).toEqual([7, 9]);
      const choice = message.type === 0 ? ic.parseIcChoice(message.body) : undefined;
      const what = typeof choice === "object" ? "versions" : (choice ?? "answer");
      return `send ${what} ${message.status.toString(16)}`;
    }
    case "refused":
    case "dropped":
      return `${effect.kind} ${effect.why}`;
    default:
      return effect.kind;
  }
}

const FAIL = "send answer 80004005";
const REFUSED = ["refused unnegotiated", FAIL];

/** What each input makes in each state: unnegotiated, ready, busy; `closed` takes nothing. Then the new state. */
const table: readonly (readonly [
  name: string,
  input: IcSessionInput,
  ...outcomes: (readonly [effects: readonly string[], state: string])[],
])[] = [
  [
    "an offer with versions in common",
    packet(vector("V4")),
    [["agreed", "send versions 0"], "ready"],
    [["agreed", "send versions 0"], "ready"],
    [["cancelled", "agreed", "send versions 0"], "ready"],
  ],
  [
    "an offer with nothing in common",
    packet(offered([v(2), v(5)])),
    [["refused versions", "send none 0"], "unnegotiated"],
    [["refused versions", "send none 0"], "unnegotiated"],
    [["cancelled", "refused versions", "send none 0"], "unnegotiated"],
  ],
  [
    "an offer that is none",
    packet(emitted({ type: 0, body: Uint8Array.of(9, 9) })),
    [["refused offer", "send none 80004005"], "unnegotiated"],
    [["refused offer", "send none 80004005"], "unnegotiated"],
    [["cancelled", "refused offer", "send none 80004005"], "unnegotiated"],
  ],
  [
    "a request",
    packet(request),
    [REFUSED, "unnegotiated"],
    [["request"], "busy"],
    [["refused busy", FAIL], "busy"],
  ],
  [
    "a request without the flag of a transaction, which is answered all the same",
    packet(emitted({ flags: ic.IcFlag.request })),
    [REFUSED, "unnegotiated"],
    [["request"], "busy"],
    [["refused busy", FAIL], "busy"],
  ],
  [
    "a request for another component",
    packet(emitted({ type: ic.IcMessageType.kvp })),
    [REFUSED, "unnegotiated"],
    [["refused type", "send answer 80070032"], "ready"],
    [["refused type", "send answer 80070032"], "busy"],
  ],
  [
    "an answer from the host",
    packet(emitted({ flags: ic.IC_ANSWER_FLAGS })),
    [["dropped response"], "unnegotiated"],
    [["dropped response"], "ready"],
    [["dropped response"], "busy"],
  ],
  [
    "a packet that is no message",
    packet(request.subarray(0, 30)),
    [["dropped pipe-length"], "unnegotiated"],
    [["dropped pipe-length"], "ready"],
    [["dropped pipe-length"], "busy"],
  ],
  [
    "the component's answer",
    { kind: "answer", request: pending, status: 0, body: new Uint8Array() },
    [[], "unnegotiated"],
    [[], "ready"],
    [["send answer 0"], "ready"],
  ],
  [
    "the component's answer to a request of earlier",
    { kind: "answer", request: { ...pending }, status: 0, body: new Uint8Array() },
    [[], "unnegotiated"],
    [[], "ready"],
    [[], "busy"],
  ],
  [
    "the end of the channel",
    { kind: "closed" },
    [[], "closed"],
    [[], "closed"],
    [["cancelled"], "closed"],
  ],
];

describe("every state and every input", () => {
  for (const [name, input, ...outcomes] of table)
    for (const [index, [state, start]] of Object.entries(states).entries())
      test(`${state}: ${name}`, () => {
        const next = icSession(speech, start, input);
        const [effects, end] = outcomes[index] ?? [[], "closed"];
        expect(next.effects.map(brief)).toEqual(effects);
        expect(next.state.name).toBe(end);
      });
});

test("the answer has the request's versions and transaction ids, and exactly the body that was given", () => {
  const body = Uint8Array.of(4, 5, 6, 7);
  const input: IcSessionInput = { kind: "answer", request: pending, status: 0x8007_0057, body };
  const [effect] = icSession(speech, states["busy"]!, input).effects;
  if (effect?.kind !== "send") throw new Error("an answer expected");
  expect(ic.parseIcMessage(effect.payload)).toEqual({
    framework: v(3),
    type: 3,
    version: v(3, 2),
    status: 0x8007_0057,
    transactionId: 5,
    flags: 5,
    body,
  });
});

/** What a component with these versions says to an offer. */
function answerTo(offer: string, messages: readonly number[]): Uint8Array {
  const { effects } = icSession({ ...speech, messages }, icSessionStart, packet(vector(offer)));
  const sent = effects.find((effect) => effect.kind === "send");
  return sent!.payload;
}

test("answers to the offers of the reference are those of the reference, to the byte", () => {
  expect(answerTo("V1", [v(4), v(3), v(1)])).toEqual(vector("V3"));
  expect(answerTo("V4", ic.shutdownVersions)).toEqual(vector("V5"));
  expect(answerTo("V27", [v(5)])).toEqual(vector("V28"));
});

test("only equal versions match: one that is merely older than one's own is not taken", () => {
  const offer = packet(offered([v(2)]));
  expect(icSession(speech, icSessionStart, offer).state.name).toBe("unnegotiated");
});
