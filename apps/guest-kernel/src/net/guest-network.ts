import type { Timers } from "@hyperv-is/vmbus-core";
import { LOCALHOST_ADDRESS, formatAddress, parseAddress, prefixMask } from "./addresses.js";
import { DhcpClient } from "./dhcp/dhcp-client.js";
import { InternetStack } from "./internet-stack.js";
import { LoopbackDevice } from "./loopback-device.js";
import type { NetworkInterface } from "./network-interface.js";
import type { Random } from "./random.js";

export interface GuestNetworkOptions {
  readonly timers: Timers;
  readonly random: Random;
  /** Milliseconds since 1970, with fractions: the time of captured packets. */
  readonly realTimeMs: () => number;
  readonly hostName: string;
  /** Gets what the kernel prints. */
  readonly log: (line: string) => void;
}

/** The guest's network: its stack with `lo0`, and the DHCP clients of its interfaces. */
export class GuestNetwork {
  readonly stack: InternetStack;
  readonly timers: Timers;
  readonly realTimeMs: () => number;
  readonly #options: GuestNetworkOptions;
  readonly #clients = new Map<NetworkInterface, DhcpClient>();
  /** Who hears of the steps of the clients, beside nobody. */
  readonly #listeners = new Map<NetworkInterface, (line: string) => void>();

  constructor(options: GuestNetworkOptions) {
    const { timers, random, realTimeMs, log } = options;
    this.#options = options;
    this.timers = timers;
    this.realTimeMs = realTimeMs;
    this.stack = new InternetStack({ timers, random, log });
    const loopback = new LoopbackDevice(timers);
    const lo0 = this.stack.attach(loopback);
    loopback.connect(lo0);
    lo0.addAddress(LOCALHOST_ADDRESS, prefixMask(8));
    void lo0.setUp(true);
  }

  /** The address of a host that is known without asking anybody: by its number, or this host. */
  resolve(host: string): number | undefined {
    const { hostName } = this.#options;
    return host === "localhost" || host === hostName ? LOCALHOST_ADDRESS : parseAddress(host);
  }

  dhcpClient(target: NetworkInterface): DhcpClient | undefined {
    return this.#clients.get(target);
  }

  /**
   * Starts a DHCP client, or has the one that there is ask again.
   * @param listen - Gets a line about each step, until another one listens to this interface.
   */
  startDhcp(target: NetworkInterface, listen: (line: string) => void): DhcpClient {
    this.#listeners.set(target, listen);
    const known = this.#clients.get(target);
    if (known !== undefined) {
      known.restart();
      return known;
    }
    const client = new DhcpClient({
      stack: this.stack,
      interface: target,
      hostName: this.#options.hostName,
      log: (line) => this.#listeners.get(target)?.(line),
    });
    this.#clients.set(target, client);
    return client;
  }

  /** Gives the lease of an interface back. @returns False if it has no client. */
  releaseDhcp(target: NetworkInterface, listen: (line: string) => void): boolean {
    const client = this.#clients.get(target);
    if (client === undefined) return false;
    this.#listeners.set(target, listen);
    client.release();
    this.#clients.delete(target);
    return true;
  }

  /** Nobody listens to the steps of a client any more. */
  stopListening(target: NetworkInterface): void {
    this.#listeners.delete(target);
  }

  /** Lets an interface go that is gone, with its DHCP client. */
  detach(gone: NetworkInterface): void {
    this.#clients.get(gone)?.close();
    this.#clients.delete(gone);
    this.#listeners.delete(gone);
    this.stack.detach(gone);
  }

  /** `resolv.conf` as the leases have it. */
  get resolverConfiguration(): string {
    const lines: string[] = [];
    for (const { lease } of this.#clients.values()) {
      if (lease === undefined) continue;
      if (lease.domainName !== "") lines.push(`search ${lease.domainName}`);
      for (const address of lease.nameServers) lines.push(`nameserver ${formatAddress(address)}`);
    }
    return lines.map((line) => `${line}\n`).join("");
  }
}
