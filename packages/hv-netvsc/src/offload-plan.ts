import type { GpaRuns, GuestMemory } from "@hyperv-is/vmbus-core";
import type { TransmitOffload } from "./ethernet-port.js";
import { TCP_HEADER_BYTES, UDP_HEADER_BYTES } from "./frame-headers.js";
import { foldSum, sumRuns } from "./internet-checksum.js";
import {
  ETHERNET_HEADER_BYTES,
  FrameInfo,
  FrameInfoPart,
  largeSend,
  transmitChecksum,
  TransmitChecksum,
  VLAN_TAG_BYTES,
  vlanInfoOfTag,
} from "./protocol/index.js";
import { Offload, type TransmitSide } from "./queue-description.js";

/** Largest offset of a transport header that a message can say. */
const HEADER_OFFSET_MAX = 0x3ff;
const IPV4_FLAGS = 6;
const IPV4_DONT_FRAGMENT = 0x40;

/** How one frame is sent: what goes beside it, and what has to be done to its headers. */
export class OffloadPlan {
  readonly info = new FrameInfo();
  /** The host cuts the frame into segments. */
  largeSend = false;
  ipv6 = false;
  headerOffset = 0;
  /** To be written into the UDP header; -1: nothing. */
  udpChecksum = -1;
  /** Bytes at the start of the frame that are changed, and so sent from a copy. */
  headerCopyBytes = 0;
  #checksums = 0;
  #largeSend4BytesMax = 0;
  #largeSend6BytesMax = 0;
  #frameBytesMax = 0;
  #hashValues = false;
  #udpChecksumBytesMax = 0;

  configure(side: TransmitSide, udpChecksumBytesMax: number): void {
    this.#checksums = side.checksums;
    this.#largeSend4BytesMax = side.largeSend4BytesMax;
    this.#largeSend6BytesMax = side.largeSend6BytesMax;
    this.#frameBytesMax = side.frameBytesMax + VLAN_TAG_BYTES;
    this.#hashValues = side.hashValues;
    this.#udpChecksumBytesMax = udpChecksumBytesMax;
  }

  /** Makes the plan for a frame; false if it cannot be sent. Throws if it does not lie in guest memory. */
  make(memory: GuestMemory, frame: GpaRuns, offload: TransmitOffload): boolean {
    for (let run = 0; run < frame.runs; run++)
      if (!memory.contains(frame.runAddress(run), frame.runLength(run)))
        throw new RangeError("frame outside guest memory");
    const { checksum, headerOffset, segmentBytes } = offload;
    const { info } = this;
    info.parts = 0;
    this.ipv6 = (checksum & TransmitChecksum.ipv6) !== 0;
    this.headerOffset = headerOffset;
    this.udpChecksum = -1;
    this.headerCopyBytes = 0;
    this.largeSend = segmentBytes > 0;
    const possible = this.largeSend
      ? this.#planLargeSend(frame, headerOffset, segmentBytes)
      : this.#planChecksum(memory.bytes, frame, checksum, headerOffset);
    if (!possible) return false;
    if (offload.vlanTag >= 0) {
      info.parts |= FrameInfoPart.vlan;
      info.vlan = vlanInfoOfTag(offload.vlanTag);
    }
    if (offload.hasHash && this.#hashValues) {
      info.parts |= FrameInfoPart.hashValue;
      info.hashValue = offload.hashValue;
    }
    return true;
  }

  #planLargeSend(frame: GpaRuns, headerOffset: number, segmentBytes: number): boolean {
    const max = this.ipv6 ? this.#largeSend6BytesMax : this.#largeSend4BytesMax;
    const headerBytes = headerOffset + TCP_HEADER_BYTES;
    if (frame.lengthBytes > max || headerOffset > HEADER_OFFSET_MAX) return false;
    if (headerBytes > frame.lengthBytes || segmentBytes > this.#frameBytesMax) return false;
    this.info.parts = FrameInfoPart.largeSend;
    this.info.largeSend = largeSend(segmentBytes, headerOffset, this.ipv6);
    this.headerCopyBytes = headerBytes;
    return true;
  }

  #planChecksum(
    bytes: Uint8Array,
    frame: GpaRuns,
    checksum: number,
    headerOffset: number,
  ): boolean {
    const length = frame.lengthBytes;
    if (length < ETHERNET_HEADER_BYTES || length > this.#frameBytesMax) return false;
    if (checksum === 0) return true;
    if ((neededOffloads(checksum) & ~this.#checksums) !== 0) return false;
    let bits = checksum;
    if ((bits & (TransmitChecksum.tcp | TransmitChecksum.udp)) !== 0) {
      const least = (bits & TransmitChecksum.tcp) !== 0 ? TCP_HEADER_BYTES : UDP_HEADER_BYTES;
      if (headerOffset > HEADER_OFFSET_MAX || headerOffset + least > length) return false;
    }
    if ((bits & TransmitChecksum.udp) !== 0 && this.#mayBeFragmented(bytes, frame, bits)) {
      // The host would sum each fragment for itself.
      const sum = ~foldSum(sumRuns(bytes, frame, headerOffset)) & 0xffff;
      this.udpChecksum = sum === 0 ? 0xffff : sum;
      this.headerCopyBytes = headerOffset + UDP_HEADER_BYTES;
      bits &= ~TransmitChecksum.udp;
      if ((bits & TransmitChecksum.ipHeader) === 0) return true;
    }
    this.info.parts = FrameInfoPart.checksum;
    this.info.checksum = transmitChecksum(bits, headerOffset);
    return true;
  }

  #mayBeFragmented(bytes: Uint8Array, frame: GpaRuns, bits: number): boolean {
    if ((bits & TransmitChecksum.ipv4) === 0) return false;
    const tagged = byteAt(bytes, frame, 12) === 0x81 && byteAt(bytes, frame, 13) === 0;
    const network = ETHERNET_HEADER_BYTES + (tagged ? VLAN_TAG_BYTES : 0);
    if (frame.lengthBytes - network <= this.#udpChecksumBytesMax) return false;
    return (byteAt(bytes, frame, network + IPV4_FLAGS) & IPV4_DONT_FRAGMENT) === 0;
  }
}

/** The `Offload` bits that `TransmitChecksum` bits ask for. */
function neededOffloads(checksum: number): number {
  const ipv6 = (checksum & TransmitChecksum.ipv6) !== 0;
  let needed = 0;
  if ((checksum & TransmitChecksum.ipHeader) !== 0) needed |= Offload.ipHeader;
  if ((checksum & TransmitChecksum.tcp) !== 0) needed |= ipv6 ? Offload.tcp6 : Offload.tcp4;
  if ((checksum & TransmitChecksum.udp) !== 0) needed |= ipv6 ? Offload.udp6 : Offload.udp4;
  return needed;
}

/** One byte of a frame, which is longer than `offset`. */
function byteAt(bytes: Uint8Array, frame: GpaRuns, offset: number): number {
  let rest = offset;
  let run = 0;
  for (; rest >= frame.runLength(run); run++) rest -= frame.runLength(run);
  return bytes[frame.runAddress(run) + rest]!;
}
