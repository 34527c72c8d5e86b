import { setPartialChecksum } from "./checksum-offload.js";
import type { Frame } from "./frame.js";
import { Tcp, networkOffset, tcpHeaderBytes } from "./frame-headers.js";

/** Byte offsets in struct virtio_net_hdr, which Linux puts before each frame of a TAP. Little-endian on this machine. */
export const VirtioNetHeader = {
  flags: 0, // u8
  gsoType: 1, // u8
  headerLength: 2, // u16
  gsoSize: 4, // u16
  checksumStart: 6, // u16
  checksumOffset: 8, // u16
  SIZE: 10, // bytes
} as const;

/** Bits of `VirtioNetHeader.flags`. */
export const VirtioNetFlag = { needsChecksum: 1, dataValid: 2 } as const;

/** Values of `VirtioNetHeader.gsoType`, apart from the ECN bit. */
export const VirtioGsoType = { none: 0, tcp4: 1, tcp6: 4 } as const;

const GSO_ECN = 0x80;

/**
 * Notes in a frame what the header at `at` says of it.
 *
 * @returns False if it contradicts the frame, or asks for what is not known here (UDP fragmentation).
 */
export function readVirtioNetHeader(frame: Frame, bytes: Uint8Array, at: number): boolean {
  const flags = bytes[at]!;
  const gsoType = bytes[at + VirtioNetHeader.gsoType]! & ~GSO_ECN;
  const isPartial = (flags & VirtioNetFlag.needsChecksum) !== 0;
  if (isPartial) {
    const start = get16le(bytes, at + VirtioNetHeader.checksumStart);
    const offset = get16le(bytes, at + VirtioNetHeader.checksumOffset);
    if (!setPartialChecksum(frame, start, offset)) return false;
  } else frame.isChecksumValid = (flags & VirtioNetFlag.dataValid) !== 0;
  if (gsoType === VirtioGsoType.none) return true;
  const ipVersion = gsoType === VirtioGsoType.tcp4 ? 4 : gsoType === VirtioGsoType.tcp6 ? 6 : 0;
  if (ipVersion === 0 || !isPartial || frame.checksumOffset !== Tcp.checksum) return false;
  const { head, checksumStart } = frame;
  const version = head.bytes[networkOffset(frame)]! >>> 4;
  const segmentBytes = get16le(bytes, at + VirtioNetHeader.gsoSize);
  const payloadAt = checksumStart + tcpHeaderBytes(head.bytes, checksumStart);
  frame.extendHead(payloadAt);
  if (version !== ipVersion || segmentBytes === 0) return false;
  if (payloadAt < checksumStart + Tcp.leastBytes || payloadAt > frame.headBytes) return false;
  if (frame.lengthBytes - payloadAt > segmentBytes) frame.segmentBytes = segmentBytes;
  return true;
}

/** Writes the header that says of a frame what is still to be done to it. The frame's tag must be among its bytes. */
export function writeVirtioNetHeader(frame: Frame, bytes: Uint8Array, at: number): void {
  const { segmentBytes, checksumStart, checksumOffset, isChecksumValid, head } = frame;
  for (let index = 0; index < VirtioNetHeader.SIZE; index++) bytes[at + index] = 0;
  if (checksumStart === 0) {
    if (isChecksumValid) bytes[at] = VirtioNetFlag.dataValid;
    return;
  }
  bytes[at] = VirtioNetFlag.needsChecksum;
  put16le(bytes, at + VirtioNetHeader.checksumStart, checksumStart);
  put16le(bytes, at + VirtioNetHeader.checksumOffset, checksumOffset);
  if (segmentBytes === 0) return;
  const isIpv4 = head.bytes[networkOffset(frame)]! >>> 4 === 4;
  bytes[at + VirtioNetHeader.gsoType] = isIpv4 ? VirtioGsoType.tcp4 : VirtioGsoType.tcp6;
  const headerBytes = checksumStart + tcpHeaderBytes(head.bytes, checksumStart);
  put16le(bytes, at + VirtioNetHeader.headerLength, headerBytes);
  put16le(bytes, at + VirtioNetHeader.gsoSize, segmentBytes);
}

function get16le(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

function put16le(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
}
