import { record, u32, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { get32, getInt32, put32 } from "./bytes.js";
import { FrameInfoPart, type FrameInfo } from "./frame-info.js";
import { RNDIS_OFFSET_BASE, RndisType, rndisMessage } from "./rndis.js";

// Sources: FreeBSD `sys/net/rndis.h`, `hn_rndis_rx_data`; OpenVMM `rndisprot.rs`.

/** PACKET (1), both directions: one Ethernet frame. Offsets count from byte 8. */
export const RndisPacket = rndisMessage(
  RndisType.packet,
  {
    dataOffset: u32(8),
    dataLength: u32(12),
    outOfBandOffset: u32(16),
    outOfBandLength: u32(20),
    outOfBandCount: u32(24),
    perPacketInfoOffset: u32(28),
    perPacketInfoLength: u32(32),
    vcHandle: u32(36),
  },
  44,
);
export type RndisPacket = RecordOf<typeof RndisPacket.fields>;

/** The header of one piece of per-packet information. */
export const PerPacketInfo = record({
  /** This header included; a multiple of 4. */
  size: u32(0),
  type: u32(4),
  /** From the start of this header. */
  dataOffset: u32(8),
});
export type PerPacketInfo = RecordOf<typeof PerPacketInfo.fields>;

/** Types of per-packet information. */
export const PerPacketInfoType = {
  checksum: 0,
  ipsec: 1,
  largeSend: 2,
  classification: 3,
  scatterGatherList: 5,
  vlan: 6,
  original: 7,
  hashValue: 8,
  hashInfo: 9,
  cachedNetBufferList: 10,
  shortPacketPadding: 11,
  /** In the host's own name space, which bit 31 tells. */
  packetId: 0x8000_0001,
} as const;

/** Bytes of the header of a PACKET message without per-packet information, and of one piece of it with a u32. */
export const PACKET_HEADER_BYTES = 44;
export const INFO_BYTES = 16;

const INFO_HEADER_BYTES = 12;

/** Bytes of the header of a PACKET message with these `FrameInfoPart`s. */
export function packetHeaderBytes(parts: number): number {
  let bytes = PACKET_HEADER_BYTES;
  for (let rest = parts; rest !== 0; rest &= rest - 1) bytes += INFO_BYTES;
  return bytes;
}

/**
 * Writes the header of a PACKET message and its per-packet information, `packetHeaderBytes` at `at`.
 *
 * @param dataAt - Where the frame lies, from the start of the message; at least `packetHeaderBytes`.
 * @param dataBytes - Bytes of the frame.
 * @param messageBytes - Of the whole message; hosts count the rest of the slot, too.
 */
export function writePacketHeader(
  bytes: Uint8Array,
  at: number,
  info: FrameInfo,
  dataAt: number,
  dataBytes: number,
  messageBytes: number,
): void {
  const { parts } = info;
  put32(bytes, at, RndisType.packet);
  put32(bytes, at + 4, messageBytes);
  put32(bytes, at + 8, dataAt - RNDIS_OFFSET_BASE);
  put32(bytes, at + 12, dataBytes);
  bytes.fill(0, at + 16, at + PACKET_HEADER_BYTES);
  put32(bytes, at + 28, PACKET_HEADER_BYTES - RNDIS_OFFSET_BASE);
  let next = at + PACKET_HEADER_BYTES;
  if ((parts & FrameInfoPart.checksum) !== 0)
    next = putInfo(bytes, next, PerPacketInfoType.checksum, info.checksum);
  if ((parts & FrameInfoPart.largeSend) !== 0)
    next = putInfo(bytes, next, PerPacketInfoType.largeSend, info.largeSend);
  if ((parts & FrameInfoPart.vlan) !== 0)
    next = putInfo(bytes, next, PerPacketInfoType.vlan, info.vlan);
  if ((parts & FrameInfoPart.hashInfo) !== 0)
    next = putInfo(bytes, next, PerPacketInfoType.hashInfo, info.hashInfo);
  if ((parts & FrameInfoPart.hashValue) !== 0)
    next = putInfo(bytes, next, PerPacketInfoType.hashValue, info.hashValue);
  if ((parts & FrameInfoPart.packetId) !== 0)
    next = putInfo(bytes, next, PerPacketInfoType.packetId, info.packetId);
  put32(bytes, at + 32, next - at - PACKET_HEADER_BYTES);
}

function putInfo(bytes: Uint8Array, at: number, type: number, value: number): number {
  put32(bytes, at, INFO_BYTES);
  put32(bytes, at + 4, type);
  put32(bytes, at + 8, INFO_HEADER_BYTES);
  put32(bytes, at + 12, value);
  return at + INFO_BYTES;
}

/** Why the bytes are no PACKET message. */
export const PacketFault = {
  none: 0,
  /** Fewer bytes than a header. */
  short: 1,
  /** Another type. */
  type: 2,
  /** Its length is less than a header, or more than there is. */
  length: 3,
  /** The frame is empty, or not inside the message behind the header. */
  data: 4,
  /** Per-packet information is not inside, not aligned, lies over the frame, or has an impossible size. */
  perPacketInfo: 5,
} as const;
export type PacketFault = (typeof PacketFault)[keyof typeof PacketFault];

/** Where the parts of a PACKET message are. One is made once and filled again for each message. */
export class PacketView {
  /** Of the whole message, as its header says. */
  messageBytes = 0;
  /** Where the frame lies in the bytes that were read. */
  dataAt = 0;
  dataBytes = 0;
  /** 0 unless the message has out-of-band data or a VC handle, which no peer sends and hosts refuse. */
  reserved = 0;
}

/**
 * Reads the PACKET message at `at` of memory that a peer may change: each field once, checked, then used.
 *
 * @param limitBytes - Bytes that the message may take; they lie inside `bytes`.
 * @param view - Filled, like `info`, if the result is `none`; else they mean nothing.
 */
export function readPacket(
  bytes: Uint8Array,
  at: number,
  limitBytes: number,
  view: PacketView,
  info: FrameInfo,
): PacketFault {
  if (limitBytes < PACKET_HEADER_BYTES) return PacketFault.short;
  if (get32(bytes, at) !== RndisType.packet) return PacketFault.type;
  const messageBytes = get32(bytes, at + 4);
  if (messageBytes < PACKET_HEADER_BYTES || messageBytes > limitBytes) return PacketFault.length;
  const dataAt = get32(bytes, at + 8) + RNDIS_OFFSET_BASE;
  const dataBytes = get32(bytes, at + 12);
  if (dataBytes === 0 || dataAt < PACKET_HEADER_BYTES || dataAt > messageBytes)
    return PacketFault.data;
  if (dataBytes > messageBytes - dataAt) return PacketFault.data;
  view.messageBytes = messageBytes;
  view.dataAt = at + dataAt;
  view.dataBytes = dataBytes;
  view.reserved =
    get32(bytes, at + 16) | get32(bytes, at + 20) | get32(bytes, at + 24) | get32(bytes, at + 36);
  info.parts = 0;
  const infoBytes = get32(bytes, at + 32);
  if (infoBytes === 0) return PacketFault.none;
  const infoAt = get32(bytes, at + 28) + RNDIS_OFFSET_BASE;
  if (infoAt < PACKET_HEADER_BYTES || infoAt > messageBytes || infoAt % 4 !== 0)
    return PacketFault.perPacketInfo;
  if (infoBytes > messageBytes - infoAt) return PacketFault.perPacketInfo;
  if (infoAt < dataAt + dataBytes && dataAt < infoAt + infoBytes) return PacketFault.perPacketInfo;
  return readInfo(bytes, at + infoAt, infoBytes, info);
}

function readInfo(
  bytes: Uint8Array,
  at: number,
  lengthBytes: number,
  info: FrameInfo,
): PacketFault {
  for (let rest = lengthBytes; rest > 0;) {
    if (rest < INFO_HEADER_BYTES) return PacketFault.perPacketInfo;
    const size = get32(bytes, at);
    // A size of 0 would be read for ever.
    if (size < INFO_HEADER_BYTES || size > rest || size % 4 !== 0) return PacketFault.perPacketInfo;
    const type = get32(bytes, at + 4);
    const dataOffset = get32(bytes, at + 8);
    if (dataOffset < INFO_HEADER_BYTES || dataOffset > size) return PacketFault.perPacketInfo;
    if (size - dataOffset >= 4) keepInfo(info, type, getInt32(bytes, at + dataOffset));
    at += size;
    rest -= size;
  }
  return PacketFault.none;
}

function keepInfo(info: FrameInfo, type: number, value: number): void {
  switch (type) {
    case PerPacketInfoType.checksum:
      info.parts |= FrameInfoPart.checksum;
      info.checksum = value;
      return;
    case PerPacketInfoType.largeSend:
      info.parts |= FrameInfoPart.largeSend;
      info.largeSend = value;
      return;
    case PerPacketInfoType.vlan:
      info.parts |= FrameInfoPart.vlan;
      info.vlan = value;
      return;
    case PerPacketInfoType.hashInfo:
      info.parts |= FrameInfoPart.hashInfo;
      info.hashInfo = value;
      return;
    case PerPacketInfoType.hashValue:
      info.parts |= FrameInfoPart.hashValue;
      info.hashValue = value;
      return;
    case PerPacketInfoType.packetId:
      info.parts |= FrameInfoPart.packetId;
      info.packetId = value;
      return;
  }
}
