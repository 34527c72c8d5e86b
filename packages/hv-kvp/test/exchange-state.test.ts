import { describe, expect, test } from "vitest";
import { kvpExchange, type ExchangeInput, type ExchangeState } from "../src/index.js";
import { emitRegistration, freebsdDialect, linuxDialect } from "../src/protocol/index.js";

type State = ExchangeState<string>;
type Input = ExchangeInput<string> | { readonly kind: "tick" };

const NOW = 100_000;
const posed = { request: "first", message: new Uint8Array([1]) };
const second = { request: "second", message: new Uint8Array([2]) };
const deadline = NOW + 10;

const states: Record<string, State> = {
  absent: { name: "absent" },
  opened: { name: "opened" },
  idle: { name: "idle" },
  busy: { name: "busy", deadline, posed },
  late: { name: "late" },
  waiting: { name: "waiting", deadline, posed },
  orphaned: { name: "orphaned", deadline, posed, holder: "absent" },
  "orphaned, opened": { name: "orphaned", deadline, posed, holder: "opened" },
  "orphaned, registered": { name: "orphaned", deadline, posed, holder: "registered" },
};

const registration = emitRegistration(freebsdDialect, 4);
const answer = new Uint8Array(7430);
const inputs: Record<string, Input> = {
  open: { kind: "open" },
  register: { kind: "write", message: registration },
  write: { kind: "write", message: answer },
  close: { kind: "close" },
  request: { kind: "request", posed: second },
  cancel: { kind: "cancel" },
  "early tick": { kind: "tick" },
};

/** What follows, in a few words: the state, and the effects in their order. */
function outcome(dialect: typeof freebsdDialect, state: State, input: Input, now = NOW): string {
  const { state: next, effects } = kvpExchange(dialect, state, input, now);
  const name = next.name === "orphaned" ? `orphaned (${next.holder})` : next.name;
  return [
    "deadline" in next ? `${name} until ${next.deadline - NOW}` : name,
    ...effects.map((effect) => {
      switch (effect.kind) {
        case "refuse":
          return effect.error;
        case "deliver":
          return `deliver ${effect.message[0] ?? 0}`;
        case "answer":
          return `answer ${effect.posed.request}`;
        case "fail":
          return `fail ${effect.posed.request} (${effect.why})`;
        case "registered":
          return `registered ${effect.operation}`;
        default:
          return effect.kind;
      }
    }),
  ].join(", ");
}

/** Every state times every input, in FreeBSD's dialect. */
const table: Record<string, Record<string, string>> = {
  absent: {
    open: "opened",
    register: "absent, EINVAL",
    write: "absent, EINVAL",
    close: "absent",
    request: "absent, fail second (closed)",
    cancel: "absent",
    "early tick": "absent",
  },
  opened: {
    open: "opened, EBUSY",
    register: "idle, registered 4, listen",
    write: "opened, EINVAL",
    close: "absent",
    request: "opened, fail second (closed)",
    cancel: "opened",
    "early tick": "opened",
  },
  idle: {
    open: "idle, EBUSY",
    register: "idle, EINVAL",
    write: "idle, EINVAL",
    close: "absent, hold",
    request: "busy until 5000, deliver 2",
    cancel: "idle",
    "early tick": "idle",
  },
  busy: {
    open: "busy until 10, EBUSY",
    register: "idle, answer first",
    write: "idle, answer first",
    close: "orphaned (absent) until 10, hold",
    request: "busy until 10, fail second (closed)",
    cancel: "late",
    "early tick": "busy until 10",
  },
  late: {
    open: "late, EBUSY",
    register: "idle, dropped",
    write: "idle, dropped",
    close: "absent, hold",
    request: "waiting until 5000",
    cancel: "late",
    "early tick": "late",
  },
  waiting: {
    open: "waiting until 10, EBUSY",
    register: "busy until 10, dropped, deliver 1",
    write: "busy until 10, dropped, deliver 1",
    close: "orphaned (absent) until 10, hold",
    request: "waiting until 10, fail second (closed)",
    cancel: "late",
    "early tick": "waiting until 10",
  },
  orphaned: {
    open: "orphaned (opened) until 10",
    register: "orphaned (absent) until 10, EINVAL",
    write: "orphaned (absent) until 10, EINVAL",
    close: "orphaned (absent) until 10",
    request: "orphaned (absent) until 10, fail second (closed)",
    cancel: "absent",
    "early tick": "orphaned (absent) until 10",
  },
  "orphaned, opened": {
    open: "orphaned (opened) until 10, EBUSY",
    register: "orphaned (registered) until 10, registered 4",
    write: "orphaned (opened) until 10, EINVAL",
    close: "orphaned (absent) until 10",
    request: "orphaned (opened) until 10, fail second (closed)",
    cancel: "opened",
    "early tick": "orphaned (opened) until 10",
  },
  "orphaned, registered": {
    open: "orphaned (registered) until 10, EBUSY",
    register: "orphaned (registered) until 10, EINVAL",
    write: "orphaned (registered) until 10, EINVAL",
    close: "orphaned (absent) until 10",
    request: "orphaned (registered) until 10, fail second (closed)",
    cancel: "idle, listen",
    "early tick": "orphaned (registered) until 10",
  },
};

describe.each(Object.keys(states))("%s", (name) => {
  test.each(Object.keys(inputs))("%s", (input) => {
    expect(outcome(freebsdDialect, states[name]!, inputs[input]!)).toBe(table[name]![input]);
  });
});

test("when the time of a request is over it fails, whoever has it", () => {
  const at = (name: string) => outcome(freebsdDialect, states[name]!, { kind: "tick" }, deadline);
  expect(at("busy")).toBe("late, fail first (timeout)");
  expect(at("waiting")).toBe("late, fail first (timeout)");
  expect(at("orphaned")).toBe("absent, fail first (timeout)");
  expect(at("orphaned, opened")).toBe("opened, fail first (timeout)");
  expect(at("orphaned, registered")).toBe("idle, fail first (timeout), listen");
});

describe("Linux's dialect", () => {
  test("fails a request as soon as its daemon closes the device", () => {
    const close = { kind: "close" } as const;
    for (const name of ["busy", "waiting"])
      expect(outcome(linuxDialect, states[name]!, close)).toBe("absent, hold, fail first (closed)");
  });

  test("gives a daemon 30 s, and takes both numbers of the registration", () => {
    const { request, register } = inputs;
    expect(outcome(linuxDialect, states["idle"]!, request!)).toBe("busy until 30000, deliver 2");
    expect(outcome(linuxDialect, states["opened"]!, register!)).toBe("idle, registered 4, listen");
    const current = { kind: "write", message: emitRegistration(linuxDialect, 100) } as const;
    expect(outcome(linuxDialect, states["opened"]!, current)).toBe("idle, registered 100, listen");
  });
});
