import { ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES } from "./protocol/index.js";
import { foldSum, sumBytes } from "./internet-checksum.js";

const EtherType = { ipv4: 0x0800, vlan: 0x8100, ipv6: 0x86dd } as const;
const Protocol = { tcp: 6, udp: 17 } as const;
const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;
/** Offset of the checksum in a TCP and a UDP header, and bytes of each without options. */
export const TCP_CHECKSUM = 16;
export const UDP_CHECKSUM = 6;
export const TCP_HEADER_BYTES = 20;
export const UDP_HEADER_BYTES = 8;

/** Where the network header begins in the frame at `at`, relative to it: behind a tag, if there is one in the bytes. */
export function networkOffset(bytes: Uint8Array, at: number): number {
  return get16(bytes, at + 12) === EtherType.vlan
    ? ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES
    : ETHERNET_HEADER_BYTES;
}

/**
 * Prepares the headers of a frame for segmentation by the host: lengths 0, no IPv4 header checksum, and in the TCP
 * header the sum of the pseudo header without the length. Source: FreeBSD `hn_tso_fixup`, Linux `netvsc_drv.c`.
 *
 * @param at - Where the headers lie in `bytes`; they may be changed. @param headerOffset - Of the TCP header.
 * @returns False if they are not what the caller says: nothing was changed.
 */
export function prepareLargeSend(
  bytes: Uint8Array,
  at: number,
  headerOffset: number,
  ipv6: boolean,
): boolean {
  const network = networkOffset(bytes, at);
  const type = get16(bytes, at + network - 2);
  const header = at + network;
  let sum: number;
  if (ipv6) {
    // TCP must follow the fixed header: Hyper-V's answer to extension headers is not known.
    if (type !== EtherType.ipv6 || headerOffset !== network + IPV6_HEADER_BYTES) return false;
    if (bytes[header + 6] !== Protocol.tcp) return false;
    put16(bytes, header + 4, 0);
    sum = sumBytes(bytes, header + 8, 32);
  } else {
    if (type !== EtherType.ipv4 || headerOffset < network + IPV4_HEADER_BYTES) return false;
    if (bytes[header + 9] !== Protocol.tcp) return false;
    put16(bytes, header + 2, 0);
    put16(bytes, header + 10, 0);
    sum = sumBytes(bytes, header + 12, 8);
  }
  put16(bytes, at + headerOffset + TCP_CHECKSUM, foldSum(sum + Protocol.tcp));
  return true;
}

/** What a received frame carries, as far as it matters for trust. */
export const Carried = { other: 0, ip: 1, tcp: 2, udp: 3 } as const;
export type Carried = (typeof Carried)[keyof typeof Carried];

/** Looks into the frame of `lengthBytes` at `at`; what is cut short, or a fragment, is no TCP or UDP. */
export function carriedBy(bytes: Uint8Array, at: number, lengthBytes: number): Carried {
  if (lengthBytes < ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES) return Carried.other;
  const network = networkOffset(bytes, at);
  const type = get16(bytes, at + network - 2);
  const header = at + network;
  if (type === EtherType.ipv4) {
    if (lengthBytes < network + IPV4_HEADER_BYTES) return Carried.other;
    const headerBytes = (bytes[header]! & 0xf) * 4;
    if (headerBytes < IPV4_HEADER_BYTES) return Carried.other;
    if ((get16(bytes, header + 6) & 0x3fff) !== 0) return Carried.ip;
    return transportOf(bytes[header + 9]!, lengthBytes - network - headerBytes, Carried.ip);
  }
  if (type !== EtherType.ipv6 || lengthBytes < network + IPV6_HEADER_BYTES) return Carried.other;
  const rest = lengthBytes - network - IPV6_HEADER_BYTES;
  return transportOf(bytes[header + 6]!, rest, Carried.other);
}

function transportOf(protocol: number, restBytes: number, otherwise: Carried): Carried {
  if (protocol === Protocol.tcp && restBytes >= TCP_HEADER_BYTES) return Carried.tcp;
  if (protocol === Protocol.udp && restBytes >= UDP_HEADER_BYTES) return Carried.udp;
  return otherwise;
}

/** A 16-bit number in network order. */
export function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** Writes a 16-bit number in network order. */
export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}
