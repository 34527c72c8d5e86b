import { ChannelDispatcher, EventFlags } from "@hyperv-is/vmbus-core";
import {
  EventFlagsPage,
  GpadlBody,
  GpadlHeader,
  HYPERCALL_FAST,
  HypercallCode,
  HypercallStatus,
  InitiateContact,
  InterruptPage,
  MESSAGE_PENDING,
  MSR_ENABLE,
  MSR_PAGE_MASK,
  MessageHeader,
  MessageSlot,
  MessageType,
  ModifyConnection,
  Msr,
  PAGE_SIZE,
  PostMessageInput,
  SINT_COUNT,
  SynicMessageType,
  VMBUS_SINT,
  parseGpaRanges,
  versionHas,
  type CloseChannel,
  type GpaRange,
  type OfferChannel,
  type OpenChannel,
  type RelidReleased,
} from "@hyperv-is/vmbus-core/protocol";
import { MessageDecoder, type TraceRecord } from "@hyperv-is/hyperv-host/trace";
import { Partition, type PartitionOptions } from "../../src/index.js";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { ReplayChannel } from "./replay-channel.js";
import { ReplayMemory, type PagePlacement } from "./replay-memory.js";

type GuestMessage = Extract<TraceRecord, { kind: "guest-message" }>;

/** A message that the host has put into a slot. */
export interface HostMessage {
  readonly vp: number;
  readonly sint: number;
  readonly payload: Uint8Array;
}

/** Bytes that are there before any body of a GPADL. */
interface GpadlPart {
  readonly bytes: Uint8Array;
  readonly rangeCount: number;
  filled: number;
}

/** What a replay needs to know of its machine. */
export interface ReplayGuestOptions extends Omit<
  PartitionOptions,
  "memory" | "timers" | "interrupt"
> {
  readonly recordedBytes: number;
  readonly placement: PagePlacement;
}

/**
 * A guest that does what a trace says: writes registers, posts messages, shares memory, puts packets. It does
 * so with the instructions and the memory of a real one, in front of a fresh partition.
 */
export class ReplayGuest {
  readonly timers = new VirtualTimers();
  readonly partition: Partition;
  readonly places: ReplayMemory;
  /** Messages of the host that were not asked for yet. */
  readonly received: HostMessage[] = [];
  /** Open channels by relid. */
  readonly channels = new Map<number, ReplayChannel>();
  readonly #dispatcher = new ChannelDispatcher();
  /** Pages of complete GPADLs, in their places, by relid and id. */
  readonly #gpadls = new Map<string, readonly number[]>();
  /** GPADLs whose bodies are still to come, by id. */
  readonly #parts = new Map<number, { readonly relid: number; readonly part: GpadlPart }>();
  /** Connection on which each channel is signalled. */
  readonly #connections = new Map<number, number>();
  readonly #messages = new MessageDecoder();
  #interruptPage = 0;

  constructor({ recordedBytes, placement, ...options }: ReplayGuestOptions) {
    this.places = new ReplayMemory(recordedBytes, placement);
    this.partition = new Partition({
      ...options,
      memory: this.places.memory,
      timers: this.timers,
      interrupt: () => undefined,
    });
  }

  writeRegister(vp: number, msr: number, value: bigint): void {
    const isPage = msr === Msr.simp || msr === Msr.siefp || msr === Msr.hypercall;
    const page = Number(value & MSR_PAGE_MASK);
    const placed = isPage && page !== 0 ? BigInt(this.places.address(page)) : undefined;
    const low = value & ~MSR_PAGE_MASK;
    this.partition.processors[vp]!.writeMsr(msr, placed === undefined ? value : placed | low);
  }

  /** Posts a message, with its addresses in their places. @returns The hypercall's status. */
  post({ vp = 0, connectionId, type, payload }: GuestMessage): number {
    const bytes = this.#place(payload);
    const at = this.places.ownPage;
    PostMessageInput.write(this.places.memory.bytes.subarray(at, at + PostMessageInput.SIZE), {
      connectionId,
      messageType: type,
      payloadSize: bytes.byteLength,
      payload: bytes,
    });
    const processor = this.partition.processors[vp]!;
    const call = (): number => processor.hypercall(HypercallCode.postMessage, at, 0);
    let status = call();
    if (status === HypercallStatus.insufficientBuffers) {
      this.settle();
      status = call();
    }
    return status;
  }

  /** Puts a packet on a channel; its pages are in their places already. */
  send(channel: ReplayChannel, packet: Uint8Array): void {
    if (channel.send(packet)) return;
    this.settle();
    if (!channel.send(packet)) throw new Error(`the ring of ${channel.relid} stays full`);
  }

  /** A complete GPADL of a channel, in its place. */
  gpadl(relid: number, gpadlId: number): readonly GpaRange[] | undefined {
    const pages = this.#gpadls.get(`${relid}:${gpadlId}`);
    if (pages === undefined) return undefined;
    const byteCount = pages.length * PAGE_SIZE;
    return [{ byteCount, byteOffset: 0, pfns: pages.map((page) => page / PAGE_SIZE) }];
  }

  /** Lets host and guest go on until both rest. */
  settle(): void {
    do this.partition.run();
    while (this.#interrupts());
  }

  /** A channel is over for the guest. */
  close(relid: number): void {
    const channel = this.channels.get(relid);
    if (channel === undefined) return;
    this.#dispatcher.unbind(channel.flag);
    channel.channel.close();
    this.channels.delete(relid);
  }

  /** Takes messages and event flags of every processor; true if there was anything. */
  #interrupts(): boolean {
    let found = false;
    for (const { index } of this.partition.processors) {
      const simp = this.partition.processors[index]!.readMsr(Msr.simp);
      if ((simp & MSR_ENABLE) !== 0n)
        for (let sint = 0; sint < SINT_COUNT; sint++)
          found = this.#takeMessage(index, sint, Number(simp & MSR_PAGE_MASK)) || found;
      const siefp = this.partition.processors[index]!.readMsr(Msr.siefp);
      if ((siefp & MSR_ENABLE) !== 0n) this.#takeFlags(Number(siefp & MSR_PAGE_MASK));
    }
    if (this.#interruptPage !== 0)
      this.#dispatcher.interrupt(
        EventFlags.at(
          this.places.memory,
          this.#interruptPage + InterruptPage.receive,
          InterruptPage.halfBytes,
        ),
      );
    const before = this.#arrived;
    while (this.#dispatcher.run());
    return found || this.#arrived !== before;
  }

  get #arrived(): number {
    let count = 0;
    for (const { arrived } of this.channels.values()) count += arrived.length;
    return count;
  }

  #takeFlags(page: number): void {
    const { areaBytes } = EventFlagsPage;
    const area = page + VMBUS_SINT * areaBytes;
    this.#dispatcher.interrupt(EventFlags.at(this.places.memory, area, areaBytes));
  }

  #takeMessage(vp: number, sint: number, page: number): boolean {
    const { memory } = this.places;
    const at = page + sint * MessageSlot.SIZE;
    const slot = MessageSlot.parse(memory.copyOut(at, MessageSlot.SIZE))!;
    if (slot.messageType === SynicMessageType.none) return false;
    memory.words[at >>> 2] = SynicMessageType.none;
    const flags = memory.bytes[at + MessageSlot.fields.flags.offset]!;
    if ((flags & MESSAGE_PENDING) !== 0) this.partition.processors[vp]!.writeMsr(Msr.eom, 0n);
    const payload = slot.payload.subarray(0, slot.payloadSize);
    this.received.push({ vp, sint, payload });
    this.#learn(payload);
    return true;
  }

  /** What a guest must know of the host's messages to go on. */
  #learn(payload: Uint8Array): void {
    const message = this.#messages.parse(payload, "host-to-guest");
    if (message === undefined || MessageHeader.parse(payload)?.type !== MessageType.offerChannel)
      return;
    const { relid, connectionId } = message as OfferChannel;
    this.#connections.set(relid, connectionId);
  }

  /** A message of the guest with its addresses in their places; does what comes with it. */
  #place(recorded: Uint8Array): Uint8Array {
    const bytes = recorded.slice();
    const message: unknown = this.#messages.parse(bytes, "guest-to-host");
    if (message === undefined) return bytes;
    switch (MessageHeader.parse(bytes)?.type) {
      case MessageType.initiateContact:
        this.#contact(bytes, message as InitiateContact);
        break;
      case MessageType.modifyConnection:
        for (const { offset } of Object.values(ModifyConnection.fields))
          this.places.placeAddress(bytes, offset);
        break;
      case MessageType.gpadlHeader:
        this.#gpadlHeader(bytes, message as GpadlHeader);
        break;
      case MessageType.gpadlBody:
        this.#gpadlBody(bytes, message as GpadlBody);
        break;
      case MessageType.openChannel:
        this.#open(message as OpenChannel);
        break;
      case MessageType.closeChannel:
      case MessageType.relidReleased:
        this.close((message as CloseChannel | RelidReleased).relid);
        break;
      default:
    }
    return bytes;
  }

  #contact(bytes: Uint8Array, contact: InitiateContact): void {
    // The host lets go of everything before it answers.
    for (const relid of Array.from(this.channels.keys())) this.close(relid);
    const place = (gpa: number): number => (gpa === 0 ? 0 : this.places.address(gpa));
    const placed = InitiateContact.emit({
      ...contact,
      interruptPageGpa: place(contact.interruptPageGpa),
      parentToChildMonitorGpa: place(contact.parentToChildMonitorGpa),
      childToParentMonitorGpa: place(contact.childToParentMonitorGpa),
    });
    bytes.set(placed.subarray(0, bytes.byteLength));
    const needsPage = !versionHas(contact.version, "eventFlags");
    this.#interruptPage = needsPage ? place(contact.interruptPageGpa) : 0;
  }

  #gpadlHeader(bytes: Uint8Array, header: GpadlHeader): void {
    const { relid, gpadlId, rangeBytes, rangeCount, data } = header;
    const whole = new Uint8Array(rangeBytes - (rangeBytes % 8));
    whole.set(data.subarray(0, whole.byteLength));
    const part: GpadlPart = { bytes: whole, rangeCount, filled: data.byteLength };
    this.#parts.set(gpadlId, { relid, part });
    this.#placePart(bytes, GpadlHeader.SIZE, gpadlId, 0);
  }

  #gpadlBody(bytes: Uint8Array, body: GpadlBody): void {
    const found = this.#parts.get(body.gpadlId);
    if (found === undefined) return;
    const { part } = found;
    const start = part.filled;
    const room = part.bytes.byteLength - start;
    part.bytes.set(body.data.subarray(0, room), start);
    part.filled += Math.min(room, body.data.byteLength);
    this.#placePart(bytes, GpadlBody.SIZE, body.gpadlId, start);
  }

  /**
   * Puts the places of what a message carries of a GPADL. Where the page numbers are in a message depends on
   * the ranges before them, so all bytes so far are placed anew each time.
   */
  #placePart(message: Uint8Array, at: number, gpadlId: number, start: number): void {
    const { relid, part } = this.#parts.get(gpadlId)!;
    const placed = part.bytes.slice(0, part.filled);
    this.places.placeRanges(placed, part.rangeCount);
    message.set(placed.subarray(start), at);
    if (part.filled < part.bytes.byteLength) return;
    this.#parts.delete(gpadlId);
    const outcome = parseGpaRanges(placed, part.rangeCount, placed.byteLength);
    if (outcome.kind !== "ok") return;
    const pages = outcome.ranges.flatMap(({ pfns }) => pfns.map((pfn) => pfn * PAGE_SIZE));
    this.#gpadls.set(`${relid}:${gpadlId}`, pages);
  }

  #open({ relid, ringGpadlId, downstreamPageOffset: split, signal }: OpenChannel): void {
    if (this.channels.has(relid)) return;
    const pages = this.#gpadls.get(`${relid}:${ringGpadlId}`);
    // An opening that the host will refuse needs no rings.
    if (pages === undefined || split < 2 || pages.length - split < 2) return;
    if (pages.some((page) => !this.places.memory.contains(page, PAGE_SIZE))) return;
    const connection = signal?.connectionId ?? this.#connections.get(relid) ?? 0;
    const flag = signal?.eventFlag ?? relid;
    const channel = new ReplayChannel(this.places.memory, relid, pages, split, flag, () =>
      this.#signal(connection),
    );
    this.channels.set(relid, channel);
    this.#dispatcher.bind(flag, channel.channel);
  }

  #signal(connectionId: number): void {
    const fast = HypercallCode.signalEvent | HYPERCALL_FAST;
    const status = this.partition.processors[0]!.hypercall(fast, connectionId, 0);
    if (status !== HypercallStatus.success)
      throw new Error(`signal on connection ${connectionId}: status ${status}`);
  }
}
