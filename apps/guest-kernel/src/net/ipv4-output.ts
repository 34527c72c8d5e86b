import { BROADCAST_ADDRESS, BROADCAST_MAC, MAC_BYTES, isMulticast } from "./addresses.js";
import { putIpv4Header } from "./ipv4.js";
import { FrameChecksum } from "./network-device.js";
import type { SendOutcome } from "./network-error.js";
import type { InterfaceAddress, NetworkInterface } from "./network-interface.js";
import { putU16 } from "./network-order.js";
import { EtherType, Ethernet, IP_PACKET_BYTES_MAX, Ipv4 } from "./protocol.js";
import type { RoutingTable } from "./routes.js";

/** Where a packet goes, and as whose. */
export interface PacketWay {
  readonly interface: NetworkInterface;
  /** Neighbour to send it to; undefined if it is for many. */
  readonly nextHop: number | undefined;
  readonly source: number;
  readonly sourceAddress: InterfaceAddress | undefined;
}

export interface Ipv4OutputCounters {
  sent: number;
  noRoute: number;
  /** Longer than the MTU: there are no fragments. */
  tooBig: number;
  /** The interface did not take it. */
  dropped: number;
}

const DEFAULT_TTL = 64;

/** Sends IPv4 packets: finds the way, writes the headers in front of the payload. One packet at a time. */
export class Ipv4Output {
  /** A frame in the making: whoever has prepared a packet writes its payload at `payloadAt`. */
  readonly frame = new Uint8Array(Ethernet.HEADER_BYTES + IP_PACKET_BYTES_MAX);
  readonly payloadAt = Ethernet.HEADER_BYTES + Ipv4.HEADER_BYTES;
  readonly counters: Ipv4OutputCounters = { sent: 0, noRoute: 0, tooBig: 0, dropped: 0 };
  readonly #interfaces: () => readonly NetworkInterface[];
  readonly #routes: RoutingTable;
  #identification: number;

  /** @param identification - of the first packet; the following ones count on from it. */
  constructor(
    interfaces: () => readonly NetworkInterface[],
    routes: RoutingTable,
    identification: number,
  ) {
    this.#interfaces = interfaces;
    this.#routes = routes;
    this.#identification = identification & 0xffff;
  }

  /**
   * Finds the way for a packet.
   * @param source - One of our addresses, or none (0); the route's unless told.
   * @param only - The interface that it has to go out of.
   */
  prepare(
    destination: number,
    payloadBytes: number,
    source?: number,
    only?: NetworkInterface,
  ): PacketWay | "EHOSTUNREACH" | "EMSGSIZE" | "ENETDOWN" | "EADDRNOTAVAIL" {
    const found = this.#way(destination, only);
    if (typeof found === "string") {
      this.counters.noRoute++;
      return found;
    }
    if (Ipv4.HEADER_BYTES + payloadBytes > found.interface.device.mtu) {
      this.counters.tooBig++;
      return "EMSGSIZE";
    }
    if (source === undefined) {
      if (found.sourceAddress !== undefined) return found;
      this.counters.noRoute++;
      return "EADDRNOTAVAIL";
    }
    const sourceAddress = this.#own(source);
    return { interface: found.interface, nextHop: found.nextHop, source, sourceAddress };
  }

  /**
   * Sends the packet whose payload was written, where `prepare` said.
   *
   * @param dataChecksum - `FrameChecksum.data` if the device is to fill it in, as it offers.
   */
  send(
    way: PacketWay,
    protocol: number,
    destination: number,
    payloadBytes: number,
    timeToLive = DEFAULT_TTL,
    dataChecksum = 0,
  ): SendOutcome {
    const { frame, counters } = this;
    const { device, arp } = way.interface;
    const totalBytes = Ipv4.HEADER_BYTES + payloadBytes;
    const headerChecksum = device.checksumOffloads & FrameChecksum.ip;
    const checksums = headerChecksum | dataChecksum;
    this.#identification = (this.#identification + 1) & 0xffff;
    putIpv4Header(frame, Ethernet.HEADER_BYTES, {
      totalBytes,
      identification: this.#identification,
      timeToLive,
      protocol,
      source: way.source,
      destination,
      isChecksumOffloaded: headerChecksum !== 0,
    });
    frame.set(way.interface.macAddress, Ethernet.source);
    putU16(frame, Ethernet.type, EtherType.ipv4);
    counters.sent++;
    if (way.sourceAddress !== undefined) {
      way.sourceAddress.sent.packets++;
      way.sourceAddress.sent.bytes += totalBytes;
    }
    const whole = frame.subarray(0, Ethernet.HEADER_BYTES + totalBytes);
    if (way.nextHop !== undefined && !way.interface.isLoopback) {
      const outcome = arp.send(way.nextHop, whole, checksums);
      if (outcome !== "sent" && outcome !== "held") counters.dropped++;
      return outcome;
    }
    if (way.interface.isLoopback) frame.set(way.interface.macAddress, Ethernet.destination);
    else if (isMulticast(destination)) putGroupMac(frame, destination);
    else frame.set(BROADCAST_MAC, Ethernet.destination);
    if (way.interface.transmit(whole, checksums)) return "sent";
    counters.dropped++;
    return "ENOBUFS";
  }

  #own(address: number): InterfaceAddress | undefined {
    for (const each of this.#interfaces())
      for (const own of each.addresses) if (own.address === address) return own;
    return undefined;
  }

  #way(
    destination: number,
    only: NetworkInterface | undefined,
  ): PacketWay | "EHOSTUNREACH" | "ENETDOWN" {
    const interfaces = only === undefined ? this.#interfaces() : [only];
    if (only?.isUp === false) return "ENETDOWN";
    const isForMany = destination === BROADCAST_ADDRESS || isMulticast(destination);
    for (const each of interfaces) {
      if (!each.isUp || each.isLoopback) continue;
      if (!isForMany && !each.isNetworkBroadcast(destination)) continue;
      const sourceAddress = each.sourceFor(destination);
      if (sourceAddress === undefined && only === undefined) continue;
      const source = sourceAddress?.address ?? 0;
      return { interface: each, nextHop: undefined, source, sourceAddress };
    }
    if (isForMany) return "EHOSTUNREACH";
    const route = this.#routes.find(destination);
    if (route === undefined || (only !== undefined && route.interface !== only))
      return "EHOSTUNREACH";
    const { source: sourceAddress, nextHop } = route;
    const source = sourceAddress?.address ?? 0;
    return { interface: route.interface, nextHop, source, sourceAddress };
  }
}

/** The Ethernet address of an IPv4 group (RFC 1112, section 6.4). */
function putGroupMac(frame: Uint8Array, group: number): void {
  const mac = [0x01, 0x00, 0x5e, (group >>> 16) & 0x7f, (group >>> 8) & 255, group & 255];
  for (let index = 0; index < MAC_BYTES; index++) frame[Ethernet.destination + index] = mac[index]!;
}
