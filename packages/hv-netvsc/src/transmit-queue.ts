import {
  SendResult,
  type Channel,
  type GpaRuns,
  type GuestMemory,
  type IncomingRing,
  type PageAllocator,
} from "@hyperv-is/vmbus-core";
import {
  GpaDirect,
  GpaRangeHeader,
  GPA_DIRECT_CUSTOMARY_MAX,
  PACKET_FLAG_COMPLETION_REQUESTED,
  Packet,
  PacketType,
  PAGE_SIZE,
  PFN_SIZE,
} from "@hyperv-is/vmbus-core/protocol";
import { NetvscError } from "./errors.js";
import { TransmitResult, type TransmitOffload } from "./ethernet-port.js";
import { copyRuns, pagePieces } from "./frame-memory.js";
import { prepareLargeSend, put16, UDP_CHECKSUM } from "./frame-headers.js";
import { OffloadPlan } from "./offload-plan.js";
import {
  NvspStatus,
  NvspType,
  packetHeaderBytes,
  RndisChannelType,
  SECTION_INDEX_NONE,
  writePacketHeader,
} from "./protocol/index.js";
import type { NetvscQueueCounters } from "./queue-counters.js";
import type { QueueTuning, TransmitSide } from "./queue-description.js";
import { RNDIS_PACKET_BYTES } from "./rndis-packets.js";
import { SendSection } from "./send-section.js";
import { NO_SECTION, SendKind, SendState, TransmitTable } from "./transmit-table.js";

/** Room for the message header of a lent frame, and for headers of the frame that are changed before it is sent. */
const HEADER_AREA_BYTES = 512;
/** Bytes of a range with one page number. */
const PIECE_BYTES = GpaRangeHeader.SIZE + PFN_SIZE;
/** Who hears how sends end. */
export interface SendEvents {
  /** A lent frame is the caller's again; not `released`: the host may still read it. */
  transmitted(tag: number, released: boolean): void;
}

/**
 * The sending half of a channel: frames are copied into sections of the send buffer, several into one where the
 * host allows it, or lent to the host by page lists. What finds no room in the ring waits in line.
 */
export class TransmitQueue {
  readonly #memory: GuestMemory;
  readonly #allocator: PageAllocator;
  #tuning: QueueTuning;
  readonly #counters: NetvscQueueCounters;
  readonly #events: SendEvents;
  readonly #table: TransmitTable;
  readonly #plan = new OffloadPlan();
  readonly #message = new Int32Array(RNDIS_PACKET_BYTES / 4);
  #channel!: Channel;
  #side: TransmitSide | undefined;
  #section: SendSection | undefined;
  /** Sections that are free. */
  #sections = new Int32Array(0);
  #sectionCount = 0;
  /** GPA of the header areas; -1 without. */
  #headers = -1;
  #outstanding = 0;
  #blocked = false;
  #ready = false;
  #drained: (() => void)[] = [];

  constructor(
    memory: GuestMemory,
    allocator: PageAllocator,
    tuning: QueueTuning,
    counters: NetvscQueueCounters,
    events: SendEvents,
  ) {
    this.#memory = memory;
    this.#allocator = allocator;
    this.#tuning = tuning;
    this.#counters = counters;
    this.#events = events;
    this.#table = new TransmitTable(tuning.descriptors, 0);
    this.#message[0] = NvspType.sendRndisPacket;
    this.#message[1] = RndisChannelType.data;
  }

  /** To be called once, before anything is sent. */
  bind(channel: Channel): void {
    this.#channel = channel;
  }

  /** Sends that wait or that the host has. */
  get outstanding(): number {
    return this.#outstanding;
  }

  get freeDescriptors(): number {
    return this.#table.freeCount;
  }

  get freeSections(): number {
    return this.#sectionCount;
  }

  /** True once after room came for frames that were answered with `full`. */
  takeReady(): boolean {
    const ready = this.#ready;
    this.#ready = false;
    return ready;
  }

  /** Makes the queue ready for frames. Throws `ERR_NETVSC_MEMORY` when there is no room for their headers. */
  configure(side: TransmitSide): void {
    const pages = Math.ceil((this.#tuning.descriptors * HEADER_AREA_BYTES) / PAGE_SIZE);
    const headers = this.#allocator.allocate(pages);
    if (headers === undefined)
      throw new NetvscError("ERR_NETVSC_MEMORY", `no room for ${pages} pages of headers`);
    this.#headers = headers;
    this.#plan.configure(side, this.#tuning.udpChecksumBytesMax);
    const { sections } = side;
    if (sections !== undefined) {
      this.#section = new SendSection(this.#memory.bytes, side, this.#tuning);
      this.#sections = new Int32Array(sections.count);
      // The lowest is taken first.
      for (let index = sections.first + sections.count - 1; index >= sections.first; index--)
        this.#sections[this.#sectionCount++] = index;
    }
    this.#side = side;
  }

  /** Other limits from now on, of those in `RunTuning`. */
  tune(tuning: QueueTuning): void {
    this.#tuning = tuning;
    this.#section?.tune(tuning);
  }

  /** See `EthernetPort.transmit`. */
  transmit(frame: GpaRuns, offload: TransmitOffload, tag: number): TransmitResult {
    if (this.#side === undefined || this.#channel.isClosed()) return TransmitResult.closed;
    const plan = this.#plan;
    if (!plan.make(this.#memory, frame, offload)) return this.#refuse();
    const messageBytes = packetHeaderBytes(plan.info.parts) + frame.lengthBytes;
    const section = this.#section;
    if (section !== undefined && messageBytes <= section.copyBytesMax) {
      this.#counters.tx_chimney_tried++;
      const at = this.#roomFor(section, messageBytes);
      if (at >= 0) {
        this.#counters.tx_chimney++;
        return this.#copy(section, at, frame, messageBytes);
      }
    }
    return this.#lend(frame, messageBytes, tag);
  }

  /** Sends what was copied, though there is room for more beside it. Not yet visible to the host. */
  closeSection(): void {
    const section = this.#section;
    if (section === undefined || section.isEmpty) return;
    const { descriptor } = section;
    this.#table.bytes[descriptor] = section.close();
    this.#start(descriptor);
  }

  /** Puts what is in line into the ring, as much as fits. */
  sendLine(): void {
    const table = this.#table;
    const channel = this.#channel;
    // The signal for room is on its way; asking again would only change for how much.
    if (channel.outgoing.waiting) return;
    while (table.lineCount > 0) {
      const missingBytes = this.#put(table.firstInLine());
      if (channel.isClosed()) return;
      if (missingBytes === 0) table.dequeue();
      else {
        this.#counters.agg_flush_failed++;
        if (!channel.waitForSpace(missingBytes)) return;
      }
    }
  }

  /** Takes the completion that is in the ring. */
  completion(ring: IncomingRing): void {
    const table = this.#table;
    const index = ring.idLow - 1;
    if (table.state[index] !== SendState.sent || table.generation[index] !== ring.idHigh) {
      this.#counters.unknownIds++;
      return;
    }
    let status: number = NvspStatus.failure;
    if (ring.payloadBytes < 8 || ring.u32(ring.headerBytes) !== NvspType.sendRndisPacketComplete)
      this.#counters.malformed++;
    else status = ring.u32(ring.headerBytes + 4) >>> 0;
    if (status !== NvspStatus.success) this.#counters.send_failed++;
    const section = table.section[index]!;
    const isLent = table.kind[index] === SendKind.pages;
    if (section !== NO_SECTION) this.#sections[this.#sectionCount++] = section;
    table.give(index);
    this.#ended();
    if (this.#blocked) {
      this.#blocked = false;
      this.#ready = true;
    }
    if (isLent) this.#events.transmitted(table.tag[index]!, true);
  }

  /** Takes no more frames; resolves when nothing is outstanding any more: at once, if nothing is. */
  drain(): Promise<void> {
    this.closeSection();
    this.#side = undefined;
    if (this.#outstanding === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /** The channel is closed: nothing that is outstanding will be answered, and memory that the host may read is leaked. */
  close(): void {
    const table = this.#table;
    let lent = false;
    for (let index = 0; index < table.size; index++) {
      const state = table.state[index];
      if (state === SendState.free) continue;
      const sent = state === SendState.sent;
      const isLent = table.kind[index] === SendKind.pages;
      table.give(index);
      if (!isLent) continue;
      lent ||= sent;
      this.#events.transmitted(table.tag[index]!, !sent);
    }
    while (table.lineCount > 0) table.dequeue();
    this.#side = undefined;
    this.#section = undefined;
    if (lent) this.#allocator.leak(this.#headers);
    else if (this.#headers >= 0) this.#allocator.free(this.#headers);
    this.#headers = -1;
    this.#outstanding = 0;
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  #refuse(): TransmitResult {
    this.#counters.txRefused++;
    return TransmitResult.refused;
  }

  #full(): TransmitResult {
    this.#counters.no_txdescs++;
    if (!this.#blocked) this.#counters.oactive++;
    this.#blocked = true;
    return TransmitResult.full;
  }

  /** Address for a message in the open section, or in a new one; -1 if there is none. */
  #roomFor(section: SendSection, messageBytes: number): number {
    if (section.isOpen) {
      const at = section.roomFor(messageBytes);
      if (at >= 0) return at;
      this.closeSection();
    }
    if (this.#sectionCount === 0) return -1;
    const descriptor = this.#table.take(SendKind.section);
    if (descriptor < 0) return -1;
    const index = this.#sections[--this.#sectionCount]!;
    this.#table.section[descriptor] = index;
    section.open(descriptor, index);
    return section.roomFor(messageBytes);
  }

  #copy(section: SendSection, at: number, frame: GpaRuns, messageBytes: number): TransmitResult {
    const { info } = this.#plan;
    const dataBytes = frame.lengthBytes;
    const headerBytes = messageBytes - dataBytes;
    copyRuns(this.#memory, frame, dataBytes, at + headerBytes);
    if (!this.#finishHeaders(at + headerBytes)) return this.#refuse();
    section.add(messageBytes);
    writePacketHeader(this.#memory.bytes, at, info, headerBytes, dataBytes, messageBytes);
    this.#count(dataBytes);
    return TransmitResult.copied;
  }

  #lend(frame: GpaRuns, messageBytes: number, tag: number): TransmitResult {
    const { info, headerCopyBytes } = this.#plan;
    const dataBytes = frame.lengthBytes;
    const headerBytes = messageBytes - dataBytes;
    if (headerBytes + headerCopyBytes > HEADER_AREA_BYTES) return this.#refuse();
    if (1 + pagePieces(frame, headerCopyBytes) > GPA_DIRECT_CUSTOMARY_MAX)
      return this.#collapse(frame, messageBytes);
    const index = this.#table.take(SendKind.pages);
    if (index < 0) return this.#full();
    const at = this.#headers + index * HEADER_AREA_BYTES;
    copyRuns(this.#memory, frame, headerCopyBytes, at + headerBytes);
    if (!this.#finishHeaders(at + headerBytes)) {
      this.#table.give(index);
      return this.#refuse();
    }
    writePacketHeader(this.#memory.bytes, at, info, headerBytes, dataBytes, messageBytes);
    this.#table.bytes[index] = headerBytes + headerCopyBytes;
    this.#table.copied[index] = headerCopyBytes;
    this.#table.frame[index] = frame;
    this.#table.tag[index] = tag;
    // Frames leave in the order of their transmission.
    this.closeSection();
    this.#start(index);
    this.#count(dataBytes);
    return TransmitResult.lent;
  }

  /** A frame in more pieces than a message takes goes through a section, whatever the limit for copies is. */
  #collapse(frame: GpaRuns, messageBytes: number): TransmitResult {
    const section = this.#section;
    if (section === undefined || messageBytes > section.sectionBytes) {
      this.#counters.txdma_failed++;
      return this.#refuse();
    }
    const at = this.#roomFor(section, messageBytes);
    if (at < 0) return this.#full();
    this.#counters.tx_collapsed++;
    return this.#copy(section, at, frame, messageBytes);
  }

  /** Does to the headers, a copy at `at`, what the host wants done; false if they are not what the caller says. */
  #finishHeaders(at: number): boolean {
    const { bytes } = this.#memory;
    const { largeSend, ipv6, headerOffset, udpChecksum } = this.#plan;
    if (largeSend) return prepareLargeSend(bytes, at, headerOffset, ipv6);
    if (udpChecksum < 0) return true;
    put16(bytes, at + headerOffset + UDP_CHECKSUM, udpChecksum);
    this.#counters.udpcs_fixup++;
    return true;
  }

  #count(dataBytes: number): void {
    this.#counters.txPackets++;
    this.#counters.txBytes += dataBytes;
  }

  /** Puts a send in line, and sends it if it is the first there. */
  #start(index: number): void {
    this.#outstanding++;
    this.#table.enqueue(index);
    if (this.#table.lineCount === 1) this.sendLine();
  }

  #ended(): void {
    if (--this.#outstanding === 0 && this.#drained.length > 0)
      for (const resolve of this.#drained.splice(0)) resolve();
  }

  /** Puts a send into the ring; returns the size of its packet if that does not fit, else 0. */
  #put(index: number): number {
    const table = this.#table;
    const ring = this.#channel.outgoing;
    const frame = table.frame[index];
    const copied = table.copied[index]!;
    const pieces = frame === undefined ? 0 : 1 + pagePieces(frame, copied);
    const header: number =
      pieces > 0 ? GpaDirect.ranges + pieces * PIECE_BYTES : Packet.descriptorBytes;
    const size = header + RNDIS_PACKET_BYTES;
    const result = this.#channel.begin(
      pieces > 0 ? PacketType.gpaDirect : PacketType.inBand,
      PACKET_FLAG_COMPLETION_REQUESTED,
      header,
      size,
      index + 1,
      table.generation[index]!,
    );
    if (result !== SendResult.Ready) return size;
    const message = this.#message;
    if (frame === undefined) {
      message[2] = table.section[index]!;
      message[3] = table.bytes[index]!;
    } else {
      ring.putU32(0);
      ring.putU32(pieces);
      this.#putPiece(this.#headers + index * HEADER_AREA_BYTES, table.bytes[index]!);
      this.#putFrame(frame, copied);
      message[2] = SECTION_INDEX_NONE;
      message[3] = 0;
    }
    ring.putWords(message, 0, RNDIS_PACKET_BYTES / 4);
    ring.end();
    // Before anything is published: a host may answer inside the signal.
    table.state[index] = SendState.sent;
    this.#counters.sends++;
    return 0;
  }

  /** One range for each piece of a page, as FreeBSD and DPDK do: hosts may know no other. */
  #putFrame(frame: GpaRuns, skipBytes: number): void {
    let skip = skipBytes;
    for (let run = 0; run < frame.runs; run++) {
      let address = frame.runAddress(run);
      let rest = frame.runLength(run);
      const skipped = skip < rest ? skip : rest;
      skip -= skipped;
      address += skipped;
      rest -= skipped;
      while (rest > 0) {
        const inPage = PAGE_SIZE - (address % PAGE_SIZE);
        const length = rest < inPage ? rest : inPage;
        this.#putPiece(address, length);
        address += length;
        rest -= length;
      }
    }
  }

  #putPiece(address: number, lengthBytes: number): void {
    const ring = this.#channel.outgoing;
    ring.putU32(lengthBytes);
    ring.putU32(address % PAGE_SIZE);
    ring.putU32(Math.floor(address / PAGE_SIZE));
    ring.putU32(0);
  }
}
