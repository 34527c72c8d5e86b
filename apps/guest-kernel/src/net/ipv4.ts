import { checksum } from "./checksum.js";
import { FrameChecksum } from "./network-device.js";
import { getU16, getU32, getU8, putU16, putU32 } from "./network-order.js";
import { FRAGMENT_OFFSET_MASK, FragmentFlag, Ipv4 } from "./protocol.js";

/** What can be wrong with an IPv4 header. */
export type Ipv4Fault =
  "tooShort" | "badVersion" | "badHeaderLength" | "badLength" | "tooSmall" | "badChecksum";

/** An IPv4 packet that was looked at: one object is used for many. Positions are those of the bytes it is in. */
export class Ipv4Packet {
  bytes: Uint8Array = new Uint8Array(0);
  /** Where the header begins. */
  start = 0;
  /** Where the header ends and the payload begins. */
  payload = 0;
  /** Where the packet ends; what is behind it is padding. */
  end = 0;
  protocol = 0;
  timeToLive = 0;
  source = 0;
  destination = 0;
  isFragment = false;
  /** `FrameChecksum` bits of those that need not be looked at. */
  verified = 0;

  /**
   * Looks at a packet that begins at `start`.
   *
   * @param verified - As for `DeviceInput.input`. @returns What is wrong with it; the other fields mean nothing then.
   */
  parse(bytes: Uint8Array, start: number, verified: number): Ipv4Fault | undefined {
    const room = bytes.byteLength - start;
    if (room < Ipv4.HEADER_BYTES) return "tooShort";
    const first = getU8(bytes, start + Ipv4.versionAndLength);
    if (first >> 4 !== 4) return "badVersion";
    const headerBytes = (first & 15) * 4;
    if (headerBytes < Ipv4.HEADER_BYTES) return "badHeaderLength";
    if (headerBytes > room) return "tooShort";
    const totalBytes = getU16(bytes, start + Ipv4.totalLength);
    if (totalBytes < headerBytes) return "badLength";
    if (totalBytes > room) return "tooSmall";
    const isVerified = (verified & FrameChecksum.ip) !== 0;
    if (!isVerified && checksum(bytes, start, start + headerBytes) !== 0) return "badChecksum";
    this.bytes = bytes;
    this.verified = verified;
    this.start = start;
    this.payload = start + headerBytes;
    this.end = start + totalBytes;
    this.protocol = getU8(bytes, start + Ipv4.protocol);
    this.timeToLive = getU8(bytes, start + Ipv4.timeToLive);
    this.source = getU32(bytes, start + Ipv4.source);
    this.destination = getU32(bytes, start + Ipv4.destination);
    const fragment = getU16(bytes, start + Ipv4.fragment);
    this.isFragment = (fragment & (FragmentFlag.moreFragments | FRAGMENT_OFFSET_MASK)) !== 0;
    return undefined;
  }
}

/** Writes a header without options at `start`, with its checksum unless somebody else fills that in. */
export function putIpv4Header(
  bytes: Uint8Array,
  start: number,
  packet: {
    readonly totalBytes: number;
    readonly identification: number;
    readonly timeToLive: number;
    readonly protocol: number;
    readonly source: number;
    readonly destination: number;
    readonly isChecksumOffloaded: boolean;
  },
): void {
  bytes[start + Ipv4.versionAndLength] = 0x45;
  bytes[start + Ipv4.typeOfService] = 0;
  putU16(bytes, start + Ipv4.totalLength, packet.totalBytes);
  putU16(bytes, start + Ipv4.identification, packet.identification);
  putU16(bytes, start + Ipv4.fragment, 0);
  bytes[start + Ipv4.timeToLive] = packet.timeToLive;
  bytes[start + Ipv4.protocol] = packet.protocol;
  putU16(bytes, start + Ipv4.checksum, 0);
  putU32(bytes, start + Ipv4.source, packet.source);
  putU32(bytes, start + Ipv4.destination, packet.destination);
  if (!packet.isChecksumOffloaded)
    putU16(bytes, start + Ipv4.checksum, checksum(bytes, start, start + Ipv4.HEADER_BYTES));
}
