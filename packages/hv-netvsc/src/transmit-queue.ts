import {
  copyWithinMemory,
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
import { SendSection } from "./send-section.js";
import { NO_SECTION, SendKind, SendState, TransmitTable } from "./transmit-table.js";

/** Room for the message header of a lent frame, and for headers of the frame that are changed before it is sent. */
const HEADER_AREA_BYTES = 512;
/** Bytes of SEND_RNDIS_PACKET, which hosts of every version take: FreeBSD sends no other. */
const MESSAGE_BYTES = 32;
/** Bytes of a range with one page number. */
const PIECE_BYTES = GpaRangeHeader.SIZE + PFN_SIZE;
/** Descriptor of the control half's NVSP requests, of which there is one at a time. */
const REQUEST = 0;
/** Descriptors of control messages, each with a page of its own. */
const FIRST_CONTROL = 1;
const CONTROL_BUFFERS = 4;
const RESERVED = FIRST_CONTROL + CONTROL_BUFFERS;

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
  readonly #tuning: QueueTuning;
  readonly #counters: NetvscQueueCounters;
  readonly #events: SendEvents;
  readonly #table: TransmitTable;
  readonly #plan = new OffloadPlan();
  readonly #message = new Int32Array(MESSAGE_BYTES / 4);
  #channel!: Channel;
  #side: TransmitSide | undefined;
  #section: SendSection | undefined;
  /** Sections that are free. */
  #sections = new Int32Array(0);
  #sectionCount = 0;
  /** GPAs of the header areas and of the control buffers; -1 without. */
  #headers = -1;
  #controls = -1;
  #outstanding = 0;
  #blocked = false;
  #ready = false;
  #request: Uint8Array = new Uint8Array(0);
  #requestDone: ((packet: Uint8Array) => void) | undefined;
  readonly #controlDone = new Array<((status: number) => void) | undefined>(RESERVED);
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
    this.#table = new TransmitTable(tuning.descriptors + RESERVED, RESERVED);
    this.#message[0] = NvspType.sendRndisPacket;
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

  /** Makes room for control messages. Throws `ERR_NETVSC_MEMORY`. */
  allowControl(): void {
    this.#controls = this.#allocate(CONTROL_BUFFERS);
  }

  /** Makes the queue ready for frames. Throws `ERR_NETVSC_MEMORY` when there is no room for their headers. */
  configure(side: TransmitSide): void {
    const { descriptors } = this.#tuning;
    this.#headers = this.#allocate(Math.ceil((descriptors * HEADER_AREA_BYTES) / PAGE_SIZE));
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
    if (index === REQUEST) {
      const packet = ring.copyOut(ring.headerBytes, Math.min(ring.payloadBytes, PAGE_SIZE));
      const done = this.#requestDone;
      this.#requestDone = undefined;
      table.end(index);
      this.#ended();
      done?.(packet);
      return;
    }
    let status: number = NvspStatus.failure;
    if (ring.payloadBytes < 8 || ring.u32(ring.headerBytes) !== NvspType.sendRndisPacketComplete)
      this.#counters.malformed++;
    else status = ring.u32(ring.headerBytes + 4) >>> 0;
    if (index < RESERVED) {
      const done = this.#controlDone[index];
      table.end(index);
      this.#ended();
      done?.(status);
      return;
    }
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

  /**
   * Sends an NVSP message of the control half; the completion's payload goes to `done` as a copy. An unanswered
   * earlier request is given up, and its late answer ignored.
   *
   * @returns False if the channel is closed.
   */
  sendRequest(packet: Uint8Array, done: (packet: Uint8Array) => void): boolean {
    const table = this.#table;
    if (this.#channel.isClosed()) return false;
    if (table.state[REQUEST] === SendState.waiting) throw new Error("the last request still waits");
    if (table.state[REQUEST] === SendState.sent) {
      table.end(REQUEST);
      this.#ended();
    }
    table.kind[REQUEST] = SendKind.request;
    this.#request = packet;
    this.#requestDone = done;
    this.#start(REQUEST);
    return true;
  }

  /** Sends an NVSP message that is not answered. @returns False if there is no room, or the channel is closed. */
  sendNotice(packet: Uint8Array): boolean {
    const channel = this.#channel;
    const header = Packet.descriptorBytes;
    if (channel.isClosed()) return false;
    const result = channel.begin(PacketType.inBand, 0, header, header + packet.byteLength, 0, 0);
    if (result !== SendResult.Ready) return false;
    channel.outgoing.putBytes(packet, 0, packet.byteLength);
    channel.outgoing.end();
    return true;
  }

  /**
   * Sends an RNDIS control message of at most a page.
   *
   * @param done - Called with the NVSP status when the host has taken it; not if the channel closes first.
   * @returns False if the host has not taken earlier ones, or the channel is closed.
   */
  sendControl(message: Uint8Array, done: (status: number) => void): boolean {
    const table = this.#table;
    if (this.#channel.isClosed()) return false;
    if (message.byteLength > PAGE_SIZE) throw new RangeError("a control message is at most a page");
    for (let index = FIRST_CONTROL; index < RESERVED; index++) {
      if (table.state[index] !== SendState.free) continue;
      this.#memory.bytes.set(message, this.#controlAddress(index));
      table.kind[index] = SendKind.control;
      table.bytes[index] = message.byteLength;
      this.#controlDone[index] = done;
      this.#start(index);
      return true;
    }
    return false;
  }

  /** Resolves when nothing is outstanding any more: at once, if nothing is. */
  drained(): Promise<void> {
    if (this.#outstanding === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /** The channel is closed: nothing that is outstanding will be answered, and memory that the host may read is leaked. */
  close(): void {
    const table = this.#table;
    let headersLent = false;
    let controlsLent = false;
    for (let index = 0; index < table.size; index++) {
      const state = table.state[index];
      if (state === SendState.free) continue;
      const sent = state === SendState.sent;
      const kind = table.kind[index];
      if (index < RESERVED) table.end(index);
      else table.give(index);
      if (kind === SendKind.control && sent) controlsLent = true;
      if (kind !== SendKind.pages) continue;
      if (sent) headersLent = true;
      this.#events.transmitted(table.tag[index]!, !sent);
    }
    while (table.lineCount > 0) table.dequeue();
    this.#side = undefined;
    this.#section = undefined;
    this.#headers = this.#give(this.#headers, headersLent);
    this.#controls = this.#give(this.#controls, controlsLent);
    this.#outstanding = 0;
    for (const resolve of this.#drained.splice(0)) resolve();
  }

  #allocate(pages: number): number {
    const address = this.#allocator.allocate(pages);
    if (address !== undefined) return address;
    throw new NetvscError("ERR_NETVSC_MEMORY", `no room for ${pages} pages`);
  }

  #give(address: number, lent: boolean): number {
    if (address < 0) return -1;
    if (lent) this.#allocator.leak(address);
    else this.#allocator.free(address);
    return -1;
  }

  #controlAddress(index: number): number {
    return this.#controls + (index - FIRST_CONTROL) * PAGE_SIZE;
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
    const at = this.#headers + (index - RESERVED) * HEADER_AREA_BYTES;
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
    const kind = table.kind[index]!;
    const hasPages = kind === SendKind.pages || kind === SendKind.control;
    const frame = table.frame[index];
    const copied = table.copied[index]!;
    const pieces = kind === SendKind.pages ? 1 + pagePieces(frame!, copied) : 1;
    const header: number = hasPages
      ? GpaDirect.ranges + pieces * PIECE_BYTES
      : Packet.descriptorBytes;
    const payload = kind === SendKind.request ? this.#request.byteLength : MESSAGE_BYTES;
    const result = this.#channel.begin(
      hasPages ? PacketType.gpaDirect : PacketType.inBand,
      PACKET_FLAG_COMPLETION_REQUESTED,
      header,
      header + payload,
      index + 1,
      table.generation[index]!,
    );
    if (result !== SendResult.Ready) return header + payload;
    if (hasPages) {
      ring.putU32(0);
      ring.putU32(pieces);
      const at =
        kind === SendKind.control
          ? this.#controlAddress(index)
          : this.#headers + (index - RESERVED) * HEADER_AREA_BYTES;
      this.#putPiece(at, table.bytes[index]!);
      if (kind === SendKind.pages) this.#putFrame(frame!, copied);
    }
    if (kind === SendKind.request) ring.putBytes(this.#request, 0, payload);
    else this.#putMessage(index, kind);
    ring.end();
    // Before anything is published: a host may answer inside the signal.
    table.state[index] = SendState.sent;
    if (index >= RESERVED) this.#counters.sends++;
    return 0;
  }

  #putMessage(index: number, kind: number): void {
    const message = this.#message;
    const isCopied = kind === SendKind.section;
    message[1] = kind === SendKind.control ? RndisChannelType.control : RndisChannelType.data;
    message[2] = isCopied ? this.#table.section[index]! : SECTION_INDEX_NONE;
    message[3] = isCopied ? this.#table.bytes[index]! : 0;
    this.#channel.outgoing.putWords(message, 0, MESSAGE_BYTES / 4);
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

/** Pieces of pages in what lies behind the first `skipBytes` of a frame. */
function pagePieces(frame: GpaRuns, skipBytes: number): number {
  let skip = skipBytes;
  let pieces = 0;
  for (let run = 0; run < frame.runs; run++) {
    const length = frame.runLength(run);
    const skipped = skip < length ? skip : length;
    skip -= skipped;
    if (skipped === length) continue;
    const first = frame.runAddress(run) + skipped;
    const last = first + length - skipped - 1;
    pieces += Math.floor(last / PAGE_SIZE) - Math.floor(first / PAGE_SIZE) + 1;
  }
  return pieces;
}

/** Copies the first `lengthBytes` of `runs` to `to`. */
function copyRuns(memory: GuestMemory, runs: GpaRuns, lengthBytes: number, to: number): void {
  let rest = lengthBytes;
  for (let run = 0; run < runs.runs && rest > 0; run++) {
    const length = Math.min(runs.runLength(run), rest);
    copyWithinMemory(memory, to, runs.runAddress(run), length);
    to += length;
    rest -= length;
  }
}
