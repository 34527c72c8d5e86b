import { describe, expect, test } from "vitest";
import {
  Negotiation,
  type NegotiationEffect,
  type NegotiationInput,
  type NegotiationOptions,
  type NegotiationState,
} from "../src/index.js";
import {
  emitChannelProperties,
  emitProtocolVersion,
  emitVstorHeader,
  parseProtocolVersion,
  parseVstorHeader,
  vstorVersions,
  VstorOperation,
} from "../src/protocol/index.js";
import { reply } from "./scripted-host.js";

const STEP_MS = 60_000;
const CLOCK = 1000;

type Properties = Parameters<typeof emitChannelProperties>[1];
const plainProperties: Properties = { subChannelCountMax: 0, flags: 0, maxTransferBytes: 0x40000 };

/** The answer of a host that accepts everything from 6.0 down. */
function goodReply(sent: Uint8Array, properties = plainProperties): Uint8Array {
  const packet = reply(sent.byteLength);
  const { operation } = parseVstorHeader(sent)!;
  if (operation === VstorOperation.queryProtocolVersion)
    emitProtocolVersion(packet, parseProtocolVersion(sent)!);
  if (operation === VstorOperation.queryProperties) emitChannelProperties(packet, properties);
  return packet;
}

/** A machine in a state, with the packet that it waits to see answered. */
function machineIn(
  state: NegotiationState,
  options: NegotiationOptions = {},
): { machine: Negotiation; sent: Uint8Array } {
  const machine = new Negotiation(options);
  let sent: Uint8Array = new Uint8Array(64);
  const feed = (input: NegotiationInput): void => {
    const effect = machine.step(input, CLOCK);
    if (effect?.kind === "send") sent = effect.packet;
  };
  if (state === "failed") machine.step({ kind: "closed" }, CLOCK);
  else if (state !== "idle") {
    feed({ kind: "opened" });
    while (machine.state !== state) feed({ kind: "reply", packet: goodReply(sent) });
  }
  return { machine, sent };
}

function brief(effect: NegotiationEffect | undefined): string {
  switch (effect?.kind) {
    case undefined:
      return "-";
    case "send":
      return `send ${parseVstorHeader(effect.packet)!.operation}`;
    case "failed":
      return effect.error.code;
    case "ready":
      return "ready";
  }
}

const states = ["idle", "begin", "version", "properties", "end", "ready", "failed"] as const;

/** What each input makes of a machine in each state. The operations are 7, 9, 10 and 8, in that order. */
const table: readonly (readonly [
  input: string,
  make: (sent: Uint8Array) => NegotiationInput,
  effects: readonly [string, string, string, string, string, string, string],
])[] = [
  [
    "a good answer",
    (sent) => ({ kind: "reply", packet: goodReply(sent) }),
    ["-", "send 9", "send 10", "send 8", "ready", "-", "-"],
  ],
  [
    "an answer with a bad status",
    (sent) => ({ kind: "reply", packet: reply(sent.byteLength, 0xc000_0184) }),
    // A refused version means the next one.
    ["-", ...refusals("ERR_STORVSC_REFUSED"), "-", "-"],
  ],
  [
    "an answer with another operation",
    (sent) => {
      const packet = goodReply(sent);
      packet[0] = VstorOperation.enumerateBus;
      return { kind: "reply", packet };
    },
    ["-", ...all("ERR_STORVSC_REPLY"), "-", "-"],
  ],
  [
    "an answer without a header",
    () => ({ kind: "reply", packet: new Uint8Array(8) }),
    ["-", ...all("ERR_STORVSC_REPLY"), "-", "-"],
  ],
  [
    "an answer shorter than the request",
    (sent) => ({ kind: "reply", packet: goodReply(sent).subarray(0, sent.byteLength - 8) }),
    ["-", ...all("ERR_STORVSC_REPLY"), "-", "-"],
  ],
  ["time, but not enough", () => ({ kind: "tick" }), ["-", "-", "-", "-", "-", "-", "-"]],
  [
    "a rescind",
    () => ({ kind: "rescinded" }),
    ["ERR_RESCINDED", ...all("ERR_RESCINDED"), "-", "-"],
  ],
  [
    "the end of the channel",
    () => ({ kind: "closed" }),
    ["ERR_CLOSED", ...all("ERR_CLOSED"), "-", "-"],
  ],
];

function all(code: string): [string, string, string, string] {
  return [code, code, code, code];
}

function refusals(code: string): [string, string, string, string] {
  return [code, "send 9", code, code];
}

describe("every state and every input", () => {
  for (const [input, make, effects] of table)
    for (const [index, state] of states.entries())
      test(`${state}: ${input}`, () => {
        const { machine, sent } = machineIn(state);
        const effect = machine.step(make(sent), CLOCK + STEP_MS - 1);
        expect(brief(effect)).toBe(effects[index]);
        if (effect?.kind === "failed") expect(machine.state).toBe("failed");
        if (effect === undefined) expect(machine.state).toBe(state);
        // A machine that has ended takes nothing more, and wants no call.
        if (machine.state === "failed" || machine.state === "ready") {
          expect(machine.deadline).toBe(Infinity);
          expect(machine.step({ kind: "reply", packet: goodReply(sent) }, CLOCK)).toBeUndefined();
        }
      });

  test.each(["begin", "version", "properties", "end"] as const)("%s: too much time", (state) => {
    const { machine } = machineIn(state);
    expect(machine.deadline).toBe(CLOCK + STEP_MS);
    expect(brief(machine.step({ kind: "tick" }, CLOCK + STEP_MS))).toBe("ERR_STORVSC_TIMEOUT");
  });

  test("each step gets the whole time, which can be chosen", () => {
    const { machine, sent } = machineIn("begin", { stepTimeoutMs: 5000 });
    machine.step({ kind: "reply", packet: goodReply(sent) }, CLOCK + 4999);
    expect(machine.deadline).toBe(CLOCK + 4999 + 5000);
  });

  test("opening twice is a mistake of ours", () => {
    const { machine } = machineIn("begin");
    expect(() => machine.step({ kind: "opened" }, CLOCK)).toThrow("open already");
  });
});

/** Proposals until one of `accepted` comes; what was proposed, and how it ended. */
function propose(
  accepted: readonly number[],
  options?: NegotiationOptions,
): { proposed: number[]; end: NegotiationEffect | undefined; sizes: number[] } {
  const machine = new Negotiation(options);
  const proposed: number[] = [];
  const sizes: number[] = [];
  let effect = machine.step({ kind: "opened" }, 0);
  while (effect?.kind === "send") {
    const sent = effect.packet;
    sizes.push(sent.byteLength);
    const { operation, flags, status } = parseVstorHeader(sent)!;
    expect([flags, status]).toEqual([1, 0]);
    let packet = goodReply(sent);
    if (operation === VstorOperation.queryProtocolVersion) {
      const { majorMinor, revision } = parseProtocolVersion(sent)!;
      expect(revision).toBe(0);
      proposed.push(majorMinor);
      if (!accepted.includes(majorMinor)) {
        packet = reply(sent.byteLength, 0xc000_0059);
        emitProtocolVersion(packet, { majorMinor, revision });
      }
    }
    effect = machine.step({ kind: "reply", packet }, 0);
  }
  return { proposed, end: effect, sizes };
}

describe("versions", () => {
  const everyVersion = vstorVersions.map((version) => version.value);

  test.each(vstorVersions)("a host with $name alone gets it, in packets of its size", (version) => {
    const { proposed, end, sizes } = propose([version.value]);
    expect(proposed).toEqual(everyVersion.slice(0, everyVersion.indexOf(version.value) + 1));
    expect(end).toMatchObject({
      kind: "ready",
      parameters: {
        version: version.value,
        packetBytes: version.packetBytes,
        requestBytes: version.requestBytes,
        senseBytes: version.senseBytes,
      },
    });
    // BEGIN and every proposal in the start dialect; properties and END in that of the version.
    expect(sizes.slice(0, -2)).toEqual(Array<number>(1 + proposed.length).fill(48));
    expect(sizes.slice(-2)).toEqual([version.packetBytes, version.packetBytes]);
  });

  test("a host that refuses everything ends it", () => {
    const { proposed, end } = propose([]);
    expect(proposed).toEqual([0x0602, 0x0600, 0x0501, 0x0402, 0x0200]);
    expect(brief(end)).toBe("ERR_STORVSC_VERSION");
  });

  test("the list can be chosen, the start dialect too", () => {
    const { proposed, sizes, end } = propose([0x0402], {
      versions: [0x0600, 0x0402],
      startPacketBytes: 64,
    });
    expect(proposed).toEqual([0x0600, 0x0402]);
    expect(sizes).toEqual([64, 64, 64, 48, 48]);
    expect(end?.kind).toBe("ready");
  });

  test("an answer that echoes another version is none", () => {
    const { machine, sent } = machineIn("version");
    const packet = goodReply(sent);
    emitProtocolVersion(packet, { majorMinor: 0x0501, revision: 0 });
    expect(brief(machine.step({ kind: "reply", packet }, CLOCK))).toBe("ERR_STORVSC_REPLY");
  });

  test("versions that nobody knows and empty lists are refused at once", () => {
    expect(() => new Negotiation({ versions: [0x0700] })).toThrow("0x700");
    expect(() => new Negotiation({ versions: [] })).toThrow(RangeError);
    expect(() => new Negotiation({ maxTransferBytes: 5000 })).toThrow(RangeError);
  });
});

describe("properties", () => {
  function agreed(
    properties: Partial<Properties>,
    options?: NegotiationOptions,
  ): Extract<NegotiationEffect, { kind: "ready" }>["parameters"] {
    const { machine, sent } = machineIn("properties", options);
    const packet = goodReply(sent, { ...plainProperties, ...properties });
    const end = machine.step({ kind: "reply", packet }, CLOCK);
    if (end?.kind !== "send") throw new Error("END expected");
    const ready = machine.step({ kind: "reply", packet: goodReply(end.packet) }, CLOCK);
    if (ready?.kind !== "ready") throw new Error("ready expected");
    return ready.parameters;
  }

  test.each([
    [0x40000, 0x40000],
    [0x40fff, 0x40000],
    [1 << 30, 1 << 20],
    // A host that leaves the field alone: FreeBSD's 128 KiB.
    [0, 128 * 1024],
    [4095, 128 * 1024],
    [4096, 4096],
    [0xffff_ffff, 1 << 20],
  ])("a host that allows %i bytes gets transfers of %i", (allowed, used) => {
    expect(agreed({ maxTransferBytes: allowed }).maxTransferBytes).toBe(used);
  });

  test("the upper bound can be chosen", () => {
    expect(agreed({}, { maxTransferBytes: 8192 }).maxTransferBytes).toBe(8192);
  });

  test.each([
    ["6.0 with the flag", 0x0600, 1, 5],
    ["6.0 without the flag", 0x0600, 0, 0],
    ["4.2 cannot have any", 0x0402, 1, 0],
  ])("sub-channels: %s", (_, version, flags, count) => {
    const options = { versions: [version] };
    expect(agreed({ flags, subChannelCountMax: 5 }, options).subChannelCountMax).toBe(count);
  });
});

test("a reply may be padded to a multiple of 8 and carry more than was asked", () => {
  const { machine, sent } = machineIn("end");
  const packet = new Uint8Array(sent.byteLength + 8);
  emitVstorHeader(packet, { operation: VstorOperation.completeIo, flags: 0, status: 0 });
  expect(brief(machine.step({ kind: "reply", packet }, CLOCK))).toBe("ready");
});
