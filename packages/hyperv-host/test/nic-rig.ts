import { expect } from "vitest";
import { GuestMemory, SendResult, type Channel, type ChannelHandler } from "@hyperv-is/vmbus-core";
import {
  DeviceClass,
  PAGE_SIZE,
  PacketType,
  TransferPages,
  type GpaRange,
} from "@hyperv-is/vmbus-core/protocol";
import {
  VirtualTimers,
  connectedChannels,
  type ConnectedChannels,
} from "@hyperv-is/vmbus-core/testing";
import {
  FrameInfo,
  NdisConfigCapability,
  NvspInit,
  NvspInitComplete,
  NvspSendNdisConfig,
  NvspSendNdisVersion,
  NvspSendReceiveBuffer,
  NvspSendRndisPacket,
  NvspSendRndisPacketComplete,
  NvspSendSendBuffer,
  NvspStatus,
  Oid,
  PacketFault,
  PacketFilter,
  PacketView,
  RECEIVE_BUFFER_ID,
  RndisChannelType,
  RndisInitialize,
  RndisStatus,
  RndisType,
  SECTION_INDEX_NONE,
  SEND_SECTION_BYTES,
  emitRndisQuery,
  emitRndisSet,
  findNvspVersion,
  get32,
  packetHeaderBytes,
  parseRndisQueryComplete,
  readPacket,
  writePacketHeader,
} from "@hyperv-is/hv-netvsc/protocol";
import {
  FaultPlan,
  NetworkAdapter,
  VirtualSwitch,
  type ChannelOpening,
  type Fault,
  type HostChannelHandler,
  type NicConfig,
} from "@hyperv-is/hyperv-host";

const RING_PAGES = 5;
const RECEIVE_PAGE = 512;
const SEND_PAGE = 160;
const DATA_PAGE = 256;
const PAGES = 1024;
const RECEIVE_GPADL = 0xe1e10;
const SEND_GPADL = 0xe1e11;
/** One that does not begin at a page. */
export const UNALIGNED_GPADL = 0xe1e12;
const RECEIVE_PAGES = 64;
const SEND_PAGES = 48;

export const NIC_ID = "f8615163-0000-4000-8000-000000000001";

/** A frame as the guest got it. */
export interface ReceivedFrame {
  readonly bytes: Uint8Array;
  readonly info: FrameInfo;
  /** Index of its channel. */
  readonly channel: number;
  readonly id: number;
}

/** What a rig is made of, unless all of it is as usual. */
export interface NicRigOptions extends Partial<NicConfig> {
  readonly faults?: readonly Fault[];
  readonly timers?: VirtualTimers;
  readonly network?: VirtualSwitch;
  /** The pages of the buffers are not one behind the other. */
  readonly scattered?: boolean;
  readonly receivePages?: number;
  readonly ringPages?: number;
}

/** How a message is sent. */
export type SendWay = "section" | "pages" | "mixed";

/** A guest made of bytes, in front of the real network provider, at a port of a real switch. */
export class NicRig {
  readonly timers: VirtualTimers;
  readonly network: VirtualSwitch;
  readonly adapter: NetworkAdapter;
  readonly memory = new GuestMemory(new ArrayBuffer(PAGES * PAGE_SIZE));
  readonly violations: string[] = [];
  readonly pairs: ConnectedChannels[] = [];
  readonly handlers: HostChannelHandler[] = [];
  /** Payloads of completions on the primary channel, in order. */
  readonly completions: { id: number; bytes: Uint8Array; channel: number }[] = [];
  readonly frames: ReceivedFrame[] = [];
  readonly answers: Uint8Array[] = [];
  readonly notifications: Uint8Array[] = [];
  /** Ids of packets that were not completed. */
  readonly held: { id: number; channel: number }[] = [];
  readonly malformed: string[] = [];
  /** Ranges of each transfer-page packet with frames. */
  readonly batches: number[] = [];
  completesReceived = true;
  offered = 0;
  rescinded = 0;
  #nextRequest = 1;
  #nextId = 100;
  readonly #faults: FaultPlan;
  readonly #receivePages: number;
  readonly #ringPages: number;
  readonly #scattered: boolean;

  constructor(options: NicRigOptions = {}) {
    const { faults = [], timers, network, scattered = false, ...rest } = options;
    const { receivePages, ringPages, ...config } = rest;
    this.timers = timers ?? new VirtualTimers();
    this.#faults = new FaultPlan({ faults }, this.timers);
    this.network = network ?? new VirtualSwitch({ timers: this.timers, faults: this.#faults });
    this.#scattered = scattered;
    this.#receivePages = receivePages ?? RECEIVE_PAGES;
    this.#ringPages = ringPages ?? RING_PAGES;
    this.adapter = new NetworkAdapter(
      {
        instanceId: NIC_ID,
        mac: Uint8Array.of(0x00, 0x15, 0x5d, 0x0a, 0x01, 0x01),
        switch: "lan",
        ...config,
      },
      this.network,
      this.timers,
    );
    this.open(0);
  }

  /** Opens a channel. */
  open(index: number): void {
    const opening: ChannelOpening = {
      key: index + 1,
      relid: index + 1,
      classId: DeviceClass.network.classId,
      instanceId: NIC_ID,
      subChannelIndex: index,
      version: 0x00050003,
      features: 0,
      ringGpadlId: 1,
      ringPages: [],
      downstreamPageOffset: this.#ringPages,
      interrupt: undefined,
      userData: new Uint8Array(120),
    };
    const handler = this.adapter.open(opening, {
      memory: this.memory,
      timers: this.timers,
      faults: this.#faults,
      gpadl: (id: number) => this.#gpadl(id),
      schedule: () => void this.pairs[index]?.right.poll(1000),
      offerSubChannels: (count: number) => (this.offered += count),
      rescind: () => {
        this.rescinded++;
      },
      violation: (rule: string) => void this.violations.push(rule),
    });
    if (typeof handler === "number") throw new Error("refused");
    this.handlers[index] = handler;
    this.pairs[index] = connectedChannels({
      left: this.#guest(index),
      right: handler,
      ringPages: this.#ringPages,
      memory: this.memory,
      address: index * 2 * this.#ringPages * PAGE_SIZE,
    });
    handler.opened(this.pairs[index].right);
    this.run();
  }

  run(): void {
    // What one channel's packets cause may be news on another.
    for (let round = 0; round < 3; round++) for (const pair of this.pairs) pair.run();
  }

  get closedCode(): string | undefined {
    return this.pairs[0]!.right.error?.code;
  }

  /** Sends a packet. @returns Its id. */
  send(
    bytes: Uint8Array,
    options: {
      readonly channel?: number;
      readonly flags?: number;
      readonly type?: number;
      readonly id?: number;
      readonly idHigh?: number;
      /** Neither end is polled. */
      readonly isQueued?: boolean;
      /** Pairs of address and length: one range each. */
      readonly ranges?: readonly (readonly [number, number])[];
    } = {},
  ): number {
    const { channel = 0, flags = 1, ranges, id = this.#nextId++, idHigh = 0 } = options;
    const { left } = this.pairs[channel]!;
    const type = options.type ?? (ranges === undefined ? PacketType.inBand : PacketType.gpaDirect);
    const lists = (ranges ?? []).map(([address, length]) => {
      const first = Math.floor(address / PAGE_SIZE);
      const end = Math.ceil((address + length) / PAGE_SIZE);
      return { address, length, pages: Array.from({ length: end - first }, (_, at) => first + at) };
    });
    const rangeBytes = lists.reduce((sum, { pages }) => sum + 8 + 8 * pages.length, 0);
    const header = ranges === undefined ? 16 : 24 + rangeBytes;
    const payload = (bytes.byteLength + 7) & ~7;
    const result = left.begin(type, flags, header, header + payload, id, idHigh);
    expect(result).toBe(SendResult.Ready);
    const { outgoing } = left;
    if (ranges !== undefined) {
      outgoing.putU32(0);
      outgoing.putU32(ranges.length);
      for (const { address, length, pages } of lists) {
        outgoing.putU32(length);
        outgoing.putU32(address % PAGE_SIZE);
        for (const page of pages) {
          outgoing.putU32(page);
          outgoing.putU32(0);
        }
      }
    }
    outgoing.putBytes(bytes, 0, bytes.byteLength);
    outgoing.end();
    left.flush();
    if (options.isQueued !== true) this.run();
    return id;
  }

  /** Puts an RNDIS message into the ring, and does not run. */
  queueSend(ranges: readonly (readonly [number, number])[]): void {
    const fields = { channelType: 0, sectionIndex: SECTION_INDEX_NONE, sectionBytes: 0 };
    this.send(NvspSendRndisPacket.packet(fields, 40), { ranges, isQueued: true });
  }

  /** Sends a message and returns its completion. */
  ask(bytes: Uint8Array): Uint8Array {
    const before = this.completions.length;
    this.send(bytes);
    expect(this.completions.length, this.closedCode ?? this.violations.join()).toBe(before + 1);
    return this.completions.at(-1)!.bytes;
  }

  /** Negotiates as far as RNDIS messages may be sent. */
  negotiate(
    version = 0x0006_0001,
    { mtu = 1514, capabilities = 0xff, sendBuffer = true, ndisMinor = 30 } = {},
  ): void {
    const { packetBytes, ndisConfig } = findNvspVersion(version)!;
    const init = this.ask(NvspInit.packet({ version, versionAgain: version }, 40));
    expect(NvspInitComplete.parse(init)!.status).toBe(NvspStatus.success);
    expect(init.byteLength).toBe(packetBytes);
    if (ndisConfig)
      this.send(
        NvspSendNdisConfig.packet({ mtu, capabilities, capabilitiesHigh: 0 }, packetBytes),
        { flags: 0 },
      );
    this.send(NvspSendNdisVersion.packet({ major: 6, minor: ndisMinor }, packetBytes), {
      flags: 0,
    });
    this.ask(
      NvspSendReceiveBuffer.packet({ gpadl: RECEIVE_GPADL, id: RECEIVE_BUFFER_ID }, packetBytes),
    );
    if (sendBuffer) this.ask(NvspSendSendBuffer.packet({ gpadl: SEND_GPADL, id: 0 }, packetBytes));
  }

  /** Attaches as a driver does; frames flow afterwards. */
  attach(version?: number, options?: Parameters<NicRig["negotiate"]>[1]): void {
    this.negotiate(version, options);
    this.initialize();
    this.set(Oid.genCurrentPacketFilter, words(PacketFilter.directed | PacketFilter.broadcast));
  }

  initialize(): void {
    const { answers } = this;
    this.control(
      RndisInitialize.emit({ requestId: 1 << 16, major: 1, minor: 0, maxTransferSize: 2048 }),
    );
    expect(get32(answers.at(-1)!, 0)).toBe(RndisType.initializeComplete);
  }

  /** Sends a control message by pages. @returns The status of its NVSP completion. */
  control(message: Uint8Array, channel = 0): number {
    const address = DATA_PAGE * PAGE_SIZE + 64;
    this.memory.bytes.set(message, address);
    return this.sendRndis(
      [[address, message.byteLength]],
      undefined,
      channel,
      RndisChannelType.control,
    );
  }

  /** Sends an RNDIS message that lies in memory already. @returns The status of its NVSP completion; -1 without one. */
  sendRndis(
    ranges: readonly (readonly [number, number])[] | undefined,
    section?: { readonly index: number; readonly bytes: number },
    channel = 0,
    channelType: number = RndisChannelType.data,
  ): number {
    const message = NvspSendRndisPacket.packet(
      {
        channelType,
        sectionIndex: section?.index ?? SECTION_INDEX_NONE,
        sectionBytes: section?.bytes ?? 0,
      },
      40,
    );
    const id = this.send(message, { channel, ...(ranges && { ranges }) });
    return this.statusOf(id);
  }

  /** Status of the completion of a packet; -1 if there is none. */
  statusOf(id: number): number {
    const completion = this.completions.findLast((done) => done.id === id);
    return completion === undefined
      ? -1
      : NvspSendRndisPacketComplete.parse(completion.bytes)!.status;
  }

  /** The answer to a QUERY. */
  query(oid: number, input?: Uint8Array<ArrayBuffer>): { status: number; value: Uint8Array } {
    const id = ++this.#nextRequest << 16;
    this.control(emitRndisQuery(id, oid, input));
    const answer = parseRndisQueryComplete(this.answers.at(-1)!)!;
    expect(answer.requestId).toBe(id);
    return { status: answer.status, value: answer.information };
  }

  /** Status of a SET. */
  set(oid: number, value: Uint8Array<ArrayBuffer>): number {
    const id = ++this.#nextRequest << 16;
    const before = this.answers.length;
    this.control(emitRndisSet(id, oid, value));
    const answer = this.answers.slice(before).find((each) => get32(each, 8) === id)!;
    expect(get32(answer, 0)).toBe(RndisType.setComplete);
    return get32(answer, 12);
  }

  /** A PACKET message. */
  message(frame: Uint8Array, info = new FrameInfo(), paddedTo = 1): Uint8Array {
    const header = packetHeaderBytes(info.parts);
    const bytes = new Uint8Array(Math.ceil((header + frame.length) / paddedTo) * paddedTo);
    writePacketHeader(bytes, 0, info, header, frame.length, bytes.length);
    bytes.set(frame, header);
    return bytes;
  }

  /** Sends bytes as RNDIS messages. @returns Status of the completion. */
  transmit(bytes: Uint8Array, way: SendWay = "section", channel = 0): number {
    const { memory } = this;
    const section = 3;
    // 100 bytes are more than a header.
    const inSection =
      way === "section" ? bytes.length : way === "mixed" ? Math.min(100, bytes.length) : 0;
    const sectionPages = this.#gpadl(SEND_GPADL)![0]!.pfns;
    for (let at = 0; at < inSection; at++) {
      const offset = section * SEND_SECTION_BYTES + at;
      memory.bytes[sectionPages[offset >>> 12]! * PAGE_SIZE + (offset & 4095)] = bytes[at]!;
    }
    const ranges: [number, number][] = [];
    // Pages that do not follow each other, each with an offset of its own.
    for (let at = inSection, page = DATA_PAGE + 8; at < bytes.length; page += 2) {
      const offset = (page * 52) % 1000;
      const length = Math.min(bytes.length - at, PAGE_SIZE - offset);
      const address = page * PAGE_SIZE + offset;
      memory.bytes.set(bytes.subarray(at, at + length), address);
      ranges.push([address, length]);
      at += length;
    }
    return this.sendRndis(
      ranges.length > 0 ? ranges : undefined,
      inSection > 0 ? { index: section, bytes: inSection } : undefined,
      channel,
    );
  }

  /** Completes what was held. */
  completeHeld(): void {
    for (const { id, channel } of this.held.splice(0)) this.complete(id, channel);
    this.run();
  }

  complete(id: number, channel = 0, bytes = 32): void {
    this.send(NvspSendRndisPacketComplete.packet({ status: NvspStatus.success }, bytes), {
      channel,
      flags: 0,
      type: PacketType.completion,
      id,
    });
  }

  #gpadl(id: number): readonly GpaRange[] | undefined {
    const [first, count] =
      id === RECEIVE_GPADL
        ? [RECEIVE_PAGE, this.#receivePages]
        : id === SEND_GPADL || id === UNALIGNED_GPADL
          ? [SEND_PAGE, SEND_PAGES]
          : [0, 0];
    if (count === 0) return undefined;
    const pfns = Array.from({ length: count }, (_, index) => first + index);
    if (id === UNALIGNED_GPADL)
      return [{ byteOffset: 8, byteCount: (count - 1) * PAGE_SIZE, pfns }];
    if (this.#scattered) pfns.reverse();
    return [{ byteOffset: 0, byteCount: count * PAGE_SIZE, pfns }];
  }

  /** The bytes at an offset of the receive buffer. */
  #received(offset: number, lengthBytes: number): Uint8Array {
    const { pfns } = this.#gpadl(RECEIVE_GPADL)![0]!;
    const bytes = new Uint8Array(lengthBytes);
    for (let at = 0; at < lengthBytes; at++) {
      const from = offset + at;
      bytes[at] = this.memory.bytes[pfns[from >>> 12]! * PAGE_SIZE + (from & 4095)]!;
    }
    return bytes;
  }

  #guest(index: number): ChannelHandler {
    return {
      packet: (channel) => this.#packet(channel, index),
      batchEnd: () => undefined,
      spaceArrived: () => undefined,
      closed: () => undefined,
    };
  }

  #packet({ incoming }: Channel, channel: number): void {
    const payload = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    const { idLow: id } = incoming;
    if (incoming.type === PacketType.completion) {
      this.completions.push({ id, bytes: payload, channel });
      return;
    }
    if (incoming.type === PacketType.inBand) {
      this.notifications.push(payload);
      return;
    }
    const setId = incoming.u32(TransferPages.setId) & 0xffff;
    const count = incoming.u32(TransferPages.rangeCount) >>> 0;
    const { channelType } = NvspSendRndisPacket.parse(payload)!;
    const limit = this.#receivePages * PAGE_SIZE;
    if (setId !== RECEIVE_BUFFER_ID || count * 8 + 24 !== incoming.headerBytes)
      this.malformed.push(`set ${setId}, count ${count}`);
    else
      for (let range = 0; range < count; range++) {
        const lengthBytes = incoming.u32(24 + range * 8) >>> 0;
        const offset = incoming.u32(28 + range * 8) >>> 0;
        if (lengthBytes === 0 || offset > limit || lengthBytes > limit - offset)
          this.malformed.push(`range ${lengthBytes} at ${offset}`);
        else this.#take(this.#received(offset, lengthBytes), channelType, channel, id);
      }
    if (channelType === RndisChannelType.data) this.batches.push(count);
    if (this.completesReceived) this.#completeFromHandler(id, channel);
    else this.held.push({ id, channel });
  }

  #take(bytes: Uint8Array, channelType: number, channel: number, id: number): void {
    if (channelType === RndisChannelType.control) {
      this.answers.push(bytes);
      return;
    }
    const [view, info] = [new PacketView(), new FrameInfo()];
    const fault = readPacket(bytes, 0, bytes.length, view, info);
    if (fault !== PacketFault.none) {
      this.malformed.push(`message ${fault}`);
      return;
    }
    const { dataAt, dataBytes } = view;
    this.frames.push({ bytes: bytes.slice(dataAt, dataAt + dataBytes), info, channel, id });
  }

  #completeFromHandler(id: number, channel: number): void {
    const { left } = this.pairs[channel]!;
    const result = left.begin(PacketType.completion, 0, 16, 16 + 8, id, 0);
    if (result !== SendResult.Ready) {
      this.held.push({ id, channel });
      return;
    }
    left.outgoing.putU32(108);
    left.outgoing.putU32(NvspStatus.success);
    left.outgoing.end();
    left.flush();
  }
}

/** u32 values as bytes. */
export function words(...values: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** Frame information with these values. */
export function infoOf(values: Partial<FrameInfo>): FrameInfo {
  return Object.assign(new FrameInfo(), values);
}

export const RSC = NdisConfigCapability.rscOverVmbus;
export const SUCCESS = RndisStatus.success;
