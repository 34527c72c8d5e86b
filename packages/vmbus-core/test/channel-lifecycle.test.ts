import { describe } from "vitest";
import { stepChannel, type ChannelInput, type ChannelState } from "../src/bus/channel-lifecycle.js";
import { testTable } from "./state-table.js";

const NOW = 1000;
const TIMEOUT_MS = 50;

const states = {
  closed: { name: "closed" },
  opening: { name: "opening", deadline: NOW },
  "opening, in time": { name: "opening", deadline: NOW + 1 },
  cancelling: { name: "cancelling", deadline: NOW },
  "cancelling, in time": { name: "cancelling", deadline: NOW + 1 },
  open: { name: "open", overdue: false },
  "open, overdue": { name: "open", overdue: true },
  modifying: { name: "modifying", deadline: NOW, closing: false },
  "modifying, in time": { name: "modifying", deadline: NOW + 1, closing: false },
  "modifying, closing": { name: "modifying", deadline: NOW, closing: true },
  stuck: { name: "stuck" },
  rescinded: { name: "gone", code: "ERR_RESCINDED" },
  unloaded: { name: "gone", code: "ERR_UNLOADED" },
} as const satisfies Record<string, ChannelState>;

const inputs = {
  open: { kind: "open" },
  opened: { kind: "result", status: 0 },
  refused: { kind: "result", status: 5 },
  close: { kind: "close" },
  modify: { kind: "modify", acknowledged: true },
  "modify below 5.3": { kind: "modify", acknowledged: false },
  modified: { kind: "modified", status: 0 },
  "not modified": { kind: "modified", status: 6 },
  rescinded: { kind: "rescinded" },
  unload: { kind: "unload" },
  "open not posted": { kind: "post-failed", message: "open", status: 11 },
  "close not posted": { kind: "post-failed", message: "close", status: 11 },
  "modify not posted": { kind: "post-failed", message: "modify", status: 11 },
  tick: { kind: "tick" },
} as const satisfies Record<string, ChannelInput>;

/** What a state in which nothing can be done makes of everything. */
function resting(state: string, code: string) {
  return {
    open: `open-failed ${code} → ${state}`,
    opened: `unexpected → ${state}`,
    refused: `unexpected → ${state}`,
    close: `closed → ${state}`,
    modify: `modify-failed ${code} → ${state}`,
    "modify below 5.3": `modify-failed ${code} → ${state}`,
    modified: `unexpected → ${state}`,
    "not modified": `unexpected → ${state}`,
    rescinded: "closed → gone ERR_RESCINDED",
    unload: "closed → gone ERR_UNLOADED",
    "open not posted": `→ ${state}`,
    "close not posted": `→ ${state}`,
    "modify not posted": `→ ${state}`,
    tick: `→ ${state}`,
  };
}

const opening = (deadline: number) => ({
  ...resting(`opening deadline=${deadline}`, "ERR_BUSY"),
  open: `→ opening deadline=${deadline}`,
  opened: "opened → open overdue=false",
  refused: "open-failed ERR_OPEN_FAILED status=5 → closed",
  close: "open-failed ERR_CLOSED → cancelling deadline=1050",
  rescinded: "open-failed ERR_RESCINDED, closed → gone ERR_RESCINDED",
  unload: "open-failed ERR_UNLOADED, closed → gone ERR_UNLOADED",
  "open not posted": "open-failed ERR_POST_FAILED status=11 → closed",
});

const cancelling = (deadline: number) => ({
  ...resting(`cancelling deadline=${deadline}`, "ERR_BUSY"),
  opened: "send-close, closed → closed",
  refused: "closed → closed",
  close: `→ cancelling deadline=${deadline}`,
  "open not posted": "closed → closed",
});

const open = (overdue: boolean) => ({
  ...resting(`open overdue=${overdue}`, "ERR_BUSY"),
  close: "send-close, closed → closed",
});

const modifying = (deadline: number, closing: boolean) => {
  const end = (effect: string): string =>
    closing ? `${effect}, send-close, closed → closed` : `${effect} → open overdue=false`;
  const state = `modifying deadline=${deadline} closing=${closing}`;
  return {
    ...resting(state, "ERR_BUSY"),
    close: `→ modifying deadline=${deadline} closing=true`,
    modify: `→ ${state}`,
    "modify below 5.3": `→ ${state}`,
    modified: end("modified"),
    "not modified": end("modify-failed ERR_MODIFY_FAILED status=6"),
    "modify not posted": end("modify-failed ERR_POST_FAILED status=11"),
    rescinded: "modify-failed ERR_RESCINDED, closed → gone ERR_RESCINDED",
    unload: "modify-failed ERR_UNLOADED, closed → gone ERR_UNLOADED",
  };
};

describe("a channel", () => {
  testTable<ChannelState, ChannelInput, keyof typeof states, keyof typeof inputs>(
    states,
    inputs,
    (state, input) => stepChannel(state, input, NOW, TIMEOUT_MS),
    {
      closed: {
        ...resting("closed", "ERR_CLOSED"),
        open: "send-open → opening deadline=1050",
      },
      opening: {
        ...opening(NOW),
        tick: "open-failed ERR_TIMEOUT → cancelling deadline=1050",
      },
      "opening, in time": { ...opening(NOW + 1), tick: "→ opening deadline=1001" },
      cancelling: { ...cancelling(NOW), tick: "closed → stuck" },
      "cancelling, in time": { ...cancelling(NOW + 1), tick: "→ cancelling deadline=1001" },
      open: {
        ...open(false),
        modify: "send-modify → modifying deadline=1050 closing=false",
        "modify below 5.3": "send-modify, modified → open overdue=false",
      },
      "open, overdue": {
        ...open(true),
        modified: "→ open overdue=false",
        "not modified": "→ open overdue=false",
      },
      modifying: {
        ...modifying(NOW, false),
        tick: "modify-failed ERR_TIMEOUT → open overdue=true",
      },
      "modifying, in time": {
        ...modifying(NOW + 1, false),
        tick: "→ modifying deadline=1001 closing=false",
      },
      "modifying, closing": {
        ...modifying(NOW, true),
        tick: "modify-failed ERR_TIMEOUT, send-close, closed → closed",
      },
      stuck: {
        ...resting("stuck", "ERR_TIMEOUT"),
        opened: "send-close → closed",
        refused: "→ closed",
      },
      rescinded: {
        ...resting("gone ERR_RESCINDED", "ERR_RESCINDED"),
        rescinded: "→ gone ERR_RESCINDED",
        unload: "→ gone ERR_RESCINDED",
      },
      unloaded: {
        ...resting("gone ERR_UNLOADED", "ERR_UNLOADED"),
        rescinded: "→ gone ERR_UNLOADED",
        unload: "→ gone ERR_UNLOADED",
      },
    },
  );
});
