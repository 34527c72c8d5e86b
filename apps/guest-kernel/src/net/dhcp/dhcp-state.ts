import { prepend, step, type Step, type Tick } from "@hyperv-is/vmbus-core";
import { formatAddress } from "../addresses.js";
import { leaseOf, type DhcpLease } from "./lease.js";
import type { DhcpReply } from "./message.js";

/** Sending a message again and again. */
interface Retrying {
  readonly deadline: number;
  /** When the first was sent. */
  readonly sinceMs: number;
  /** How many were sent. */
  readonly sent: number;
}

/** States of a client, RFC 2131, figure 5, and those in which it waits for something else. */
export type DhcpState =
  | { readonly name: "stopped" }
  | ({ readonly name: "selecting" } & Retrying)
  | ({ readonly name: "requesting"; readonly offer: DhcpReply } & Retrying)
  /** INIT-REBOOT: a lease of earlier is asked for again. */
  | ({ readonly name: "rebooting"; readonly lease: DhcpLease } & Retrying)
  /** It is looked whether another station has the address. */
  | { readonly name: "checking"; readonly lease: DhcpLease }
  /** The address was in use: a while passes until there is a new attempt. */
  | { readonly name: "declined"; readonly deadline: number }
  | { readonly name: "bound"; readonly deadline: number; readonly lease: DhcpLease }
  | ({ readonly name: "renewing"; readonly lease: DhcpLease } & Retrying)
  | ({ readonly name: "rebinding"; readonly lease: DhcpLease } & Retrying)
  /** No server has answered. */
  | { readonly name: "sleeping"; readonly deadline: number };

export type DhcpInput =
  /** @param lease - One of earlier. */
  | { readonly kind: "start"; readonly lease?: DhcpLease | undefined }
  | { readonly kind: "reply"; readonly reply: DhcpReply }
  | { readonly kind: "address-free" }
  | { readonly kind: "address-in-use" }
  /** The link has come up again, perhaps to another network. */
  | { readonly kind: "link-up" }
  /** Gives the lease back. */
  | { readonly kind: "release" };

export type DhcpEffect =
  /** `isNew`: it begins a transaction. `to`: a server, or 0 for all. */
  | {
      readonly kind: "send";
      readonly type: "discover" | "request" | "decline" | "release";
      readonly isNew: boolean;
      readonly to: number;
      readonly clientAddress: number;
      readonly requestedAddress: number;
      readonly server: number;
      /** Seconds since the first attempt. */
      readonly seconds: number;
      /** Until the next attempt, for the message about it. */
      readonly intervalS: number;
    }
  /** Look whether an address is in use. */
  | { readonly kind: "check"; readonly address: number }
  /** The interface gets what the lease says. */
  | { readonly kind: "configure"; readonly lease: DhcpLease }
  | { readonly kind: "deconfigure"; readonly lease: DhcpLease }
  | { readonly kind: "log"; readonly line: string };

type DhcpStep = Step<DhcpState, DhcpEffect>;

/** Waits between attempts, in seconds, each a second more or less (RFC 2131, section 4.1). */
const BACKOFF_S = [4, 8, 16, 32, 64] as const;
/** Attempts to get an offer, about a minute, and the lease of an offer or of earlier, about ten seconds: as FreeBSD has it. */
const SELECTING_ATTEMPTS = 4;
const REQUESTING_ATTEMPTS = 2;
/** FreeBSD's: how long it sleeps when there are no servers. */
const SLEEP_MS = 300_000;
/** RFC 2131, section 3.1: after a DECLINE. */
const DECLINE_MS = 10_000;
/** Shortest wait between attempts to renew (section 4.4.5). */
const RENEW_RETRY_MS = 60_000;

const log = (line: string): DhcpEffect => ({ kind: "log", line });

/** @param jitter - from 0 up to 1, drawn for this step. */
export function stepDhcp(
  state: DhcpState,
  input: DhcpInput | Tick,
  now: number,
  jitter: number,
): DhcpStep {
  switch (input.kind) {
    case "start":
      return start(state, input.lease, now, jitter);
    case "reply":
      return reply(state, input.reply, now, jitter);
    case "address-free":
      return state.name === "checking" ? bind(state.lease) : step(state);
    case "address-in-use":
      if (state.name !== "checking") return step(state);
      return step(
        { name: "declined", deadline: now + DECLINE_MS },
        log(`${formatAddress(state.lease.address)} is in use already`),
        {
          ...message("decline", 0),
          isNew: true,
          requestedAddress: state.lease.address,
          server: state.lease.server,
        },
      );
    case "link-up":
      return "lease" in state ? reboot(state.lease, now, jitter) : step(state);
    case "release":
      return release(state);
    case "tick":
      return tick(state, now, jitter);
  }
}

function message(
  type: Extract<DhcpEffect, { kind: "send" }>["type"],
  to: number,
): Extract<DhcpEffect, { kind: "send" }> {
  return {
    kind: "send",
    type,
    isNew: false,
    to,
    clientAddress: 0,
    requestedAddress: 0,
    server: 0,
    seconds: 0,
    intervalS: 0,
  };
}

function start(
  state: DhcpState,
  lease: DhcpLease | undefined,
  now: number,
  jitter: number,
): DhcpStep {
  // What is configured already is asked for again.
  const known = "lease" in state ? state.lease : lease;
  return known !== undefined && known.expiryMs > now
    ? reboot(known, now, jitter)
    : select(now, now, 0, jitter);
}

/** How long to wait after attempt number `sent`, from 0 on. */
function backoff(sent: number, jitter: number): { intervalS: number; waitMs: number } {
  const intervalS = BACKOFF_S[Math.min(sent, BACKOFF_S.length - 1)]!;
  return { intervalS, waitMs: (intervalS - 1 + 2 * jitter) * 1_000 };
}

function select(now: number, sinceMs: number, sent: number, jitter: number): DhcpStep {
  const { intervalS, waitMs } = backoff(sent, jitter);
  return step(
    { name: "selecting", deadline: now + waitMs, sinceMs, sent: sent + 1 },
    {
      ...message("discover", 0),
      isNew: sent === 0,
      seconds: Math.floor((now - sinceMs) / 1_000),
      intervalS,
    },
  );
}

function request(
  offer: DhcpReply,
  now: number,
  sinceMs: number,
  sent: number,
  jitter: number,
): DhcpStep {
  const { intervalS, waitMs } = backoff(sent, jitter);
  return step(
    { name: "requesting", offer, deadline: now + waitMs, sinceMs, sent: sent + 1 },
    {
      ...message("request", 0),
      requestedAddress: offer.address,
      server: offer.server,
      seconds: Math.floor((now - sinceMs) / 1_000),
      intervalS,
    },
  );
}

function reboot(lease: DhcpLease, now: number, jitter: number, sinceMs = now, sent = 0): DhcpStep {
  const { intervalS, waitMs } = backoff(sent, jitter);
  return step(
    { name: "rebooting", lease, deadline: now + waitMs, sinceMs, sent: sent + 1 },
    {
      ...message("request", 0),
      isNew: sent === 0,
      requestedAddress: lease.address,
      seconds: Math.floor((now - sinceMs) / 1_000),
      intervalS,
    },
  );
}

/** Asks for more time: the server until T2, all servers until the lease ends. */
function extend(
  name: "renewing" | "rebinding",
  lease: DhcpLease,
  now: number,
  sinceMs: number,
  sent: number,
): DhcpStep {
  const untilMs = name === "renewing" ? lease.rebindingMs : lease.expiryMs;
  const deadline = Math.min(untilMs, now + Math.max(RENEW_RETRY_MS, (untilMs - now) / 2));
  return step(
    { name, lease, deadline, sinceMs, sent: sent + 1 },
    {
      ...message("request", name === "renewing" ? lease.server : 0),
      isNew: sent === 0,
      clientAddress: lease.address,
      seconds: Math.floor((now - sinceMs) / 1_000),
      intervalS: Math.round((deadline - now) / 1_000),
    },
  );
}

function bind(lease: DhcpLease): DhcpStep {
  return step({ name: "bound", deadline: lease.renewalMs, lease }, { kind: "configure", lease });
}

function reply(state: DhcpState, reply: DhcpReply, now: number, jitter: number): DhcpStep {
  const from = formatAddress(reply.server);
  switch (state.name) {
    case "selecting":
      if (reply.type !== "offer") return step(state);
      return prepend(log(`DHCPOFFER from ${from}`), request(reply, now, now, 0, jitter));
    case "requesting":
      // A server that was not asked has nothing to say.
      if (reply.type === "offer" || (reply.server !== 0 && reply.server !== state.offer.server))
        return step(state);
      if (reply.type === "nak")
        return prepend(log(`DHCPNAK from ${from}`), select(now, now, 0, jitter));
      return check(leaseOf(reply, state.sinceMs, state.offer.server), log(`DHCPACK from ${from}`));
    case "rebooting":
    case "renewing":
    case "rebinding":
      if (reply.type === "offer") return step(state);
      if (reply.type === "nak") {
        const { state: next, effects } = select(now, now, 0, jitter);
        return step<DhcpState, DhcpEffect>(
          next,
          log(`DHCPNAK from ${from}`),
          { kind: "deconfigure", lease: state.lease },
          ...effects,
        );
      }
      return renewed(
        state,
        leaseOf(reply, state.sinceMs, state.lease.server),
        log(`DHCPACK from ${from}`),
      );
    case "stopped":
    case "checking":
    case "declined":
    case "bound":
    case "sleeping":
      return step(state);
  }
}

function renewed(
  { name, lease: old }: Extract<DhcpState, { name: "rebooting" | "renewing" | "rebinding" }>,
  lease: DhcpLease,
  why: DhcpEffect,
): DhcpStep {
  if (lease.address !== old.address)
    return prepend({ kind: "deconfigure", lease: old }, check(lease, why));
  return name === "rebooting" ? check(lease, why) : prepend(why, bind(lease));
}

function check(lease: DhcpLease, why: DhcpEffect): DhcpStep {
  return step({ name: "checking", lease }, why, { kind: "check", address: lease.address });
}

function release(state: DhcpState): DhcpStep {
  switch (state.name) {
    case "bound":
    case "renewing":
    case "rebinding":
      return step(
        { name: "stopped" },
        {
          ...message("release", state.lease.server),
          isNew: true,
          clientAddress: state.lease.address,
          server: state.lease.server,
        },
        { kind: "deconfigure", lease: state.lease },
      );
    case "rebooting":
      return step({ name: "stopped" }, { kind: "deconfigure", lease: state.lease });
    case "stopped":
      return step(state);
    case "selecting":
    case "requesting":
    case "checking":
    case "declined":
    case "sleeping":
      return step({ name: "stopped" });
  }
}

function tick(state: DhcpState, now: number, jitter: number): DhcpStep {
  switch (state.name) {
    case "stopped":
    case "checking":
      return step(state);
    case "declined":
    case "sleeping":
      return select(now, now, 0, jitter);
    case "selecting":
      if (state.sent < SELECTING_ATTEMPTS) return select(now, state.sinceMs, state.sent, jitter);
      return step(
        { name: "sleeping", deadline: now + SLEEP_MS },
        log("No DHCPOFFERS received."),
        log("No working leases in persistent database - sleeping."),
      );
    case "requesting":
      return state.sent < REQUESTING_ATTEMPTS
        ? request(state.offer, now, state.sinceMs, state.sent, jitter)
        : select(now, now, 0, jitter);
    case "rebooting":
      return state.sent < REQUESTING_ATTEMPTS
        ? reboot(state.lease, now, jitter, state.sinceMs, state.sent)
        : // No server says that the lease is not good any more (RFC 2131, section 3.2).
          check(state.lease, log(`Trying recorded lease ${formatAddress(state.lease.address)}`));
    case "bound":
      return extend("renewing", state.lease, now, now, 0);
    case "renewing":
      return now < state.lease.rebindingMs
        ? extend("renewing", state.lease, now, state.sinceMs, state.sent)
        : extend("rebinding", state.lease, now, now, 0);
    case "rebinding": {
      if (now < state.lease.expiryMs)
        return extend("rebinding", state.lease, now, state.sinceMs, state.sent);
      const next = select(now, now, 0, jitter);
      return step<DhcpState, DhcpEffect>(
        next.state,
        { kind: "deconfigure", lease: state.lease },
        ...next.effects,
      );
    }
  }
}
