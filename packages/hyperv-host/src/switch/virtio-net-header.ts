import {
  VirtioNetFlag,
  VirtioNetHeader,
  VirtioNetSegmentation,
} from "@hyperv-is/hv-netvsc/protocol";
import { setPartialChecksum } from "./checksum-offload.js";
import type { Frame } from "./frame.js";
import { Tcp, tcpHeaderBytes } from "./frame-headers.js";
import { superFrameIpVersion } from "./segmentation.js";

const { fields } = VirtioNetHeader;
const SEGMENTATION = fields.segmentation.offset;
const HEADER_BYTES = fields.headerBytes.offset;
const SEGMENT_BYTES = fields.segmentBytes.offset;
const CHECKSUM_START = fields.checksumStart.offset;
const CHECKSUM_OFFSET = fields.checksumOffset.offset;

/**
 * Notes in a frame what the header at `at` says of it.
 *
 * @returns False if it contradicts the frame, or asks for what is not known here (UDP fragmentation).
 */
export function readVirtioNetHeader(frame: Frame, bytes: Uint8Array, at: number): boolean {
  const flags = bytes[at]!;
  const segmentation = bytes[at + SEGMENTATION]! & ~VirtioNetSegmentation.ecn;
  const isPartial = (flags & VirtioNetFlag.needsChecksum) !== 0;
  if (isPartial) {
    const start = get16le(bytes, at + CHECKSUM_START);
    const offset = get16le(bytes, at + CHECKSUM_OFFSET);
    if (!setPartialChecksum(frame, start, offset)) return false;
  } else frame.isChecksumValid = (flags & VirtioNetFlag.dataValid) !== 0;
  if (segmentation === VirtioNetSegmentation.none) return true;
  const ipVersion =
    segmentation === VirtioNetSegmentation.tcp4
      ? 4
      : segmentation === VirtioNetSegmentation.tcp6
        ? 6
        : 0;
  if (ipVersion === 0 || !isPartial || frame.checksumOffset !== Tcp.checksum) return false;
  const { head, checksumStart } = frame;
  const segmentBytes = get16le(bytes, at + SEGMENT_BYTES);
  const payloadAt = checksumStart + tcpHeaderBytes(head.bytes, checksumStart);
  frame.extendHead(payloadAt);
  if (superFrameIpVersion(frame) !== ipVersion || segmentBytes === 0) return false;
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
  put16le(bytes, at + CHECKSUM_START, checksumStart);
  put16le(bytes, at + CHECKSUM_OFFSET, checksumOffset);
  if (segmentBytes === 0) return;
  bytes[at + SEGMENTATION] =
    superFrameIpVersion(frame) === 4 ? VirtioNetSegmentation.tcp4 : VirtioNetSegmentation.tcp6;
  const headerBytes = checksumStart + tcpHeaderBytes(head.bytes, checksumStart);
  put16le(bytes, at + HEADER_BYTES, headerBytes);
  put16le(bytes, at + SEGMENT_BYTES, segmentBytes);
}

function get16le(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

function put16le(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
}
