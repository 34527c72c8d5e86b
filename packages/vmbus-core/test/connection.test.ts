import { describe, expect, test } from "vitest";
import { MessageType, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import {
  hasMessage,
  stepConnection,
  type Connection,
  type ConnectionInput,
} from "../src/bus/connection.js";
import { testTable } from "./state-table.js";

const NOW = 1000;
const TIMEOUTS = { versionMs: 10, offersMs: 20, unloadMs: 30 };
const { v0_13, v2_4, v4_0, v5_3 } = ProtocolVersion;

const contacting = {
  name: "contacting",
  version: v4_0,
  rest: [v2_4],
  deadline: NOW,
  unload: false,
} as const;

const states = {
  disconnected: { name: "disconnected" },
  contacting,
  "contacting, in time": { ...contacting, deadline: NOW + 1 },
  "contacting, 5.3": { ...contacting, version: v5_3 },
  "contacting, last": { ...contacting, version: v2_4, rest: [] },
  "contacting, 0.13": { ...contacting, version: v0_13, rest: [] },
  "contacting, unload": { ...contacting, unload: true },
  connected: { name: "connected", version: v4_0, enumerated: false },
  "connected, enumerated": { name: "connected", version: v4_0, enumerated: true },
  "connected, 0.13": { name: "connected", version: v0_13, enumerated: false },
  enumerating: { name: "enumerating", version: v4_0, deadline: NOW },
  "enumerating, in time": { name: "enumerating", version: v4_0, deadline: NOW + 1 },
  unloading: { name: "unloading", deadline: NOW },
  "unloading, in time": { name: "unloading", deadline: NOW + 1 },
} as const satisfies Record<string, Connection>;

const inputs = {
  connect: { kind: "connect", versions: [v5_3, v4_0] },
  "no version": { kind: "connect", versions: [] },
  supported: { kind: "response", response: { supported: true, connectionState: 0 } },
  "supported, failed": { kind: "response", response: { supported: true, connectionState: 1 } },
  unsupported: { kind: "response", response: { supported: false, connectionState: 0 } },
  "request offers": { kind: "request-offers" },
  "all offers": { kind: "all-offers" },
  unload: { kind: "unload" },
  "unload response": { kind: "unload-response" },
  "no connection": { kind: "post-failed", status: 18 },
  "not posted": { kind: "post-failed", status: 11 },
  tick: { kind: "tick" },
} as const satisfies Record<string, ConnectionInput>;

const C4_0 = `version=${v4_0}`;
const C2_4 = `version=${v2_4}`;
const C0_13 = `version=${v0_13}`;

function indifferent(state: string, offersFailed = "ERR_UNLOADED") {
  return {
    connect: `→ ${state}`,
    "no version": `→ ${state}`,
    supported: `unexpected → ${state}`,
    "supported, failed": `unexpected → ${state}`,
    unsupported: `unexpected → ${state}`,
    "request offers": `offers-failed ${offersFailed} → ${state}`,
    "all offers": `unexpected → ${state}`,
    unload: `→ ${state}`,
    "unload response": `unexpected → ${state}`,
    "no connection": `→ ${state}`,
    "not posted": `→ ${state}`,
    tick: `→ ${state}`,
  };
}

const failed = (rest: string): string =>
  `disconnected confirmed=true, connect-failed ${rest} → disconnected`;
const unloaded = (confirmed: boolean, rest = ""): string =>
  `disconnected confirmed=${confirmed}, unloaded${rest} → disconnected`;

/** A contact for `version`, with `rest` to follow. */
function contactingRow(version: number, rest: string, deadline: number) {
  const state = `contacting version=${version} rest=${rest} deadline=${deadline}`;
  return {
    ...indifferent(`${state} unload=false`),
    supported: `connected version=${version} → connected version=${version} enumerated=false`,
    "supported, failed": failed("ERR_CONNECT_FAILED status=1"),
    unsupported: `contact ${C2_4} → contacting ${C2_4} rest=[] deadline=1010 unload=false`,
    unload: `connect-failed ERR_UNLOADED → ${state} unload=true`,
    "no connection": failed("ERR_POST_FAILED status=18"),
    "not posted": failed("ERR_POST_FAILED status=11"),
    tick: "disconnected confirmed=false, connect-failed ERR_TIMEOUT → disconnected",
  };
}

const enumerating = (deadline: number) => ({
  ...indifferent(`enumerating ${C4_0} deadline=${deadline}`),
  "request offers": `→ enumerating ${C4_0} deadline=${deadline}`,
  "all offers": `offers-delivered → connected ${C4_0} enumerated=true`,
  unload: "offers-failed ERR_UNLOADED, send-unload → unloading deadline=1030",
  "no connection": `offers-failed ERR_POST_FAILED status=18 → connected ${C4_0} enumerated=false`,
  "not posted": `offers-failed ERR_POST_FAILED status=11 → connected ${C4_0} enumerated=false`,
});

const unloading = (deadline: number) => ({
  ...indifferent(`unloading deadline=${deadline}`),
  "unload response": unloaded(true),
  "no connection": unloaded(false, " ERR_POST_FAILED status=18"),
  "not posted": unloaded(false, " ERR_POST_FAILED status=11"),
});

describe("the connection", () => {
  testTable<Connection, ConnectionInput, keyof typeof states, keyof typeof inputs>(
    states,
    inputs,
    (state, input) => stepConnection(state, input, NOW, TIMEOUTS),
    {
      disconnected: {
        ...indifferent("disconnected"),
        connect: `contact version=${v5_3} → contacting version=${v5_3} rest=[${v4_0}] deadline=1010 unload=false`,
        "no version": failed("ERR_VERSION"),
        unload: "unloaded → disconnected",
      },
      contacting: contactingRow(v4_0, `[${v2_4}]`, NOW),
      "contacting, in time": {
        ...contactingRow(v4_0, `[${v2_4}]`, NOW + 1),
        tick: `→ contacting ${C4_0} rest=[${v2_4}] deadline=1001 unload=false`,
      },
      "contacting, 5.3": {
        ...contactingRow(v5_3, `[${v2_4}]`, NOW),
        "no connection": `contact ${C2_4} → contacting ${C2_4} rest=[] deadline=1010 unload=false`,
      },
      "contacting, last": { ...contactingRow(v2_4, "[]", NOW), unsupported: failed("ERR_VERSION") },
      "contacting, 0.13": {
        ...contactingRow(v0_13, "[]", NOW),
        "supported, failed": `connected ${C0_13} → connected ${C0_13} enumerated=false`,
        unsupported: failed("ERR_VERSION"),
      },
      "contacting, unload": {
        ...indifferent(`contacting ${C4_0} rest=[${v2_4}] deadline=1000 unload=true`),
        supported: "send-unload → unloading deadline=1030",
        "supported, failed": unloaded(true),
        unsupported: unloaded(true),
        "no connection": unloaded(true),
        "not posted": unloaded(true),
        tick: unloaded(false, " ERR_TIMEOUT"),
      },
      connected: {
        ...indifferent(`connected ${C4_0} enumerated=false`),
        "request offers": `send-request-offers → enumerating ${C4_0} deadline=1020`,
        unload: "send-unload → unloading deadline=1030",
      },
      "connected, enumerated": {
        ...indifferent(`connected ${C4_0} enumerated=true`, "ERR_BUSY"),
        unload: "send-unload → unloading deadline=1030",
      },
      "connected, 0.13": {
        ...indifferent(`connected ${C0_13} enumerated=false`),
        "request offers": `send-request-offers → enumerating ${C0_13} deadline=1020`,
        unload: `send-unload, ${unloaded(false)}`,
      },
      enumerating: {
        ...enumerating(NOW),
        tick: `offers-failed ERR_TIMEOUT → connected ${C4_0} enumerated=true`,
      },
      "enumerating, in time": enumerating(NOW + 1),
      unloading: { ...unloading(NOW), tick: unloaded(false, " ERR_TIMEOUT") },
      "unloading, in time": unloading(NOW + 1),
    },
  );
});

test("a message exists from its version on, and with its feature", () => {
  const at = (version: number, type: number, features = 0): boolean =>
    hasMessage({ version, features }, type);
  expect(at(ProtocolVersion.v4_0, MessageType.modifyChannel)).toBe(false);
  expect(at(ProtocolVersion.v4_1, MessageType.modifyChannel)).toBe(true);
  expect(at(ProtocolVersion.v5_2, MessageType.modifyChannelResponse)).toBe(false);
  expect(at(ProtocolVersion.v5_3, MessageType.modifyChannelResponse)).toBe(true);
  expect(at(ProtocolVersion.v6_0, MessageType.pause)).toBe(false);
  expect(at(ProtocolVersion.v6_0, MessageType.pause, 0x20)).toBe(true);
  expect(at(ProtocolVersion.v6_0, 99)).toBe(false);
});
