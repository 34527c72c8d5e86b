import { beforeEach, describe, expect, test } from "vitest";
import {
  CloseChannel,
  CloseReservedChannel,
  DeviceClass,
  FIRST_GPADL_ID,
  Feature,
  GpadlTeardown,
  InitiateContact,
  MessageHeader,
  MessageType,
  ModifyChannel,
  ModifyConnection,
  NIL_GUID,
  NtStatus,
  OpenChannel,
  OpenReservedChannel,
  PAGE_SIZE,
  Pause,
  ProtocolVersion,
  RelidReleased,
  RequestOffers,
  Resume,
  TlConnectRequest,
  Unload,
  VMBUS_SINT,
  VP_INTERRUPTS_DISABLED,
  emitGpadl,
  lookupMessage,
} from "@hyperv-is/vmbus-core/protocol";
import { Bus, type BusState, type DeviceOffer, type ServerEffect } from "../src/index.js";
import type { WorkerReply } from "../src/index.js";
import { memoryAtOffset } from "./scripted-guest.js";

const disk: DeviceOffer = {
  classId: DeviceClass.scsi.classId,
  instanceId: "11111111-2222-3333-4444-555555555555",
  worker: 1,
};
const RELID = 1;
const RING = FIRST_GPADL_ID;
const BUFFER = FIRST_GPADL_ID + 1;
const NEW = FIRST_GPADL_ID + 2;

/** Drives a bus by hand; what it wants done is put into short words. */
class Driver {
  readonly bus = new Bus({ memory: memoryAtOffset(256), vpCount: 2 });
  version: ProtocolVersion = ProtocolVersion.v5_3;
  features = 0;

  /** What happened since the last call. */
  take(): string[] {
    return this.bus.take().flatMap((effect) => describeEffect(effect));
  }

  message(payload: Uint8Array, connectionId = 1): string[] {
    this.bus.message({ connectionId, payload });
    return this.take();
  }

  reply(reply: Exclude<WorkerReply, { kind: "rescind-device" }>): string[] {
    this.bus.reply(reply);
    return this.take();
  }

  /** Answers each request of the bus at once, as a worker would. */
  answer(): string[] {
    const all: string[] = [];
    for (let effects = this.bus.take(); effects.length > 0; effects = this.bus.take())
      for (const effect of effects) {
        all.push(...describeEffect(effect));
        if (effect.kind !== "request") continue;
        const { request } = effect;
        if (request.kind === "open")
          this.bus.reply({ kind: "opened", key: request.opening.key, status: 0 });
        else if (request.kind === "close") this.bus.reply({ kind: "closed", key: request.key });
        else if (request.kind === "revoke") this.bus.reply({ kind: "revoked", key: request.key });
        else if (request.kind === "modify")
          this.bus.reply({ kind: "modified", key: request.key, status: 0 });
        else if (request.kind === "gpadl-create")
          this.bus.reply({ ...request, kind: "gpadl-created", status: 0 });
        else this.bus.reply({ ...request, kind: "gpadl-torndown" });
      }
    return all;
  }

  connect(version: ProtocolVersion = ProtocolVersion.v5_3, features = 0): void {
    this.version = version;
    this.features = features;
    this.bus.offer(disk);
    this.message(contact(version, features), 4);
    this.message(RequestOffers.emit({}));
  }

  /** An accepted GPADL of these pages. */
  gpadl(id: number, pages = 4): void {
    for (const bytes of gpadlMessages(id, pages))
      this.bus.message({ connectionId: 1, payload: bytes });
    this.answer();
  }

  open(fields: Partial<OpenChannel> = {}): Uint8Array {
    return OpenChannel.emit({ ...openFields, ...fields }, this.features);
  }
}

const openFields: OpenChannel = {
  relid: RELID,
  openId: RELID,
  ringGpadlId: RING,
  targetVp: 1,
  downstreamPageOffset: 2,
  userData: new Uint8Array(0),
  redirectInterrupt: false,
};

function gpadlMessages(id: number, pages = 4, relid = RELID): Uint8Array[] {
  const pfns = Array.from({ length: pages }, (_, index) => 16 + index);
  return emitGpadl(relid, id, [{ byteCount: pages * PAGE_SIZE, byteOffset: 0, pfns }]);
}

function contact(version: ProtocolVersion, features = 0, targetVp = 0): Uint8Array {
  return InitiateContact.emit({
    version,
    targetVp,
    interruptPageGpa: version < ProtocolVersion.v2_4 ? 0x5000 : 0,
    sint: VMBUS_SINT,
    vtl: 0,
    features,
    parentToChildMonitorGpa: 0,
    childToParentMonitorGpa: 0,
    clientId: NIL_GUID,
  });
}

function describeEffect(effect: ServerEffect): string[] {
  switch (effect.kind) {
    case "message": {
      const { type } = MessageHeader.parse(effect.bytes)!;
      const view = new DataView(effect.bytes.buffer);
      const failed =
        (type === MessageType.openChannelResult || type === MessageType.gpadlCreated) &&
        view.getUint32(16, true) !== 0;
      return [`${lookupMessage(type)!.name}${failed ? " failed" : ""}`];
    }
    case "request":
      return [`ask ${effect.request.kind}`];
    case "violation":
      return [`! ${effect.rule}`];
    case "reset-complete":
      return [effect.kind];
    default:
      return [];
  }
}

/** Brings a bus into a state of the disk's channel, with RING and BUFFER accepted as far as they can be. */
const arrange: Readonly<Record<string, (driver: Driver) => void>> = {
  closed: (driver) => {
    driver.connect();
    driver.gpadl(RING);
    driver.gpadl(BUFFER);
  },
  opening: (driver) => {
    arrange["closed"]!(driver);
    driver.message(driver.open());
  },
  open: (driver) => {
    arrange["closed"]!(driver);
    driver.bus.message({ connectionId: 1, payload: driver.open() });
    driver.answer();
  },
  closing: (driver) => {
    arrange["open"]!(driver);
    driver.message(CloseChannel.emit({ relid: RELID }));
  },
  "closing-reopen": (driver) => {
    arrange["closing"]!(driver);
    driver.message(driver.open());
  },
  rescinding: (driver) => {
    arrange["open"]!(driver);
    driver.bus.rescind(disk.instanceId);
    driver.take();
  },
  revoked: (driver) => {
    arrange["open"]!(driver);
    driver.bus.rescind(disk.instanceId);
    driver.answer();
  },
  reoffered: (driver) => {
    arrange["revoked"]!(driver);
    driver.bus.offer(disk);
    driver.take();
  },
  reserved: (driver) => {
    arrange["closed"]!(driver);
    driver.bus.message({ connectionId: 1, payload: openReserved });
    driver.answer();
  },
};

const openReserved = OpenReservedChannel.emit({
  relid: RELID,
  targetVp: 1,
  sint: 2,
  ringGpadlId: RING,
  downstreamPageOffset: 2,
});

const messages: Readonly<Record<string, Uint8Array>> = {
  open: OpenChannel.emit(openFields, 0),
  close: CloseChannel.emit({ relid: RELID }),
  "open-reserved": openReserved,
  "close-reserved": CloseReservedChannel.emit({ relid: RELID, targetVp: 1, sint: 2 }),
  release: RelidReleased.emit({ relid: RELID }),
  modify: ModifyChannel.emit({ relid: RELID, targetVp: 1 }),
  "new gpadl": gpadlMessages(NEW)[0]!,
  "same gpadl": gpadlMessages(BUFFER)[0]!,
  "teardown buffer": GpadlTeardown.emit({ relid: RELID, gpadlId: BUFFER }),
  "teardown ring": GpadlTeardown.emit({ relid: RELID, gpadlId: RING }),
  "teardown unknown": GpadlTeardown.emit({ relid: RELID, gpadlId: NEW }),
};

const state = "! channel-state";
const failed = "MODIFYCHANNEL_RESPONSE";
const created = "ask gpadl-create";
const teardown = "ask gpadl-teardown";
const duplicate = ["! gpadl-duplicate-id", "GPADL_CREATED failed"];
const unknown = ["! gpadl-teardown-state"];
const modifyRefused = ["! modify-channel", failed];

/** What each message leads to in each state, before any worker answers. */
const table: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  closed: {
    open: ["ask open"],
    close: [state],
    "open-reserved": ["ask open"],
    "close-reserved": [state],
    release: [teardown, teardown],
    modify: modifyRefused,
    "new gpadl": [created],
    "same gpadl": duplicate,
    "teardown buffer": [teardown],
    "teardown ring": [teardown],
    "teardown unknown": unknown,
  },
  opening: {
    open: [state],
    close: [state],
    "open-reserved": [state],
    "close-reserved": [state],
    release: [state],
    modify: modifyRefused,
    "new gpadl": [created],
    "same gpadl": duplicate,
    "teardown buffer": [teardown],
    "teardown ring": [teardown],
    "teardown unknown": unknown,
  },
  open: {
    open: [state],
    close: ["ask close"],
    "open-reserved": [state],
    "close-reserved": [state],
    release: [state],
    modify: ["ask modify"],
    "new gpadl": [created],
    "same gpadl": duplicate,
    "teardown buffer": [teardown],
    "teardown ring": ["! gpadl-teardown-open-ring", teardown],
    "teardown unknown": unknown,
  },
  closing: {
    open: [],
    close: [state],
    "open-reserved": [state],
    "close-reserved": [state],
    release: [teardown, teardown],
    modify: modifyRefused,
    "new gpadl": [created],
    "same gpadl": duplicate,
    "teardown buffer": [teardown],
    "teardown ring": [teardown],
    "teardown unknown": unknown,
  },
  "closing-reopen": {
    open: [state],
    close: [state],
    "open-reserved": [state],
    "close-reserved": [state],
    release: [state],
    modify: modifyRefused,
    "new gpadl": [created],
    "same gpadl": duplicate,
    "teardown buffer": [teardown],
    "teardown ring": [teardown],
    "teardown unknown": unknown,
  },
  rescinding: {
    open: [],
    close: [],
    "open-reserved": [],
    "close-reserved": [],
    release: [],
    modify: modifyRefused,
    "new gpadl": ["GPADL_CREATED"],
    "same gpadl": duplicate,
    "teardown buffer": [],
    "teardown ring": [],
    "teardown unknown": unknown,
  },
  revoked: {
    open: [],
    close: [],
    "open-reserved": [],
    "close-reserved": [],
    release: [],
    modify: modifyRefused,
    "new gpadl": ["GPADL_CREATED"],
    "same gpadl": duplicate,
    "teardown buffer": ["GPADL_TORNDOWN"],
    "teardown ring": ["GPADL_TORNDOWN"],
    "teardown unknown": unknown,
  },
  reoffered: {
    open: [],
    close: [],
    "open-reserved": [],
    "close-reserved": [],
    release: ["OFFERCHANNEL"],
    modify: modifyRefused,
    "new gpadl": ["GPADL_CREATED"],
    "same gpadl": duplicate,
    "teardown buffer": ["GPADL_TORNDOWN"],
    "teardown ring": ["GPADL_TORNDOWN"],
    "teardown unknown": unknown,
  },
  reserved: {
    open: [state],
    close: [state],
    "open-reserved": [state],
    "close-reserved": ["ask close"],
    release: [state],
    modify: modifyRefused,
    "new gpadl": ["! gpadl-reserved-channel", "GPADL_CREATED failed"],
    "same gpadl": ["! gpadl-reserved-channel", "GPADL_CREATED failed"],
    "teardown buffer": unknown,
    "teardown ring": unknown,
    "teardown unknown": unknown,
  },
};

describe("messages about a channel", () => {
  let driver: Driver;
  beforeEach(() => {
    driver = new Driver();
  });

  const cases = Object.entries(table).flatMap(([name, row]) =>
    Object.entries(row).map(([message, effects]) => [name, message, effects] as const),
  );

  test("every state has every message", () => {
    expect(Object.keys(table)).toEqual(Object.keys(arrange));
    for (const row of Object.values(table)) expect(Object.keys(row)).toEqual(Object.keys(messages));
  });

  test.each(cases)("%s: %s", (name, message, effects) => {
    arrange[name]!(driver);
    expect(driver.message(messages[message]!)).toEqual(effects);
  });

  test.each(cases)("%s: %s leaves the channel fit for an unload", (name, message) => {
    arrange[name]!(driver);
    driver.bus.message({ connectionId: 1, payload: messages[message]! });
    driver.bus.message({ connectionId: 1, payload: Unload.emit({}) });
    // A worker answers what it was asked before: the order of its link.
    const stale = name === "opening" || name === "closing" || name === "closing-reopen";
    if (stale) {
      if (name === "opening") driver.bus.reply({ kind: "opened", key: 1, status: 0 });
      driver.bus.reply({ kind: "closed", key: 1 });
    } else if (name === "rescinding") driver.bus.reply({ kind: "revoked", key: 1 });
    const all = driver.answer();
    expect(all.filter((effect) => effect === "UNLOAD_RESPONSE")).toHaveLength(1);
    expect(driver.bus.state).toBe("disconnected");
    // Reserved channels survive, until they are closed.
    const isReserved = name === "reserved" || (name === "closed" && message === "open-reserved");
    const isClosed = isReserved && message === "close-reserved";
    expect(all.includes("CLOSE_RESERVED_RESPONSE")).toBe(isClosed);
    const survivors = driver.bus.channels.filter((channel) => channel.relid !== undefined);
    expect(survivors.map((channel) => channel.state)).toEqual(
      isReserved && !isClosed ? ["open"] : [],
    );
  });

  test.each(Object.keys(messages).filter((name) => name !== "close-reserved"))(
    "disconnected: %s is refused",
    (message) => {
      expect(driver.message(messages[message]!)).toEqual(["! message-not-negotiated"]);
    },
  );

  test.each(Object.keys(messages))("%s for a relid that nobody has", (message) => {
    driver.connect();
    const bytes = messages[message]!.slice();
    new DataView(bytes.buffer).setUint32(8, 99, true);
    const effects = driver.message(bytes);
    const answer = message.endsWith(" gpadl")
      ? ["GPADL_CREATED failed"]
      : message === "modify"
        ? ["MODIFYCHANNEL_RESPONSE"]
        : [];
    expect(effects).toEqual(["! unknown-relid", ...answer]);
  });
});

describe("messages about the connection", () => {
  /** Every message that a guest can send, in the version that has them all. */
  const all: Readonly<Record<string, Uint8Array>> = {
    contact: contact(ProtocolVersion.v5_3),
    unload: Unload.emit({}),
    "request-offers": RequestOffers.emit({}),
    "modify-connection": ModifyConnection.emit({
      parentToChildMonitorGpa: 0x6000,
      childToParentMonitorGpa: 0x7000,
    }),
    pause: Pause.emit({}),
    resume: Resume.emit({}),
    "tl-connect": TlConnectRequest.emit(
      { endpointId: NIL_GUID, serviceId: NIL_GUID, siloId: NIL_GUID },
      ProtocolVersion.v6_0,
    ),
  };
  const features = Feature.modifyConnection | Feature.pauseResume;
  const connected: Readonly<Record<string, readonly string[]>> = {
    contact: ["VERSION_RESPONSE"],
    unload: ["UNLOAD_RESPONSE"],
    "request-offers": ["OFFERCHANNEL", "ALLOFFERS_DELIVERED"],
    "modify-connection": ["MODIFY_CONNECTION_RESPONSE"],
    pause: ["PAUSE_RESPONSE"],
    resume: [],
    "tl-connect": ["TL_CONNECT_RESULT"],
  };
  const refused = ["! message-not-negotiated"];

  function fresh(): Driver {
    const driver = new Driver();
    driver.bus.offer(disk);
    driver.message(contact(ProtocolVersion.v6_0, features), 4);
    return driver;
  }

  test.each(Object.keys(all))("disconnected: %s", (name) => {
    const driver = new Driver();
    const effects = name === "contact" ? ["VERSION_RESPONSE"] : refused;
    expect(driver.message(all[name]!)).toEqual(effects);
  });

  test.each(Object.keys(all))("connected: %s", (name) => {
    expect(fresh().message(all[name]!)).toEqual(connected[name]);
  });

  test.each(Object.keys(all))("offers delivered: %s", (name) => {
    const driver = fresh();
    driver.message(RequestOffers.emit({}));
    const twice = name === "request-offers" ? ["! request-offers-twice"] : connected[name];
    expect(driver.message(all[name]!)).toEqual(twice);
  });

  test.each(Object.keys(all))("paused: %s", (name) => {
    const driver = fresh();
    driver.message(Pause.emit({}));
    const passes = name === "contact" || name === "unload" || name === "resume";
    const effects = driver.message(all[name]!);
    expect(effects).toEqual(passes ? connected[name] : ["! message-while-paused"]);
  });

  test.each(Object.keys(all))("while a worker has not let go: %s", (name) => {
    const driver = new Driver();
    arrange["open"]!(driver);
    expect(driver.message(Unload.emit({}))).toContain("ask close");
    const during: BusState = driver.bus.state;
    expect(during).toBe("disconnecting");
    // A new contact takes the place of the unload, which then is not answered.
    expect(driver.message(all[name]!)).toEqual(name === "contact" ? [] : refused);
    driver.reply({ kind: "closed", key: 1 });
    driver.reply({ kind: "gpadl-torndown", key: 1, gpadlId: RING });
    const last = driver.reply({ kind: "gpadl-torndown", key: 1, gpadlId: BUFFER });
    expect(last).toEqual([name === "contact" ? "VERSION_RESPONSE" : "UNLOAD_RESPONSE"]);
  });

  test("messages that wait while paused come in order on RESUME", () => {
    const driver = fresh();
    driver.message(RequestOffers.emit({}));
    driver.message(Pause.emit({}));
    driver.bus.rescind(disk.instanceId);
    driver.bus.offer({ ...disk, instanceId: "99999999-2222-3333-4444-555555555555" });
    expect(driver.answer()).toEqual(["ask revoke"]);
    expect(driver.message(Resume.emit({}))).toEqual(["OFFERCHANNEL", "RESCIND_CHANNELOFFER"]);
  });

  test("a message on another connection than the response named is a violation, and counts", () => {
    const driver = fresh();
    expect(driver.message(all["request-offers"]!, 4)).toEqual([
      "! message-connection",
      "OFFERCHANNEL",
      "ALLOFFERS_DELIVERED",
    ]);
  });

  test.each([
    ["an unknown type", Uint8Array.of(30, 0, 0, 0, 0, 0, 0, 0), "! message-unknown-type"],
    ["type 0", new Uint8Array(8), "! message-unknown-type"],
    ["a host's message", Uint8Array.of(4, 0, 0, 0, 0, 0, 0, 0), "! message-wrong-direction"],
    ["nothing", new Uint8Array(0), "! message-too-short"],
    ["half a header", Uint8Array.of(3, 0, 0, 0), "! message-too-short"],
    ["OPENCHANNEL without its end", messages["open"]!.subarray(0, 147), "! message-too-short"],
  ])("%s", (_, bytes, effect) => {
    const driver = new Driver();
    driver.connect();
    expect(driver.message(bytes)).toEqual([effect]);
  });

  test("bytes behind a message are ignored", () => {
    const driver = new Driver();
    driver.connect();
    driver.gpadl(RING);
    const long = new Uint8Array(240).fill(0xee);
    long.set(messages["open"]!);
    expect(driver.message(long)).toEqual(["ask open"]);
  });
});

describe("opening", () => {
  let driver: Driver;
  beforeEach(() => {
    driver = new Driver();
    driver.connect();
    driver.gpadl(RING, 5);
  });

  const openFailed = "OPENCHANNEL_RESULT failed";
  test.each<[string, Partial<OpenChannel>, string[]]>([
    ["another GPADL", { ringGpadlId: NEW }, ["! open-channel-gpadl", openFailed]],
    [
      "one page for the first ring",
      { downstreamPageOffset: 1 },
      ["! open-channel-page-offset", openFailed],
    ],
    [
      "one page for the second ring",
      { downstreamPageOffset: 4 },
      ["! open-channel-page-offset", openFailed],
    ],
    ["a split at 0", { downstreamPageOffset: 0 }, ["! open-channel-page-offset", openFailed]],
    [
      "a split behind the end",
      { downstreamPageOffset: 0xffff_ffff },
      ["! open-channel-page-offset", openFailed],
    ],
    ["a processor that is not there", { targetVp: 2 }, ["! open-channel-target-vp", openFailed]],
    ["uneven rings", { downstreamPageOffset: 3 }, ["ask open"]],
    ["no interrupts", { targetVp: VP_INTERRUPTS_DISABLED }, ["ask open"]],
  ])("%s", (_, fields, effects) => {
    expect(driver.message(driver.open(fields))).toEqual(effects);
  });

  test.each([
    [
      "two ranges",
      [
        { byteCount: 8192, byteOffset: 0, pfns: [20, 21] },
        { byteCount: 8192, byteOffset: 0, pfns: [22, 23] },
      ],
    ],
    ["an offset", [{ byteCount: 4 * PAGE_SIZE, byteOffset: 8, pfns: [20, 21, 22, 23, 24] }]],
    ["half a page", [{ byteCount: 4 * PAGE_SIZE - 8, byteOffset: 0, pfns: [20, 21, 22, 23] }]],
  ])("rings with %s", (_, ranges) => {
    for (const bytes of emitGpadl(RELID, NEW, ranges)) driver.message(bytes);
    driver.reply({ kind: "gpadl-created", key: 1, gpadlId: NEW, status: 0 });
    const effects = driver.message(driver.open({ ringGpadlId: NEW }));
    expect(effects).toEqual(["! open-channel-gpadl", openFailed]);
  });

  test("a GPADL that no worker has yet is none", () => {
    for (const bytes of gpadlMessages(NEW)) driver.message(bytes);
    const effects = driver.message(driver.open({ ringGpadlId: NEW }));
    expect(effects).toEqual(["! open-channel-gpadl", openFailed]);
  });

  test("a worker that refuses is passed on, and the channel can be opened again", () => {
    driver.message(driver.open());
    const status = NtStatus.unsuccessful;
    expect(driver.reply({ kind: "opened", key: 1, status })).toEqual([openFailed]);
    expect(driver.message(driver.open())).toEqual(["ask open"]);
    expect(driver.reply({ kind: "opened", key: 1, status: 0 })).toEqual(["OPENCHANNEL_RESULT"]);
  });

  test("a channel closed and opened at once is opened when the worker has closed it", () => {
    driver.bus.message({ connectionId: 1, payload: driver.open() });
    driver.answer();
    expect(driver.message(messages["close"]!)).toEqual(["ask close"]);
    expect(driver.message(driver.open({ targetVp: 0 }))).toEqual([]);
    expect(driver.reply({ kind: "closed", key: 1 })).toEqual(["ask open"]);
    expect(driver.reply({ kind: "opened", key: 1, status: 0 })).toEqual(["OPENCHANNEL_RESULT"]);
    expect(driver.bus.channels[0]).toMatchObject({ state: "open", targetVp: 0 });
  });
});

describe("rescind", () => {
  test("ends what the guest waits for: creations fail, teardowns are done, and openings say nothing", () => {
    const driver = new Driver();
    driver.connect();
    driver.gpadl(RING);
    driver.gpadl(BUFFER);
    driver.message(messages["new gpadl"]!);
    driver.message(messages["teardown buffer"]!);
    driver.message(driver.open());
    driver.bus.rescind(disk.instanceId);
    expect(driver.take()).toEqual(["ask revoke"]);
    expect(driver.reply({ kind: "opened", key: 1, status: 0 })).toEqual([]);
    expect(driver.reply({ kind: "revoked", key: 1 })).toEqual([
      "GPADL_TORNDOWN",
      "GPADL_CREATED failed",
      "RESCIND_CHANNELOFFER",
    ]);
    expect(driver.message(messages["teardown ring"]!)).toEqual(["GPADL_TORNDOWN"]);
  });

  test("of a device that was never offered to this guest says nothing", () => {
    const driver = new Driver();
    driver.bus.offer(disk);
    expect(driver.bus.rescind(disk.instanceId)).toBe(true);
    expect(driver.take()).toEqual([]);
    expect(driver.bus.channels).toEqual([]);
  });
});

describe("moving interrupts", () => {
  const modify = (targetVp: number): Uint8Array => ModifyChannel.emit({ relid: RELID, targetVp });

  function opened(version: ProtocolVersion, fields: Partial<OpenChannel> = {}): Driver {
    const driver = new Driver();
    driver.connect(version);
    driver.gpadl(RING);
    driver.bus.message({ connectionId: 1, payload: driver.open(fields) });
    driver.answer();
    return driver;
  }

  test("5.3: answered once the worker has done it; a second one meanwhile is dropped", () => {
    const driver = opened(ProtocolVersion.v5_3);
    expect(driver.message(modify(0))).toEqual(["ask modify"]);
    expect(driver.message(modify(1))).toEqual(["! modify-channel-pending"]);
    const done = driver.reply({ kind: "modified", key: 1, status: 0 });
    expect(done).toEqual(["MODIFYCHANNEL_RESPONSE"]);
    expect(driver.message(modify(1))).toEqual(["ask modify"]);
  });

  test("4.1 to 5.2: never answered; the latest wish follows", () => {
    const driver = opened(ProtocolVersion.v5_2);
    expect(driver.message(modify(0))).toEqual(["ask modify"]);
    expect(driver.message(modify(1))).toEqual([]);
    expect(driver.message(modify(0))).toEqual([]);
    expect(driver.reply({ kind: "modified", key: 1, status: 0 })).toEqual(["ask modify"]);
    expect(driver.reply({ kind: "modified", key: 1, status: 0 })).toEqual([]);
  });

  test("4.0 has no such message", () => {
    const driver = opened(ProtocolVersion.v4_0);
    expect(driver.message(modify(0))).toEqual(["! message-not-negotiated"]);
  });

  test.each([2, VP_INTERRUPTS_DISABLED])("processor %i is refused", (vp) => {
    const driver = opened(ProtocolVersion.v5_3);
    expect(driver.message(modify(vp))).toEqual(modifyRefused);
  });

  test("a channel without interrupts has none to move", () => {
    const driver = opened(ProtocolVersion.v5_3, { targetVp: VP_INTERRUPTS_DISABLED });
    expect(driver.message(modify(1))).toEqual(modifyRefused);
  });

  test("an answer that comes after the close is not passed on", () => {
    const driver = opened(ProtocolVersion.v5_3);
    driver.message(modify(0));
    driver.message(messages["close"]!);
    expect(driver.reply({ kind: "modified", key: 1, status: 0 })).toEqual([]);
  });
});
