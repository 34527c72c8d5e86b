import {
  GpaRanges,
  GpaRangesResult,
  SendResult,
  type Channel,
  type ChannelHandler,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import * as protocol from "../src/protocol/index.js";

const { NvspType, NvspStatus, RndisType, RndisStatus, Oid } = protocol;

/** One NVSP message of the guest, copied out of the ring. */
export interface HostMessage {
  readonly channel: HostChannel;
  readonly type: number;
  /** Ring packet type, and whether the guest waits for a completion. */
  readonly packetType: number;
  readonly answered: boolean;
  readonly idLow: number;
  readonly idHigh: number;
  readonly packet: Uint8Array;
  /** Bytes of each range of a GPA-direct packet. */
  readonly rangeBytes: readonly number[];
  /** The RNDIS messages that came with it, in one piece. */
  readonly rndis: Uint8Array;
}

/** A frame that the guest sent. */
export interface SentFrame {
  readonly channel: number;
  readonly info: protocol.FrameInfo;
  readonly bytes: Uint8Array;
  /** The NVSP message that brought it, and its place among the frames in it. */
  readonly message: HostMessage;
  readonly place: number;
}

/** An RNDIS control message of the guest. */
export interface ControlMessage {
  readonly type: number;
  readonly requestId: number;
  readonly oid: number;
  readonly information: Uint8Array;
}

/** What an adapter is. */
export interface AdapterFacts {
  readonly versions: readonly number[];
  readonly address: readonly number[];
  readonly slotBytes: number;
  readonly sectionBytes: number;
  readonly receiveQueues: number;
  readonly maxPackets: number;
  readonly frameBytesMax: number;
  readonly offload: protocol.NdisOffload;
}

export const fullOffload: protocol.NdisOffload = {
  revision: 3,
  ipv4TxEncapsulation: 2,
  ipv4TxChecksum: 0x155,
  ipv4RxEncapsulation: 2,
  ipv4RxChecksum: 0x155,
  ipv6TxEncapsulation: 2,
  ipv6TxChecksum: 0x55,
  ipv6RxEncapsulation: 2,
  ipv6RxChecksum: 0x55,
  lsoV2Ipv4Encapsulation: 2,
  lsoV2Ipv4MaxBytes: protocol.LARGE_SEND_BYTES_MAX,
  lsoV2Ipv4MinSegments: 2,
  lsoV2Ipv6Encapsulation: 2,
  lsoV2Ipv6MaxBytes: protocol.LARGE_SEND_BYTES_MAX,
  lsoV2Ipv6MinSegments: 2,
  lsoV2Ipv6Options: 5,
  flags: 0,
  rscIpv4: 1,
  rscIpv6: 1,
};

const facts: AdapterFacts = {
  versions: protocol.nvspVersions.map(({ value }) => value),
  address: [0x00, 0x15, 0x5d, 0x0a, 0x01, 0x01],
  slotBytes: 1806,
  sectionBytes: protocol.SEND_SECTION_BYTES,
  receiveQueues: 8,
  maxPackets: 8,
  frameBytesMax: 9000,
  offload: fullOffload,
};

/** What a script does with a message: answers it itself (or not at all), or leaves it to the adapter. */
export type Verdict = "handled" | "default";

/** The network host of a test: answers everything as a host does, unless its script says otherwise. */
export class ScriptedAdapter {
  readonly memory: GuestMemory;
  facts: AdapterFacts;
  readonly messages: HostMessage[] = [];
  readonly controls: ControlMessage[] = [];
  readonly frames: SentFrame[] = [];
  readonly channels: HostChannel[] = [];
  /** GPADLs that the guest has shared: handle to address and length. */
  readonly gpadls = new Map<number, { readonly address: number; readonly lengthBytes: number }>();
  /** Completions of the guest's receive completions: transaction id and status. */
  readonly completions: { channel: number; id: number; status: number; packetBytes: number }[] = [];
  /** Looks at each NVSP message first. */
  onMessage: (message: HostMessage) => Verdict = () => "default";
  /** Looks at each RNDIS control message first. */
  onControl: (control: ControlMessage) => Verdict = () => "default";
  /** Offers sub-channels. */
  onSubChannels: (count: number) => void = () => undefined;
  mtu = 1514;
  filter = 0;
  linkUp = true;
  linkSpeed = 10_000_000_000;
  version = 0;
  receiveBuffer: { readonly address: number; readonly lengthBytes: number } | undefined;
  sendBuffer: { readonly address: number; readonly lengthBytes: number } | undefined;
  /** Sends of frames are left open. */
  holdSends = false;
  heldSends: HostMessage[] = [];
  /** Control messages are answered, and not completed. */
  holdControls = false;
  heldControls: HostMessage[] = [];
  #controlSlot = 0;

  constructor(memory: GuestMemory, changed: Partial<AdapterFacts> = {}) {
    this.memory = memory;
    this.facts = { ...facts, ...changed };
  }

  /** Types of the NVSP messages so far. */
  get types(): number[] {
    return this.messages.map(({ type }) => type);
  }

  get primary(): HostChannel {
    return this.channels.findLast(({ index }) => index === 0)!;
  }

  channelOf(index: number): HostChannel {
    return this.channels.findLast((channel) => channel.index === index)!;
  }

  /** A new channel's host end. */
  channel(index: number): HostChannel {
    const channel = new HostChannel(this, index);
    this.channels.push(channel);
    return channel;
  }

  /** Bytes of an NVSP message as this version has them. */
  get packetBytes(): number {
    return protocol.findNvspVersion(this.version)?.packetBytes ?? 32;
  }

  receive(message: HostMessage): void {
    this.messages.push(message);
    if (this.onMessage(message) === "handled") return;
    const { channel, packet } = message;
    const answer = <T>(kind: protocol.NvspMessage<T>, value: T): void => {
      channel.complete(message, kind.packet(value, this.packetBytes));
    };
    switch (message.type) {
      case NvspType.init: {
        const { version } = protocol.NvspInit.parse(packet)!;
        const accepted = this.facts.versions.includes(version);
        if (accepted) this.version = version;
        answer(protocol.NvspInitComplete, {
          deprecatedVersion: accepted && version === 2 ? 2 : 0xffff_ffff,
          maxMdlChainLength: protocol.MDL_CHAIN_MAX,
          status: accepted ? NvspStatus.success : NvspStatus.none,
        });
        return;
      }
      case NvspType.sendNdisConfig:
        this.mtu = protocol.NvspSendNdisConfig.parse(packet)!.mtu;
        return;
      case NvspType.sendReceiveBuffer: {
        this.receiveBuffer = this.gpadls.get(protocol.NvspSendReceiveBuffer.parse(packet)!.gpadl)!;
        const { lengthBytes } = this.receiveBuffer;
        const { slotBytes } = this.facts;
        const slots = Math.floor(lengthBytes / slotBytes);
        const { SIZE } = protocol.NvspSendReceiveBufferComplete;
        const bytes = new Uint8Array(32);
        protocol.NvspSendReceiveBufferComplete.write(bytes, { status: 1, sectionCount: 1 });
        protocol.NvspReceiveBufferSection.write(bytes.subarray(SIZE), {
          offset: 0,
          subAllocationSize: slotBytes,
          subAllocationCount: slots,
          endOffset: slots * slotBytes,
        });
        channel.complete(message, bytes);
        return;
      }
      case NvspType.sendSendBuffer:
        this.sendBuffer = this.gpadls.get(protocol.NvspSendSendBuffer.parse(packet)!.gpadl)!;
        answer(protocol.NvspSendSendBufferComplete, {
          status: NvspStatus.success,
          sectionSize: this.facts.sectionBytes,
        });
        return;
      case NvspType.subChannel: {
        const { subChannels } = protocol.NvspSubChannelRequest.parse(packet)!;
        answer(protocol.NvspSubChannelComplete, { status: NvspStatus.success, subChannels });
        this.onSubChannels(subChannels);
        return;
      }
      case NvspType.sendRndisPacket:
        this.#rndis(message);
        return;
    }
  }

  /** Completes a send. */
  completeSend(message: HostMessage, status: number = NvspStatus.success): void {
    const packet = protocol.NvspSendRndisPacketComplete.packet({ status }, this.packetBytes);
    message.channel.complete(message, packet);
  }

  /** Answers held sends, and publishes that. */
  releaseSends(status: number = NvspStatus.success): void {
    this.holdSends = false;
    for (const message of this.heldSends.splice(0)) this.completeSend(message, status);
    for (const { channel } of this.channels) channel.flush();
  }

  /** Sends an RNDIS message to the guest in a control slot. */
  say(message: Uint8Array, channel = this.primary): void {
    const slot = this.#controlSlot++ % protocol.RESERVED_CONTROL_SLOTS;
    channel.deliver([{ slot, bytes: message }], slot, 1);
  }

  indicate(status: number, information?: Uint8Array): void {
    this.say(protocol.emitRndisStatus(status, information));
    this.primary.channel.flush();
  }

  #rndis(message: HostMessage): void {
    const { channelType } = protocol.NvspSendRndisPacket.parse(message.packet)!;
    if (channelType === protocol.RndisChannelType.control) {
      if (this.holdControls) this.heldControls.push(message);
      else this.completeSend(message);
      this.#control(message.rndis);
      return;
    }
    this.#frames(message);
    if (this.holdSends) this.heldSends.push(message);
    else this.completeSend(message);
  }

  #frames(message: HostMessage): void {
    const { rndis } = message;
    for (let at = 0, place = 0; at < rndis.byteLength; place++) {
      const view = new protocol.PacketView();
      const info = new protocol.FrameInfo();
      const fault = protocol.readPacket(rndis, at, rndis.byteLength - at, view, info);
      if (fault !== protocol.PacketFault.none) throw new Error(`bad message: fault ${fault}`);
      if (view.reserved !== 0) throw new Error("reserved fields are set");
      const bytes = rndis.slice(view.dataAt, view.dataAt + view.dataBytes);
      this.frames.push({ channel: message.channel.index, info, bytes, message, place });
      at += view.messageBytes;
    }
  }

  #control(rndis: Uint8Array): void {
    const message = protocol.rndisMessageBytes(rndis)!;
    const { type } = protocol.RndisHeader.parse(message)!;
    const isRequest = type === RndisType.query || type === RndisType.set;
    const request = isRequest ? protocol.parseRndisRequest(message)! : undefined;
    const requestId = protocol.RndisHalt.parse(message)!.requestId;
    const control: ControlMessage = {
      type,
      requestId,
      oid: request?.oid ?? 0,
      information: request?.information.slice() ?? new Uint8Array(0),
    };
    this.controls.push(control);
    if (this.onControl(control) === "default") this.answer(control);
  }

  /** The answer of a good host. */
  answer({ type, requestId, oid, information }: ControlMessage): void {
    switch (type) {
      case RndisType.initialize: {
        const bytes = new Uint8Array(protocol.RNDIS_INITIALIZE_COMPLETE_BYTES);
        protocol.RndisInitializeComplete.write(bytes, {
          requestId,
          status: RndisStatus.success,
          major: 1,
          minor: 0,
          deviceFlags: 1,
          medium: 0,
          ...protocol.RndisInitializeLimits,
          maxPackets: this.facts.maxPackets,
          afListOffset: 0,
        });
        this.say(bytes);
        return;
      }
      case RndisType.query: {
        const value = this.value(oid);
        const status = value === undefined ? RndisStatus.notSupported : RndisStatus.success;
        this.say(protocol.emitRndisQueryComplete(requestId, status, value));
        return;
      }
      case RndisType.set:
        if (oid === Oid.genCurrentPacketFilter) this.filter = information[0]!;
        this.say(protocol.RndisSetComplete.emit({ requestId, status: RndisStatus.success }));
        return;
      case RndisType.keepalive:
        this.say(protocol.RndisKeepaliveComplete.emit({ requestId, status: RndisStatus.success }));
        return;
    }
  }

  /** The value of an object; undefined if the adapter does not have it. */
  value(oid: number): Uint8Array | undefined {
    const u32 = (value: number): Uint8Array =>
      Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
    switch (oid) {
      case Oid.tcpOffloadHardwareCapabilities:
        return protocol.NdisOffload.emit(this.facts.offload);
      case Oid.genReceiveScaleCapabilities:
        return protocol.NdisRssCapabilities.emit({
          revision: 2,
          flags: 0x301,
          interruptMessages: 1,
          receiveQueues: this.facts.receiveQueues,
          indirectionEntries: 128,
        });
      case Oid.ethPermanentAddress:
        return Uint8Array.from(this.facts.address);
      case Oid.genMaximumFrameSize:
        return u32(Math.min(this.mtu - 14, this.facts.frameBytesMax));
      case Oid.genLinkSpeed:
        return u32(this.linkSpeed / protocol.LINK_SPEED_UNIT);
      case Oid.genMediaConnectStatus:
        return u32(this.linkUp ? 0 : 1);
      default:
        return undefined;
    }
  }
}

/** A piece of the receive buffer that is delivered. */
export interface Delivery {
  readonly slot: number;
  readonly bytes: Uint8Array;
  /** What the range says, if that is not where the bytes are. */
  readonly rangeOffset?: number;
  readonly rangeBytes?: number;
}

/** The host's end of one channel. */
export class HostChannel implements ChannelHandler {
  readonly adapter: ScriptedAdapter;
  readonly index: number;
  channel!: Channel;
  readonly #ranges: GpaRanges;
  readonly #late: (readonly [message: HostMessage, packet: Uint8Array])[] = [];

  constructor(adapter: ScriptedAdapter, index: number) {
    this.adapter = adapter;
    this.index = index;
    this.#ranges = new GpaRanges(adapter.memory);
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    const { adapter } = this;
    const packet = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    if (incoming.type === PacketType.completion) {
      adapter.completions.push({
        channel: this.index,
        id: incoming.idLow,
        status: packet.byteLength < 8 ? -1 : protocol.get32(packet, 4),
        packetBytes: packet.byteLength,
      });
      return;
    }
    const type = protocol.get32(packet, 0);
    const rangeBytes: number[] = [];
    let rndis: Uint8Array = new Uint8Array(0);
    if (incoming.type === PacketType.gpaDirect) {
      if (this.#ranges.load(incoming) !== GpaRangesResult.Ok)
        throw new Error("the guest sent ranges that name no memory");
      for (let at = 24; at < incoming.headerBytes; at += 16) {
        rangeBytes.push(incoming.u32(at));
        if (incoming.u32(at) + incoming.u32(at + 4) > 4096) throw new Error("more than a page");
      }
      rndis = new Uint8Array(this.#ranges.lengthBytes);
      for (let run = 0, to = 0; run < this.#ranges.runs; run++) {
        const address = this.#ranges.runAddress(run);
        const length = this.#ranges.runLength(run);
        rndis.set(adapter.memory.bytes.subarray(address, address + length), to);
        to += length;
      }
    } else if (type === NvspType.sendRndisPacket) {
      const { sectionIndex, sectionBytes } = protocol.NvspSendRndisPacket.parse(packet)!;
      const at = adapter.sendBuffer!.address + sectionIndex * adapter.facts.sectionBytes;
      rndis = adapter.memory.bytes.slice(at, at + sectionBytes);
    }
    adapter.receive({
      channel: this,
      type,
      packetType: incoming.type,
      answered: incoming.completionRequested,
      idLow: incoming.idLow,
      idHigh: incoming.idHigh,
      packet,
      rangeBytes,
      rndis,
    });
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(): void {
    for (const [message, packet] of this.#late.splice(0)) this.complete(message, packet);
    this.channel.flush();
  }

  closed(): void {
    // The test sees it at the guest's end.
  }

  /** Completes a message of the guest; what finds no room waits for it. */
  complete(message: HostMessage, packet: Uint8Array): void {
    const { idLow, idHigh } = message;
    const waits = this.#late.length > 0;
    if (!waits && this.put(PacketType.completion, 0, idLow, idHigh, packet)) return;
    this.#late.push([message, packet]);
    if (!waits && this.channel.waitForSpace(16 + packet.byteLength)) this.spaceArrived();
  }

  /** Puts any packet into the guest's ring; `channel.flush` publishes it. @returns False if there is no room. */
  put(
    type: number,
    flags: number,
    idLow: number,
    idHigh: number,
    payload: Uint8Array,
    header = new Uint8Array(0),
  ): boolean {
    const headerBytes = 16 + header.byteLength;
    const size = headerBytes + payload.byteLength;
    const result = this.channel.begin(type, flags, headerBytes, size, idLow, idHigh);
    if (result !== SendResult.Ready) return false;
    const { outgoing } = this.channel;
    outgoing.putBytes(header, 0, header.byteLength);
    outgoing.putBytes(payload, 0, payload.byteLength);
    outgoing.end();
    return true;
  }

  /** Delivers RNDIS messages in slots of the receive buffer by one packet; `channel.flush` publishes it. */
  deliver(
    deliveries: readonly Delivery[],
    id: number,
    channelType = 0,
    setId: number = protocol.RECEIVE_BUFFER_ID,
  ): boolean {
    const { adapter } = this;
    const { address } = adapter.receiveBuffer!;
    const header = new Uint8Array(8 + deliveries.length * 8);
    protocol.put32(header, 0, setId | 0xbeef_0000);
    protocol.put32(header, 4, deliveries.length);
    deliveries.forEach(({ slot, bytes, rangeOffset, rangeBytes }, index) => {
      const offset = slot * adapter.facts.slotBytes;
      adapter.memory.bytes.set(bytes, address + offset);
      protocol.put32(header, 8 + index * 8, rangeBytes ?? bytes.byteLength);
      protocol.put32(header, 12 + index * 8, rangeOffset ?? offset);
    });
    const payload = protocol.NvspSendRndisPacket.packet(
      { channelType, sectionIndex: protocol.SECTION_INDEX_NONE, sectionBytes: 0 },
      adapter.packetBytes,
    );
    return this.put(PacketType.transferPages, 1, id, 0, payload, header);
  }
}

/** A PACKET message with a frame, as hosts write it: the frame 256 bytes into the slot, and the whole slot announced. */
export function packetMessage(
  frame: Uint8Array,
  info: Partial<protocol.FrameInfo> = {},
  slotBytes = 1806,
): Uint8Array {
  const message = new Uint8Array(slotBytes);
  const { headerBytes } = protocol.ReceiveSlot;
  const given = Object.assign(new protocol.FrameInfo(), info);
  protocol.writePacketHeader(message, 0, given, headerBytes, frame.byteLength, slotBytes);
  message.set(frame, headerBytes);
  return message;
}
