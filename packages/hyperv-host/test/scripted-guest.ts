import { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  AllOffersDelivered,
  CloseReservedResponse,
  FIRST_GPADL_ID,
  GpadlCreated,
  GpadlTorndown,
  GuestOsId,
  HypercallCode,
  HypercallStatus,
  InitiateContact,
  MESSAGE_PENDING,
  MessageHeader,
  MessageSlot,
  MessageType,
  ModifyChannelResponse,
  ModifyConnectionResponse,
  Msr,
  NIL_GUID,
  OfferChannel,
  OpenChannel,
  OpenChannelResult,
  PAGE_SIZE,
  PauseResponse,
  PostMessageInput,
  ProtocolVersion,
  RequestOffers,
  RescindChannelOffer,
  SignalEventInput,
  SynicMessageType,
  TlConnectResult,
  UnloadResponse,
  VMBUS_SINT,
  VersionResponse,
  contactConnectionId,
  emitGpadl,
  messageConnectionId,
  type GpaRange,
} from "@hyperv-is/vmbus-core/protocol";
import type { VirtualProcessor } from "../src/index.js";
import { Partition, type PartitionOptions } from "../src/index.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";

/** A message from the host, parsed. */
export type HostMessage = { readonly type: MessageType } & Readonly<Record<string, unknown>>;

const parsers: Readonly<Record<number, (bytes: Uint8Array) => object | undefined>> = {
  [MessageType.offerChannel]: (bytes) => OfferChannel.parse(bytes),
  [MessageType.rescindChannelOffer]: (bytes) => RescindChannelOffer.parse(bytes),
  [MessageType.allOffersDelivered]: (bytes) => AllOffersDelivered.parse(bytes),
  [MessageType.openChannelResult]: (bytes) => OpenChannelResult.parse(bytes),
  [MessageType.gpadlCreated]: (bytes) => GpadlCreated.parse(bytes),
  [MessageType.gpadlTorndown]: (bytes) => GpadlTorndown.parse(bytes),
  [MessageType.unloadResponse]: (bytes) => UnloadResponse.parse(bytes),
  [MessageType.closeReservedResponse]: (bytes) => CloseReservedResponse.parse(bytes),
  [MessageType.modifyChannelResponse]: (bytes) => ModifyChannelResponse.parse(bytes),
  [MessageType.modifyConnectionResponse]: (bytes) => ModifyConnectionResponse.parse(bytes),
  [MessageType.pauseResponse]: (bytes) => PauseResponse.parse(bytes),
  [MessageType.tlConnectResult]: (bytes) => TlConnectResult.parse(bytes),
};

/** Vector of SINT 2 of each scripted guest. */
export const VECTOR = 0xf3;

/** Guest memory at an offset of an unshared buffer, as a PC emulator has it, with other bytes around it. */
export function memoryAtOffset(pages = 1100): GuestMemory {
  const offset = 8 * 123;
  const buffer = new ArrayBuffer(offset + pages * PAGE_SIZE + 64);
  new Uint8Array(buffer).fill(0xa5);
  const memory = new GuestMemory(buffer, offset, pages * PAGE_SIZE);
  memory.bytes.fill(0);
  return memory;
}

/** A host and a guest in one thread; the guest does what a kernel can do: MSRs, hypercalls, memory. */
export class ScriptedGuest {
  readonly timers = new VirtualTimers();
  readonly memory: GuestMemory;
  readonly partition: Partition;
  /** Interrupts taken so far, by processor. */
  readonly interrupts: number[];
  /** Messages taken and not asked for yet, with the processor that got them. */
  readonly received: {
    readonly vp: number;
    readonly message: HostMessage;
    readonly bytes: Uint8Array;
  }[] = [];
  version: ProtocolVersion = ProtocolVersion.v5_3;
  features = 0;
  /** Where messages go after the connection is there. */
  connectionId = 1;
  #nextPage = 16;
  #nextGpadl = FIRST_GPADL_ID;

  constructor(options: Partial<PartitionOptions> = {}) {
    this.memory = options.memory ?? memoryAtOffset();
    this.interrupts = new Array<number>(options.vps ?? 1).fill(0);
    this.partition = new Partition({
      timers: this.timers,
      interrupt: (vp, sint, vector) => {
        if (sint !== VMBUS_SINT || vector !== VECTOR) throw new Error("a foreign interrupt");
        this.interrupts[vp]!++;
      },
      ...options,
      memory: this.memory,
    });
    for (const processor of this.partition.processors) this.#startProcessor(processor);
  }

  /**
   * Takes the place of a guest whose partition was saved: what that knew and what its memory held. The host
   * is told by `Partition.restore`.
   */
  continueAs(other: ScriptedGuest): void {
    this.memory.bytes.set(other.memory.bytes);
    this.version = other.version;
    this.features = other.features;
    this.connectionId = other.connectionId;
    this.#nextPage = other.#nextPage;
    this.#nextGpadl = other.#nextGpadl;
  }

  /** Zeroed pages that nobody else has; the address of the first. */
  pages(count: number): number {
    const address = this.#nextPage * PAGE_SIZE;
    this.#nextPage += count;
    this.memory.clear(address, count * PAGE_SIZE);
    return address;
  }

  /** GPA of a processor's pages: hypercall input, messages, event flags. */
  inputPage = (vp: number): number => (1 + vp * 3) * PAGE_SIZE;
  messagePage = (vp: number): number => this.inputPage(vp) + PAGE_SIZE;
  flagsPage = (vp: number): number => this.inputPage(vp) + 2 * PAGE_SIZE;

  /** Posts a message by hypercall. @returns The status. */
  post(bytes: Uint8Array, connectionId = this.connectionId, vp = 0): number {
    const at = this.inputPage(vp);
    PostMessageInput.write(this.memory.bytes.subarray(at, at + PostMessageInput.SIZE), {
      connectionId,
      messageType: SynicMessageType.channel,
      payloadSize: bytes.byteLength,
      payload: bytes,
    });
    return this.partition.processors[vp]!.hypercall(HypercallCode.postMessage, at, 0);
  }

  /** Posts a message, lets the host work, and returns what it says. */
  send(bytes: Uint8Array, connectionId = this.connectionId): HostMessage[] {
    const status = this.post(bytes, connectionId);
    if (status !== HypercallStatus.success) throw new Error(`post failed with ${status}`);
    return this.listen();
  }

  /** Lets host and guest work until both rest; what the host has said meanwhile. */
  listen(): HostMessage[] {
    do this.partition.run();
    while (this.takeMessages());
    return this.received.splice(0).map(({ message }) => message);
  }

  /** Takes one message out of each processor's slot, by the rules; true if there was any. */
  takeMessages(): boolean {
    let found = false;
    for (const { index } of this.partition.processors) found = this.#takeMessage(index) || found;
    return found;
  }

  /** Signals the host. @returns The hypercall's status. */
  signal(connectionId: number, vp = 0): number {
    const at = this.inputPage(vp);
    const input = this.memory.bytes.subarray(at, at + SignalEventInput.SIZE);
    SignalEventInput.write(input, { connectionId, flagNumber: 0 });
    return this.partition.processors[vp]!.hypercall(HypercallCode.signalEvent, at, 0);
  }

  /** Takes the event flags of a processor. */
  takeFlags(vp = 0): number[] {
    const start = this.flagsPage(vp) + VMBUS_SINT * 256;
    const flags: number[] = [];
    for (let flag = 0; flag < 2048; flag++) {
      const at = start + (flag >>> 3);
      if ((this.memory.bytes[at]! & (1 << (flag & 7))) === 0) continue;
      this.memory.bytes[at]! &= ~(1 << (flag & 7));
      flags.push(flag);
    }
    return flags;
  }

  /** INITIATE_CONTACT; the response is not judged. */
  contact(version: ProtocolVersion, fields: Partial<InitiateContact> = {}): HostMessage[] {
    return this.send(
      InitiateContact.emit({
        version,
        targetVp: 0,
        interruptPageGpa: 0,
        sint: VMBUS_SINT,
        vtl: 0,
        features: 0,
        parentToChildMonitorGpa: 0,
        childToParentMonitorGpa: 0,
        clientId: NIL_GUID,
        ...fields,
      }),
      contactConnectionId(version),
    );
  }

  /** Connects, or throws. */
  connect(version: ProtocolVersion = this.version, fields: Partial<InitiateContact> = {}): void {
    this.version = version;
    const [message] = this.contact(version, fields).slice(-1);
    const response = message as unknown as VersionResponse | undefined;
    if (response?.supported !== true || response.connectionState !== 0)
      throw new Error(`no connection: ${JSON.stringify(message)}`);
    this.features = response.features;
    this.connectionId = messageConnectionId(version, response);
  }

  /** REQUESTOFFERS; the offers in their order. */
  requestOffers(): OfferChannel[] {
    const messages = this.send(RequestOffers.emit({}));
    if (messages.at(-1)?.type !== MessageType.allOffersDelivered)
      throw new Error("no end of offers");
    return messages.slice(0, -1) as unknown as OfferChannel[];
  }

  /** A GPADL of these ranges. @returns Its id, once the host has created it. */
  createGpadl(relid: number, ranges: readonly GpaRange[]): number {
    const { id, messages } = this.tryGpadl(relid, ranges);
    const created = messages.at(-1);
    if (created?.type !== MessageType.gpadlCreated || created["status"] !== 0)
      throw new Error(`no GPADL: ${JSON.stringify(messages)}`);
    return id;
  }

  /** The same, with whatever the host answers. */
  tryGpadl(
    relid: number,
    ranges: readonly GpaRange[],
    id = this.#nextGpadl++,
  ): { readonly id: number; readonly messages: HostMessage[] } {
    const messages = emitGpadl(relid, id, ranges).flatMap((bytes) => this.send(bytes));
    return { id, messages };
  }

  /** Rings of new contiguous pages, shared with the host. */
  createRings(relid: number, outgoing = 2, incoming = 2): Rings {
    const address = this.pages(outgoing + incoming);
    return {
      ...this.createRingsOf(relid, pageList(address, outgoing + incoming), outgoing),
      address,
    };
  }

  /** The same of given pages. */
  createRingsOf(relid: number, pages: readonly number[], outgoing: number): Rings {
    const range = {
      byteCount: pages.length * PAGE_SIZE,
      byteOffset: 0,
      pfns: pages.map((page) => page / PAGE_SIZE),
    };
    const gpadlId = this.createGpadl(relid, [range]);
    return { relid, gpadlId, address: pages[0]!, pages, outgoing };
  }

  /** OPENCHANNEL, and what the host answers. */
  open(rings: Rings, fields: Partial<OpenChannel> = {}): HostMessage[] {
    return this.send(this.openMessage(rings, fields));
  }

  openMessage({ relid, gpadlId, outgoing }: Rings, fields: Partial<OpenChannel> = {}): Uint8Array {
    return OpenChannel.emit(
      {
        relid,
        openId: relid,
        ringGpadlId: gpadlId,
        targetVp: 0,
        downstreamPageOffset: outgoing,
        userData: new Uint8Array(0),
        redirectInterrupt: false,
        ...fields,
      },
      this.features,
    );
  }

  /** Rules that were broken so far, each once. */
  get brokenRules(): string[] {
    return Object.keys(this.partition.violations.counts());
  }

  #startProcessor(processor: VirtualProcessor): void {
    const { index } = processor;
    if (index === 0) {
      processor.writeMsr(Msr.guestOsId, GuestOsId.openSource | (2n << GuestOsId.typeShift));
      processor.writeMsr(Msr.hypercall, BigInt(15 * PAGE_SIZE) | 1n);
    }
    processor.writeMsr(Msr.simp, BigInt(this.messagePage(index)) | 1n);
    processor.writeMsr(Msr.siefp, BigInt(this.flagsPage(index)) | 1n);
    processor.writeMsr(Msr.sint0 + VMBUS_SINT, BigInt(VECTOR));
    processor.writeMsr(Msr.scontrol, 1n);
  }

  #takeMessage(vp: number): boolean {
    const at = this.messagePage(vp) + VMBUS_SINT * MessageSlot.SIZE;
    const slot = MessageSlot.parse(this.memory.copyOut(at, MessageSlot.SIZE))!;
    if (slot.messageType === SynicMessageType.none) return false;
    const bytes = slot.payload.subarray(0, slot.payloadSize);
    const { type } = MessageHeader.parse(bytes)!;
    this.memory.words[at >>> 2] = SynicMessageType.none;
    if ((this.memory.bytes[at + MessageSlot.fields.flags.offset]! & MESSAGE_PENDING) !== 0)
      this.partition.processors[vp]!.writeMsr(Msr.eom, 0n);
    const parse =
      type === MessageType.versionResponse
        ? (response: Uint8Array) => VersionResponse.parse(response, this.version)
        : parsers[type];
    this.received.push({ vp, message: { type, ...parse?.(bytes) }, bytes });
    return true;
  }
}

/** Memory that holds the rings of a channel, and its GPADL. */
export interface Rings {
  readonly relid: number;
  readonly gpadlId: number;
  readonly address: number;
  readonly pages: readonly number[];
  /** Pages of the guest-to-host ring. */
  readonly outgoing: number;
}

/** The addresses of `count` contiguous pages. */
export function pageList(address: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => address + index * PAGE_SIZE);
}
