import {
  ConnectionState,
  HypercallStatus,
  MessageType,
  lookupMessage,
  versionHas,
  type Negotiated,
  type ProtocolVersion,
  type VersionResponse,
} from "../protocol/index.js";
import type { BusErrorCode } from "./bus-error.js";
import { prepend, step, type Step, type Tick } from "./machine.js";

/** The connection of the guest to the host: negotiation, the first offers, the end. */
export type Connection =
  | { readonly name: "disconnected" }
  /** Waits for VERSION_RESPONSE; `unload`: and then leaves at once. */
  | {
      readonly name: "contacting";
      readonly version: ProtocolVersion;
      /** Versions to try after this one, newest first. */
      readonly rest: readonly ProtocolVersion[];
      readonly deadline: number;
      readonly unload: boolean;
    }
  /** `enumerated`: ALLOFFERS_DELIVERED came, or REQUESTOFFERS cannot be sent again. */
  | {
      readonly name: "connected";
      readonly version: ProtocolVersion;
      readonly enumerated: boolean;
    }
  /** Waits for ALLOFFERS_DELIVERED. */
  | {
      readonly name: "enumerating";
      readonly version: ProtocolVersion;
      readonly deadline: number;
    }
  /** Waits for UNLOAD_RESPONSE. */
  | {
      readonly name: "unloading";
      readonly deadline: number;
    };

/** What a connection reacts to. */
export type ConnectionInput =
  /** `versions`: newest first, at least one. */
  | { readonly kind: "connect"; readonly versions: readonly ProtocolVersion[] }
  /** VERSION_RESPONSE. */
  | {
      readonly kind: "response";
      readonly response: Pick<VersionResponse, "supported" | "connectionState">;
    }
  | { readonly kind: "request-offers" }
  /** ALLOFFERS_DELIVERED. */
  | { readonly kind: "all-offers" }
  | { readonly kind: "unload" }
  /** UNLOAD_RESPONSE. */
  | { readonly kind: "unload-response" }
  /** The message that this state has sent was not taken. */
  | { readonly kind: "post-failed"; readonly status: number }
  | Tick;

/** What its owner has to do then, in order. */
export type ConnectionEffect =
  /** Send INITIATE_CONTACT. */
  | { readonly kind: "contact"; readonly version: ProtocolVersion }
  | { readonly kind: "connected"; readonly version: ProtocolVersion }
  | { readonly kind: "connect-failed"; readonly code: BusErrorCode; readonly status?: number }
  | { readonly kind: "send-request-offers" }
  | { readonly kind: "offers-delivered" }
  | { readonly kind: "offers-failed"; readonly code: BusErrorCode; readonly status?: number }
  | { readonly kind: "send-unload" }
  /** The connection is over; `confirmed`: the host uses no memory of it any more. */
  | { readonly kind: "disconnected"; readonly confirmed: boolean }
  /** The answer to whoever asked to unload; `code` if it is a failure. */
  | { readonly kind: "unloaded"; readonly code?: BusErrorCode; readonly status?: number }
  /** The host answered what nobody asked. */
  | { readonly kind: "unexpected" };

/** How long the host may take for its answers, in milliseconds. */
export interface ConnectionTimeouts {
  readonly versionMs: number;
  readonly offersMs: number;
  readonly unloadMs: number;
}

type ConnectionStep = Step<Connection, ConnectionEffect>;

const DISCONNECTED: Connection = { name: "disconnected" };

/** True if the negotiated version and features have this message. */
export function hasMessage({ version, features }: Negotiated, type: MessageType): boolean {
  const variants = lookupMessage(type)?.variants ?? [];
  return variants.some(
    (form) => version >= form.since && (form.features === 0 || (features & form.features) !== 0),
  );
}

/** What the connection becomes by an input at the time `now`, and what has to be done. */
export function stepConnection(
  state: Connection,
  input: ConnectionInput,
  now: number,
  timeouts: ConnectionTimeouts,
): ConnectionStep {
  switch (state.name) {
    case "disconnected":
      if (input.kind === "connect") return contact(input.versions, now, timeouts);
      if (input.kind === "unload") return step(state, { kind: "unloaded" });
      return rest(state, input);
    case "contacting":
      return contacting(state, input, now, timeouts);
    case "connected":
      if (input.kind === "request-offers" && !state.enumerated)
        return step(
          { name: "enumerating", version: state.version, deadline: now + timeouts.offersMs },
          { kind: "send-request-offers" },
        );
      if (input.kind === "unload") return unload(state.version, now, timeouts);
      return rest(state, input);
    case "enumerating":
      return enumerating(state, input, now, timeouts);
    case "unloading":
      return unloading(state, input, now);
  }
}

type Named<Name extends Connection["name"]> = Connection & { readonly name: Name };

function contact(
  [version, ...others]: readonly ProtocolVersion[],
  now: number,
  timeouts: ConnectionTimeouts,
): ConnectionStep {
  if (version === undefined) return end(true, { kind: "connect-failed", code: "ERR_VERSION" });
  return step(
    {
      name: "contacting",
      version,
      rest: others,
      deadline: now + timeouts.versionMs,
      unload: false,
    },
    { kind: "contact", version },
  );
}

function contacting(
  state: Named<"contacting">,
  input: ConnectionInput,
  now: number,
  timeouts: ConnectionTimeouts,
): ConnectionStep {
  switch (input.kind) {
    case "response":
      return answered(state, input.response, now, timeouts);
    case "post-failed":
      // A hypervisor without connection 4 is that of a host older than 5.0.
      if (
        input.status === HypercallStatus.invalidConnectionId &&
        versionHas(state.version, "namedMessageConnection") &&
        !state.unload
      )
        return contact(state.rest, now, timeouts);
      if (state.unload) return end(true, { kind: "unloaded" });
      return end(true, { kind: "connect-failed", code: "ERR_POST_FAILED", status: input.status });
    case "unload":
      if (state.unload) return step(state);
      return step({ ...state, unload: true }, { kind: "connect-failed", code: "ERR_UNLOADED" });
    case "tick":
      if (now < state.deadline) return step(state);
      return end(false, {
        kind: state.unload ? "unloaded" : "connect-failed",
        code: "ERR_TIMEOUT",
      });
    default:
      return rest(state, input);
  }
}

function answered(
  state: Named<"contacting">,
  response: Pick<VersionResponse, "supported" | "connectionState">,
  now: number,
  timeouts: ConnectionTimeouts,
): ConnectionStep {
  const { version } = state;
  if (!response.supported)
    return state.unload ? end(true, { kind: "unloaded" }) : contact(state.rest, now, timeouts);
  // Supported is not connected. A host below 2.4 cannot say so, and the byte is not its own.
  if (versionHas(version, "connectionState") && response.connectionState !== ConnectionState.ok)
    return state.unload
      ? end(true, { kind: "unloaded" })
      : end(true, {
          kind: "connect-failed",
          code: "ERR_CONNECT_FAILED",
          status: response.connectionState,
        });
  return state.unload
    ? unload(version, now, timeouts)
    : step({ name: "connected", version, enumerated: false }, { kind: "connected", version });
}

function enumerating(
  state: Named<"enumerating">,
  input: ConnectionInput,
  now: number,
  timeouts: ConnectionTimeouts,
): ConnectionStep {
  const connected = (enumerated: boolean, effect: ConnectionEffect): ConnectionStep =>
    step({ name: "connected", version: state.version, enumerated }, effect);
  switch (input.kind) {
    case "request-offers":
      return step(state);
    case "all-offers":
      return connected(true, { kind: "offers-delivered" });
    case "post-failed":
      return connected(false, {
        kind: "offers-failed",
        code: "ERR_POST_FAILED",
        status: input.status,
      });
    case "tick":
      if (now < state.deadline) return step(state);
      return connected(true, { kind: "offers-failed", code: "ERR_TIMEOUT" });
    case "unload":
      return prepend(
        { kind: "offers-failed", code: "ERR_UNLOADED" },
        unload(state.version, now, timeouts),
      );
    default:
      return rest(state, input);
  }
}

function unload(
  version: ProtocolVersion,
  now: number,
  timeouts: ConnectionTimeouts,
): ConnectionStep {
  // Without an answer there is no proof that the host has let go, but nothing to wait for either.
  if (!hasMessage({ version, features: 0 }, MessageType.unloadResponse))
    return prepend({ kind: "send-unload" }, end(false, { kind: "unloaded" }));
  return step({ name: "unloading", deadline: now + timeouts.unloadMs }, { kind: "send-unload" });
}

function unloading(state: Named<"unloading">, input: ConnectionInput, now: number): ConnectionStep {
  switch (input.kind) {
    case "unload-response":
      return end(true, { kind: "unloaded" });
    case "post-failed":
      return end(false, { kind: "unloaded", code: "ERR_POST_FAILED", status: input.status });
    case "tick":
      if (now < state.deadline) return step(state);
      return end(false, { kind: "unloaded", code: "ERR_TIMEOUT" });
    default:
      return rest(state, input);
  }
}

/** The connection is over; the waiter hears of it when all else is done. */
function end(confirmed: boolean, answer: ConnectionEffect): ConnectionStep {
  return step(DISCONNECTED, { kind: "disconnected", confirmed }, answer);
}

/** What the state has no use for: a request fails, an answer to nothing is remarked. */
function rest(state: Connection, input: ConnectionInput): ConnectionStep {
  switch (input.kind) {
    case "request-offers":
      return step(state, {
        kind: "offers-failed",
        code: state.name === "connected" ? "ERR_BUSY" : "ERR_UNLOADED",
      });
    case "response":
    case "all-offers":
    case "unload-response":
      return step(state, { kind: "unexpected" });
    // One connection at a time, and one waiter for each answer: the owner sees to that.
    case "connect":
    case "unload":
    case "post-failed":
    case "tick":
      return step(state);
  }
}
