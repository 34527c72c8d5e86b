import type { Frame } from "./frame.js";
import { get16 } from "./internet-checksum.js";

/** What an Ethernet frame carries. Open: any u16 may arrive. */
export const EtherType = {
  ipv4: 0x0800,
  arp: 0x0806,
  vlan: 0x8100,
  ipv6: 0x86dd,
} as const;

/** IP protocols that have offloads. Open: any u8 may arrive. */
export const IpProtocol = { tcp: 6, udp: 17 } as const;

/** Byte offsets in an Ethernet frame. */
export const Ethernet = {
  destination: 0, // 6 bytes
  source: 6, // 6 bytes
  etherType: 12, // u16; with an 802.1Q tag EtherType.vlan, and the tag and the real one follow
  headerBytes: 14,
  tagBytes: 4,
} as const;

/** Byte offsets in an IPv4 header. */
export const Ipv4 = {
  versionAndLength: 0, // u8: version, header length in units of 4 bytes
  totalLength: 2, // u16
  identification: 4, // u16
  fragment: 6, // u16: flags, fragment offset
  protocol: 9, // u8
  checksum: 10, // u16
  source: 12, // 4 bytes, and the destination behind them
  leastBytes: 20,
} as const;

/** Byte offsets in an IPv6 header. */
export const Ipv6 = {
  payloadLength: 4, // u16
  nextHeader: 6, // u8
  source: 8, // 16 bytes, and the destination behind them
  headerBytes: 40,
} as const;

/** Byte offsets in a TCP header. */
export const Tcp = {
  sequence: 4, // u32
  dataOffset: 12, // u8: header length in units of 4 bytes, in the upper half
  flags: 13, // u8
  checksum: 16, // u16
  leastBytes: 20,
} as const;

/** Bits of `Tcp.flags`. */
export const TcpFlag = { fin: 0x01, push: 0x08, congestionWindowReduced: 0x80 } as const;

/** Byte offsets in a UDP header. */
export const Udp = {
  checksum: 6, // u16
  headerBytes: 8,
} as const;

/** IPv6 extension headers that are skipped to find the transport header. */
const Ipv6Extension = { hopByHop: 0, routing: 43, fragment: 44, destination: 60 } as const;

/** More fragments, or an offset: not a whole packet. */
const IPV4_FRAGMENT_MASK = 0x3fff;

/** Finds the headers of a frame and notes in it where they are, unless that was done already. */
export function parseHeaders(frame: Frame): void {
  if (frame.isParsed) return;
  frame.isParsed = true;
  frame.ipVersion = 0;
  frame.transportAt = 0;
  frame.protocol = 0;
  frame.packetEnd = frame.lengthBytes;
  frame.networkAt = networkOffset(frame);
  if (frame.headBytes < frame.networkAt) return;
  const etherType = get16(frame.head.bytes, frame.networkAt - 2);
  if (etherType === EtherType.ipv4) parseIpv4(frame);
  else if (etherType === EtherType.ipv6) parseIpv6(frame);
}

/** Where the network header of a frame begins: behind a tag, if there is one. */
export function networkOffset({ head, headBytes }: Frame): number {
  const tagged =
    headBytes >= Ethernet.headerBytes && get16(head.bytes, Ethernet.etherType) === EtherType.vlan;
  return tagged ? Ethernet.headerBytes + Ethernet.tagBytes : Ethernet.headerBytes;
}

/** Bytes of the IPv4 header at `at`, as it says itself. */
export function ipv4HeaderBytes(bytes: Uint8Array, at: number): number {
  return (bytes[at]! & 0x0f) << 2;
}

/** Bytes of the TCP header at `at`, as it says itself. */
export function tcpHeaderBytes(bytes: Uint8Array, at: number): number {
  return (bytes[at + Tcp.dataOffset]! >>> 4) << 2;
}

function parseIpv4(frame: Frame): void {
  const at = frame.networkAt;
  const { bytes } = frame.head;
  if (frame.headBytes < at + Ipv4.leastBytes || bytes[at]! >>> 4 !== 4) return;
  const headerBytes = ipv4HeaderBytes(bytes, at);
  const totalBytes = get16(bytes, at + Ipv4.totalLength);
  if (headerBytes < Ipv4.leastBytes || totalBytes < headerBytes) return;
  if (at + totalBytes > frame.lengthBytes) return;
  frame.ipVersion = 4;
  frame.packetEnd = at + totalBytes;
  if ((get16(bytes, at + Ipv4.fragment) & IPV4_FRAGMENT_MASK) !== 0) return;
  findTransport(frame, bytes[at + Ipv4.protocol]!, at + headerBytes);
}

function parseIpv6(frame: Frame): void {
  const at = frame.networkAt;
  const { bytes } = frame.head;
  if (frame.headBytes < at + Ipv6.headerBytes || bytes[at]! >>> 4 !== 6) return;
  const end = at + Ipv6.headerBytes + get16(bytes, at + Ipv6.payloadLength);
  if (end > frame.lengthBytes) return;
  frame.ipVersion = 6;
  frame.packetEnd = end;
  let next = bytes[at + Ipv6.nextHeader]!;
  let header = at + Ipv6.headerBytes;
  // Each is 8 bytes at least, so this ends at the end of the head.
  for (;;) {
    if (
      next !== Ipv6Extension.hopByHop &&
      next !== Ipv6Extension.routing &&
      next !== Ipv6Extension.destination
    )
      break;
    frame.extendHead(header + 8);
    if (header + 8 > Math.min(frame.headBytes, end)) return;
    // The checksum of a packet that is still to be routed counts another destination.
    if (next === Ipv6Extension.routing && bytes[header + 3] !== 0) return;
    next = bytes[header]!;
    header += (bytes[header + 1]! + 1) * 8;
  }
  if (next !== Ipv6Extension.fragment) findTransport(frame, next, header);
}

function findTransport(frame: Frame, protocol: number, at: number): void {
  const least =
    protocol === IpProtocol.tcp
      ? Tcp.leastBytes
      : protocol === IpProtocol.udp
        ? Udp.headerBytes
        : 0;
  frame.protocol = protocol;
  if (least === 0 || at + least > frame.packetEnd) return;
  frame.extendHead(at + least);
  if (at + least <= frame.headBytes) frame.transportAt = at;
}
