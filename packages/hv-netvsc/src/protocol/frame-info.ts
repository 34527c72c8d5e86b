/** Which values of a `FrameInfo` are there. */
export const FrameInfoPart = {
  checksum: 1 << 0,
  largeSend: 1 << 1,
  vlan: 1 << 2,
  hashInfo: 1 << 3,
  hashValue: 1 << 4,
  packetId: 1 << 5,
} as const;

/**
 * What travels beside a frame in a PACKET message: the values of its per-packet information as they are on the
 * wire, each an int32 of 32 bits. One is made once and filled again for each frame.
 */
export class FrameInfo {
  /** `FrameInfoPart` bits; a value whose bit is 0 means nothing. */
  parts = 0;
  /** From a guest `TransmitChecksum` bits and offset, from a host `ReceiveChecksum` bits. */
  checksum = 0;
  /** See `largeSend`. Guest to host only. */
  largeSend = 0;
  /** See `vlanInfo`. */
  vlan = 0;
  /** `RssHash` bits. */
  hashInfo = 0;
  hashValue = 0;
  /** See `packetId`. Host to guest only. */
  packetId = 0;
}

/** Checksums that a host is to fill in; the header field has the sum of the pseudo header. */
export const TransmitChecksum = {
  ipv4: 1 << 0,
  ipv6: 1 << 1,
  tcp: 1 << 2,
  udp: 1 << 3,
  /** Of the IPv4 header itself. */
  ipHeader: 1 << 4,
} as const;

const HEADER_OFFSET_MAX = 0x3ff;

/**
 * The checksum value of a frame to transmit.
 *
 * @param bits - `TransmitChecksum` bits.
 * @param headerOffset - Of the TCP or UDP header in the frame, at most 1023; 0 is behind headers without options.
 */
export function transmitChecksum(bits: number, headerOffset: number): number {
  return bits | (headerOffset << 16);
}

/** The offset of the TCP or UDP header in a checksum value. */
export function transmitChecksumOffset(checksum: number): number {
  return (checksum >>> 16) & HEADER_OFFSET_MAX;
}

/** What the host found out about the checksums of a received frame. */
export const ReceiveChecksum = {
  tcpFailed: 1 << 0,
  udpFailed: 1 << 1,
  ipFailed: 1 << 2,
  tcpOk: 1 << 3,
  udpOk: 1 << 4,
  ipOk: 1 << 5,
  loopback: 1 << 6,
  /** The data is right, but the checksum in the frame was never filled in. */
  tcpValueInvalid: 1 << 7,
  ipValueInvalid: 1 << 8,
} as const;

/** Bits of a large send value beside segment size and offset. Version 1 has none of them. */
export const LargeSendBit = { version2: 1 << 30, ipv6: 1 << 31 } as const;

/**
 * The large send value, version 2, of a frame to transmit.
 *
 * @param segmentBytes - TCP payload of each segment, below 2^20.
 * @param headerOffset - Of the TCP header in the frame, at most 1023.
 */
export function largeSend(segmentBytes: number, headerOffset: number, ipv6: boolean): number {
  const bits = LargeSendBit.version2 | (ipv6 ? LargeSendBit.ipv6 : 0);
  return segmentBytes | (headerOffset << 20) | bits;
}

/** TCP payload bytes of each segment. */
export function largeSendSegmentBytes(value: number): number {
  return value & 0xf_ffff;
}

/** The offset of the TCP header in a large send value. */
export function largeSendOffset(value: number): number {
  return (value >>> 20) & HEADER_OFFSET_MAX;
}

/** The VLAN value of an 802.1Q tag: id at the top, priority at the bottom, unlike the tag itself. */
export function vlanInfoOfTag(tag: number): number {
  return (tag >>> 13) | ((tag >>> 9) & 0x8) | ((tag & 0xfff) << 4);
}

/** The 16 bits of the 802.1Q tag (priority, drop eligible, id from the top) that a VLAN value means. */
export function tagOfVlanInfo(value: number): number {
  return ((value & 0x7) << 13) | ((value & 0x8) << 9) | ((value >>> 4) & 0xfff);
}

/** Flags of a packet id, by which the ranges of a coalesced frame are told apart. */
export const PacketIdFlag = { multi: 1, first: 2, last: 4 } as const;

/** A packet id, version 1, with `PacketIdFlag` bits. */
export function packetId(flags: number, id: number): number {
  return 1 | (flags << 8) | (id << 16);
}

/** The `PacketIdFlag` bits of a packet id. */
export function packetIdFlags(value: number): number {
  return (value >>> 8) & 0xff;
}
