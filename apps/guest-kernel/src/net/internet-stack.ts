import type { Timers } from "@hyperv-is/vmbus-core";
import { ANY_ADDRESS, LOCALHOST_ADDRESS, isHostAddress, isMulticast } from "./addresses.js";
import { IcmpLayer, type EchoAnswer, type EchoSocket } from "./icmp.js";
import { Ipv4Output } from "./ipv4-output.js";
import { Ipv4Packet, type Ipv4Fault } from "./ipv4.js";
import type { NetworkDevice } from "./network-device.js";
import { NetworkInterface, type InterfaceOwner } from "./network-interface.js";
import { Ethernet, IpProtocol, UnreachableCode } from "./protocol.js";
import { randomU32, type Random } from "./random.js";
import { RoutingTable } from "./routes.js";
import { UdpLayer, type UdpOptions, type UdpSocket } from "./udp.js";

export interface StackOptions {
  readonly timers: Timers;
  readonly random: Random;
  /** Gets what the kernel would print. */
  readonly log: (line: string) => void;
}

/** What became of IPv4 packets that came. */
export interface Ipv4InputCounters extends Record<Ipv4Fault, number> {
  received: number;
  delivered: number;
  /** From an address that no host of the link has, or to one of this host alone (RFC 1122, section 3.2.1.3). */
  badAddress: number;
  /** For others: this is no router. */
  notForUs: number;
  /** For groups that no interface is in. */
  notMember: number;
  /** Parts of packets, which are not put together. */
  fragments: number;
  /** There is no TCP: segments are counted, and get no answer. */
  tcp: number;
  /** Of protocols that there are not; told to the sender. */
  unknownProtocol: number;
}

/**
 * A small IPv4 stack for any number of interfaces: ARP, ICMP, UDP, routes to networks of its own and one beyond.
 *
 * It has no TCP, neither sends nor puts together fragments, and forwards nothing. All of it runs on one CPU, in the
 * calls of its devices, timers and users.
 */
export class InternetStack implements InterfaceOwner {
  readonly timers: Timers;
  readonly random: Random;
  readonly routes: RoutingTable;
  readonly icmp: IcmpLayer;
  readonly udp: UdpLayer;
  readonly output: Ipv4Output;
  readonly counters: Ipv4InputCounters = {
    received: 0,
    delivered: 0,
    tooShort: 0,
    badVersion: 0,
    badHeaderLength: 0,
    badLength: 0,
    tooSmall: 0,
    badChecksum: 0,
    badAddress: 0,
    notForUs: 0,
    notMember: 0,
    fragments: 0,
    tcp: 0,
    unknownProtocol: 0,
  };
  readonly #log: (line: string) => void;
  readonly #interfaces: NetworkInterface[] = [];
  readonly #packet = new Ipv4Packet();
  #nextIndex = 1;

  constructor({ timers, random, log }: StackOptions) {
    this.timers = timers;
    this.random = random;
    this.#log = log;
    const interfaces = (): readonly NetworkInterface[] => this.#interfaces;
    this.routes = new RoutingTable(interfaces);
    this.output = new Ipv4Output(interfaces, this.routes, randomU32(random));
    this.udp = new UdpLayer(this.output, random);
    this.icmp = new IcmpLayer(this.output, timers, random, (quoted, from, code) =>
      this.udp.undelivered(quoted, from, code),
    );
  }

  get interfaces(): readonly NetworkInterface[] {
    return this.#interfaces;
  }

  find(name: string): NetworkInterface | undefined {
    return this.#interfaces.find((each) => each.name === name);
  }

  /** Takes a device in, down and without addresses. What it receives goes to `input` of what this returns. */
  attach(device: NetworkDevice): NetworkInterface {
    const added = new NetworkInterface(device, this.#nextIndex++, this);
    this.#interfaces.push(added);
    return added;
  }

  /** Lets a device go that is gone, with its addresses and its routes. */
  detach(gone: NetworkInterface): void {
    const at = this.#interfaces.indexOf(gone);
    if (at < 0) return;
    this.#interfaces.splice(at, 1);
    gone.close();
  }

  openUdp(options: UdpOptions): UdpSocket {
    return this.udp.open(options);
  }

  openEcho(onAnswer: (answer: EchoAnswer) => void): EchoSocket {
    return this.icmp.openEcho(onAnswer);
  }

  log(line: string): void {
    this.#log(line);
  }

  ipv4Input(
    from: NetworkInterface,
    frame: Uint8Array,
    isBroadcast: boolean,
    verified: number,
  ): void {
    const { counters } = this;
    const packet = this.#packet;
    counters.received++;
    const fault = packet.parse(frame, Ethernet.HEADER_BYTES, verified);
    if (fault !== undefined) {
      counters[fault]++;
      return;
    }
    const { source, destination, protocol } = packet;
    const own = this.#own(destination);
    const isGroup = from.isGroupAddress(destination);
    if (own === undefined && !isGroup) {
      // A server may send what it offers to the address that it offers.
      const isOffer =
        protocol === IpProtocol.udp && !packet.isFragment && this.udp.isConfiguring(from);
      if (isOffer && this.udp.input(packet, from, false, isBroadcast)) counters.delivered++;
      else counters[isMulticast(destination) ? "notMember" : "notForUs"]++;
      return;
    }
    if (!this.#isSource(source, from, isGroup) || (isLocal(destination) && !from.isLoopback)) {
      counters.badAddress++;
      return;
    }
    if (packet.isFragment) {
      counters.fragments++;
      return;
    }
    if (own !== undefined) {
      own.received.packets++;
      own.received.bytes += packet.end - packet.start;
    }
    const isForMany = isGroup || isBroadcast;
    counters.delivered++;
    switch (protocol) {
      case IpProtocol.icmp:
        this.icmp.input(packet, from, isForMany);
        return;
      case IpProtocol.udp:
        if (!this.udp.input(packet, from, true, isForMany) && !isForMany)
          this.icmp.sendUnreachable(packet, UnreachableCode.port);
        return;
      case IpProtocol.tcp:
        counters.tcp++;
        return;
      default:
        counters.unknownProtocol++;
        if (!isForMany) this.icmp.sendUnreachable(packet, UnreachableCode.protocol);
    }
  }

  /** True if a packet on this link may come from there. A host that has no address yet asks everybody. */
  #isSource(source: number, from: NetworkInterface, isGroup: boolean): boolean {
    if (source === ANY_ADDRESS) return isGroup;
    if (!isHostAddress(source)) return false;
    return from.isLoopback || (!isLocal(source) && this.#own(source) === undefined);
  }

  #own(address: number): NetworkInterface["addresses"][number] | undefined {
    for (const each of this.#interfaces)
      for (const own of each.addresses) if (own.address === address) return own;
    return undefined;
  }
}

/** True for 127.x.x.x, which is on no link. */
function isLocal(address: number): boolean {
  return address >>> 24 === LOCALHOST_ADDRESS >>> 24;
}
