import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findNvspVersion, nvspVersions } from "@hyperv-is/hv-netvsc/protocol";
import {
  stepNegotiation,
  type Negotiation,
  type NegotiationInput,
  type NegotiationOutcome,
} from "@hyperv-is/hyperv-host";
import { isKnownMessage } from "../src/netvsp/negotiation.js";
import { ReceiveSlots } from "../src/netvsp/receive-slots.js";

const versions = nvspVersions.map(({ value }) => value);
const v5 = findNvspVersion(0x0005_0000)!;
const v1 = findNvspVersion(0x2)!;
const config = { mtu: 9014, capabilities: 8 };
const ndisVersion = { major: 6, minor: 30 };

const states: Readonly<Record<string, Negotiation>> = {
  init: { name: "init" },
  version: { name: "configuring", version: v5 },
  config: { name: "configuring", version: v5, ...config },
  "receive buffer": { name: "configuring", version: v5, ...config, receiveBuffer: true },
  "all but send buffer": {
    name: "configuring",
    version: v5,
    ...config,
    ndisVersion,
    receiveBuffer: true,
  },
  "version 1": { name: "configuring", version: v1 },
  "version 1, all but send buffer": {
    name: "configuring",
    version: v1,
    ndisVersion: { major: 6, minor: 1 },
    receiveBuffer: true,
  },
  ready: {
    name: "ready",
    version: v5,
    ...config,
    ndisVersion,
    receiveBuffer: true,
    sendBuffer: true,
  },
};

const inputs: Readonly<Record<string, NegotiationInput>> = {
  init: { kind: "init", version: 0x0006_0000 },
  "init of none": { kind: "init", version: 3 },
  config: { kind: "ndis-config", ...config },
  "ndis version": { kind: "ndis-version", ...ndisVersion },
  "receive buffer": { kind: "receive-buffer" },
  "send buffer": { kind: "send-buffer" },
  rndis: { kind: "rndis" },
  operation: { kind: "operation" },
};

const yes = "accepted";
const no = "unexpected";
/** For each state, what becomes of each input, and the name of the state that follows if it is another. */
const table: Readonly<
  Record<string, readonly (NegotiationOutcome | [NegotiationOutcome, string])[]>
> = {
  init: [[yes, "configuring"], "refused", no, no, no, no, no, no],
  version: [no, no, yes, yes, no, yes, no, no],
  config: [no, no, no, yes, yes, yes, no, no],
  "receive buffer": [no, no, no, yes, no, yes, no, no],
  "all but send buffer": [no, no, no, no, no, [yes, "ready"], [yes, "ready"], no],
  "version 1": [no, no, yes, yes, yes, yes, no, no],
  "version 1, all but send buffer": [no, no, yes, no, no, [yes, "ready"], [yes, "ready"], no],
  ready: [no, no, no, no, no, no, yes, yes],
};

describe("the negotiation of NVSP", () => {
  for (const [name, state] of Object.entries(states))
    test.each(Object.entries(inputs).map((entry, index) => [...entry, index] as const))(
      `${name}: %s`,
      (_input, input, index) => {
        const expected = table[name]![index]!;
        const [outcome, next] = typeof expected === "string" ? [expected, state.name] : expected;
        const step = stepNegotiation(state, input, versions);
        expect([step.outcome, step.state.name]).toEqual([outcome, next]);
        if (outcome !== yes) expect(step.state).toBe(state);
      },
    );

  test("takes an MTU that cannot be for the usual one", () => {
    const mtuFor = (mtu: number): unknown => {
      const { state } = stepNegotiation(
        states["version"]!,
        { kind: "ndis-config", mtu, capabilities: 0 },
        versions,
      );
      return "mtu" in state && state.mtu;
    };
    expect([1513, 1514, 9216, 9217].map(mtuFor)).toEqual([1514, 1514, 9216, 1514]);
  });

  test("accepts the versions that it is told, and no other", () => {
    for (const { value } of nvspVersions) {
      const step = stepNegotiation({ name: "init" }, { kind: "init", version: value }, [0x2]);
      expect(step.outcome).toBe(value === 2 ? "accepted" : "refused");
    }
  });

  test("messages are known from the version on that brought them", () => {
    const known = (type: number): string[] =>
      nvspVersions.filter((version) => isKnownMessage(type, version)).map(({ name }) => name);
    const every = ["6.1", "6", "5", "4", "2", "1"];
    expect(
      Object.fromEntries(
        [1, 100, 101, 103, 104, 106, 107, 125, 129, 131, 133, 135, 108].map((type) => [
          type,
          known(type),
        ]),
      ),
    ).toEqual({
      1: every,
      100: every,
      101: every,
      103: every,
      104: every,
      106: every,
      107: every,
      125: every.slice(0, 5),
      129: every.slice(0, 4),
      131: every.slice(0, 3),
      133: every.slice(0, 3),
      135: [],
      108: [],
    });
    expect([isKnownMessage(1, undefined), isKnownMessage(100, undefined)]).toEqual([true, false]);
  });
});

describe("receive slots", () => {
  test("are lent and come back as a model says; none is ever lost, or with two", () => {
    const act = fc.oneof(
      fc.record({
        kind: fc.constant("frames" as const),
        count: fc.integer({ min: 1, max: 9 }),
        channel: fc.nat(2),
        drop: fc.boolean(),
      }),
      fc.record({ kind: fc.constant("control" as const) }),
      fc.record({ kind: fc.constant("back" as const), which: fc.nat(40), channel: fc.nat(2) }),
      fc.record({ kind: fc.constant("close" as const), channel: fc.nat(2) }),
    );
    fc.assert(
      fc.property(fc.array(act, { maxLength: 80, size: "max" }), (acts) => {
        const slots = new ReceiveSlots(1806 * 40 + 1805, 1514);
        expect([slots.count, slots.frameSlots, slots.slotBytes]).toEqual([40, 24, 1806]);
        const lent = new Map<number, { channel: number; all: number[] }>();
        const used = (): Set<number> => new Set([...lent.values()].flatMap(({ all }) => all));
        for (const step of acts) {
          if (step.kind === "frames") {
            const all: number[] = [];
            for (let number = 0; number < step.count; number++) {
              const slot = slots.takeFrame();
              if (slot < 0) break;
              expect(slot).toBeGreaterThanOrEqual(16);
              expect(used().has(slot) || all.includes(slot)).toBe(false);
              if (all.length > 0) slots.chain(all.at(-1)!, slot);
              all.push(slot);
            }
            const [first] = all;
            if (first === undefined) expect(used().size).toBeGreaterThanOrEqual(24);
            else if (step.drop) slots.drop(first);
            else {
              slots.lend(first, step.channel);
              lent.set(first, { channel: step.channel, all });
            }
          } else if (step.kind === "control") {
            const slot = slots.takeControl();
            if (slot < 0) continue;
            expect(slot).toBeLessThan(16);
            slots.lend(slot, 0);
            lent.set(slot, { channel: 0, all: [slot] });
          } else if (step.kind === "back") {
            const known = lent.get(step.which);
            const isRight = known?.channel === step.channel;
            expect(slots.giveBack(step.which, step.channel)).toBe(isRight);
            if (isRight) lent.delete(step.which);
          } else {
            slots.takeBack(step.channel);
            for (const [first, { channel }] of lent)
              if (channel === step.channel) lent.delete(first);
          }
          expect(slots.busy).toBe(used().size);
          expect(slots.freeFrames).toBe(24 - [...used()].filter((slot) => slot >= 16).length);
        }
      }),
      { numRuns: 200 },
    );
  });

  test("of a buffer that is too small are none", () => {
    expect(new ReceiveSlots(1806 * 16, 1514).frameSlots).toBe(0);
    expect(new ReceiveSlots(0, 1514).giveBack(0, 0)).toBe(false);
    expect(new ReceiveSlots(1806 * 17, 1514).giveBack(-1, -1)).toBe(false);
  });
});
