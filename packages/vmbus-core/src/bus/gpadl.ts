import type { BusErrorCode } from "./bus-error.js";
import { prepend, step, type Step, type Tick } from "./machine.js";

/**
 * A GPADL, from its creation to the fate of the memory that it shares.
 *
 * GPADL_TORNDOWN, or the answer to UNLOAD, is the only proof that the host no longer touches the memory:
 * without it the memory is leaked.
 */
export type GpadlState =
  /** Its messages are sent, GPADL_CREATED is to come. */
  | { readonly name: "creating"; readonly deadline: number }
  /** Nobody waits for GPADL_CREATED any more, but it decides whether there is something to tear down. */
  | { readonly name: "abandoned"; readonly deadline: number }
  | { readonly name: "established" }
  | { readonly name: "tearing-down"; readonly deadline: number }
  /** UNLOAD was sent; its answer decides. */
  | { readonly name: "parting"; readonly released: boolean }
  /** The host has let go, the owner not yet. */
  | { readonly name: "unshared" }
  | { readonly name: "freed" }
  | { readonly name: "leaked" };

/** What shared memory reacts to. */
export type GpadlInput =
  /** GPADL_CREATED. */
  | { readonly kind: "created"; readonly status: number }
  /** GPADL_TORNDOWN. */
  | { readonly kind: "torndown" }
  /** The owner does not use the memory any more. */
  | { readonly kind: "release" }
  /** The same, but the host may still use it for a channel: do not even ask. */
  | { readonly kind: "forsake" }
  /** The channel was rescinded. */
  | { readonly kind: "rescinded" }
  /** A message was not taken; `sent` of the same request went before it. */
  | { readonly kind: "post-failed"; readonly status: number; readonly sent: number }
  /** From now on no message may be sent. */
  | { readonly kind: "unload" }
  /** The outcome of UNLOAD: whether the host has confirmed it. */
  | { readonly kind: "unloaded"; readonly confirmed: boolean }
  | Tick;

/** What its owner has to do then, in order. */
export type GpadlEffect =
  /** The creation succeeded. */
  | { readonly kind: "established" }
  /** The creation failed; the memory's own fate is another effect, perhaps a later one. */
  | { readonly kind: "failed"; readonly code: BusErrorCode; readonly status?: number }
  /** Send GPADL_TEARDOWN. */
  | { readonly kind: "send-teardown" }
  /** The owner need not wait any longer; the memory's fate is still open. */
  | { readonly kind: "let-go" }
  /** The memory may be used again. */
  | { readonly kind: "free" }
  /** The memory may never be used again. */
  | { readonly kind: "leak" }
  /** The host answered what nobody asked. */
  | { readonly kind: "unexpected" };

type GpadlStep = Step<GpadlState, GpadlEffect>;

const FREED: GpadlState = { name: "freed" };
const LEAKED: GpadlState = { name: "leaked" };

/** The state of a GPADL whose messages are being sent. */
export function creatingGpadl(now: number, timeoutMs: number): GpadlState {
  return { name: "creating", deadline: now + timeoutMs };
}

/**
 * What the shared memory becomes by an input at the time `now`, and what has to be done.
 *
 * @param timeoutMs - How long the host may take for each answer.
 */
export function stepGpadl(
  state: GpadlState,
  input: GpadlInput,
  now: number,
  timeoutMs: number,
): GpadlStep {
  switch (state.name) {
    case "creating":
      return creating(state, input, now, timeoutMs);
    case "abandoned":
      return abandoned(state, input, now, timeoutMs);
    case "established":
      return established(state, input, now, timeoutMs);
    case "tearing-down":
      return tearingDown(state, input, now);
    case "parting":
      return parting(state, input);
    case "unshared":
      if (input.kind === "release" || input.kind === "forsake")
        return step(FREED, { kind: "free" });
      return rest(state, input);
    case "freed":
    case "leaked":
      return rest(state, input);
  }
}

type Named<Name extends GpadlState["name"]> = GpadlState & { readonly name: Name };

function creating(
  state: Named<"creating">,
  input: GpadlInput,
  now: number,
  timeoutMs: number,
): GpadlStep {
  switch (input.kind) {
    case "created":
      if (input.status === 0) return step({ name: "established" }, { kind: "established" });
      return step(
        FREED,
        { kind: "failed", code: "ERR_GPADL_REFUSED", status: input.status },
        { kind: "free" },
      );
    case "rescinded":
      return step(
        { name: "abandoned", deadline: now + timeoutMs },
        { kind: "failed", code: "ERR_RESCINDED" },
      );
    case "post-failed":
      return prepend(
        { kind: "failed", code: "ERR_POST_FAILED", status: input.status },
        notPosted(input.sent),
      );
    case "unload":
      return step({ name: "parting", released: true }, { kind: "failed", code: "ERR_UNLOADED" });
    case "tick":
      if (now < state.deadline) return step(state);
      return step(LEAKED, { kind: "failed", code: "ERR_TIMEOUT" }, { kind: "leak" });
    default:
      return rest(state, input);
  }
}

function abandoned(
  state: Named<"abandoned">,
  input: GpadlInput,
  now: number,
  timeoutMs: number,
): GpadlStep {
  switch (input.kind) {
    case "created":
      if (input.status !== 0) return step(FREED, { kind: "free" });
      return step({ name: "tearing-down", deadline: now + timeoutMs }, { kind: "send-teardown" });
    case "post-failed":
      return notPosted(input.sent);
    case "unload":
      return step({ name: "parting", released: true });
    case "tick":
      return now < state.deadline ? step(state) : step(LEAKED, { kind: "leak" });
    default:
      return rest(state, input);
  }
}

function established(
  state: Named<"established">,
  input: GpadlInput,
  now: number,
  timeoutMs: number,
): GpadlStep {
  switch (input.kind) {
    case "release":
      return step({ name: "tearing-down", deadline: now + timeoutMs }, { kind: "send-teardown" });
    case "forsake":
      return step(LEAKED, { kind: "leak" });
    case "unload":
      return step({ name: "parting", released: false });
    default:
      return rest(state, input);
  }
}

function tearingDown(state: Named<"tearing-down">, input: GpadlInput, now: number): GpadlStep {
  switch (input.kind) {
    case "torndown":
      return step(FREED, { kind: "free" });
    case "rescinded":
      // A host finishes teardowns before it rescinds, so this one may be unanswered for good.
      return step(state, { kind: "let-go" });
    case "post-failed":
      return step(LEAKED, { kind: "leak" });
    case "unload":
      return step({ name: "parting", released: true });
    case "tick":
      return now < state.deadline ? step(state) : step(LEAKED, { kind: "leak" });
    default:
      return rest(state, input);
  }
}

function parting(state: Named<"parting">, input: GpadlInput): GpadlStep {
  switch (input.kind) {
    case "release":
    case "forsake":
      return step({ name: "parting", released: true });
    case "unloaded":
      if (!input.confirmed) return step(LEAKED, { kind: "leak" });
      return state.released ? step(FREED, { kind: "free" }) : step({ name: "unshared" });
    default:
      return rest(state, input);
  }
}

/** What no state cares about, except that a host's answer to nothing is remarked. */
function rest(state: GpadlState, input: GpadlInput): GpadlStep {
  return input.kind === "created" || input.kind === "torndown"
    ? step(state, { kind: "unexpected" })
    : step(state);
}

/** A creation that did not get out: if its first message did, the host has heard of the memory. */
function notPosted(sent: number): GpadlStep {
  return sent === 0 ? step(FREED, { kind: "free" }) : step(LEAKED, { kind: "leak" });
}
