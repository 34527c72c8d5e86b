import { describe } from "vitest";
import { stepGpadl, type GpadlInput, type GpadlState } from "../src/bus/gpadl.js";
import { testTable } from "./state-table.js";

const NOW = 1000;
const TIMEOUT_MS = 50;

const states = {
  creating: { name: "creating", deadline: NOW },
  "creating, in time": { name: "creating", deadline: NOW + 1 },
  abandoned: { name: "abandoned", deadline: NOW },
  established: { name: "established" },
  "tearing down": { name: "tearing-down", deadline: NOW },
  parting: { name: "parting", released: false },
  "parting, released": { name: "parting", released: true },
  unshared: { name: "unshared" },
  freed: { name: "freed" },
  leaked: { name: "leaked" },
} as const satisfies Record<string, GpadlState>;

const inputs = {
  created: { kind: "created", status: 0 },
  refused: { kind: "created", status: 0x8000ffff },
  torndown: { kind: "torndown" },
  release: { kind: "release" },
  forsake: { kind: "forsake" },
  rescinded: { kind: "rescinded" },
  "nothing posted": { kind: "post-failed", status: 11, sent: 0 },
  "not all posted": { kind: "post-failed", status: 11, sent: 1 },
  unload: { kind: "unload" },
  unloaded: { kind: "unloaded", confirmed: true },
  "unload unanswered": { kind: "unloaded", confirmed: false },
  tick: { kind: "tick" },
} as const satisfies Record<string, GpadlInput>;

const creating = {
  created: "established → established",
  refused: "failed ERR_GPADL_REFUSED status=2147549183, free → freed",
  rescinded: "failed ERR_RESCINDED → abandoned deadline=1050",
  "nothing posted": "failed ERR_POST_FAILED status=11, free → freed",
  "not all posted": "failed ERR_POST_FAILED status=11, leak → leaked",
  unload: "failed ERR_UNLOADED → parting released=true",
};

/** What a state makes of the inputs that mean nothing to it. */
function indifferent(state: string) {
  return {
    created: `unexpected → ${state}`,
    refused: `unexpected → ${state}`,
    torndown: `unexpected → ${state}`,
    release: `→ ${state}`,
    forsake: `→ ${state}`,
    rescinded: `→ ${state}`,
    "nothing posted": `→ ${state}`,
    "not all posted": `→ ${state}`,
    unload: `→ ${state}`,
    unloaded: `→ ${state}`,
    "unload unanswered": `→ ${state}`,
    tick: `→ ${state}`,
  };
}

describe("a GPADL", () => {
  testTable<GpadlState, GpadlInput, keyof typeof states, keyof typeof inputs>(
    states,
    inputs,
    (state, input) => stepGpadl(state, input, NOW, TIMEOUT_MS),
    {
      creating: {
        ...indifferent("creating deadline=1000"),
        ...creating,
        tick: "failed ERR_TIMEOUT, leak → leaked",
      },
      "creating, in time": {
        ...indifferent("creating deadline=1001"),
        ...creating,
        tick: "→ creating deadline=1001",
      },
      abandoned: {
        ...indifferent("abandoned deadline=1000"),
        created: "send-teardown → tearing-down deadline=1050",
        refused: "free → freed",
        "nothing posted": "free → freed",
        "not all posted": "leak → leaked",
        unload: "→ parting released=true",
        tick: "leak → leaked",
      },
      established: {
        ...indifferent("established"),
        release: "send-teardown → tearing-down deadline=1050",
        forsake: "leak → leaked",
        unload: "→ parting released=false",
      },
      "tearing down": {
        ...indifferent("tearing-down deadline=1000"),
        torndown: "free → freed",
        rescinded: "let-go → tearing-down deadline=1000",
        "nothing posted": "leak → leaked",
        "not all posted": "leak → leaked",
        unload: "→ parting released=true",
        tick: "leak → leaked",
      },
      parting: {
        ...indifferent("parting released=false"),
        release: "→ parting released=true",
        forsake: "→ parting released=true",
        unloaded: "→ unshared",
        "unload unanswered": "leak → leaked",
      },
      "parting, released": {
        ...indifferent("parting released=true"),
        unloaded: "free → freed",
        "unload unanswered": "leak → leaked",
      },
      unshared: {
        ...indifferent("unshared"),
        release: "free → freed",
        forsake: "free → freed",
      },
      freed: indifferent("freed"),
      leaked: indifferent("leaked"),
    },
  );
});
