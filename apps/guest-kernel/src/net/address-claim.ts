import { step, type Step, type Tick } from "@hyperv-is/vmbus-core";

/** Times of RFC 5227, section 1.1. */
export interface ClaimTimes {
  /** Longest wait before the first probe. */
  readonly probeWaitMs: number;
  readonly probes: number;
  readonly probeMinMs: number;
  readonly probeMaxMs: number;
  /** From the last probe to the use of the address. */
  readonly announceWaitMs: number;
  readonly announcements: number;
  readonly announceIntervalMs: number;
  /** Shortest time between two defences of the address. */
  readonly defendIntervalMs: number;
}

export const CLAIM_TIMES: ClaimTimes = {
  probeWaitMs: 1_000,
  probes: 3,
  probeMinMs: 1_000,
  probeMaxMs: 2_000,
  announceWaitMs: 2_000,
  announcements: 2,
  announceIntervalMs: 2_000,
  defendIntervalMs: 10_000,
};

/** What FreeBSD's DHCP client does before it uses an address: a look of two seconds. */
export const DHCP_CLAIM_TIMES: ClaimTimes = {
  ...CLAIM_TIMES,
  probeWaitMs: 0,
  probes: 2,
  probeMaxMs: 1_000,
  announceWaitMs: 1_000,
};

/** Where the claim to an address of ours is (RFC 5227). */
export type ClaimState =
  /** Nothing is claimed yet. */
  | { readonly name: "idle" }
  | { readonly name: "probing"; readonly deadline: number; readonly sent: number }
  | { readonly name: "announcing"; readonly deadline: number; readonly sent: number }
  /** The address is ours; `defendedMs`: when it was defended last. */
  | { readonly name: "held"; readonly defendedMs: number }
  /** Another station has it. */
  | { readonly name: "lost" };

export type ClaimInput =
  /** Find out whether anybody has the address, then announce it. */
  | { readonly kind: "probe" }
  /** Take the address at once. */
  | { readonly kind: "take" }
  /** A station sent ARP with the address as its own. */
  | { readonly kind: "used"; readonly mac: string }
  /** A station probes for the address, as we do. */
  | { readonly kind: "probed"; readonly mac: string };

export type ClaimEffect =
  | { readonly kind: "send-probe" }
  | { readonly kind: "announce" }
  | { readonly kind: "usable" }
  /** A station has the address that was probed for. */
  | { readonly kind: "in-use"; readonly mac: string }
  /** A station uses our address, which we keep. */
  | { readonly kind: "conflict"; readonly mac: string };

/** @param jitter - from 0 up to 1, drawn for this step: where in its range a random wait lies. */
export function stepClaim(
  state: ClaimState,
  input: ClaimInput | Tick,
  now: number,
  jitter: number,
  times: ClaimTimes = CLAIM_TIMES,
): Step<ClaimState, ClaimEffect> {
  switch (input.kind) {
    case "probe":
      return step({ name: "probing", deadline: now + jitter * times.probeWaitMs, sent: 0 });
    case "take":
      return step(announced(1, now, times), { kind: "usable" }, { kind: "announce" });
    case "used":
      return used(state, input.mac, now, times);
    case "probed":
      // Two that probe at the same time both stand back; whoever has the address answers as it answers any request.
      return state.name === "probing"
        ? step({ name: "lost" }, { kind: "in-use", mac: input.mac })
        : step(state);
    case "tick":
      return tick(state, now, jitter, times);
  }
}

function announced(sent: number, now: number, times: ClaimTimes): ClaimState {
  return sent < times.announcements
    ? { name: "announcing", deadline: now + times.announceIntervalMs, sent }
    : { name: "held", defendedMs: -Infinity };
}

function used(
  state: ClaimState,
  mac: string,
  now: number,
  times: ClaimTimes,
): Step<ClaimState, ClaimEffect> {
  switch (state.name) {
    case "idle":
    case "lost":
      return step(state);
    case "probing":
      return step({ name: "lost" }, { kind: "in-use", mac });
    case "announcing":
      return step(
        { name: "held", defendedMs: now },
        { kind: "conflict", mac },
        { kind: "announce" },
      );
    case "held":
      // Against a station that does not stand back, an answer to each of its frames would be a storm.
      return now - state.defendedMs < times.defendIntervalMs
        ? step(state, { kind: "conflict", mac })
        : step({ name: "held", defendedMs: now }, { kind: "conflict", mac }, { kind: "announce" });
  }
}

function tick(
  state: ClaimState,
  now: number,
  jitter: number,
  times: ClaimTimes,
): Step<ClaimState, ClaimEffect> {
  switch (state.name) {
    case "probing": {
      const sent = state.sent + 1;
      if (sent > times.probes)
        return step(announced(1, now, times), { kind: "usable" }, { kind: "announce" });
      const wait =
        sent === times.probes
          ? times.announceWaitMs
          : times.probeMinMs + jitter * (times.probeMaxMs - times.probeMinMs);
      return step({ name: "probing", deadline: now + wait, sent }, { kind: "send-probe" });
    }
    case "announcing":
      return step(announced(state.sent + 1, now, times), { kind: "announce" });
    case "idle":
    case "held":
    case "lost":
      return step(state);
  }
}
