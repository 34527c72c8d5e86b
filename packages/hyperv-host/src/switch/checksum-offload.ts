import type { Frame } from "./frame.js";
import {
  IpProtocol,
  Ipv4,
  Ipv6,
  Tcp,
  Udp,
  ipv4HeaderBytes,
  networkOffset,
  parseHeaders,
} from "./frame-headers.js";
import { checksumOf, foldSum, get16, put16, sumBytes } from "./internet-checksum.js";

/** What the checksums of a frame are found to be. */
export const ChecksumVerdict = {
  /** None, or one that cannot be told: no IP packet, a fragment, another protocol. */
  none: 0,
  good: 1,
  bad: 2,
} as const;
export type ChecksumVerdict = (typeof ChecksumVerdict)[keyof typeof ChecksumVerdict];

/** Sum of the pseudo-header of an IP packet whose transport part, `lengthBytes` with its header, is of `protocol`. */
export function pseudoHeaderSum(
  frame: Frame,
  ipVersion: number,
  networkAt: number,
  protocol: number,
  lengthBytes: number,
): number {
  const addresses =
    ipVersion === 4
      ? sumBytes(frame.head, networkAt + Ipv4.source, 8)
      : sumBytes(frame.head, networkAt + Ipv6.source, 32);
  return foldSum(addresses + protocol + foldSum(lengthBytes));
}

/** Computes the checksum of the IPv4 header at `at`, which lies in the head. */
export function fillIpv4HeaderChecksum(frame: Frame, at: number): void {
  const { bytes } = frame.head;
  put16(bytes, at + Ipv4.checksum, 0);
  const sum = sumBytes(frame.head, at, ipv4HeaderBytes(bytes, at));
  put16(bytes, at + Ipv4.checksum, checksumOf(sum));
}

/**
 * Notes that the transport checksum of a frame is partial, as a sender without it says.
 *
 * @param start - where the bytes begin that it covers. @param offset - from there to its field.
 * @returns False if the field does not lie in the frame, or further from its start than headers go.
 */
export function setPartialChecksum(frame: Frame, start: number, offset: number): boolean {
  const end = start + offset + 2;
  frame.extendHead(end);
  if (start < networkOffset(frame) || end > frame.headBytes) return false;
  frame.checksumStart = start;
  frame.checksumOffset = offset;
  return true;
}

/** Completes a partial transport checksum, unless there is none to complete. */
export function completeChecksum(frame: Frame): void {
  const { checksumStart: start, checksumOffset: offset } = frame;
  if (start === 0) return;
  parseHeaders(frame);
  // What an Ethernet card has padded is no part of the packet.
  const end = frame.packetEnd > start ? frame.packetEnd : frame.lengthBytes;
  let checksum = checksumOf(frame.sum(start, end));
  // To UDP zero means that there is no checksum.
  if (checksum === 0 && offset === Udp.checksum) checksum = 0xffff;
  put16(frame.head.bytes, start + offset, checksum);
  frame.checksumStart = 0;
  frame.isChecksumValid = true;
}

/** Checks the header checksum of an IPv4 packet. */
export function verifyIpHeader(frame: Frame): ChecksumVerdict {
  parseHeaders(frame);
  if (frame.ipVersion !== 4) return ChecksumVerdict.none;
  const { networkAt } = frame;
  const headerBytes = ipv4HeaderBytes(frame.head.bytes, networkAt);
  const sum = sumBytes(frame.head, networkAt, headerBytes);
  return sum === 0xffff ? ChecksumVerdict.good : ChecksumVerdict.bad;
}

/** Checks the checksum of a TCP or UDP packet; one that is partial, or known to be right, is good. */
export function verifyTransport(frame: Frame): ChecksumVerdict {
  parseHeaders(frame);
  const { transportAt, protocol, packetEnd, ipVersion, networkAt } = frame;
  if (transportAt === 0) return ChecksumVerdict.none;
  if (frame.checksumStart !== 0 || frame.isChecksumValid) return ChecksumVerdict.good;
  if (protocol === IpProtocol.udp && get16(frame.head.bytes, transportAt + Udp.checksum) === 0)
    return ipVersion === 4 ? ChecksumVerdict.none : ChecksumVerdict.bad;
  const lengthBytes = packetEnd - transportAt;
  const pseudo = pseudoHeaderSum(frame, ipVersion, networkAt, protocol, lengthBytes);
  const sum = foldSum(pseudo + frame.sum(transportAt, packetEnd));
  if (sum !== 0xffff) return ChecksumVerdict.bad;
  frame.isChecksumValid = true;
  return ChecksumVerdict.good;
}

/** Computes the transport checksum of a TCP or UDP packet, whatever its field holds. */
export function fillTransportChecksum(frame: Frame): void {
  parseHeaders(frame);
  const { transportAt, protocol, ipVersion, networkAt, packetEnd } = frame;
  if (transportAt === 0) return;
  const offset = protocol === IpProtocol.tcp ? Tcp.checksum : Udp.checksum;
  const lengthBytes = packetEnd - transportAt;
  const pseudo = pseudoHeaderSum(frame, ipVersion, networkAt, protocol, lengthBytes);
  put16(frame.head.bytes, transportAt + offset, pseudo);
  frame.checksumStart = transportAt;
  frame.checksumOffset = offset;
  completeChecksum(frame);
}
