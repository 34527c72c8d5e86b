import { describe, expect, test } from "vitest";
import {
  Attachment,
  type AttachmentEffect,
  type AttachmentInput,
  type AttachmentOptions,
  type AttachmentState,
} from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import { fullOffload } from "./scripted-host.js";

const STEP_MS = 60_000;
const CLOCK = 1_000;
const OPTIONS: AttachmentOptions = { channels: 4, receiveBufferBytes: 0x10_0000 };
const { NvspStatus, NvspType, Oid, RndisStatus } = protocol;

const buffer = { gpadlId: 0xe1e10, address: 0x10_0000, pageCount: 256, lengthBytes: 0x10_0000 };
const none = new Uint8Array(0);
const u32 = (value: number) => Uint8Array.from([value, value >>> 8, value >>> 16, value >>> 24]);

function answer(
  information: Uint8Array = none,
  status = 0,
  message: Uint8Array = none,
): AttachmentInput {
  return { kind: "answer", answer: { status, information, message } };
}

function section(
  changed: Partial<protocol.NvspReceiveBufferSection> = {},
  sectionCount = 1,
): Uint8Array {
  const bytes = new Uint8Array(32);
  protocol.NvspSendReceiveBufferComplete.write(bytes, { status: 1, sectionCount });
  protocol.NvspReceiveBufferSection.write(bytes.subarray(12), {
    offset: 0,
    subAllocationSize: 1806,
    subAllocationCount: 580,
    endOffset: 1_047_480,
    ...changed,
  });
  return bytes;
}

const initialized = new Uint8Array(52);
protocol.RndisInitializeComplete.write(initialized, {
  requestId: 0x10000,
  status: 0,
  major: 1,
  minor: 0,
  deviceFlags: 1,
  medium: 0,
  ...protocol.RndisInitializeLimits,
  afListOffset: 0,
});

const completed = (packet: Uint8Array): AttachmentInput => ({ kind: "completion", packet });
const initComplete = (status: number): AttachmentInput =>
  completed(
    protocol.NvspInitComplete.packet(
      { deprecatedVersion: 0xffff_ffff, maxMdlChainLength: 34, status },
      32,
    ),
  );
const scaling = (receiveQueues: number, flags = 0x301): Uint8Array =>
  protocol.NdisRssCapabilities.emit({
    revision: 2,
    flags,
    interruptMessages: 1,
    receiveQueues,
    indirectionEntries: 128,
  });
const subChannels = (status: number, count: number): AttachmentInput =>
  completed(protocol.NvspSubChannelComplete.packet({ status, subChannels: count }, 32));

/** What takes each state on, to the next. */
const good: Readonly<Record<Exclude<AttachmentState, "ready" | "failed">, AttachmentInput>> = {
  idle: { kind: "opened" },
  init: initComplete(NvspStatus.success),
  "receive-memory": { kind: "shared", buffer },
  "receive-buffer": completed(section()),
  "send-memory": { kind: "shared", buffer: { ...buffer, gpadlId: 0xe1e11 } },
  "send-buffer": completed(
    protocol.NvspSendSendBufferComplete.packet({ status: 1, sectionSize: 6144 }, 32),
  ),
  initialize: answer(none, 0, initialized),
  "offload-capabilities": answer(protocol.NdisOffload.emit(fullOffload)),
  "offload-parameters": answer(),
  "scaling-capabilities": answer(scaling(8)),
  "sub-channels": subChannels(1, 3),
  opening: { kind: "channels", indices: [1, 2, 3] },
  "scaling-parameters": answer(),
  filter: answer(),
  settle: { kind: "tick" },
  address: answer(Uint8Array.of(0, 0x15, 0x5d, 1, 2, 3)),
  "frame-size": answer(u32(1500)),
  "link-speed": answer(u32(100_000_000)),
  "link-status": answer(u32(0)),
};
const order = Object.keys(good) as (keyof typeof good)[];
const states: readonly AttachmentState[] = [...order, "ready", "failed"];
/** States in which the host's NVSP completion is awaited, or an answer over RNDIS. */
const nvsp = new Set<AttachmentState>(["init", "receive-buffer", "send-buffer", "sub-channels"]);
const asked = new Set<AttachmentState>([
  ...([
    "initialize",
    "offload-capabilities",
    "offload-parameters",
    "scaling-capabilities",
  ] as const),
  ...([
    "scaling-parameters",
    "filter",
    "address",
    "frame-size",
    "link-speed",
    "link-status",
  ] as const),
]);

function machineIn(state: AttachmentState, options = OPTIONS): Attachment {
  const machine = new Attachment(options);
  if (state === "failed") machine.step({ kind: "closed" }, CLOCK);
  else
    for (const name of order) {
      if (machine.state === state) break;
      expect(machine.state).toBe(name);
      machine.step(good[name], name === "settle" ? CLOCK + 200 : CLOCK);
    }
  expect(machine.state).toBe(state);
  return machine;
}

function brief(effects: readonly AttachmentEffect[]): string {
  return effects
    .map((effect) => {
      switch (effect.kind) {
        case "send":
          return `${effect.awaited ? "request" : "notice"} ${protocol.get32(effect.packet, 0)}`;
        case "share":
          return `share ${effect.lengthBytes}`;
        case "ask":
          return "oid" in effect.question
            ? `${effect.question.kind} ${effect.question.oid.toString(16)}`
            : effect.question.kind;
        case "open-channels":
          return `open ${effect.count}`;
        case "failed":
          return (effect.error as { code?: string }).code ?? effect.error.message;
        default:
          return effect.kind;
      }
    })
    .join(", ");
}

test("each state takes its answer on to the next", () => {
  const machine = new Attachment(OPTIONS);
  const taken = order.map((state) => {
    expect(machine.state).toBe(state);
    return brief(machine.step(good[state], state === "settle" ? CLOCK + 200 : CLOCK));
  });
  expect(taken).toEqual([
    "request 1",
    "notice 125, notice 100, share 1048576",
    "request 101",
    "receive, share 15728640",
    "request 104",
    "initialize",
    "query fc01020d",
    "set fc01020c",
    "query 10203",
    "request 133",
    "open 3",
    "set 10204",
    "set 1010e",
    "",
    "query 1010101",
    "query 10106",
    "query 10107",
    "query 10114",
    "ready",
  ]);
  expect(machine.state).toBe("ready");
  expect(machine.deadline).toBe(Infinity);
});

describe("in each state", () => {
  const ended = (state: AttachmentState): boolean => state === "ready" || state === "failed";
  test.each(states)("%s, a rescind and the end of the channel end it", (state) => {
    const outcome = (code: string): string => (ended(state) ? "" : code);
    expect(brief(machineIn(state).step({ kind: "rescinded" }, CLOCK))).toBe(
      outcome("ERR_RESCINDED"),
    );
    expect(brief(machineIn(state).step({ kind: "closed" }, CLOCK))).toBe(outcome("ERR_CLOSED"));
  });

  test.each(states)("%s, time does something only when it is up", (state) => {
    const machine = machineIn(state);
    const waits = nvsp.has(state) || state === "receive-memory" || state === "send-memory";
    if (state !== "settle") expect(machine.deadline).toBe(waits ? CLOCK + STEP_MS : Infinity);
    expect(machine.step({ kind: "tick" }, Math.min(machine.deadline - 1, 1e9))).toEqual([]);
    if (machine.deadline === Infinity) return;
    const effects = brief(machine.step({ kind: "tick" }, machine.deadline));
    expect(effects).toBe(state === "settle" ? "query 1010101" : "ERR_NETVSC_TIMEOUT");
  });

  test.each(states)("%s, an answer that is not awaited is ignored", (state) => {
    const others: AttachmentInput[] = [];
    if (!nvsp.has(state)) others.push(initComplete(1), completed(none));
    if (!asked.has(state)) others.push(answer());
    if (state !== "receive-memory" && state !== "send-memory")
      others.push({ kind: "shared", buffer });
    if (state !== "opening") others.push({ kind: "channels", indices: [1] });
    for (const input of others) {
      const machine = machineIn(state);
      expect(machine.step(input, CLOCK)).toEqual([]);
      expect(machine.state).toBe(state);
    }
  });

  test.each(states)(
    "%s, the completion of another message, or a short one, ends it if one is awaited",
    (state) => {
      if (!nvsp.has(state)) return;
      for (const packet of [none, u32(108), good[state === "init" ? "send-buffer" : "init"]]) {
        const input = packet instanceof Uint8Array ? completed(packet) : packet;
        const wrong =
          input.kind === "completion" && input.packet.byteLength > 0 ? input : completed(none);
        expect(brief(machineIn(state).step(wrong, CLOCK))).toBe("ERR_NETVSC_REPLY");
      }
    },
  );

  test.each<[AttachmentState, string]>([
    ["initialize", "ERR_NETVSC_REFUSED"],
    ["offload-capabilities", "query 10203"],
    ["offload-parameters", "query 10203"],
    ["scaling-capabilities", "set 1010e"],
    ["scaling-parameters", "set 1010e"],
    ["filter", "ERR_NETVSC_REFUSED"],
    ["address", "ERR_NETVSC_REFUSED"],
    ["frame-size", "query 10107"],
    ["link-speed", "query 10114"],
    ["link-status", "ready"],
  ])("%s, a refusal over RNDIS leads to: %s", (state, effects) => {
    const refusal = answer(none, RndisStatus.notSupported);
    expect(brief(machineIn(state).step(refusal, CLOCK))).toBe(effects);
  });

  test.each(states)(
    "%s, what is denied by the bus or the conversation ends it, unless one can do without",
    (state) => {
      const expected =
        state === "idle" || ended(state)
          ? ""
          : state === "send-memory"
            ? "share 7864320"
            : state === "offload-capabilities"
              ? "query 10203"
              : "ERR_NO_MEMORY";
      const error = Object.assign(new Error("no"), { code: "ERR_NO_MEMORY" });
      expect(brief(machineIn(state).step({ kind: "denied", error }, CLOCK))).toBe(expected);
      const gone = Object.assign(new Error("gone"), { code: "ERR_RESCINDED" });
      const end = state === "idle" || ended(state) ? "" : "ERR_RESCINDED";
      expect(brief(machineIn(state).step({ kind: "denied", error: gone }, CLOCK))).toBe(end);
    },
  );
});

test("a second opening is a mistake", () => {
  expect(() => machineIn("init").step({ kind: "opened" }, CLOCK)).toThrow("open already");
});

test("refused versions are followed by older ones, and the last by the end", () => {
  const machine = machineIn("init");
  const proposed = [0x6_0001];
  for (;;) {
    const [effect] = machine.step(initComplete(NvspStatus.none), CLOCK);
    if (effect?.kind !== "send") {
      expect(brief([effect!])).toBe("ERR_NETVSC_VERSION");
      break;
    }
    proposed.push(protocol.NvspInit.parse(effect.packet)!.version);
  }
  expect(proposed).toEqual(protocol.nvspVersions.map(({ value }) => value));
});

test.each<[string, Uint8Array]>([
  ["two sections", section({}, 2)],
  ["no section", section({}, 0)],
  ["slots of no size", section({ subAllocationSize: 0 })],
  ["no slots", section({ subAllocationCount: 0 })],
  ["more slots than memory", section({ subAllocationCount: 581 })],
  ["an offset behind the memory", section({ offset: 0x20_0000 })],
  ["no room for the section", section().subarray(0, 24)],
])("a receive buffer with %s is refused", (_, packet) => {
  expect(brief(machineIn("receive-buffer").step(completed(packet), CLOCK))).toBe(
    "ERR_NETVSC_REPLY",
  );
});

test.each<[string, number, number]>([
  ["0", 1, 0],
  ["no multiple of 4", 1, 6145],
  ["more than the buffer", 1, 0x1000_0000],
  ["refused", 2, 6144],
])("a section size that is %s means no send buffer", (_, status, sectionSize) => {
  const machine = machineIn("send-buffer");
  const packet = protocol.NvspSendSendBufferComplete.packet({ status, sectionSize }, 32);
  expect(brief(machine.step(completed(packet), CLOCK))).toBe("initialize");
  for (const name of order.slice(order.indexOf("initialize")))
    for (const effect of machine.step(good[name], CLOCK + 200))
      if (effect.kind === "ready") expect(effect.parameters.sendBuffer).toBeUndefined();
});

test.each<[string, AttachmentInput, string]>([
  ["grants all", subChannels(1, 3), "open 3"],
  ["grants fewer", subChannels(1, 1), "open 1"],
  ["grants more than were asked for", subChannels(1, 60), "open 3"],
  ["refuses", subChannels(2, 0), "set 1010e"],
  ["grants none", subChannels(1, 0), "set 1010e"],
])("a host that %s of the sub-channels", (_, input, effects) => {
  expect(brief(machineIn("sub-channels").step(input, CLOCK))).toBe(effects);
});

test("sub-channels are asked for up to what the host can use", () => {
  const machine = machineIn("scaling-capabilities");
  const [effect] = machine.step(answer(scaling(3)), CLOCK);
  expect(effect?.kind === "send" && protocol.NvspSubChannelRequest.parse(effect.packet)).toEqual({
    operation: 1,
    subChannels: 2,
  });
});

test.each<[string, Uint8Array]>([
  ["has one queue", scaling(1)],
  ["hashes by nothing known", scaling(8, 0x300)],
  ["hashes nothing", scaling(8, 0x1)],
  ["says too little", scaling(8).subarray(0, 15)],
])("a host that %s is asked for no sub-channels", (_, information) => {
  const machine = machineIn("scaling-capabilities");
  expect(brief(machine.step(answer(information), CLOCK))).toBe("set 1010e");
});

test("no sub-channel that came means no scaling", () => {
  const machine = machineIn("opening");
  expect(brief(machine.step({ kind: "channels", indices: [] }, CLOCK))).toBe("set 1010e");
});

test("a host without sub-channels, or a guest that wants none, is not asked about them", () => {
  const one = machineIn("offload-parameters", { ...OPTIONS, channels: 1 });
  expect(brief(one.step(answer(), CLOCK))).toBe("set 1010e");
  const old = machineIn("offload-parameters", { ...OPTIONS, versions: [0x4_0000] });
  expect(brief(old.step(answer(), CLOCK))).toBe("set 1010e");
});

test.each<[AttachmentOptions, number]>([
  [{}, 16 << 20],
  [{ versions: [0x3_0002] }, 15 << 20],
  [{ versions: [0x0_0002] }, 15 << 20],
])("the receive buffer is FreeBSD's unless told: %o", (options, lengthBytes) => {
  const effects = machineIn("init", options).step(initComplete(1), CLOCK);
  expect(effects.at(-1)).toEqual({ kind: "share", lengthBytes });
});

test("buffers that find no memory are halved, and the send buffer is left out in the end", () => {
  const error = Object.assign(new Error("no"), { code: "ERR_NO_MEMORY" });
  const shares = (machine: Attachment): string[] => {
    const effects: string[] = [];
    do effects.push(brief(machine.step({ kind: "denied", error }, CLOCK)));
    while (effects.at(-1)!.startsWith("share"));
    return effects;
  };
  expect(shares(machineIn("receive-memory", {}))).toEqual([
    "share 8388608",
    "share 4194304",
    "share 2097152",
    "share 1048576",
    "ERR_NO_MEMORY",
  ]);
  expect(shares(machineIn("send-memory"))).toEqual([
    "share 7864320",
    "share 3932160",
    "share 1966080",
    "initialize",
  ]);
  const other = Object.assign(new Error("refused"), { code: "ERR_GPADL_REFUSED" });
  const machine = machineIn("send-memory");
  expect(brief(machine.step({ kind: "denied", error: other }, CLOCK))).toBe("initialize");
});

test("without a wish for a send buffer none is shared", () => {
  const machine = machineIn("receive-buffer", { ...OPTIONS, sendBufferBytes: 0 });
  expect(brief(machine.step(completed(section()), CLOCK))).toBe("receive, initialize");
});

test("options that make no sense are refused", () => {
  expect(() => new Attachment({ versions: [3] })).toThrow("no such version: 0x3");
  expect(() => new Attachment({ versions: [] })).toThrow("no version to propose");
  expect(() => new Attachment({ sendBufferBytes: 100 })).toThrow("whole pages");
});

test("everything that was agreed is told in the end", () => {
  const machine = machineIn("link-status");
  const [effect] = machine.step(good["link-status"], CLOCK);
  expect(effect).toEqual({
    kind: "ready",
    parameters: {
      version: 0x6_0001,
      packetBytes: 40,
      ndisMajor: 6,
      ndisMinor: 30,
      receiveBuffer: { ...buffer, slotBytes: 1806, slots: 580 },
      sendBuffer: { ...buffer, gpadlId: 0xe1e11, sectionBytes: 6144, sections: 170 },
      maxPackets: 8,
      maxBytes: 0xefff_ffff,
      alignmentBytes: 8,
      offloads: {
        transmitChecksums: 0x1f,
        receiveChecksums: 0x1f,
        largeSend4BytesMax: 62_780,
        largeSend6BytesMax: 62_780,
        coalescing4: true,
        coalescing6: true,
      },
      scaling: { receiveQueues: 8, indirectionEntries: 128, hashInfo: 0x1701 },
      address: Uint8Array.of(0, 0x15, 0x5d, 1, 2, 3),
      mtu: 1500,
      linkSpeed: 10_000_000_000,
      linkUp: true,
    },
  });
  expect(NvspType.init).toBe(1);
  expect(Oid.genLinkSpeed).toBe(0x10107);
});
