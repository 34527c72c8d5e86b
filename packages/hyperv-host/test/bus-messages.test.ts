import { beforeEach, describe, expect, test } from "vitest";
import {
  Feature,
  ModifyConnection,
  NIL_GUID,
  Pause,
  ProtocolVersion,
  RequestOffers,
  Resume,
  TlConnectRequest,
  Unload,
} from "@hyperv-is/vmbus-core/protocol";
import type { BusState } from "../src/index.js";
import { BUFFER, Driver, RING, arrange, contact, disk, messages } from "./bus-driver.js";

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
    release: ["ask guest-released"],
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
    release: ["ask guest-released"],
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
    release: ["ask guest-released", "OFFERCHANNEL"],
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
