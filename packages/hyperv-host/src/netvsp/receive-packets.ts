import { SendResult, type Channel } from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  PacketType,
  TransferPageRange,
  TransferPages,
} from "@hyperv-is/vmbus-core/protocol";
import {
  FrameInfo,
  FrameInfoPart,
  NvspType,
  PacketIdFlag,
  RANGES_PER_PACKET_MAX,
  RECEIVE_BUFFER_ID,
  ReceiveSlot,
  RndisChannelType,
  SECTION_INDEX_NONE,
  packetHeaderBytes,
  packetId,
  vlanInfoOfTag,
  writePacketHeader,
} from "@hyperv-is/hv-netvsc/protocol";
import type { FaultAt } from "../faults.js";
import { NO_VLAN_TAG, type Frame } from "../switch/frame.js";
import { privateMemory } from "../switch/frame-memory.js";
import { damageMessage, damagedRange } from "./damage.js";
import type { NetvspSession } from "./netvsp-session.js";
import type { NicCounters } from "./nic-config.js";
import { receiveChecksum } from "./receive-checksum.js";

const NONE = -1;

/** What of a frame's information only its first piece has. */
const FIRST_PIECE_ONLY =
  FrameInfoPart.checksum | FrameInfoPart.vlan | FrameInfoPart.hashInfo | FrameInfoPart.hashValue;

/** A fault of a packet that carries frames to a guest. */
export type ReceiveFault = FaultAt<"network.receive">;

/** Puts frames into slots of the receive buffer, and tells a guest of them in transfer-page packets of one channel. */
export class ReceivePackets {
  readonly #session: NetvspSession;
  readonly #counters: NicCounters;
  /** Index of the channel. */
  readonly #channelIndex: number;
  readonly #info = new FrameInfo();
  readonly #header = privateMemory(ReceiveSlot.headerBytes);
  readonly #message: Int32Array;
  /** Lengths and offsets of the ranges of the next packet. */
  readonly #ranges = new Int32Array(RANGES_PER_PACKET_MAX * 2);
  readonly #rangesMax: number;
  #count = 0;
  #frames = 0;
  #first = NONE;
  #last = NONE;
  #nextPacketId = 0;
  #hasPut = false;

  constructor(
    channel: Channel,
    session: NetvspSession,
    counters: NicCounters,
    channelIndex: number,
  ) {
    this.#session = session;
    this.#counters = counters;
    this.#channelIndex = channelIndex;
    this.#message = nvspMessage(session.packetBytes, RndisChannelType.data);
    const room = channel.outgoing.maxPacketBytes - TransferPages.ranges - session.packetBytes;
    this.#rangesMax = Math.min(Math.floor(room / TransferPageRange.SIZE), RANGES_PER_PACKET_MAX);
  }

  /** Puts a frame into the next packet. @returns False if it is lost. */
  add(channel: Channel, frame: Frame, fault: ReceiveFault | undefined): boolean {
    const { slots, mtu } = this.#session;
    const pieces = frame.segmentBytes > 0 ? Math.ceil(frame.lengthBytes / mtu) : 1;
    if (frame.lengthBytes > mtu * pieces || pieces > this.#rangesMax) {
      this.#counters.receiveTooLong++;
      return false;
    }
    if (slots.freeFrames < pieces) {
      this.#counters.receiveNoSlot++;
      return false;
    }
    // All pieces of a frame are in one packet.
    if (this.#count + pieces > this.#rangesMax) this.#send(channel);
    this.#describe(frame);
    if (pieces === 1) this.#put(frame, 0, frame.lengthBytes, fault);
    else this.#putPieces(frame, pieces);
    this.#frames++;
    this.#counters.receiveFrames++;
    this.#counters.receiveBytes += frame.lengthBytes;
    if (fault !== undefined) this.#send(channel, fault);
    return true;
  }

  /** Sends the packet, if there is anything in it. @returns True if packets were put since the last time. */
  flush(channel: Channel): boolean {
    if (this.#count > 0) this.#send(channel);
    const hasPut = this.#hasPut;
    this.#hasPut = false;
    return hasPut;
  }

  /** The channel is closed: what is in no packet yet is lost. */
  clear(): void {
    if (this.#first !== NONE) this.#session.slots.drop(this.#first);
    this.#reset();
  }

  /** Gathers what the guest is told beside the frame. */
  #describe(frame: Frame): void {
    const info = this.#info;
    const { offloads, scaling } = this.#session;
    // Never without: Linux complains of a message that has a place for information and none of it. So does OpenVMM.
    info.parts = FrameInfoPart.checksum;
    info.checksum = receiveChecksum(frame, offloads.receive);
    if (frame.vlanTag !== NO_VLAN_TAG) {
      info.parts |= FrameInfoPart.vlan;
      info.vlan = vlanInfoOfTag(frame.vlanTag);
    }
    if (scaling.hashInfo === 0) return;
    info.parts |= FrameInfoPart.hashInfo | FrameInfoPart.hashValue;
    info.hashInfo = scaling.hashInfo;
    info.hashValue = scaling.hashValue;
  }

  #putPieces(frame: Frame, pieces: number): void {
    const { mtu } = this.#session;
    const info = this.#info;
    this.#nextPacketId = (this.#nextPacketId + 1) & 0xffff;
    this.#counters.receiveCoalesced++;
    info.parts |= FrameInfoPart.packetId;
    for (let piece = 0; piece < pieces; piece++) {
      const from = piece * mtu;
      const first = piece === 0 ? PacketIdFlag.first : 0;
      const last = piece === pieces - 1 ? PacketIdFlag.last : 0;
      info.packetId = packetId(PacketIdFlag.multi | first | last, this.#nextPacketId);
      this.#put(frame, from, Math.min(mtu, frame.lengthBytes - from), undefined);
      info.parts &= ~FIRST_PIECE_ONLY;
    }
  }

  /** Fills a slot. */
  #put(frame: Frame, from: number, lengthBytes: number, fault: ReceiveFault | undefined): void {
    const { slots, receiveBuffer } = this.#session;
    const slot = slots.takeFrame();
    const offset = slot * slots.slotBytes;
    const { headerBytes } = ReceiveSlot;
    const { bytes } = this.#header;
    // Like OpenVMM: the message is as long as the slot.
    writePacketHeader(bytes, 0, this.#info, headerBytes, lengthBytes, slots.slotBytes);
    let writtenBytes = packetHeaderBytes(this.#info.parts);
    if (fault?.kind === "malformed-rndis") {
      damageMessage(bytes, fault.damage, slots.slotBytes);
      writtenBytes = headerBytes;
    }
    receiveBuffer!.write(offset, this.#header, 0, writtenBytes);
    receiveBuffer!.writeFrame(offset + headerBytes, frame, from, lengthBytes);
    this.#ranges[this.#count * 2] = slots.slotBytes;
    this.#ranges[this.#count * 2 + 1] = offset;
    this.#count++;
    if (this.#first === NONE) this.#first = slot;
    else slots.chain(this.#last, slot);
    this.#last = slot;
  }

  #send(channel: Channel, fault?: ReceiveFault): void {
    const { slots, packetBytes } = this.#session;
    const headerBytes = TransferPages.ranges + this.#count * TransferPageRange.SIZE;
    const result = channel.begin(
      PacketType.transferPages,
      PACKET_FLAG_COMPLETION_REQUESTED,
      headerBytes,
      headerBytes + packetBytes,
      this.#first,
      0,
    );
    if (result !== SendResult.Ready) {
      this.#counters.receiveRingFull += this.#frames;
      this.#counters.receiveFrames -= this.#frames;
      slots.drop(this.#first);
      this.#reset();
      return;
    }
    const { outgoing } = channel;
    if (fault?.kind === "malformed-transfer") {
      damagedRange(outgoing, this.#ranges, this.#count, fault.damage);
    } else {
      outgoing.putU32(RECEIVE_BUFFER_ID);
      outgoing.putU32(this.#count);
      outgoing.putWords(this.#ranges, 0, this.#count * 2);
    }
    outgoing.putWords(this.#message, 0, packetBytes >>> 2);
    outgoing.end();
    slots.lend(this.#first, this.#channelIndex);
    this.#counters.receivePackets++;
    this.#hasPut = true;
    this.#reset();
  }

  #reset(): void {
    this.#count = 0;
    this.#frames = 0;
    this.#first = NONE;
    this.#last = NONE;
  }
}

/** The message of a packet that carries RNDIS messages to a guest. */
export function nvspMessage(packetBytes: number, channelType: RndisChannelType): Int32Array {
  const words = new Int32Array(packetBytes >>> 2);
  words.set([NvspType.sendRndisPacket, channelType, SECTION_INDEX_NONE | 0, 0]);
  return words;
}
