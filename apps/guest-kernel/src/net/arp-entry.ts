import { step, type Step, type Tick } from "@hyperv-is/vmbus-core";

/** Times of the ARP cache; FreeBSD's, `net.link.ether.inet`. */
export interface ArpTimes {
  /** How long a neighbour's answer is believed. */
  readonly maxAgeMs: number;
  /** Between two requests. */
  readonly retryMs: number;
  readonly maxTries: number;
  /** How long a neighbour that does not answer is taken to be down. */
  readonly downMs: number;
}

export const ARP_TIMES: ArpTimes = {
  maxAgeMs: 1_200_000,
  retryMs: 1_000,
  maxTries: 5,
  downMs: 20_000,
};

/** What is known of one neighbour. */
export type ArpEntryState =
  | { readonly name: "absent" }
  | { readonly name: "incomplete"; readonly deadline: number; readonly requests: number }
  | { readonly name: "reachable"; readonly deadline: number; readonly mac: string }
  | { readonly name: "down"; readonly deadline: number };

export type ArpEntryInput =
  /** A packet is to be sent there, and the address is not known. */
  | { readonly kind: "wanted" }
  /** The neighbour told its address. Unasked, and not meant for us, it makes no new entry. */
  | { readonly kind: "told"; readonly mac: string; readonly forUs: boolean }
  | { readonly kind: "delete" };

export type ArpEntryEffect =
  | { readonly kind: "request" }
  /** Packets that wait may go. */
  | { readonly kind: "deliver" }
  /** Packets that wait, and the one that is to be sent, are dropped. */
  | { readonly kind: "drop" }
  | { readonly kind: "moved"; readonly from: string; readonly to: string }
  /** The entry is forgotten. */
  | { readonly kind: "forget" };

const absent: ArpEntryState = { name: "absent" };

/** One entry of the ARP cache. A MAC address is a text here, so that states can be compared. */
export function stepArpEntry(
  state: ArpEntryState,
  input: ArpEntryInput | Tick,
  now: number,
  times: ArpTimes = ARP_TIMES,
): Step<ArpEntryState, ArpEntryEffect> {
  if (input.kind === "delete")
    return state.name === "absent"
      ? step(state)
      : step(absent, { kind: "drop" }, { kind: "forget" });
  if (input.kind === "told") {
    const reachable: ArpEntryState = {
      name: "reachable",
      deadline: now + times.maxAgeMs,
      mac: input.mac,
    };
    switch (state.name) {
      case "absent":
        return input.forUs ? step(reachable) : step(state);
      case "incomplete":
        return step(reachable, { kind: "deliver" });
      case "down":
        return step(reachable);
      case "reachable":
        return state.mac === input.mac
          ? step(reachable)
          : step(reachable, { kind: "moved", from: state.mac, to: input.mac });
    }
  }
  if (input.kind === "wanted") {
    if (state.name === "absent")
      return step(
        { name: "incomplete", deadline: now + times.retryMs, requests: 1 },
        { kind: "request" },
      );
    return state.name === "down" ? step(state, { kind: "drop" }) : step(state);
  }
  switch (state.name) {
    case "absent":
      return step(state);
    case "incomplete":
      if (state.requests < times.maxTries)
        return step(
          { name: "incomplete", deadline: now + times.retryMs, requests: state.requests + 1 },
          { kind: "request" },
        );
      return step({ name: "down", deadline: now + times.downMs }, { kind: "drop" });
    case "reachable":
    case "down":
      return step(absent, { kind: "forget" });
  }
}
