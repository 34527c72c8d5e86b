import {
  Channel,
  EventFlags,
  IncomingRing,
  OutgoingRing,
  RingArea,
  SendResult,
  type ChannelHandler,
} from "@hyperv-is/vmbus-core";
import {
  AllOffersDelivered,
  CloseChannel,
  ConnectionId,
  DeviceClass,
  Feature,
  GpadlBody,
  GpadlCreated,
  GpadlHeader,
  GpadlTeardown,
  GpadlTorndown,
  HypercallStatus,
  InitiateContact,
  InterruptPage,
  MessageType,
  ModifyChannel,
  ModifyChannelResponse,
  OfferChannel,
  OpenChannel,
  OpenChannelResult,
  PAGE_SIZE,
  PacketType,
  RelidReleased,
  RescindChannelOffer,
  UnloadResponse,
  VersionResponse,
  contactConnectionId,
  lookupMessage,
  messageConnectionId,
  monitorPendingOffset,
  parseGpaRanges,
  parseHeader,
  versionHas,
  type Guid,
  type Negotiated,
} from "@hyperv-is/vmbus-core/protocol";
import { hasMessage } from "../src/bus/connection.js";
import { runCpu, type TestCpu } from "./fake-hypervisor.js";

export const INSTANCE: Guid = "f8b3781a-1e82-4818-a1c3-63d806ec15bb";
const MESSAGE_CONNECTION = 0x77;

/** An offer of a SCSI controller on `relid`. */
export function offerOf(relid: number, fields: Partial<OfferChannel> = {}): OfferChannel {
  return {
    classId: DeviceClass.scsi.classId,
    instanceId: INSTANCE,
    flags: 0,
    mmioMegabytes: 0,
    userData: new Uint8Array(120).fill(relid & 0xff),
    subChannelIndex: 0,
    mmioMegabytesOptional: 0,
    relid,
    monitorId: 0xff,
    monitorAllocated: false,
    dedicatedInterrupt: true,
    connectionId: 0x2000 + relid,
    ...fields,
  };
}

/** Answers every packet with a completion of the same id. */
class Echo implements ChannelHandler {
  packet(channel: Channel): void {
    const { idLow, idHigh } = channel.incoming;
    if (channel.begin(PacketType.completion, 0, 16, 16, idLow, idHigh) !== SendResult.Ready)
      throw new Error("the guest does not read its completions");
    channel.outgoing.end();
  }
  batchEnd(channel: Channel): void {
    channel.flush();
  }
  spaceArrived(): void {
    // Never waits.
  }
  closed(): void {
    // Nothing to give back.
  }
}

interface HostGpadl {
  readonly relid: number;
  readonly rangeBytes: number;
  readonly rangeCount: number;
  data: Uint8Array;
  /** GPAs of its pages, once all messages have come. */
  pages: number[] | undefined;
}

interface HostChannel {
  readonly offer: OfferChannel;
  state: "closed" | "opening" | "open";
  revoked: boolean;
  targetVp: number;
  ringGpadlId: number;
  end: Channel | undefined;
}

/** A message of the guest's. */
export interface Received {
  readonly connectionId: number;
  readonly name: string;
  readonly type: MessageType;
  readonly bytes: Uint8Array;
}

export interface VmbusHostOptions {
  readonly versions: readonly number[];
  readonly offers?: readonly OfferChannel[];
  readonly features?: number;
  /** Features granted although nobody asked for them. */
  readonly unaskedFeatures?: number;
}

/**
 * The other end of the bus, small and by the book: answers at once what is not held back, keeps the state
 * of each channel and GPADL, and notes what a guest must not do.
 */
export class VmbusHost {
  readonly machine: TestCpu;
  readonly received: Received[] = [];
  readonly violations: string[] = [];
  /** Answers to messages of these types are not sent; `answer` sends them. */
  readonly held = new Set<MessageType>();
  readonly channels = new Map<number, HostChannel>();
  readonly gpadls = new Map<number, HostGpadl>();
  /** Status of the next answers. */
  openStatus = 0;
  gpadlStatus = 0;
  modifyStatus = 0;
  connectionState = 0;
  contact: InitiateContact | undefined;
  negotiated: Negotiated | undefined;
  readonly #options: VmbusHostOptions;
  readonly #heldAnswers: { readonly type: MessageType; readonly send: () => void }[] = [];
  #messageConnection = 0;
  #offersRequested = false;

  constructor(machine: TestCpu, options: VmbusHostOptions) {
    this.machine = machine;
    this.#options = options;
    machine.hypervisor.posted = (connectionId, bytes) => this.#posted(connectionId, bytes);
  }

  /** Names of the guest's messages so far. */
  get log(): string[] {
    return this.received.map(({ name }) => name);
  }

  send(...messages: readonly Uint8Array[]): void {
    this.machine.hypervisor.send(...messages);
  }

  offer(offer: OfferChannel): void {
    this.channels.set(offer.relid, {
      offer,
      state: "closed",
      revoked: false,
      targetVp: 0,
      ringGpadlId: 0,
      end: undefined,
    });
    this.send(OfferChannel.emit(offer));
  }

  rescind(relid: number): void {
    const channel = this.channels.get(relid)!;
    channel.revoked = true;
    channel.end = undefined;
    this.send(RescindChannelOffer.emit({ relid }));
  }

  /** Sends the answers of this type that were held back, and holds back no more of them. */
  answer(type: MessageType): void {
    this.held.delete(type);
    for (const answer of this.#heldAnswers.splice(0))
      if (answer.type === type) answer.send();
      else this.#heldAnswers.push(answer);
  }

  /** Lets guest and host run until neither has anything to do. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 20; quiet++) {
      while (runCpu(this.machine) || this.#runChannels()) quiet = 0;
      await Promise.resolve();
    }
  }

  #posted(connectionId: number, bytes: Uint8Array): HypercallStatus {
    const { versions } = this.#options;
    const known = versions.some((version) => versionHas(version, "namedMessageConnection"))
      ? [ConnectionId.message, ConnectionId.multiclientMessage, MESSAGE_CONNECTION]
      : [ConnectionId.message];
    if (!known.includes(connectionId)) return HypercallStatus.invalidConnectionId;
    const outcome = parseHeader(bytes, "guest-to-host", this.negotiated);
    if (outcome.kind !== "ok") {
      const name = "message" in outcome ? outcome.message?.name : undefined;
      this.violations.push(`${outcome.kind}: ${name ?? "message"}`);
      return HypercallStatus.success;
    }
    const { type } = outcome;
    const name = lookupMessage(type)!.name;
    this.received.push({ connectionId, name, type, bytes });
    if (type !== MessageType.initiateContact && connectionId !== this.#messageConnection)
      this.violations.push(`${name} on connection ${connectionId}`);
    const rule = this.#message(type, bytes, connectionId);
    if (rule !== undefined) this.violations.push(`${name}: ${rule}`);
    return HypercallStatus.success;
  }

  #reply(type: MessageType, send: () => void): void {
    if (this.held.has(type)) this.#heldAnswers.push({ type, send });
    else send();
  }

  /** Acts on a message; returns the rule that it breaks, if it does. */
  #message(type: MessageType, bytes: Uint8Array, connectionId: number): string | undefined {
    switch (type) {
      case MessageType.initiateContact:
        return this.#initiateContact(InitiateContact.parse(bytes)!, connectionId);
      case MessageType.requestOffers:
        if (this.#offersRequested) return "second request";
        this.#offersRequested = true;
        this.#reply(type, () => {
          for (const offer of this.#options.offers ?? []) this.offer(offer);
          this.send(AllOffersDelivered.emit({}));
        });
        break;
      case MessageType.gpadlHeader: {
        const header = GpadlHeader.parse(bytes)!;
        if (!this.channels.has(header.relid)) return "unknown relid";
        if (this.gpadls.has(header.gpadlId)) return "id in use";
        this.gpadls.set(header.gpadlId, { ...header, pages: undefined });
        return this.#gpadl(header.gpadlId);
      }
      case MessageType.gpadlBody: {
        const { gpadlId, data } = GpadlBody.parse(bytes)!;
        const gpadl = this.gpadls.get(gpadlId);
        if (gpadl === undefined || gpadl.pages !== undefined) return "id not in progress";
        gpadl.data = Buffer.concat([gpadl.data, data]);
        return this.#gpadl(gpadlId);
      }
      case MessageType.gpadlTeardown: {
        const { relid, gpadlId } = GpadlTeardown.parse(bytes)!;
        const gpadl = this.gpadls.get(gpadlId);
        const channel = this.channels.get(relid);
        if (gpadl?.pages === undefined || gpadl.relid !== relid) return "not accepted";
        if (channel?.ringGpadlId === gpadlId && channel.state !== "closed" && !channel.revoked)
          return "in use by an open channel";
        this.#reply(type, () => {
          this.gpadls.delete(gpadlId);
          this.send(GpadlTorndown.emit({ gpadlId }));
        });
        break;
      }
      case MessageType.openChannel:
        return this.#open(OpenChannel.parse(bytes, this.negotiated!.features)!);
      case MessageType.closeChannel: {
        const channel = this.channels.get(CloseChannel.parse(bytes)!.relid);
        if (channel === undefined) return "unknown relid";
        if (channel.revoked) return undefined;
        if (channel.state !== "open") return `while ${channel.state}`;
        channel.state = "closed";
        channel.end = undefined;
        break;
      }
      case MessageType.modifyChannel: {
        const { relid, targetVp } = ModifyChannel.parse(bytes)!;
        const channel = this.channels.get(relid);
        if (channel?.state !== "open") return "not open";
        const status = this.modifyStatus;
        if (!hasMessage(this.negotiated!, MessageType.modifyChannelResponse)) {
          channel.targetVp = targetVp;
          return undefined;
        }
        this.#reply(type, () => {
          if (status === 0) channel.targetVp = targetVp;
          this.send(ModifyChannelResponse.emit({ relid, status }));
        });
        break;
      }
      case MessageType.relidReleased: {
        const { relid } = RelidReleased.parse(bytes)!;
        const channel = this.channels.get(relid);
        if (channel === undefined) return "unknown relid";
        if (channel.state !== "closed" && !channel.revoked) return `while ${channel.state}`;
        this.channels.delete(relid);
        for (const [id, gpadl] of this.gpadls) if (gpadl.relid === relid) this.gpadls.delete(id);
        break;
      }
      case MessageType.unload:
        this.channels.clear();
        this.gpadls.clear();
        this.#offersRequested = false;
        this.#heldAnswers.length = 0;
        this.#reply(type, () => {
          const answers = hasMessage(this.negotiated!, MessageType.unloadResponse);
          this.negotiated = undefined;
          if (answers) this.send(UnloadResponse.emit({}));
        });
        break;
      default:
        return "not expected";
    }
    return undefined;
  }

  #initiateContact(contact: InitiateContact, connectionId: number): string | undefined {
    const { version } = contact;
    if (connectionId !== contactConnectionId(version)) return `on connection ${connectionId}`;
    if (this.negotiated !== undefined) return "while connected";
    const supported = this.#options.versions.includes(version);
    const { features: known = 0, unaskedFeatures = 0 } = this.#options;
    const features = (contact.features & known) | unaskedFeatures;
    const response: VersionResponse = {
      supported,
      connectionState: this.connectionState,
      selectedVersionOrConnectionId: versionHas(version, "namedMessageConnection")
        ? MESSAGE_CONNECTION
        : version,
      features,
      parentToChildMonitorGpa: 0,
      childToParentMonitorGpa: (features & Feature.hostMonitorPages) !== 0 ? 2 ** 40 : 0,
    };
    this.#reply(MessageType.initiateContact, () => {
      if (supported && this.connectionState === 0) {
        this.contact = contact;
        this.negotiated = { version, features };
        this.#messageConnection = messageConnectionId(version, response);
      }
      this.send(VersionResponse.emit(response, version));
    });
    return undefined;
  }

  #gpadl(gpadlId: number): string | undefined {
    const gpadl = this.gpadls.get(gpadlId)!;
    if (gpadl.data.byteLength < gpadl.rangeBytes) return undefined;
    const outcome = parseGpaRanges(gpadl.data, gpadl.rangeCount, gpadl.rangeBytes);
    if (outcome.kind !== "ok") return `${outcome.fault} in range ${outcome.range}`;
    gpadl.pages = outcome.ranges.flatMap(({ pfns }) => pfns.map((pfn) => pfn * PAGE_SIZE));
    const { memory } = this.machine;
    if (!gpadl.pages.every((page) => memory.contains(page, PAGE_SIZE)))
      return "page outside memory";
    const { relid } = gpadl;
    const status = this.gpadlStatus;
    if (status !== 0) this.gpadls.delete(gpadlId);
    this.#reply(MessageType.gpadlHeader, () =>
      this.send(GpadlCreated.emit({ relid, gpadlId, status })),
    );
    return undefined;
  }

  #open(open: OpenChannel): string | undefined {
    const { relid, openId } = open;
    const channel = this.channels.get(relid);
    if (channel === undefined) return "unknown relid";
    if (channel.revoked) return undefined;
    if (channel.state !== "closed") return `while ${channel.state}`;
    const pages = this.gpadls.get(open.ringGpadlId)?.pages;
    if (pages === undefined) return "unknown ring";
    if (open.downstreamPageOffset < 2 || open.downstreamPageOffset > pages.length - 2)
      return "split outside the ring";
    if (
      open.signal !== undefined &&
      (open.signal.connectionId !== channel.offer.connectionId || open.signal.eventFlag !== relid)
    )
      return "signal parameters";
    channel.state = "opening";
    channel.targetVp = open.targetVp;
    channel.ringGpadlId = open.ringGpadlId;
    const status = this.openStatus;
    this.#reply(MessageType.openChannel, () => {
      channel.state = status === 0 ? "open" : "closed";
      if (status === 0) channel.end = this.#end(relid, pages, open.downstreamPageOffset);
      this.send(OpenChannelResult.emit({ relid, openId, status }));
    });
    return undefined;
  }

  /** The host's end of an open channel: an echo that signals as the version has it. */
  #end(relid: number, pages: readonly number[], split: number): Channel {
    const { memory, hypervisor } = this.machine;
    const signal = (): void => {
      const flags = EventFlags.at(memory, hypervisor.flagsAddress, 256);
      if (versionHas(this.negotiated!.version, "eventFlags")) flags.set(relid);
      else {
        const { interruptPageGpa } = this.contact!;
        EventFlags.at(
          memory,
          interruptPageGpa + InterruptPage.receive,
          InterruptPage.halfBytes,
        ).set(relid);
        flags.set(0);
      }
      hypervisor.interruptPending = true;
    };
    return new Channel(
      new IncomingRing(new RingArea(memory, pages.slice(0, split))),
      new OutgoingRing(new RingArea(memory, pages.slice(split))),
      { signal },
      new Echo(),
    );
  }

  /** Looks for signals on every road; true if there were any. */
  #runChannels(): boolean {
    const relids = new Set<number>();
    const { memory, hypervisor } = this.machine;
    const of = (connectionId: number): number | undefined =>
      [...this.channels.values()].find(({ offer }) => offer.connectionId === connectionId)?.offer
        .relid;
    for (const [connectionId, high] of hypervisor.signals.splice(0)) {
      if (high !== 0) this.violations.push("flag of a signal");
      if (connectionId !== ConnectionId.event) {
        const relid = of(connectionId);
        if (relid === undefined) this.violations.push(`signal on connection ${connectionId}`);
        else relids.add(relid);
        continue;
      }
      const send = EventFlags.at(
        memory,
        this.contact!.interruptPageGpa + InterruptPage.send,
        InterruptPage.halfBytes,
      );
      for (const relid of this.channels.keys()) if (send.clear(relid)) relids.add(relid);
    }
    for (const { offer } of this.channels.values()) {
      const page = this.contact?.childToParentMonitorGpa ?? 0;
      if (!offer.monitorAllocated || page === 0) continue;
      const word = (page + monitorPendingOffset(offer.monitorId)) >>> 2;
      const bit = 1 << (offer.monitorId % 32);
      if ((Atomics.and(memory.words, word, ~bit) & bit) !== 0) relids.add(offer.relid);
    }
    for (const relid of relids) {
      const end = this.channels.get(relid)?.end;
      end?.interrupt();
      end?.poll(1000);
    }
    return relids.size > 0;
  }
}
