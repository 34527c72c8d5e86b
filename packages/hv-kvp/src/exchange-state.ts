import { step, type Step, type Tick } from "@hyperv-is/vmbus-core";
import { LEGACY_REGISTER, type DeviceDialect } from "./protocol/index.js";

/** Who has the device. */
type Holder =
  /** Nobody. */
  | "absent"
  /** Somebody who has not registered yet. */
  | "opened"
  /** A daemon. */
  | "registered";

/** A request that a daemon is to answer, with the message for it. */
export interface Posed<Request> {
  readonly request: Request;
  readonly message: Uint8Array;
}

/** Where the driver stands between the host and the daemon. */
export type ExchangeState<Request> =
  | { readonly name: "absent" }
  | { readonly name: "opened" }
  /** The daemon serves, and has nothing to do. */
  | { readonly name: "idle" }
  /** The daemon has a request. */
  | { readonly name: "busy"; readonly deadline: number; readonly posed: Posed<Request> }
  /** The daemon has a request for which nobody waits any more. */
  | { readonly name: "late" }
  /** So it does, and the next request waits for it. */
  | { readonly name: "waiting"; readonly deadline: number; readonly posed: Posed<Request> }
  /** The daemon that had the request is gone; the host is told when its time is over. */
  | {
      readonly name: "orphaned";
      readonly deadline: number;
      readonly posed: Posed<Request>;
      readonly holder: Holder;
    };

export type ExchangeInput<Request> =
  /** The device is opened, written, closed. */
  | { readonly kind: "open" }
  | { readonly kind: "write"; readonly message: Uint8Array }
  | { readonly kind: "close" }
  /** The host has a request. */
  | { readonly kind: "request"; readonly posed: Posed<Request> }
  /** The host no longer waits for its answer. */
  | { readonly kind: "cancel" };

export type ExchangeEffect<Request> =
  /** Hear the host, or leave what it sends in the ring: the offer of versions too. */
  | { readonly kind: "listen" }
  | { readonly kind: "hold" }
  /** A daemon registered, with this operation. */
  | { readonly kind: "registered"; readonly operation: number }
  /** Hand this message to the daemon. */
  | { readonly kind: "deliver"; readonly message: Uint8Array }
  /** The daemon's answer to a request. */
  | { readonly kind: "answer"; readonly posed: Posed<Request>; readonly message: Uint8Array }
  /** A request has no answer. */
  | { readonly kind: "fail"; readonly posed: Posed<Request>; readonly why: "timeout" | "closed" }
  /** The open or the write is refused. */
  | { readonly kind: "refuse"; readonly error: "EBUSY" | "EINVAL" }
  /** A message was an answer for which nobody waits any more. */
  | { readonly kind: "dropped" };

type Next<Request> = Step<ExchangeState<Request>, ExchangeEffect<Request>>;

const listen = { kind: "listen" } as const;
const hold = { kind: "hold" } as const;
const dropped = { kind: "dropped" } as const;
const busyDevice = { kind: "refuse", error: "EBUSY" } as const;
const badWrite = { kind: "refuse", error: "EINVAL" } as const;

/**
 * The driver between the host and one daemon: without a daemon the host is not even heard; with one it has one
 * request at a time, for as long as the dialect says.
 *
 * A daemon that is too slow keeps its request. Its answer, when it comes, is dropped, and only then does it get
 * the next one: messages have no number by which answers could be told apart. In FreeBSD as here a request that
 * comes meanwhile has its own time, and fails when it is over.
 *
 * A function of state, input and time.
 */
export function kvpExchange<Request>(
  dialect: DeviceDialect,
  state: ExchangeState<Request>,
  input: ExchangeInput<Request> | Tick,
  now: number,
): Next<Request> {
  switch (input.kind) {
    case "open":
      return opened(state);
    case "write":
      return written(dialect, state, input.message);
    case "close":
      return closed(dialect, state);
    case "request":
      return requested(dialect, state, input.posed, now);
    case "cancel":
      return cancelled(state);
    case "tick":
      return ticked(state, now);
  }
}

/** A step, with its effects as what they are to this machine. */
function to<Request>(
  state: ExchangeState<Request>,
  ...effects: ExchangeEffect<Request>[]
): Next<Request> {
  return step(state, ...effects);
}

function opened<Request>(state: ExchangeState<Request>): Next<Request> {
  if (state.name === "absent") return to({ name: "opened" });
  if (state.name === "orphaned" && state.holder === "absent")
    return to({ ...state, holder: "opened" });
  return to(state, busyDevice);
}

function written<Request>(
  dialect: DeviceDialect,
  state: ExchangeState<Request>,
  message: Uint8Array,
): Next<Request> {
  switch (state.name) {
    case "absent":
    case "idle":
      return to(state, badWrite);
    case "opened":
      if (!isRegistration(dialect, message)) return to(state, badWrite);
      return to({ name: "idle" }, registered(message), listen);
    case "orphaned":
      if (state.holder !== "opened" || !isRegistration(dialect, message))
        return to(state, badWrite);
      return to({ ...state, holder: "registered" }, registered(message));
    case "busy":
      return to({ name: "idle" }, { kind: "answer", posed: state.posed, message });
    case "late":
      return to({ name: "idle" }, dropped);
    case "waiting":
      return to({ ...state, name: "busy" }, dropped, {
        kind: "deliver",
        message: state.posed.message,
      });
  }
}

function registered(message: Uint8Array) {
  return { kind: "registered", operation: message[0]! } as const;
}

function isRegistration(dialect: DeviceDialect, message: Uint8Array): boolean {
  return message[0] === dialect.registerOperation || message[0] === LEGACY_REGISTER;
}

function closed<Request>(dialect: DeviceDialect, state: ExchangeState<Request>): Next<Request> {
  switch (state.name) {
    case "absent":
    case "opened":
      return to({ name: "absent" });
    case "idle":
    case "late":
      return to({ name: "absent" }, hold);
    case "busy":
    case "waiting":
      if (!dialect.failsOnClose) return to({ ...state, name: "orphaned", holder: "absent" }, hold);
      return to({ name: "absent" }, hold, { kind: "fail", posed: state.posed, why: "closed" });
    case "orphaned":
      return to({ ...state, holder: "absent" });
  }
}

function requested<Request>(
  { timeoutMs }: DeviceDialect,
  state: ExchangeState<Request>,
  posed: Posed<Request>,
  now: number,
): Next<Request> {
  const deadline = now + timeoutMs;
  switch (state.name) {
    case "idle":
      return to({ name: "busy", deadline, posed }, { kind: "deliver", message: posed.message });
    case "late":
      return to({ name: "waiting", deadline, posed });
    case "absent":
    case "opened":
    case "busy":
    case "waiting":
    case "orphaned":
      return to(state, { kind: "fail", posed, why: "closed" });
  }
}

function cancelled<Request>(state: ExchangeState<Request>): Next<Request> {
  switch (state.name) {
    case "busy":
    case "waiting":
      return to({ name: "late" });
    case "orphaned":
      return succeed(state.holder);
    case "absent":
    case "opened":
    case "idle":
    case "late":
      return to(state);
  }
}

function ticked<Request>(state: ExchangeState<Request>, now: number): Next<Request> {
  if (!("deadline" in state) || now < state.deadline) return to(state);
  const failed = { kind: "fail", posed: state.posed, why: "timeout" } as const;
  if (state.name !== "orphaned") return to({ name: "late" }, failed);
  const { state: next, effects } = succeed<Request>(state.holder);
  return to(next, failed, ...effects);
}

/** What follows when the request of a daemon that is gone is over. */
function succeed<Request>(holder: Holder): Next<Request> {
  return holder === "registered" ? to({ name: "idle" }, listen) : to({ name: holder });
}
