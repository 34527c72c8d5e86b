import { RndisStatus } from "./protocol/index.js";

/** The link of an interface, as far as it is known. */
export interface Link {
  readonly up: boolean;
  /** Bits per second; 0 if the host does not say. */
  readonly speed: number;
}

/** What is known of the link, and what is being done to know it better. */
export interface LinkState extends Link {
  readonly phase:
    | "steady"
    /** The host is being asked. */
    | "asking"
    /** It has indicated again since: its answer may be old. */
    | "asking-again"
    /** The network is another one: the link is down for as long as others need to notice. */
    | "changing";
  /** End of `changing`. */
  readonly deadline: number;
}

/** What the link reacts to. */
export type LinkInput =
  /** INDICATE_STATUS. */
  | { readonly kind: "indicated"; readonly status: number }
  /** The host's answer, or none. */
  | { readonly kind: "answered"; readonly link: Link | undefined }
  | { readonly kind: "tick" };

/** What its owner has to do then, in order. */
export type LinkEffect =
  /** Ask the host how the link is. */
  | { readonly kind: "ask" }
  /** The link is another one than before. */
  | { readonly kind: "tell"; readonly link: Link };

/** How long FreeBSD has the link down when the network changed, so that addresses are asked for again. */
export const NETWORK_CHANGE_MS = 5_000;

/** A link of which the host has just told. */
export function steadyLink(link: Link): LinkState {
  return { up: link.up, speed: link.speed, phase: "steady", deadline: Infinity };
}

/**
 * What becomes of the link by an input at the time `now`, and what has to be done. What a host indicates is a
 * reason to ask it: indications can come in any number while an answer is under way, and the last state counts.
 */
export function stepLink(
  state: LinkState,
  input: LinkInput,
  now: number,
): { readonly state: LinkState; readonly effects: readonly LinkEffect[] } {
  switch (input.kind) {
    case "indicated":
      return indicated(state, input.status, now);
    case "answered":
      return answered(state, input.link);
    case "tick":
      if (state.phase !== "changing" || now < state.deadline) return { state, effects: [] };
      return {
        state: { ...state, phase: "asking", deadline: Infinity },
        effects: [{ kind: "ask" }],
      };
  }
}

function indicated(state: LinkState, status: number, now: number): ReturnType<typeof stepLink> {
  switch (status) {
    case RndisStatus.networkChange: {
      const changing: LinkState = {
        up: false,
        speed: state.speed,
        phase: "changing",
        deadline: now + NETWORK_CHANGE_MS,
      };
      return { state: changing, effects: state.up ? [tell(changing)] : [] };
    }
    case RndisStatus.mediaConnect:
    case RndisStatus.mediaDisconnect:
    case RndisStatus.linkSpeedChange:
      if (state.phase === "steady")
        return { state: { ...state, phase: "asking" }, effects: [{ kind: "ask" }] };
      if (state.phase === "asking")
        return { state: { ...state, phase: "asking-again" }, effects: [] };
      return { state, effects: [] };
    default:
      return { state, effects: [] };
  }
}

function answered(state: LinkState, link: Link | undefined): ReturnType<typeof stepLink> {
  if (state.phase === "asking-again")
    return { state: { ...state, phase: "asking" }, effects: [{ kind: "ask" }] };
  // While the network changes, an answer is from before.
  if (state.phase !== "asking") return { state, effects: [] };
  const next = steadyLink(link ?? state);
  const changed = next.up !== state.up || next.speed !== state.speed;
  return { state: next, effects: changed ? [tell(next)] : [] };
}

function tell({ up, speed }: Link): LinkEffect {
  return { kind: "tell", link: { up, speed } };
}
