import { describe, expect, test } from "vitest";
import * as ic from "@hyperv-is/hv-utils/protocol";
import {
  stepComponent,
  type ComponentEffect,
  type ComponentInput,
  type ComponentSpeech,
  type ComponentState,
} from "../src/integration/component-session.js";
import {
  heartbeatAbsent,
  heartbeatStatus,
  stepHeartbeatMonitor,
  type HeartbeatState,
} from "../src/integration/heartbeat-monitor.js";
import { stepTimeSource, type TimeSourceState } from "../src/integration/time-source.js";

const v = ic.icVersion;
const NOW = 1000;
const speech: ComponentSpeech = {
  type: ic.IcMessageType.kvp,
  frameworks: [v(1), v(3)],
  messages: [v(3), v(4), v(5)],
};
const versions = { framework: v(3), message: v(4) };
const nothing = { framework: 0, message: 0 };
const answer = (type: number, body: Uint8Array, changed: Partial<ic.IcMessage> = {}): Uint8Array =>
  ic.emitIcMessage({
    ...ic.icAnswer(ic.icRequest(type, new Uint8Array(), versions), 0, body),
    ...changed,
  });
const packet = (payload: Uint8Array): ComponentInput => ({ kind: "packet", payload });
const body = Uint8Array.of(1, 2, 3, 4);

const states: Readonly<Record<string, ComponentState>> = {
  closed: { name: "closed" },
  negotiating: { name: "negotiating" },
  refused: { name: "refused" },
  ready: { name: "ready", versions },
  asked: { name: "asked", versions, deadline: NOW + 10 },
  overdue: { name: "overdue", versions },
  broken: { name: "broken" },
};

function brief(effect: ComponentEffect): string {
  switch (effect.kind) {
    case "send": {
      const message = ic.parseIcMessage(effect.payload) as ic.IcMessage;
      expect([message.flags, message.status, message.transactionId]).toEqual([3, 0, 0]);
      return `send ${message.type}`;
    }
    case "failed":
      return effect.why;
    case "violation":
      return effect.rule;
    case "answered":
    case "late":
      return `${effect.kind} ${effect.status.toString(16)}`;
    default:
      return effect.kind;
  }
}

/** Effects, and the new state if it is another. */
type Outcome = readonly [effects: string, state?: string];
const same: Outcome = [""];
/** A rule that the guest breaks in each state in which it is heard. */
const breaks = (rule: string): readonly Outcome[] => [
  [rule, "broken"],
  [rule, "broken"],
  [rule, "broken"],
  [`lost ${rule}`, "broken"],
  [`gone lost ${rule}`, "broken"],
  [`lost ${rule}`, "broken"],
  same,
];
const unsolicited = breaks("ic-unsolicited");

/** What each input makes of: closed, negotiating, refused, ready, asked, overdue, broken. */
const table: readonly (readonly [
  name: string,
  input: ComponentInput | { kind: "tick" },
  readonly Outcome[],
])[] = [
  ["the guest opens", { kind: "opened" }, Array<Outcome>(7).fill(["send 0", "negotiating"])],
  [
    "a choice of what was offered",
    packet(answer(0, ic.emitIcChoice(versions))),
    [
      unsolicited[0]!,
      ["agreed", "ready"],
      unsolicited[2]!,
      unsolicited[3]!,
      ["gone lost ic-answer-type", "broken"],
      ["lost ic-answer-type", "broken"],
      same,
    ],
  ],
  [
    "an answer",
    packet(answer(speech.type, body, { status: 0x8000_4005 })),
    [
      unsolicited[0]!,
      same,
      unsolicited[2]!,
      unsolicited[3]!,
      ["answered 80004005", "ready"],
      ["late 80004005", "ready"],
      same,
    ],
  ],
  ["a packet that is no message", packet(Uint8Array.of(1)), breaks("ic-message-short")],
  ["a request", packet(answer(speech.type, body, { flags: 3 })), breaks("ic-answer-flags")],
  [
    "an answer that is a request too",
    packet(answer(speech.type, body, { flags: 7 })),
    breaks("ic-answer-flags"),
  ],
  [
    "an answer to transaction 5",
    packet(answer(speech.type, body, { transactionId: 5 })),
    breaks("ic-transaction-id"),
  ],
  [
    "somebody asks",
    { kind: "ask", body, timeoutMs: 5 },
    [
      ["not-ready"],
      ["not-ready"],
      ["not-ready"],
      ["send 2", "asked"],
      ["busy"],
      ["busy"],
      ["not-ready"],
    ],
  ],
  [
    "the conversation begins anew",
    { kind: "renegotiate" },
    [
      same,
      same,
      ["send 0", "negotiating"],
      ["lost send 0", "negotiating"],
      ["gone lost send 0", "negotiating"],
      ["lost send 0", "negotiating"],
      same,
    ],
  ],
  [
    "the channel closes",
    { kind: "closed" },
    [
      same,
      ["", "closed"],
      ["", "closed"],
      ["lost", "closed"],
      ["gone lost", "closed"],
      ["lost", "closed"],
      same,
    ],
  ],
  ["time, but not enough", { kind: "tick" }, Array<Outcome>(7).fill(same)],
];

describe("the conversation with a component: every state and every input", () => {
  for (const [name, input, outcomes] of table)
    for (const [index, [state, start]] of Object.entries(states).entries())
      test(`${state}: ${name}`, () => {
        const [effects, end = state] = outcomes[index]!;
        const next = stepComponent(speech, start, input, NOW);
        expect(next.effects.map(brief).join(" ")).toBe(effects);
        expect(next.state.name).toBe(end);
      });

  test("the time of a request is up, and it stays outstanding", () => {
    const next = stepComponent(speech, states["asked"]!, { kind: "tick" }, NOW + 10);
    expect(next.effects.map(brief)).toEqual(["silent"]);
    expect(next.state.name).toBe("overdue");
  });

  test.each([
    ["Linux finds nothing: counts of 0", answer(0, ic.emitIcChoice(undefined))],
    ["FreeBSD finds nothing: a status", answer(0, ic.emitIcOffer(speech), { status: 0x8000_4005 })],
  ])("%s", (_, payload) => {
    const next = stepComponent(speech, states["negotiating"]!, packet(payload), NOW);
    expect([next.effects, next.state.name]).toEqual([[], "refused"]);
  });

  test.each([
    [
      "a framework version that was not offered",
      ic.emitIcChoice({ framework: v(2), message: v(4) }),
      "ic-version-not-offered",
    ],
    [
      "a message version that was not offered",
      ic.emitIcChoice({ framework: v(3), message: v(1) }),
      "ic-version-not-offered",
    ],
    ["counts without versions", ic.emitIcChoice(versions).subarray(0, 12), "ic-version-short"],
  ])("%s", (_, choice, rule) => {
    const next = stepComponent(speech, states["negotiating"]!, packet(answer(0, choice)), NOW);
    expect(next.effects.map(brief)).toEqual([rule]);
  });

  test("requests have the agreed versions", () => {
    const [effect] = stepComponent(speech, states["ready"]!, { kind: "ask", body }, NOW).effects;
    const message = effect?.kind === "send" && ic.parseIcMessage(effect.payload);
    expect(message).toEqual(ic.icRequest(speech.type, body, versions));
    const [first] = stepComponent(speech, states["closed"]!, { kind: "opened" }, NOW).effects;
    const offer = first?.kind === "send" && ic.parseIcMessage(first.payload);
    expect(offer).toEqual(ic.icRequest(0, ic.emitIcOffer(speech), nothing));
  });
});

describe("heartbeats", () => {
  const beatAnswer = (
    sequence: bigint,
    applicationState = 0,
  ): { kind: "result"; result: { kind: "answered"; status: number; body: Uint8Array } } => ({
    kind: "result",
    result: {
      kind: "answered",
      status: 0,
      body: ic.Heartbeat.emit({ sequence, applicationState }),
    },
  });
  const agreed = (): HeartbeatState =>
    stepHeartbeatMonitor(heartbeatAbsent, { kind: "agreed" }, 0).state;
  const tick = (state: HeartbeatState, now: number): ReturnType<typeof stepHeartbeatMonitor> =>
    stepHeartbeatMonitor(state, { kind: "tick" }, now);

  test("one after the other, two seconds apart, each with the next number", () => {
    let { state } = stepHeartbeatMonitor(agreed(), beatAnswer(1n, 1), 30);
    expect(state).toMatchObject({ name: "resting", deadline: 2000, answered: 1, latencyMs: 30 });
    expect(heartbeatStatus(state)).toBe("OkApplicationsHealthy");
    expect(tick(state, 1999).effects).toEqual([]);
    const next = tick(state, 2000);
    expect(next.effects).toEqual([
      { kind: "ask", body: ic.Heartbeat.emit({ sequence: 1n, applicationState: 0 }) },
    ]);
    ({ state } = stepHeartbeatMonitor(next.state, beatAnswer(2n, 2), 2001));
    expect(heartbeatStatus(state)).toBe("OkApplicationsCritical");
  });

  test("a guest that does not answer is lost after two beats, and found again by its answer", () => {
    let { state } = stepHeartbeatMonitor(agreed(), beatAnswer(1n), 1);
    ({ state } = tick(state, 2000));
    expect(heartbeatStatus(state)).toBe("OkApplicationsUnknown");
    for (const [now, missed, status] of [
      [4000, 1, "OkApplicationsUnknown"],
      [6000, 2, "LostCommunication"],
      [8000, 3, "LostCommunication"],
    ] as const) {
      const next = tick(state, now);
      expect(next.effects).toEqual([]);
      ({ state } = next);
      expect([state.missed, heartbeatStatus(state)]).toEqual([missed, status]);
    }
    ({ state } = stepHeartbeatMonitor(state, beatAnswer(2n), 8500));
    expect(state).toMatchObject({ name: "resting", lost: 3, missed: 0, answered: 2 });
    expect(heartbeatStatus(state)).toBe("OkApplicationsUnknown");
  });

  test("one that never answered, or is gone, has no contact", () => {
    expect(heartbeatStatus(tick(tick(agreed(), 2000).state, 4000).state)).toBe("NoContact");
    const { state } = stepHeartbeatMonitor(agreed(), beatAnswer(1n), 1);
    expect(heartbeatStatus(stepHeartbeatMonitor(state, { kind: "lost" }, 2).state)).toBe(
      "NoContact",
    );
  });

  test.each([
    ["the same number", beatAnswer(0n), "heartbeat-sequence"],
    ["a number too high", beatAnswer(2n), "heartbeat-sequence"],
    [
      "no number",
      { kind: "result", result: { kind: "answered", status: 0, body: new Uint8Array(7) } },
      "heartbeat-short",
    ],
  ] as const)("%s is against the rules", (_, input, rule) => {
    const { state, effects } = stepHeartbeatMonitor(agreed(), input, 1);
    expect(effects).toMatchObject([{ kind: "violation", rule }]);
    expect(state.name).toBe("absent");
  });

  test("a refused heartbeat counts as lost", () => {
    const refused = { kind: "answered", status: 1, body: new Uint8Array() } as const;
    const { state } = stepHeartbeatMonitor(agreed(), { kind: "result", result: refused }, 1);
    expect(state).toMatchObject({ name: "resting", lost: 1, missed: 1 });
  });
});

describe("telling the time", () => {
  const start: Readonly<Record<string, TimeSourceState>> = {
    absent: { name: "absent" },
    waiting: { name: "waiting", syncNext: false },
    "waiting to sync": { name: "waiting", syncNext: true },
    resting: { name: "resting", deadline: NOW },
  };
  const { sync, sample } = ic.TimeSyncFlag;
  test.each([
    ["absent", "agreed", [sync], "waiting"],
    ["resting", "agreed", [sync], "waiting"],
    ["absent", "sync", [], "absent"],
    ["waiting", "sync", [], "waiting"],
    ["resting", "sync", [sync], "waiting"],
    ["absent", "answered", [], "absent"],
    ["waiting", "answered", [], "resting"],
    ["waiting to sync", "answered", [sync], "waiting"],
    ["resting", "answered", [], "resting"],
    ["absent", "tick", [], "absent"],
    ["waiting", "tick", [], "waiting"],
    ["resting", "tick", [sample], "waiting"],
    ["absent", "lost", [], "absent"],
    ["waiting to sync", "lost", [], "absent"],
    ["resting", "lost", [], "absent"],
  ] as const)("%s: %s", (name, kind, told, end) => {
    const { state, effects } = stepTimeSource(start[name]!, { kind }, NOW);
    expect(effects.map(({ flags }) => flags)).toEqual(told);
    expect(state.name).toBe(end);
  });

  test("a sample is told five seconds after the last answer", () => {
    const { state } = stepTimeSource(start["waiting"]!, { kind: "answered" }, NOW);
    expect(state).toEqual({ name: "resting", deadline: NOW + 5000 });
    expect(stepTimeSource(state, { kind: "tick" }, NOW + 4999).effects).toEqual([]);
  });
});
