import type {
  ChannelClosedReason,
  GuestMemory,
  IncomingRing,
  RingArea,
} from "@hyperv-is/vmbus-core";
import {
  GpaDirect,
  PAGE_SIZE,
  Packet,
  PacketType,
  parseGpaRanges,
  type GpaRange,
} from "@hyperv-is/vmbus-core/protocol";
import type { ChannelOpening } from "../vmbus/worker-link.js";
import { dataFlowOf, type DataFlow } from "./data-flow.js";
import type { GpadlLookup, NetworkBuffers } from "./network-buffers.js";
import {
  ChannelBody,
  ClosedBody,
  DataBody,
  NO_VP,
  PacketBody,
  RecordFlag,
  RecordKind,
  closeReasons,
} from "./trace-format.js";
import type { TraceWriter } from "./trace-writer.js";

/** Requests whose data is looked at again when they complete; beyond it the oldest is forgotten. */
const REQUESTS_MAX = 4096;

/** A request that may bring data to the guest. */
interface Request {
  readonly payload: Uint8Array;
  readonly ranges: readonly GpaRange[];
}

/** Where packets that name a shared buffer have their data, and how it is found. */
export interface TracedBuffers {
  readonly gpadl: GpadlLookup;
  readonly network: NetworkBuffers;
}

/** Records the packets of one open channel. */
export class ChannelTrace {
  readonly #opening: ChannelOpening;
  readonly #writer: TraceWriter;
  readonly #memory: GuestMemory;
  readonly #dataLimitBytes: number;
  readonly #flow: DataFlow;
  readonly #buffers: TracedBuffers | undefined;
  /** By transaction id. */
  readonly #requests = new Map<string, Request>();
  #vp: number;

  constructor(
    opening: ChannelOpening,
    writer: TraceWriter,
    memory: GuestMemory,
    dataLimitBytes: number,
    buffers?: TracedBuffers,
  ) {
    this.#opening = opening;
    this.#writer = writer;
    this.#memory = memory;
    this.#dataLimitBytes = dataLimitBytes;
    this.#flow = dataFlowOf(opening.classId);
    this.#buffers = buffers;
    this.#vp = opening.interrupt?.vp ?? NO_VP;
  }

  /** The channel is there. */
  opened(): void {
    const { key, interrupt, ...opening } = this.#opening;
    const body = ChannelBody.emit({ ...opening, channel: key, eventFlag: interrupt?.flag ?? 0 });
    this.#writer.begin(RecordKind.channelOpened, 0, this.#vp, body.byteLength);
    this.#writer.putBytes(body);
  }

  /** Its interrupts go to another processor. */
  retarget(vp: number): void {
    this.#vp = vp;
  }

  closed(reason: ChannelClosedReason): void {
    this.#writer.begin(RecordKind.channelClosed, 0, this.#vp, ClosedBody.SIZE);
    this.#writer.putU32(this.#opening.key);
    this.#writer.putU32(closeReasons.indexOf(reason));
    this.#requests.clear();
  }

  /**
   * The host has the current packet of `ring` before it. The descriptor is the one that the ring has checked;
   * the rest is read once more, and a guest that changes it meanwhile shows two faces.
   */
  received(ring: IncomingRing): void {
    const { type, flags, headerBytes, packetBytes, idLow, idHigh } = ring;
    const { descriptorBytes } = Packet;
    const rest = ring.copyOut(descriptorBytes, packetBytes - descriptorBytes);
    const writer = this.#beginPacket(0, packetBytes);
    writer.putU32(type | (headerBytes << 13));
    writer.putU32((packetBytes >>> 3) | (flags << 16));
    writer.putU32(idLow);
    writer.putU32(idHigh);
    writer.putBytes(rest);
    if (this.#dataLimitBytes === 0) return;
    const payload = rest.subarray(headerBytes - descriptorBytes);
    const lent = this.#buffers?.network.sent(payload, this.#buffers.gpadl) ?? [];
    const direct = type === PacketType.gpaDirect ? directRanges(rest, headerBytes) : undefined;
    if (direct === undefined && lent.length === 0) return;
    const ranges = [...lent, ...(direct ?? [])];
    this.#data(0, idLow, idHigh, ranges, this.#flow.toHost(payload));
    if (direct !== undefined) this.#remember(`${idHigh}:${idLow}`, { payload, ranges });
  }

  /** The host has put a packet, which lies in the ring from `start` on and is the guest's only when published. */
  sent(
    area: RingArea,
    start: number,
    packetBytes: number,
    type: number,
    low: number,
    high: number,
  ): void {
    const packet = new Uint8Array(packetBytes);
    for (let done = 0, at = start; done < packetBytes;) {
      const run = area.run(at, packetBytes - done);
      const address = area.address(at);
      packet.set(area.memory.bytes.subarray(address, address + run), done);
      done += run;
      at = at + run === area.sizeBytes ? 0 : at + run;
    }
    this.#beginPacket(RecordFlag.toGuest, packetBytes).putBytes(packet);
    if (type === PacketType.transferPages && this.#dataLimitBytes > 0) {
      const ranges = this.#buffers?.network.received(packet) ?? [];
      this.#data(RecordFlag.toGuest, low, high, ranges, Infinity);
    }
    const id = `${high}:${low}`;
    const request = type === PacketType.completion ? this.#requests.get(id) : undefined;
    if (request === undefined) return;
    this.#requests.delete(id);
    const reply = packet.subarray(Packet.descriptorBytes);
    const bytes = this.#flow.toGuest(request.payload, reply);
    this.#data(RecordFlag.toGuest, low, high, request.ranges, bytes);
  }

  #beginPacket(flags: number, packetBytes: number): TraceWriter {
    const writer = this.#writer;
    writer.begin(RecordKind.packet, flags, this.#vp, PacketBody.SIZE + packetBytes);
    writer.putU32(this.#opening.key);
    writer.putU32(0);
    return writer;
  }

  /** Records the first bytes of the ranges, as they are now. @param wanted - bytes that are data. */
  #data(
    flags: number,
    low: number,
    high: number,
    ranges: readonly GpaRange[],
    wanted: number,
  ): void {
    const there = ranges.reduce((sum, { byteCount }) => sum + byteCount, 0);
    const totalBytes = Math.min(wanted, there);
    if (totalBytes === 0) return;
    const bytes = gatherRanges(this.#memory, ranges, Math.min(totalBytes, this.#dataLimitBytes));
    const writer = this.#writer;
    writer.begin(RecordKind.data, flags, this.#vp, DataBody.SIZE + bytes.byteLength);
    writer.putU32(this.#opening.key);
    writer.putU32(totalBytes);
    writer.putU32(low);
    writer.putU32(high);
    writer.putBytes(bytes);
  }

  #remember(id: string, request: Request): void {
    this.#requests.delete(id);
    this.#requests.set(id, request);
    if (this.#requests.size <= REQUESTS_MAX) return;
    const [oldest] = this.#requests.keys();
    this.#requests.delete(oldest!);
  }
}

/** The ranges of a GPA-direct packet; undefined if they contradict themselves. @param rest - of it, behind the descriptor. */
function directRanges(rest: Uint8Array, headerBytes: number): readonly GpaRange[] | undefined {
  const { descriptorBytes } = Packet;
  const view = new DataView(rest.buffer, rest.byteOffset, rest.byteLength);
  const outcome = parseGpaRanges(
    rest.subarray(GpaDirect.ranges - descriptorBytes),
    view.getUint32(GpaDirect.rangeCount - descriptorBytes, true),
    headerBytes - GpaDirect.ranges,
  );
  return outcome.kind === "ok" ? outcome.ranges : undefined;
}

/** The first `lengthBytes` of ranges; ends early where a page is not in guest memory. */
export function gatherRanges(
  memory: GuestMemory,
  ranges: readonly GpaRange[],
  lengthBytes: number,
): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  let done = 0;
  for (const { byteCount, byteOffset, pfns } of ranges) {
    let rest = byteCount;
    let offset = byteOffset;
    for (const pfn of pfns) {
      const run = Math.min(PAGE_SIZE - offset, rest, lengthBytes - done);
      const address = pfn * PAGE_SIZE + offset;
      if (!memory.contains(address, run)) return bytes.subarray(0, done);
      bytes.set(memory.bytes.subarray(address, address + run), done);
      done += run;
      rest -= run;
      offset = 0;
    }
  }
  return bytes.subarray(0, done);
}
