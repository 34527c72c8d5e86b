import { ANY_ADDRESS } from "./addresses.js";
import { addToSum, finishSum, pseudoHeaderSum } from "./checksum.js";
import type { Ipv4Output } from "./ipv4-output.js";
import type { Ipv4Packet } from "./ipv4.js";
import { FrameChecksum } from "./network-device.js";
import { NetworkError, type SendOutcome } from "./network-error.js";
import type { NetworkInterface } from "./network-interface.js";
import { getU16, putU16 } from "./network-order.js";
import { IpProtocol, Udp } from "./protocol.js";
import { randomU32, type Random } from "./random.js";

/** A datagram that came. */
export interface UdpDatagram {
  readonly source: number;
  readonly sourcePort: number;
  readonly destination: number;
  /** Interface that it came on. */
  readonly interface: NetworkInterface;
  /** Valid during the call. */
  readonly payload: Uint8Array;
}

export interface UdpOptions {
  /** A free one is chosen unless told. */
  readonly port?: number;
  /** Hears and sends on this interface only. */
  readonly interface?: NetworkInterface;
  /**
   * Hears datagrams to any address, and sends from none: for the configuration of an interface that has no address yet.
   * Needs an interface.
   */
  readonly unconfigured?: boolean;
  onDatagram(datagram: UdpDatagram): void;
  /** A datagram of this socket could not be delivered (a code of `IcmpType.unreachable`). */
  onUnreachable?(destination: number, port: number, code: number): void;
}

export interface UdpCounters {
  received: number;
  /** Shorter than a header. */
  tooShort: number;
  badLength: number;
  badChecksum: number;
  /** Without a checksum; they are taken. */
  noChecksum: number;
  noSocket: number;
  /** The same of those to many. */
  noSocketForMany: number;
  sent: number;
}

/** First port that is chosen (RFC 6335). */
const EPHEMERAL_PORT_MIN = 49_152;

/** A port that datagrams come to and go from. */
export class UdpSocket {
  readonly port: number;
  readonly options: UdpOptions;
  readonly #layer: UdpLayer;

  constructor(layer: UdpLayer, port: number, options: UdpOptions) {
    this.#layer = layer;
    this.port = port;
    this.options = options;
  }

  /** Sends a datagram. @param source - One of our own addresses; chosen by the route unless told. */
  send(payload: Uint8Array, destination: number, port: number, source?: number): SendOutcome {
    return this.#layer.send(this, payload, destination, port, source);
  }

  /** Idempotent. */
  close(): void {
    this.#layer.close(this);
  }
}

/** UDP (RFC 768) of the stack. */
export class UdpLayer {
  readonly counters: UdpCounters = {
    received: 0,
    tooShort: 0,
    badLength: 0,
    badChecksum: 0,
    noChecksum: 0,
    noSocket: 0,
    noSocketForMany: 0,
    sent: 0,
  };
  readonly #ip: Ipv4Output;
  readonly #random: Random;
  /** Several interfaces may each have a socket of one port. */
  readonly #sockets: UdpSocket[] = [];

  constructor(ip: Ipv4Output, random: Random) {
    this.#ip = ip;
    this.#random = random;
  }

  /** Throws `EADDRINUSE` if the port is taken, or none is free. */
  open(options: UdpOptions): UdpSocket {
    const port = options.port ?? this.#freePort();
    const taken = this.#sockets.some(
      (socket) => socket.port === port && socket.options.interface === options.interface,
    );
    if (taken) throw new NetworkError("EADDRINUSE");
    const socket = new UdpSocket(this, port, options);
    this.#sockets.push(socket);
    return socket;
  }

  close(socket: UdpSocket): void {
    const at = this.#sockets.indexOf(socket);
    if (at >= 0) this.#sockets.splice(at, 1);
  }

  /** True if a socket hears datagrams to any address on an interface. */
  isConfiguring(from: NetworkInterface): boolean {
    return this.#sockets.some(
      ({ options }) => options.unconfigured === true && options.interface === from,
    );
  }

  /**
   * Takes a packet.
   * @param isForUs - False if its destination is none of ours: only a socket that configures the interface hears it.
   * @param isForMany - It came to more stations than this one.
   * @returns False if no socket has its port.
   */
  input(packet: Ipv4Packet, from: NetworkInterface, isForUs: boolean, isForMany: boolean): boolean {
    const { bytes, payload: at, end, source, destination } = packet;
    const room = end - at;
    if (room < Udp.HEADER_BYTES) {
      this.counters.tooShort++;
      return true;
    }
    const lengthBytes = getU16(bytes, at + Udp.length);
    if (lengthBytes < Udp.HEADER_BYTES || lengthBytes > room) {
      this.counters.badLength++;
      return true;
    }
    if (!this.#isRight(packet, lengthBytes)) {
      this.counters.badChecksum++;
      return true;
    }
    const port = getU16(bytes, at + Udp.destinationPort);
    const socket = this.#find(port, from, isForUs);
    if (socket === undefined) {
      this.counters[isForMany ? "noSocketForMany" : "noSocket"]++;
      return false;
    }
    this.counters.received++;
    socket.options.onDatagram({
      source,
      sourcePort: getU16(bytes, at + Udp.sourcePort),
      destination,
      interface: from,
      payload: bytes.subarray(at + Udp.HEADER_BYTES, at + lengthBytes),
    });
    return true;
  }

  /** Takes what an ICMP error quotes: the header of a packet of ours, from `quoted.start` on. */
  undelivered(quoted: Ipv4Packet, from: NetworkInterface, code: number): void {
    const { bytes, payload: at, end, destination } = quoted;
    if (end - at < Udp.HEADER_BYTES) return;
    const socket = this.#find(getU16(bytes, at + Udp.sourcePort), from, true);
    socket?.options.onUnreachable?.(destination, getU16(bytes, at + Udp.destinationPort), code);
  }

  send(
    socket: UdpSocket,
    payload: Uint8Array,
    destination: number,
    port: number,
    source: number | undefined,
  ): SendOutcome {
    const { unconfigured, interface: only } = socket.options;
    const from = unconfigured === true ? (source ?? ANY_ADDRESS) : source;
    const ip = this.#ip;
    const lengthBytes = Udp.HEADER_BYTES + payload.byteLength;
    const way = ip.prepare(destination, lengthBytes, from, only);
    if (typeof way === "string") return way;
    const { frame, payloadAt: at } = ip;
    putU16(frame, at + Udp.sourcePort, socket.port);
    putU16(frame, at + Udp.destinationPort, port);
    putU16(frame, at + Udp.length, lengthBytes);
    putU16(frame, at + Udp.checksum, 0);
    frame.set(payload, at + Udp.HEADER_BYTES);
    const sum = pseudoHeaderSum(way.source, destination, IpProtocol.udp, lengthBytes);
    const offloaded = way.interface.device.checksumOffloads & FrameChecksum.data;
    putU16(
      frame,
      at + Udp.checksum,
      offloaded !== 0
        ? ~finishSum(sum)
        : // A sum of 0 would say that there is none.
          finishSum(addToSum(sum, frame, at, at + lengthBytes)) || 0xffff,
    );
    this.counters.sent++;
    return ip.send(way, IpProtocol.udp, destination, lengthBytes, undefined, offloaded);
  }

  /** True if the checksum of a datagram is right, as far as that can be known. */
  #isRight(
    { bytes, payload: at, source, destination, verified }: Ipv4Packet,
    lengthBytes: number,
  ): boolean {
    if ((verified & FrameChecksum.data) !== 0) return true;
    if (getU16(bytes, at + Udp.checksum) === 0) {
      this.counters.noChecksum++;
      return true;
    }
    const sum = pseudoHeaderSum(source, destination, IpProtocol.udp, lengthBytes);
    return finishSum(addToSum(sum, bytes, at, at + lengthBytes)) === 0;
  }

  /** The socket of an interface before the one of all; on others, one that is only for its interface is not there. */
  #find(port: number, from: NetworkInterface, isForUs: boolean): UdpSocket | undefined {
    let found: UdpSocket | undefined;
    for (const socket of this.#sockets) {
      if (socket.port !== port) continue;
      const { interface: only, unconfigured } = socket.options;
      if (!isForUs && unconfigured !== true) continue;
      if (only === from) return socket;
      if (only === undefined) found = socket;
    }
    return found;
  }

  #freePort(): number {
    const count = 0x1_0000 - EPHEMERAL_PORT_MIN;
    const first = randomU32(this.#random) % count;
    for (let offset = 0; offset < count; offset++) {
      const port = EPHEMERAL_PORT_MIN + ((first + offset) % count);
      if (!this.#sockets.some((socket) => socket.port === port)) return port;
    }
    throw new NetworkError("EADDRINUSE");
  }
}
