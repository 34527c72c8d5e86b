import { Machine } from "@hyperv-is/vmbus-core";
import { DHCP_CLAIM_TIMES } from "../address-claim.js";
import { ANY_ADDRESS, BROADCAST_ADDRESS, formatAddress } from "../addresses.js";
import type { InternetStack } from "../internet-stack.js";
import type { NetworkInterface } from "../network-interface.js";
import { randomFraction, randomU32 } from "../random.js";
import type { UdpSocket } from "../udp.js";
import { stepDhcp, type DhcpEffect, type DhcpInput, type DhcpState } from "./dhcp-state.js";
import type { DhcpLease } from "./lease.js";
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT, buildRequest, parseReply } from "./message.js";

export interface DhcpClientOptions {
  readonly stack: InternetStack;
  readonly interface: NetworkInterface;
  /** What servers may know the host by; empty for nothing. */
  readonly hostName: string;
  /** A lease of earlier, which is asked for again. */
  readonly lease?: DhcpLease | undefined;
  /** Gets a line about each step, in the words of FreeBSD's dhclient. */
  readonly log: (line: string) => void;
  /** The interface has been configured by a lease, or is not any more. */
  readonly changed?: (lease: DhcpLease | undefined) => void;
}

export interface DhcpCounters {
  sent: number;
  received: number;
  /** What came to the port and was no usable reply to this client. */
  ignored: number;
}

/** The DHCP client (RFC 2131) of one interface: gets an address for it, and keeps it as long as it may. */
export class DhcpClient {
  readonly interface: NetworkInterface;
  readonly counters: DhcpCounters = { sent: 0, received: 0, ignored: 0 };
  readonly #options: DhcpClientOptions;
  readonly #machine: Machine<DhcpState, DhcpInput, DhcpEffect>;
  readonly #socket: UdpSocket;
  readonly #stopListening: () => void;
  #transaction = 0;
  /** What the interface was configured with. */
  #configured: DhcpLease | undefined;
  #closed = false;

  /** Begins at once. Throws `EADDRINUSE` if the interface has a client. */
  constructor(options: DhcpClientOptions) {
    const { stack, interface: target } = options;
    this.interface = target;
    this.#options = options;
    this.#socket = stack.openUdp({
      port: DHCP_CLIENT_PORT,
      interface: target,
      unconfigured: true,
      onDatagram: ({ sourcePort, payload }) => {
        const reply =
          sourcePort === DHCP_SERVER_PORT
            ? parseReply(payload, target.macAddress, this.#transaction)
            : undefined;
        if (reply === undefined) {
          this.counters.ignored++;
          return;
        }
        this.counters.received++;
        this.#machine.input({ kind: "reply", reply });
      },
    });
    this.#machine = new Machine<DhcpState, DhcpInput, DhcpEffect>(
      stack.timers,
      { name: "stopped" },
      (state, input, now) => stepDhcp(state, input, now, randomFraction(stack.random)),
      (effect) => this.#carryOut(effect),
    );
    this.#stopListening = target.onLink((hasLink) => {
      if (hasLink) this.#machine.input({ kind: "link-up" });
    });
    this.#machine.input({ kind: "start", lease: options.lease });
  }

  get state(): DhcpState["name"] {
    return this.#machine.state.name;
  }

  /** What the interface is configured with. */
  get lease(): DhcpLease | undefined {
    return this.#configured;
  }

  /** Asks for the lease that it has again, or for a new one. */
  restart(): void {
    if (!this.#closed) this.#machine.input({ kind: "start" });
  }

  /** Gives the lease back, takes it from the interface, and ends. Idempotent. */
  release(): void {
    if (this.#closed) return;
    this.#machine.input({ kind: "release" });
    this.close();
  }

  /** Ends, and leaves the interface as it is. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#stopListening();
    this.#socket.close();
  }

  #carryOut(effect: DhcpEffect): void {
    if (this.#closed) return;
    switch (effect.kind) {
      case "send":
        this.#send(effect);
        return;
      case "check":
        this.#check(effect.address);
        return;
      case "configure":
        this.#configure(effect.lease);
        return;
      case "deconfigure":
        this.#deconfigure();
        return;
      case "log":
        this.#options.log(effect.line);
    }
  }

  #send(effect: Extract<DhcpEffect, { kind: "send" }>): void {
    const { stack, hostName, log } = this.#options;
    const { type, to, clientAddress } = effect;
    if (effect.isNew) this.#transaction = randomU32(stack.random);
    const destination = to === ANY_ADDRESS ? BROADCAST_ADDRESS : to;
    const interval = type === "discover" ? ` interval ${effect.intervalS}` : "";
    log(
      `DHCP${type.toUpperCase()} on ${this.interface.name} to ${formatAddress(destination)} port ${DHCP_SERVER_PORT}${interval}`,
    );
    const message = buildRequest({
      type,
      transaction: this.#transaction,
      seconds: effect.seconds,
      mac: this.interface.macAddress,
      hostName,
      clientAddress,
      requestedAddress: effect.requestedAddress,
      server: effect.server,
    });
    this.counters.sent++;
    this.#socket.send(message, destination, DHCP_SERVER_PORT, clientAddress);
  }

  #check(address: number): void {
    if (this.interface.hasAddress(address)) {
      this.#machine.input({ kind: "address-free" });
      return;
    }
    this.interface.probeAddress(address, DHCP_CLAIM_TIMES, (usedBy) =>
      this.#machine.input({ kind: usedBy === undefined ? "address-free" : "address-in-use" }),
    );
  }

  #configure(lease: DhcpLease): void {
    const { stack, log } = this.#options;
    const { address, mask, routers, mtu } = lease;
    const old = this.#configured;
    if (old !== undefined && (old.address !== address || old.mask !== mask)) this.#deconfigure();
    const target = this.interface;
    if (target.hasAddress(address) && this.#configured === undefined) target.removeAddress(address);
    target.addAddress(address, mask);
    const [router] = routers;
    // A route that somebody else has set stays.
    if (stack.routes.defaultGateway === old?.routers[0]) stack.routes.deleteDefault();
    if (router !== undefined && stack.routes.defaultGateway === undefined) {
      try {
        stack.routes.addDefault(router);
      } catch {
        log(`${formatAddress(router)}: the router is on no network of ${target.name}`);
      }
    }
    if (mtu !== 0 && mtu !== target.device.mtu)
      target.device
        .setMtu(mtu)
        .catch((error: unknown) => log(`${target.name}: mtu ${mtu}: ${String(error)}`));
    this.#configured = lease;
    const seconds = Math.round((lease.renewalMs - stack.timers.now()) / 1_000);
    const renewal = seconds === Infinity ? "never to be renewed" : `renewal in ${seconds} seconds`;
    log(`bound to ${formatAddress(address)} -- ${renewal}.`);
    this.#options.changed?.(lease);
  }

  #deconfigure(): void {
    const lease = this.#configured;
    if (lease === undefined) return;
    this.#configured = undefined;
    const { routes } = this.#options.stack;
    if (routes.defaultGateway !== undefined && routes.defaultGateway === lease.routers[0])
      routes.deleteDefault();
    if (this.interface.hasAddress(lease.address)) this.interface.removeAddress(lease.address);
    this.#options.changed?.(undefined);
  }
}
