import {
  DeviceClass,
  HypercallStatus,
  MessageType,
  OfferChannel,
  PAGE_SIZE,
  Packet,
  PacketType,
  ProtocolVersion,
  RescindChannelOffer,
  MessageHeader,
  negotiationOrder,
  parseVersion,
  type GpaRange,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import {
  TraceDecoder,
  traceLine,
  type ChannelOpenedRecord,
  type PacketRecord,
  type Trace,
  type TraceRecord,
} from "@hyperv-is/hyperv-host/trace";
import { StorageClassId } from "@hyperv-is/hv-storvsc/protocol";
import { NetworkBuffers } from "../../src/trace/network-buffers.js";
import type { DeviceOffer, FaultPlanData } from "../../src/index.js";
import { gatherRanges } from "../../src/trace/channel-trace.js";
import { rangesOf, type ReplayChannel } from "./replay-channel.js";
import { ReplayDisks, isRead, type RecordedController } from "./replay-disks.js";
import { ReplayIntegration, withoutTimes } from "./replay-integration.js";
import { ReplayNetwork, meaningOf, type RecordedAdapter } from "./replay-network.js";
import { ReplayGuest } from "./replay-guest.js";
import type { PagePlacement } from "./replay-memory.js";

/** The host that a trace was recorded on, as far as the trace itself does not tell. */
export interface RecordedHost {
  /** Highest version of the bus that it spoke, such as "5.3"; 6.0 unless given. */
  readonly busCeiling?: string;
  /** `Feature` bits that it granted at most. */
  readonly features?: number;
  readonly messageConnectionId?: number;
  readonly controllers: readonly RecordedController[];
  /** None unless given. */
  readonly adapters?: readonly RecordedAdapter[];
  /** True if it served the integration components; they were silent unless given. */
  readonly integration?: boolean;
  /** Its fault plan, but for rescinds: those are in the trace. */
  readonly faults?: FaultPlanData;
}

/** The host answered otherwise than it did when the trace was recorded. */
export class ReplayMismatch extends Error {}

/** What a replay has seen. */
export interface ReplayResult {
  /** Answers of the host that were compared. */
  readonly messages: number;
  readonly packets: number;
  /** Bytes of data that were compared. */
  readonly dataBytes: number;
  /** Violations by rule. */
  readonly violations: Readonly<Record<string, number>>;
}

type HostMessageRecord = Extract<TraceRecord, { kind: "host-message" }>;

/**
 * Replays a trace in front of a fresh partition: does everything that the guest did, in the order of the trace,
 * and compares everything that the host answers, byte by byte.
 *
 * What may differ: times; and the order of completions on one channel, which are found by transaction id.
 * What the host did by itself and not in answer to the guest is done when the trace says so: rescinds, offers of
 * devices that come later, and what its administrator asked of integration components.
 */
export class TraceReplay {
  readonly #trace: Trace;
  readonly #guest: ReplayGuest;
  readonly #disks: ReplayDisks;
  readonly #network: ReplayNetwork;
  readonly #integration: ReplayIntegration | undefined;
  /** What the guest has lent to its network adapters, by instance. */
  readonly #buffers = new Map<Guid, NetworkBuffers>();
  /** Channels by the number that the trace gives them. */
  readonly #channels = new Map<number, { opened: ChannelOpenedRecord; channel: ReplayChannel }>();
  readonly #offers = new Map<number, DeviceOffer>();
  readonly #requests = new Map<string, PacketRecord>();
  /** What the guest did that the host has not been let see. */
  #pending: "nothing" | "message" | "packet" = "nothing";
  #messages = 0;
  #packets = 0;
  #dataBytes = 0;

  constructor(trace: Trace, host: RecordedHost, placement: PagePlacement) {
    this.#trace = trace;
    this.#disks = new ReplayDisks(trace, host.controllers);
    const { busCeiling, features, messageConnectionId, faults } = host;
    const ceiling = busCeiling === undefined ? ProtocolVersion.v6_0 : parseVersion(busCeiling);
    if (ceiling === undefined) throw new Error(`there is no protocol ${String(busCeiling)}`);
    this.#guest = new ReplayGuest({
      recordedBytes: Number(trace.header.memoryBytes),
      placement,
      vps: trace.header.vps,
      bus: {
        versions: negotiationOrder(ceiling),
        ...(features !== undefined && { features }),
        ...(messageConnectionId !== undefined && { messageConnectionId }),
      },
      ...(faults && { faults }),
    });
    const { partition } = this.#guest;
    for (const [instanceId, controller] of this.#disks.controllers)
      partition.workers[0]!.serve({ classId: StorageClassId.scsi, instanceId }, controller);
    this.#network = new ReplayNetwork(host.adapters ?? [], this.#guest.timers);
    const { classId } = DeviceClass.network;
    for (const [instanceId, adapter] of this.#network.adapters) {
      partition.workers[0]!.serve({ classId, instanceId }, adapter);
      this.#buffers.set(instanceId, new NetworkBuffers());
    }
    if (host.integration === true) {
      this.#integration = new ReplayIntegration(this.#guest.timers);
      this.#integration.serve(partition.workers[0]!);
    }
    for (const offer of firstOffers(trace)) partition.offer(offer);
  }

  /** Replays all of it. Throws `ReplayMismatch` at the first answer that differs. */
  run(): ReplayResult {
    const { records } = this.#trace;
    for (const [index, record] of records.entries()) {
      try {
        this.#step(record);
      } catch (cause) {
        throw this.#mismatch(cause as Error, index);
      }
    }
    this.#settle();
    const [message] = this.#guest.received;
    if (message !== undefined)
      throw this.#mismatch(new Answer("has more to say", { payload: message.payload }));
    for (const { channel } of this.#channels.values())
      if (channel.arrived.length > 0)
        throw new ReplayMismatch(`${channel.arrived.length} packets more on ${channel.relid}`);
    return {
      messages: this.#messages,
      packets: this.#packets,
      dataBytes: this.#dataBytes,
      violations: this.#guest.partition.violations.counts(),
    };
  }

  #step(record: TraceRecord): void {
    const guest = this.#guest;
    if (record.kind === "packet" && record.toGuest) this.#cause(record);
    guest.timers.advance(Math.max(0, record.time / 10_000 - guest.timers.now()));
    switch (record.kind) {
      case "register":
        this.#settle();
        guest.writeRegister(record.vp ?? 0, record.msr, record.value);
        return;
      case "guest-message": {
        if (this.#pending === "packet") this.#settle();
        const status = guest.post(record);
        if (status !== HypercallStatus.success)
          throw new Error(`ends the post with status ${status}`);
        this.#pending = "message";
        return;
      }
      case "host-message":
        if (record.lost) return;
        this.#settle();
        this.#compareMessage(record);
        return;
      case "channel-opened": {
        this.#settle();
        const channel = guest.channels.get(record.relid);
        if (channel === undefined) throw new Error("was not asked to open it");
        this.#channels.set(record.channel, { opened: record, channel });
        return;
      }
      case "channel-closed":
        this.#settle();
        if (record.reason === "rescinded") this.#rescinded(record.channel);
        this.#closed(record.channel);
        return;
      case "packet":
        if (record.toGuest) this.#comparePacket(record);
        else this.#send(record);
    }
  }

  #settle(): void {
    this.#guest.settle();
    this.#pending = "nothing";
  }

  #send(record: PacketRecord): void {
    if (this.#pending === "message") this.#settle();
    const { places } = this.#guest;
    const { channel, opened } = this.#channelOf(record);
    const isGpaDirect = record.type === PacketType.gpaDirect;
    const packet = isGpaDirect
      ? places.placePacket(record.bytes, record.headerBytes)
      : record.bytes;
    const payload = packet.subarray(record.headerBytes);
    const lent = this.#buffers
      .get(opened.instanceId)
      ?.sent(payload, (gpadlId) => this.#guest.gpadl(opened.relid, gpadlId));
    const ranges = [...(lent ?? []), ...(isGpaDirect ? rangesOf(packet) : [])];
    if (record.data !== undefined) scatter(this.#guest, ranges, record.data.bytes);
    this.#requests.set(`${record.channel}:${record.transactionId}`, record);
    this.#guest.send(channel, packet);
    this.#pending = "packet";
    // When the guest answered is when the host goes on from: the next heartbeat, the next sample of the time.
    if (this.#componentOf(opened) !== undefined) this.#settle();
  }

  #compareMessage(record: HostMessageRecord): void {
    const find = (): number =>
      this.#guest.received.findIndex(({ vp, sint }) => vp === record.vp && sint === record.sint);
    let at = find();
    if (at < 0 && this.#hostActs(record)) at = find();
    if (at < 0) throw new Error("says nothing");
    const [actual] = this.#guest.received.splice(at, 1);
    this.#learn(record);
    this.#messages++;
    if (same(actual!.payload, record.payload)) return;
    throw new Answer("says something else", { ...record, payload: actual!.payload });
  }

  /**
   * Has happen on the network what made the host send a packet. The trace has no time for it: that of the packet, when
   * it was put, is later. Here it happens when the record before did.
   */
  #cause(record: PacketRecord): void {
    const { instanceId } = this.#channelOf(record).opened;
    if (!this.#buffers.has(instanceId)) return;
    this.#settle();
    this.#network.happen(instanceId, record);
  }

  #comparePacket(record: PacketRecord): void {
    this.#settle();
    const { channel, opened } = this.#channelOf(record);
    const buffers = this.#buffers.get(opened.instanceId);
    const component = this.#componentOf(opened);
    if (component !== undefined && channel.arrived.length === 0) {
      component.happen(record.bytes.subarray(record.headerBytes));
      this.#settle();
    }
    const at = channel.arrived.findIndex(
      (packet) => identityOf(packet) === identityOf(record.bytes),
    );
    if (at < 0) throw new Error("sends no such packet");
    const [actual] = channel.arrived.splice(at, 1);
    this.#packets++;
    const meaning = (bytes: Uint8Array): Uint8Array =>
      component === undefined ? bytes : withoutTimes(bytes, record.headerBytes);
    if (!same(meaning(actual!), meaning(record.bytes)))
      throw new Answer("sends something else", { ...record, bytes: actual! });
    if (record.type === PacketType.transferPages) this.#compareMessages(record, buffers);
    else this.#compareData(record, channel);
  }

  /** What lies in the receive buffer of a network adapter. */
  #compareMessages({ bytes, data }: PacketRecord, buffers: NetworkBuffers | undefined): void {
    if (buffers === undefined || data === undefined) return;
    const { memory } = this.#guest.places;
    const there = gatherRanges(memory, buffers.received(bytes), data.bytes.byteLength);
    const [actual, wanted] = [meaningOf(bytes, there), meaningOf(bytes, data.bytes)];
    this.#dataBytes += wanted.byteLength;
    if (!same(actual, wanted)) throw new Error(differences(actual, wanted));
  }

  #compareData(record: PacketRecord, channel: ReplayChannel): void {
    const ranges = channel.takeRanges(record.transactionId);
    const request = this.#requests.get(`${record.channel}:${record.transactionId}`);
    if (record.data === undefined || (isRead(request) && !this.#disks.isContentKnown)) return;
    const { bytes } = record.data;
    const actual = gatherRanges(this.#guest.places.memory, ranges, bytes.byteLength);
    this.#dataBytes += bytes.byteLength;
    if (same(actual, bytes)) return;
    throw new Error(differences(actual, bytes));
  }

  /** What the host did by itself; true if the message may be there now. */
  #hostActs(record: HostMessageRecord): boolean {
    const type = MessageHeader.parse(record.payload)?.type;
    const { partition } = this.#guest;
    if (type === MessageType.rescindChannelOffer) {
      const relid = RescindChannelOffer.parse(record.payload)?.relid;
      const offer = relid === undefined ? undefined : this.#offers.get(relid);
      if (offer === undefined || !this.#isOffered(offer.instanceId)) return false;
      partition.rescind(offer.instanceId);
    } else if (type === MessageType.offerChannel) {
      const offer = OfferChannel.parse(record.payload);
      if (offer?.subChannelIndex !== 0 || this.#isOffered(offer.instanceId)) return false;
      partition.offer(deviceOf(offer, 0));
    } else return false;
    this.#settle();
    return true;
  }

  /** The recorded host closed a channel because its device went away; here it may not know yet. */
  #rescinded(number: number): void {
    const known = this.#channels.get(number);
    if (known === undefined) return;
    const { instanceId, subChannelIndex } = known.opened;
    if (subChannelIndex !== 0 || !this.#isOffered(instanceId)) return;
    this.#guest.partition.rescind(instanceId);
    this.#settle();
  }

  /** The host's end is closed: nothing goes over any more. */
  #closed(number: number): void {
    const known = this.#channels.get(number);
    if (known === undefined) return;
    const { relid } = known.opened;
    if (this.#guest.channels.get(relid) === known.channel) this.#guest.close(relid);
  }

  #isOffered(instanceId: Guid): boolean {
    return this.#guest.partition.server.offers.some((offer) => offer.instanceId === instanceId);
  }

  /** Which device each relid is, for a rescind. */
  #learn({ payload }: HostMessageRecord): void {
    if (MessageHeader.parse(payload)?.type !== MessageType.offerChannel) return;
    const offer = OfferChannel.parse(payload);
    if (offer !== undefined) this.#offers.set(offer.relid, deviceOf(offer, 0));
  }

  #channelOf(record: PacketRecord): { opened: ChannelOpenedRecord; channel: ReplayChannel } {
    const known = this.#channels.get(record.channel);
    if (known === undefined) throw new Error("has not opened the channel");
    return known;
  }

  /** The integration components, if it is a channel of theirs. */
  #componentOf({ classId }: ChannelOpenedRecord): ReplayIntegration | undefined {
    return this.#integration?.has(classId) === true ? this.#integration : undefined;
  }

  /** What went wrong, beside what was recorded. */
  #mismatch(cause: Error, index = this.#trace.records.length): ReplayMismatch {
    const { records } = this.#trace;
    const show = (record: TraceRecord): string => {
      const decoder = new TraceDecoder();
      for (const earlier of records.slice(0, index)) decoder.decode(earlier);
      return `\n${traceLine(decoder.decode(record))}`;
    };
    const answer =
      cause instanceof Answer ? show({ ...hostMessage, ...cause.answer } as TraceRecord) : "";
    const recorded = records[index];
    const line = recorded === undefined ? "the end" : show(recorded);
    return new ReplayMismatch(`the host ${cause.message}${answer}\nwhere the trace has ${line}`, {
      cause,
    });
  }
}

/** The host answers, but not what was recorded. */
class Answer extends Error {
  readonly answer: Partial<TraceRecord>;

  constructor(message: string, answer: Partial<TraceRecord>) {
    super(message);
    this.answer = answer;
  }
}

const hostMessage = { kind: "host-message", time: 0, vp: 0, offset: 0, sint: 2, lost: false };

/** The devices that the guest was offered first. */
function firstOffers(trace: Trace): DeviceOffer[] {
  const offers = new Map<Guid, DeviceOffer>();
  for (const record of trace.records) {
    if (record.kind !== "host-message") continue;
    const type = MessageHeader.parse(record.payload)?.type;
    if (type === MessageType.allOffersDelivered) break;
    if (type !== MessageType.offerChannel) continue;
    const offer = OfferChannel.parse(record.payload);
    if (offer?.subChannelIndex === 0) offers.set(offer.instanceId, deviceOf(offer, offers.size));
  }
  return Array.from(offers.values());
}

function deviceOf(offer: OfferChannel, order: number): DeviceOffer {
  const { classId, instanceId, flags, userData, mmioMegabytes, monitorAllocated } = offer;
  return {
    classId,
    instanceId,
    flags,
    userData,
    mmioMegabytes,
    monitored: monitorAllocated,
    order,
    worker: 0,
  };
}

/** Where data is not as it was recorded. */
function differences(actual: Uint8Array, recorded: Uint8Array): string {
  const first = recorded.findIndex((byte, index) => byte !== actual[index]);
  return `has ${String(actual[first])} in byte ${first} of the data, it was ${String(recorded[first])}`;
}

/** Puts data into ranges of memory. */
function scatter(guest: ReplayGuest, ranges: readonly GpaRange[], data: Uint8Array): void {
  const { memory } = guest.places;
  let done = 0;
  for (const { byteCount, byteOffset, pfns } of ranges) {
    let rest = byteCount;
    let offset = byteOffset;
    for (const pfn of pfns) {
      const run = Math.min(PAGE_SIZE - offset, rest, data.byteLength - done);
      memory.bytes.set(data.subarray(done, done + run), pfn * PAGE_SIZE + offset);
      done += run;
      rest -= run;
      offset = 0;
    }
  }
}

/** By what a packet is found: type and transaction id. */
function identityOf(packet: Uint8Array): string {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  const type = view.getUint16(Packet.type, true);
  return `${type}:${view.getBigUint64(Packet.transactionIdLow, true)}`;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
