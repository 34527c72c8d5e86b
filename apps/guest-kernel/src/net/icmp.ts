import type { Clock } from "@hyperv-is/vmbus-core";
import { checksum } from "./checksum.js";
import type { Ipv4Output } from "./ipv4-output.js";
import { Ipv4Packet } from "./ipv4.js";
import { NetworkError, type SendOutcome } from "./network-error.js";
import type { NetworkInterface } from "./network-interface.js";
import { getU16, getU32, getU8, putU16 } from "./network-order.js";
import { Icmp, IcmpType, IpProtocol, Ipv4 } from "./protocol.js";
import { randomU32, type Random } from "./random.js";

/** What came for who has sent echo requests. Arrays are valid during the call. */
export type EchoAnswer =
  | {
      readonly kind: "reply";
      readonly source: number;
      readonly sequence: number;
      readonly timeToLive: number;
      /** Length of the ICMP message. */
      readonly lengthBytes: number;
      /** What is behind the ICMP header. */
      readonly data: Uint8Array;
    }
  | {
      readonly kind: "error";
      readonly source: number;
      readonly type: number;
      readonly code: number;
      /** Of `UnreachableCode.fragmentationNeeded`. */
      readonly nextMtu: number;
      readonly lengthBytes: number;
      readonly sequence: number;
      /** The packet of ours that is quoted: its IP header and a few bytes. */
      readonly quoted: Uint8Array;
    };

export interface IcmpCounters {
  received: number;
  tooShort: number;
  badChecksum: number;
  /** Echo requests to many, which are not answered. */
  groupEcho: number;
  /** Of types that nothing is done about. */
  ignored: number;
  echoReplies: number;
  /** Echo requests that were not answered since no route leads back. */
  noRoute: number;
  errorsSent: number;
  /** Errors that were not sent since there were too many. */
  limited: number;
}

/** Errors in a second at most; FreeBSD's `net.inet.icmp.icmplim`. */
const ERRORS_PER_SECOND = 200;
/** A type is a u8. */
const TYPES = 256;
/** Bytes that an error quotes behind the IP header; FreeBSD's `net.inet.icmp.quotelen`. */
const QUOTED_BYTES = 8;

/** An identifier of echo requests, and who hears the answers. */
export class EchoSocket {
  readonly identifier: number;
  readonly #layer: IcmpLayer;

  constructor(layer: IcmpLayer, identifier: number) {
    this.#layer = layer;
    this.identifier = identifier;
  }

  /** Sends an echo request. @param sequence - A u16. */
  send(destination: number, sequence: number, data: Uint8Array, timeToLive?: number): SendOutcome {
    return this.#layer.sendEcho(this.identifier, destination, sequence, data, timeToLive);
  }

  /** Idempotent. */
  close(): void {
    this.#layer.closeEcho(this.identifier);
  }
}

/** ICMP (RFC 792) of the stack: echo both ways, errors both ways. */
export class IcmpLayer {
  readonly counters: IcmpCounters = {
    received: 0,
    tooShort: 0,
    badChecksum: 0,
    groupEcho: 0,
    ignored: 0,
    echoReplies: 0,
    noRoute: 0,
    errorsSent: 0,
    limited: 0,
  };
  /** Messages by their types: those that were right, and those that were sent. */
  readonly received = new Float64Array(TYPES);
  readonly sent = new Float64Array(TYPES);
  readonly #ip: Ipv4Output;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #unreachable: (quoted: Ipv4Packet, from: NetworkInterface, code: number) => void;
  readonly #echoes = new Map<number, (answer: EchoAnswer) => void>();
  readonly #quoted = new Ipv4Packet();
  #second = -Infinity;
  #errorsInSecond = 0;

  /** @param unreachable - Gets the quoted packet when something of ours could not be delivered. */
  constructor(
    ip: Ipv4Output,
    clock: Clock,
    random: Random,
    unreachable: (quoted: Ipv4Packet, from: NetworkInterface, code: number) => void,
  ) {
    this.#ip = ip;
    this.#clock = clock;
    this.#random = random;
    this.#unreachable = unreachable;
  }

  /** Throws `EADDRINUSE` when all identifiers are in use. */
  openEcho(onAnswer: (answer: EchoAnswer) => void): EchoSocket {
    if (this.#echoes.size === 0x1_0000) throw new NetworkError("EADDRINUSE");
    let identifier = randomU32(this.#random) & 0xffff;
    while (this.#echoes.has(identifier)) identifier = (identifier + 1) & 0xffff;
    this.#echoes.set(identifier, onAnswer);
    return new EchoSocket(this, identifier);
  }

  closeEcho(identifier: number): void {
    this.#echoes.delete(identifier);
  }

  sendEcho(
    identifier: number,
    destination: number,
    sequence: number,
    data: Uint8Array,
    timeToLive: number | undefined,
  ): SendOutcome {
    const lengthBytes = Icmp.HEADER_BYTES + data.byteLength;
    const way = this.#ip.prepare(destination, lengthBytes);
    if (typeof way === "string") return way;
    const { frame, payloadAt: at } = this.#ip;
    this.#putHeader(IcmpType.echo, 0);
    putU16(frame, at + Icmp.identifier, identifier);
    putU16(frame, at + Icmp.sequence, sequence);
    frame.set(data, at + Icmp.HEADER_BYTES);
    putU16(frame, at + Icmp.checksum, checksum(frame, at, at + lengthBytes));
    return this.#ip.send(way, IpProtocol.icmp, destination, lengthBytes, timeToLive);
  }

  /** Takes a packet that is for this host. @param isGroup - It is for others too. */
  input(packet: Ipv4Packet, from: NetworkInterface, isGroup: boolean): void {
    const { bytes, payload: at, end } = packet;
    this.counters.received++;
    if (end - at < Icmp.HEADER_BYTES) {
      this.counters.tooShort++;
      return;
    }
    if (checksum(bytes, at, end) !== 0) {
      this.counters.badChecksum++;
      return;
    }
    const type = getU8(bytes, at + Icmp.type);
    this.received[type]!++;
    switch (type) {
      case IcmpType.echo:
        if (isGroup) this.counters.groupEcho++;
        else this.#reply(packet);
        return;
      case IcmpType.echoReply:
        this.#echoes.get(getU16(bytes, at + Icmp.identifier))?.({
          kind: "reply",
          source: packet.source,
          sequence: getU16(bytes, at + Icmp.sequence),
          timeToLive: packet.timeToLive,
          lengthBytes: end - at,
          data: bytes.subarray(at + Icmp.HEADER_BYTES, end),
        });
        return;
      case IcmpType.unreachable:
      case IcmpType.timeExceeded:
      case IcmpType.parameterProblem:
      case IcmpType.sourceQuench:
      case IcmpType.redirect:
        this.#error(packet, from);
        return;
      default:
        this.counters.ignored++;
    }
  }

  /** Tells the sender of a packet to one of our own addresses that it was not delivered, unless that must not be told (RFC 1122). */
  sendUnreachable(packet: Ipv4Packet, code: number): void {
    const { bytes, start, payload, end } = packet;
    const now = this.#clock.now();
    if (now - this.#second >= 1_000) {
      this.#second = now;
      this.#errorsInSecond = 0;
    }
    if (this.#errorsInSecond >= ERRORS_PER_SECOND) {
      this.counters.limited++;
      return;
    }
    this.#errorsInSecond++;
    const quotedBytes = Math.min(end, payload + QUOTED_BYTES) - start;
    const lengthBytes = Icmp.HEADER_BYTES + quotedBytes;
    const way = this.#ip.prepare(packet.source, lengthBytes, packet.destination);
    if (typeof way === "string") return;
    const { frame, payloadAt: at } = this.#ip;
    this.#putHeader(IcmpType.unreachable, code);
    frame.set(bytes.subarray(start, start + quotedBytes), at + Icmp.HEADER_BYTES);
    putU16(frame, at + Icmp.checksum, checksum(frame, at, at + lengthBytes));
    this.counters.errorsSent++;
    this.#ip.send(way, IpProtocol.icmp, packet.source, lengthBytes);
  }

  #reply(packet: Ipv4Packet): void {
    const { bytes, payload, end, source, destination } = packet;
    const lengthBytes = end - payload;
    const way = this.#ip.prepare(source, lengthBytes, destination);
    if (typeof way === "string") {
      this.counters.noRoute++;
      return;
    }
    const { frame, payloadAt: at } = this.#ip;
    frame.set(bytes.subarray(payload, end), at);
    frame[at + Icmp.type] = IcmpType.echoReply;
    frame[at + Icmp.code] = 0;
    putU16(frame, at + Icmp.checksum, 0);
    putU16(frame, at + Icmp.checksum, checksum(frame, at, at + lengthBytes));
    this.counters.echoReplies++;
    this.sent[IcmpType.echoReply]!++;
    this.#ip.send(way, IpProtocol.icmp, source, lengthBytes);
  }

  /** An error about a packet of ours: whoever has sent that hears of it. */
  #error(packet: Ipv4Packet, from: NetworkInterface): void {
    const { bytes, payload: at, end } = packet;
    const quotedAt = at + Icmp.HEADER_BYTES;
    const quoted = this.#quoted;
    if (!parseQuoted(quoted, bytes, quotedAt, end)) {
      this.counters.ignored++;
      return;
    }
    const type = getU8(bytes, at + Icmp.type);
    const code = getU8(bytes, at + Icmp.code);
    if (quoted.protocol === IpProtocol.udp) {
      if (type === IcmpType.unreachable) this.#unreachable(quoted, from, code);
      else this.counters.ignored++;
      return;
    }
    const isEcho =
      quoted.protocol === IpProtocol.icmp &&
      quoted.end - quoted.payload >= Icmp.HEADER_BYTES &&
      getU8(bytes, quoted.payload + Icmp.type) === IcmpType.echo;
    if (!isEcho) {
      this.counters.ignored++;
      return;
    }
    this.#echoes.get(getU16(bytes, quoted.payload + Icmp.identifier))?.({
      kind: "error",
      source: packet.source,
      type,
      code,
      nextMtu: getU16(bytes, at + Icmp.nextMtu),
      lengthBytes: end - at,
      sequence: getU16(bytes, quoted.payload + Icmp.sequence),
      quoted: bytes.subarray(quotedAt, end),
    });
  }

  #putHeader(type: number, code: number): void {
    this.sent[type]!++;
    const { frame, payloadAt: at } = this.#ip;
    frame.fill(0, at, at + Icmp.HEADER_BYTES);
    frame[at + Icmp.type] = type;
    frame[at + Icmp.code] = code;
  }
}

/** Looks at a quoted packet, of which only the beginning is there. @returns False if not even its header is. */
function parseQuoted(into: Ipv4Packet, bytes: Uint8Array, at: number, end: number): boolean {
  if (end - at < Ipv4.HEADER_BYTES) return false;
  const first = getU8(bytes, at + Ipv4.versionAndLength);
  const headerBytes = (first & 15) * 4;
  if (first >> 4 !== 4 || headerBytes < Ipv4.HEADER_BYTES || headerBytes > end - at) return false;
  into.bytes = bytes;
  into.start = at;
  into.payload = at + headerBytes;
  into.end = end;
  into.protocol = getU8(bytes, at + Ipv4.protocol);
  into.timeToLive = getU8(bytes, at + Ipv4.timeToLive);
  into.source = getU32(bytes, at + Ipv4.source);
  into.destination = getU32(bytes, at + Ipv4.destination);
  into.isFragment = false;
  into.verified = 0;
  return true;
}
