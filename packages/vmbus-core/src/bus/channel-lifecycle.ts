import type { BusErrorCode } from "./bus-error.js";
import { step, type Step, type Tick } from "./machine.js";

/**
 * Whether a channel is open, as the control plane sees it. The memory of its rings has a life of its own
 * (`GpadlState`): it is shared before the channel opens and taken back after it has closed.
 */
export type ChannelState =
  | { readonly name: "closed" }
  | { readonly name: "opening"; readonly deadline: number }
  /** The opener has given up; CLOSECHANNEL may not go before the result of OPENCHANNEL has come. */
  | { readonly name: "cancelling"; readonly deadline: number }
  /** `overdue`: the host still owes an answer to MODIFYCHANNEL and would drop a second one. */
  | { readonly name: "open"; readonly overdue: boolean }
  /** Waits for the answer to MODIFYCHANNEL, before anything else is changed. */
  | { readonly name: "modifying"; readonly deadline: number; readonly closing: boolean }
  /** The host never told whether it opened the channel: its rings are lost. */
  | { readonly name: "stuck" }
  | { readonly name: "gone"; readonly code: "ERR_RESCINDED" | "ERR_UNLOADED" };

/** What a channel reacts to. */
export type ChannelInput =
  | { readonly kind: "open" }
  /** OPENCHANNEL_RESULT. */
  | { readonly kind: "result"; readonly status: number }
  | { readonly kind: "close" }
  /** `acknowledged`: the version has MODIFYCHANNEL_RESPONSE. */
  | { readonly kind: "modify"; readonly acknowledged: boolean }
  /** MODIFYCHANNEL_RESPONSE. */
  | { readonly kind: "modified"; readonly status: number }
  | { readonly kind: "rescinded" }
  | { readonly kind: "unload" }
  | {
      readonly kind: "post-failed";
      readonly message: "open" | "close" | "modify";
      readonly status: number;
    }
  | Tick;

/** What its owner has to do then, in order. */
export type ChannelEffect =
  | { readonly kind: "send-open" }
  | { readonly kind: "send-close" }
  | { readonly kind: "send-modify" }
  | { readonly kind: "opened" }
  | { readonly kind: "open-failed"; readonly code: BusErrorCode; readonly status?: number }
  | { readonly kind: "modified" }
  | { readonly kind: "modify-failed"; readonly code: BusErrorCode; readonly status?: number }
  /** Whoever waits for the end of the channel need not wait any longer. */
  | { readonly kind: "closed" }
  /** The host answered what nobody asked. */
  | { readonly kind: "unexpected" };

type ChannelStep = Step<ChannelState, ChannelEffect>;

const CLOSED: ChannelState = { name: "closed" };
const SEND_CLOSE: ChannelEffect = { kind: "send-close" };
const DONE: ChannelEffect = { kind: "closed" };

/**
 * What the channel becomes by an input at the time `now`, and what has to be done.
 *
 * @param timeoutMs - How long the host may take for each answer.
 */
export function stepChannel(
  state: ChannelState,
  input: ChannelInput,
  now: number,
  timeoutMs: number,
): ChannelStep {
  switch (state.name) {
    case "closed":
      if (input.kind === "open")
        return step({ name: "opening", deadline: now + timeoutMs }, { kind: "send-open" });
      return atRest(state, input, "ERR_CLOSED");
    case "opening":
      return opening(state, input, now, timeoutMs);
    case "cancelling":
      return cancelling(state, input, now);
    case "open":
      return open(state, input, now, timeoutMs);
    case "modifying":
      return modifying(state, input, now);
    case "stuck":
      if (input.kind === "result")
        return input.status === 0 ? step(CLOSED, SEND_CLOSE) : step(CLOSED);
      return atRest(state, input, "ERR_TIMEOUT");
    case "gone":
      if (input.kind === "rescinded" || input.kind === "unload") return step(state);
      return atRest(state, input, state.code);
  }
}

type Named<Name extends ChannelState["name"]> = ChannelState & { readonly name: Name };

function opening(
  state: Named<"opening">,
  input: ChannelInput,
  now: number,
  timeoutMs: number,
): ChannelStep {
  const giveUp = (code: BusErrorCode): ChannelStep =>
    step({ name: "cancelling", deadline: now + timeoutMs }, { kind: "open-failed", code });
  switch (input.kind) {
    case "result":
      if (input.status === 0) return step({ name: "open", overdue: false }, { kind: "opened" });
      return step(CLOSED, {
        kind: "open-failed",
        code: "ERR_OPEN_FAILED",
        status: input.status,
      });
    case "close":
      return giveUp("ERR_CLOSED");
    case "tick":
      return now < state.deadline ? step(state) : giveUp("ERR_TIMEOUT");
    case "post-failed":
      if (input.message !== "open") return step(state);
      return step(CLOSED, { kind: "open-failed", code: "ERR_POST_FAILED", status: input.status });
    case "rescinded":
    case "unload":
      return lost(input.kind, (code) => ({ kind: "open-failed", code }));
    case "modify":
      return step(state, { kind: "modify-failed", code: "ERR_BUSY" });
    case "modified":
      return step(state, { kind: "unexpected" });
    // One opener at a time: the owner sees to that.
    case "open":
      return step(state);
  }
}

function cancelling(state: Named<"cancelling">, input: ChannelInput, now: number): ChannelStep {
  switch (input.kind) {
    case "result":
      return input.status === 0 ? step(CLOSED, SEND_CLOSE, DONE) : step(CLOSED, DONE);
    case "tick":
      return now < state.deadline ? step(state) : step({ name: "stuck" }, DONE);
    case "post-failed":
      return input.message === "open" ? step(CLOSED, DONE) : step(state);
    case "close":
      return step(state);
    case "rescinded":
    case "unload":
    case "open":
    case "modify":
    case "modified":
      return atRest(state, input, "ERR_BUSY");
  }
}

function open(
  state: Named<"open">,
  input: ChannelInput,
  now: number,
  timeoutMs: number,
): ChannelStep {
  switch (input.kind) {
    case "close":
      return step(CLOSED, SEND_CLOSE, DONE);
    case "modify":
      if (state.overdue) return step(state, { kind: "modify-failed", code: "ERR_BUSY" });
      if (!input.acknowledged) return step(state, { kind: "send-modify" }, { kind: "modified" });
      return step(
        { name: "modifying", deadline: now + timeoutMs, closing: false },
        { kind: "send-modify" },
      );
    case "modified":
      return state.overdue
        ? step({ name: "open", overdue: false })
        : step(state, { kind: "unexpected" });
    case "open":
      return step(state, { kind: "open-failed", code: "ERR_BUSY" });
    case "rescinded":
    case "unload":
    case "result":
    case "post-failed":
    case "tick":
      return atRest(state, input, "ERR_BUSY");
  }
}

function modifying(state: Named<"modifying">, input: ChannelInput, now: number): ChannelStep {
  const end = (overdue: boolean, effect: ChannelEffect): ChannelStep =>
    state.closing
      ? step(CLOSED, effect, SEND_CLOSE, DONE)
      : step({ name: "open", overdue }, effect);
  switch (input.kind) {
    case "modified":
      return end(
        false,
        input.status === 0
          ? { kind: "modified" }
          : { kind: "modify-failed", code: "ERR_MODIFY_FAILED", status: input.status },
      );
    case "post-failed":
      if (input.message !== "modify") return step(state);
      return end(false, {
        kind: "modify-failed",
        code: "ERR_POST_FAILED",
        status: input.status,
      });
    case "tick":
      if (now < state.deadline) return step(state);
      return end(true, { kind: "modify-failed", code: "ERR_TIMEOUT" });
    case "close":
      return step({ ...state, closing: true });
    case "rescinded":
    case "unload":
      return lost(input.kind, (code) => ({ kind: "modify-failed", code }));
    case "open":
      return step(state, { kind: "open-failed", code: "ERR_BUSY" });
    case "result":
      return step(state, { kind: "unexpected" });
    // One change at a time: the owner sees to that.
    case "modify":
      return step(state);
  }
}

/** The host took the channel or the bus away: whoever waits hears of it at once. */
function lost(
  cause: "rescinded" | "unload",
  failed?: (code: "ERR_RESCINDED" | "ERR_UNLOADED") => ChannelEffect,
): ChannelStep {
  const code = cause === "rescinded" ? "ERR_RESCINDED" : "ERR_UNLOADED";
  const gone: ChannelState = { name: "gone", code };
  return failed === undefined ? step(gone, DONE) : step(gone, failed(code), DONE);
}

/** A state in which nothing can be done: `code` says why. Closing a channel that is not open is no error. */
function atRest(state: ChannelState, input: ChannelInput, code: BusErrorCode): ChannelStep {
  switch (input.kind) {
    case "open":
      return step(state, { kind: "open-failed", code });
    case "modify":
      return step(state, { kind: "modify-failed", code });
    case "close":
      return step(state, DONE);
    case "rescinded":
    case "unload":
      return lost(input.kind);
    case "result":
    case "modified":
      return step(state, { kind: "unexpected" });
    case "post-failed":
    case "tick":
      return step(state);
  }
}
