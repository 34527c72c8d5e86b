import type { DhcpReply } from "./message.js";

/** What a server has given, until when. Times are milliseconds of the clock. */
export interface DhcpLease {
  readonly address: number;
  readonly mask: number;
  readonly routers: readonly number[];
  readonly nameServers: readonly number[];
  readonly domainName: string;
  /** 0: the interface's own. */
  readonly mtu: number;
  readonly server: number;
  /** When the server is asked again, T1. */
  readonly renewalMs: number;
  /** When all servers are asked, T2. */
  readonly rebindingMs: number;
  readonly expiryMs: number;
}

/** Lease of a server that does not say how long, and the shortest; FreeBSD's. */
const DEFAULT_LEASE_S = 43_200;
const SHORTEST_LEASE_S = 60;
/** The smallest MTU that an IPv4 link can have (RFC 791). */
export const MTU_MIN = 68;

/**
 * The lease that an ACK gives.
 * @param requestedMs - When the first request was sent that it may answer: the lease does not begin before
 * (RFC 2131, section 4.4.1).
 */
export function leaseOf(ack: DhcpReply, requestedMs: number, previousServer = 0): DhcpLease {
  const leaseS = Math.max(SHORTEST_LEASE_S, ack.leaseS || DEFAULT_LEASE_S);
  // A server's own times are used as far as they are in order.
  const renewalS = ack.renewalS > 0 && ack.renewalS <= leaseS / 2 ? ack.renewalS : leaseS / 2;
  const rebindingS =
    ack.rebindingS > renewalS && ack.rebindingS < leaseS ? ack.rebindingS : leaseS * 0.875;
  return {
    address: ack.address,
    mask: ack.mask,
    routers: ack.routers,
    nameServers: ack.nameServers,
    domainName: ack.domainName,
    mtu: ack.mtu >= MTU_MIN ? ack.mtu : 0,
    server: ack.server || previousServer,
    renewalMs: requestedMs + renewalS * 1_000,
    rebindingMs: requestedMs + rebindingS * 1_000,
    expiryMs: requestedMs + leaseS * 1_000,
  };
}
