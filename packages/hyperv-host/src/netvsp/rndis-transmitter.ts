import type { GpaRanges, GuestMemory } from "@hyperv-is/vmbus-core";
import {
  FrameInfo,
  FrameInfoPart,
  LargeSendBit,
  PacketFault,
  PacketView,
  RndisHeader,
  RndisType,
  TransmitChecksum,
  get32,
  largeSendOffset,
  largeSendSegmentBytes,
  readPacket,
  tagOfVlanInfo,
  transmitChecksumOffset,
} from "@hyperv-is/hv-netvsc/protocol";
import { fillIpv4HeaderChecksum, setPartialChecksum } from "../switch/checksum-offload.js";
import { Frame, copyRuns } from "../switch/frame.js";
import { Ipv4, Ipv6, Tcp, Udp, ipv4HeaderBytes, networkOffset } from "../switch/frame-headers.js";
import { privateMemory } from "../switch/frame-memory.js";
import { setSuperFrame } from "../switch/segmentation.js";
import type { NicCounters } from "./nic-config.js";

/** Bytes of a message that are copied at first: its header, and the information of nearly every frame. */
const USUAL_HEADER_BYTES = 128;

/** Most bytes before the end of the per-packet information. */
const HEADER_BYTES_MAX = 1024;

/** Where a guest's frames go. */
export interface FrameTarget {
  send(frame: Frame): void;
}

/** Reads what a guest sends: RNDIS messages in the runs of a packet's memory, headers wherever they lie. */
export class RndisTransmitter {
  readonly #memory: GuestMemory;
  readonly #target: FrameTarget;
  readonly #counters: NicCounters;
  /** The first bytes of the message that is read. */
  readonly #header = privateMemory(HEADER_BYTES_MAX);
  readonly #view = new PacketView();
  readonly #info = new FrameInfo();
  readonly #frame = new Frame();
  /** What was wrong with the last message that was refused. */
  problem = "";

  constructor(memory: GuestMemory, target: FrameTarget, counters: NicCounters) {
    this.#memory = memory;
    this.#target = target;
    this.#counters = counters;
  }

  /** Type of the first message; -1 if there is none. */
  typeOf(message: GpaRanges): number {
    if (message.lengthBytes < RndisHeader.SIZE) return -1;
    copyRuns(this.#header, 0, this.#memory, message, 0, RndisHeader.SIZE);
    return get32(this.#header.bytes, 0);
  }

  /** A private copy of a control message: what its header says, or all there is if it says more. */
  copyControl(message: GpaRanges): Uint8Array {
    const lengthBytes = Math.min(get32(this.#header.bytes, 4), message.lengthBytes);
    const copy = privateMemory((lengthBytes + 7) & ~7);
    copyRuns(copy, 0, this.#memory, message, 0, lengthBytes);
    return copy.bytes.subarray(0, lengthBytes);
  }

  /**
   * Sends the frames of all PACKET messages, which follow each other. If one is malformed, none is sent.
   *
   * @returns False if one is malformed: `problem` says why.
   */
  transmit(message: GpaRanges): boolean {
    const { lengthBytes } = message;
    if (!this.#read(message, 0)) return false;
    if (this.#view.messageBytes === lengthBytes) return this.#send(message);
    for (let at = this.#view.messageBytes; at < lengthBytes; at += this.#view.messageBytes)
      if (!this.#read(message, at)) return false;
    for (let at = 0; at < lengthBytes; at += this.#view.messageBytes)
      if (!this.#read(message, at) || !this.#send(message, at)) return false;
    return true;
  }

  /** Reads the header of the message at `at`. */
  #read(message: GpaRanges, at: number): boolean {
    const rest = message.lengthBytes - at;
    const { bytes } = this.#header;
    const usual = Math.min(rest, USUAL_HEADER_BYTES);
    copyRuns(this.#header, 0, this.#memory, message, at, usual);
    if (usual === USUAL_HEADER_BYTES) {
      // From byte 8 on: offset and length of the information.
      const end = 8 + get32(bytes, 28) + get32(bytes, 32);
      if (end > usual) {
        const more = Math.min(end, rest, HEADER_BYTES_MAX) - usual;
        copyRuns(this.#header, usual, this.#memory, message, at + usual, more);
        if (end > HEADER_BYTES_MAX) return this.#refuse("information beyond the first 1024 bytes");
      }
    }
    const fault = readPacket(bytes, 0, rest, this.#view, this.#info);
    if (fault !== PacketFault.none) return this.#refuse(faults[fault]);
    if (this.#view.reserved !== 0) return this.#refuse("out-of-band data, or a VC handle");
    return true;
  }

  /** Sends the frame whose header was read. @param at - where the message begins. */
  #send(message: GpaRanges, at = 0): boolean {
    const { dataAt, dataBytes } = this.#view;
    const info = this.#info;
    const frame = this.#frame;
    frame.load(this.#memory, message, at + dataAt, dataBytes);
    // The guest is told that the packet is done after the switch has been flushed.
    frame.isLasting = true;
    if ((info.parts & FrameInfoPart.largeSend) !== 0) {
      if (!this.#setLargeSend(frame, info.largeSend)) return this.#refuse("a large send");
      this.#counters.transmitLargeSends++;
    } else if ((info.parts & FrameInfoPart.checksum) !== 0)
      if (!setChecksum(frame, info.checksum)) return this.#refuse("a checksum");
    if ((info.parts & FrameInfoPart.vlan) !== 0) frame.vlanTag = tagOfVlanInfo(info.vlan);
    this.#counters.transmitFrames++;
    this.#counters.transmitBytes += dataBytes;
    this.#target.send(frame);
    return true;
  }

  #setLargeSend(frame: Frame, value: number): boolean {
    const ipVersion = (value & LargeSendBit.ipv6) === 0 ? 4 : 6;
    const offset = largeSendOffset(value) || usualTransportOffset(frame, ipVersion);
    return setSuperFrame(frame, ipVersion, offset, largeSendSegmentBytes(value));
  }

  #refuse(problem: string): false {
    this.problem = problem;
    return false;
  }
}

const faults: Readonly<Record<PacketFault, string>> = {
  [PacketFault.none]: "",
  [PacketFault.short]: "fewer bytes than a header",
  [PacketFault.type]: `a message behind a frame that is not of type ${RndisType.packet}`,
  [PacketFault.length]: "a message longer than there is",
  [PacketFault.data]: "a frame that does not lie in its message",
  [PacketFault.perPacketInfo]: "per-packet information that does not lie where it may",
};

/** Where a transport header is said to be by 0: behind headers without options. */
function usualTransportOffset(frame: Frame, ipVersion: number): number {
  return networkOffset(frame) + (ipVersion === 4 ? Ipv4.leastBytes : Ipv6.headerBytes);
}

/** Notes what checksums the guest wants. @returns False if the offset cannot be right. */
function setChecksum(frame: Frame, value: number): boolean {
  const isIpv4 = (value & TransmitChecksum.ipv4) !== 0;
  if (!isIpv4 && (value & TransmitChecksum.ipv6) === 0) return true;
  const isTcp = (value & TransmitChecksum.tcp) !== 0;
  if (isTcp || (value & TransmitChecksum.udp) !== 0) {
    const least = usualTransportOffset(frame, isIpv4 ? 4 : 6);
    const start = transmitChecksumOffset(value) || least;
    if (start < least) return false;
    if (!setPartialChecksum(frame, start, isTcp ? Tcp.checksum : Udp.checksum)) return false;
  }
  if (isIpv4 && (value & TransmitChecksum.ipHeader) !== 0) fillIpHeader(frame);
  return true;
}

/** Computes the header checksum, if there is such a header. */
function fillIpHeader(frame: Frame): void {
  const at = networkOffset(frame);
  const { bytes } = frame.head;
  if (bytes[at]! >>> 4 !== 4) return;
  const headerBytes = ipv4HeaderBytes(bytes, at);
  if (headerBytes >= Ipv4.leastBytes && at + headerBytes <= frame.headBytes)
    fillIpv4HeaderChecksum(frame, at);
}
