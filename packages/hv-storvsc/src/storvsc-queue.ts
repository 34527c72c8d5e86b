import type {
  Channel,
  ChannelClosedReason,
  ChannelHandler,
  GpaRuns,
  GuestMemory,
  IncomingRing,
  PageAllocator,
  QueueContext,
} from "@hyperv-is/vmbus-core";
import {
  gpaDirectHeaderBytes,
  putGpaRange,
  putSingleRange,
  SendResult,
  singleRangeHeaderBytes,
  singleRangePages,
} from "@hyperv-is/vmbus-core";
import {
  Packet,
  PACKET_FLAG_COMPLETION_REQUESTED,
  PacketType,
} from "@hyperv-is/vmbus-core/protocol";
import { BouncePool, copyRuns } from "./bounce-pool.js";
import type { StorvscParameters } from "./negotiation.js";
import { autosenseValid, transferredBytes } from "./outcome.js";
import {
  DataDirection,
  SrbPacket,
  UNSOLICITED_TRANSACTION_ID,
  VSTOR_PACKET_BYTES,
  VSTOR_PACKET_BYTES_LEGACY,
  VstorOperation,
  VstorPacket,
} from "./protocol/index.js";
import { newQueueCounters } from "./queue-counters.js";
import type { StorvscQueueDescription } from "./queue-description.js";
import { ReplyPacket } from "./reply-packet.js";
import { RequestPackets } from "./request-packets.js";
import { NO_BUFFER, RequestTable, SlotState, type SlotOwner } from "./request-table.js";

/** What a queue tells its control half, on its own CPU. */
export interface StorvscQueueEvents {
  /** ENUMERATE_BUS or REMOVE_DEVICE: look at the bus again. The host merges them, so this is a level. */
  busChanged(operation: number): void;
  /** The channel closed; every request has been answered. */
  closed(reason: ChannelClosedReason): void;
}

/** The control half's own slot: transaction id 1. */
const CONTROL_SLOT = 0;

/**
 * The data plane of one channel: SCSI requests by slot, the packets that they become, and their
 * completions. Memory and id of a request are not used again before its completion or the end of the
 * channel. Used on the CPU of its context only.
 */
export class StorvscQueue implements ChannelHandler {
  readonly description: StorvscQueueDescription;
  readonly memory: GuestMemory;
  /** Arena of the queue's CPU: for memory that its users share with the host. */
  readonly allocator: PageAllocator;
  readonly counters = newQueueCounters();
  /** Set by the control half. */
  events: StorvscQueueEvents | undefined;
  readonly #context: QueueContext;
  readonly #channel: Channel;
  readonly #table: RequestTable;
  readonly #packets: RequestPackets;
  readonly #reply = new ReplyPacket();
  #parameters: StorvscParameters | undefined;
  #packetBytes: number = VSTOR_PACKET_BYTES_LEGACY;
  #controlBytes = 0;
  #controlReply: ((packet: Uint8Array) => void) | undefined;
  #pool: BouncePool | undefined;
  #waitsForBuffer = false;
  #outstanding = 0;
  #drained: (() => void)[] = [];
  #closedReason: ChannelClosedReason | undefined;
  #stopped = false;

  /** Binds the channel to the CPU of `context`. */
  constructor(context: QueueContext, description: StorvscQueueDescription) {
    this.description = description;
    this.memory = context.memory;
    this.allocator = context.allocator;
    this.#context = context;
    this.#table = new RequestTable(description.slots + 1);
    this.#packets = new RequestPackets(description.slots + 1, description.minimumCdbBytes);
    if (description.parameters !== undefined) this.configure(description.parameters);
    this.#channel = context.bindChannel(description.channel, this);
  }

  /** What was agreed with the host; undefined while it is being negotiated. */
  get parameters(): StorvscParameters | undefined {
    return this.#parameters;
  }

  /** Requests that wait or that the host has. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Slots that nobody has claimed. */
  get freeSlots(): number {
    return this.#table.freeCount;
  }

  get closedReason(): ChannelClosedReason | undefined {
    return this.#closedReason;
  }

  /** Makes the queue ready for SCSI requests. Throws `ERR_STORVSC_MEMORY` when there is no room for a buffer. */
  configure(parameters: StorvscParameters): void {
    this.#pool = new BouncePool(
      this.#context.allocator,
      parameters.maxTransferBytes,
      this.description.bounceBuffers,
    );
    this.#packets.prepare(CONTROL_SLOT + 1, parameters, this.description.pathId);
    this.#packetBytes = parameters.packetBytes;
    this.#parameters = parameters;
  }

  /** Takes a slot; its requests end at `owner`, under the name `tag`. -1 when all are taken. */
  claim(owner: SlotOwner, tag: number): number {
    return this.#table.claim(owner, tag);
  }

  /** Gives a slot back; it must have no request. */
  release(slot: number): void {
    this.#table.release(slot);
  }

  /**
   * Stages READ or WRITE of `blocks` at `lba`; `flush` publishes it. A full ring is no failure: the
   * request waits.
   *
   * @param slot - A claimed slot without a request. @param lba - Below 2^53.
   * @param data - Guest memory of exactly the transfer's length, at most `maxTransferBytes`; list and
   *   memory stay as they are until the request ends. What one range describes is not copied.
   * @returns False if the channel is closed: nothing was staged.
   */
  submitTransfer(
    slot: number,
    target: number,
    lun: number,
    write: boolean,
    lba: number,
    blocks: number,
    data: GpaRuns,
  ): boolean {
    if (this.#closedReason !== undefined) return false;
    this.#check(slot, data);
    if (data.runs === 1) this.counters.data_bio_cnt++;
    else this.counters.data_sg_cnt++;
    this.#packets.transfer(slot, write, lba, blocks);
    const direction = write ? DataDirection.toDevice : DataDirection.fromDevice;
    this.#packets.address(slot, target, lun, direction, data.lengthBytes);
    this.#start(slot, data);
    return true;
  }

  /**
   * Stages any command; as `submitTransfer`.
   *
   * @param cdb - The CDB in its first `cdbLength` bytes, at most 16; copied.
   * @param direction - One of `DataDirection`; `none` if and only if there is no `data`.
   */
  submitCommand(
    slot: number,
    target: number,
    lun: number,
    cdb: Uint8Array,
    cdbLength: number,
    direction: number,
    data: GpaRuns | undefined,
  ): boolean {
    if (this.#closedReason !== undefined) return false;
    this.#check(slot, data);
    if (data !== undefined) this.counters.data_vaddr_cnt++;
    this.#packets.command(slot, cdb, cdbLength);
    this.#packets.address(slot, target, lun, direction, data?.lengthBytes ?? 0);
    this.#start(slot, data);
    return true;
  }

  /** Publishes what was staged. Not needed inside a completion: the end of the batch does it. */
  flush(): void {
    this.#channel.flush();
  }

  /**
   * Sends a packet of the control half and publishes it; its answer, whatever it says, goes to `reply` as a
   * copy. An unanswered earlier packet is given up, and its late answer ignored.
   *
   * @returns False if the channel is closed.
   */
  sendControl(packet: Uint8Array, reply: (packet: Uint8Array) => void): boolean {
    if (this.#closedReason !== undefined) return false;
    const state = this.#table.state[CONTROL_SLOT];
    if (state === SlotState.waiting) throw new Error("the last control packet is not sent yet");
    if (state === SlotState.sent) this.#finish(CONTROL_SLOT);
    this.#controlReply = reply;
    this.#controlBytes = packet.byteLength;
    this.#packets.set(CONTROL_SLOT, packet);
    this.#start(CONTROL_SLOT, undefined);
    this.#channel.flush();
    return true;
  }

  /** A copy of the sense data that came with a slot's last completion; empty when there was none. */
  sense(slot: number): Uint8Array {
    return this.#table.sense(slot);
  }

  /** Resolves when nothing is outstanding any more: at once, if nothing is. */
  drained(): Promise<void> {
    if (this.#outstanding === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /**
   * Ends the queue, and takes the channel off this CPU. Requests that the host has not seen are abandoned
   * first; after a rescind those that it answered before it left still complete. Idempotent.
   */
  stop(reason: ChannelClosedReason = "closed"): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#closedReason ??= reason;
    this.#abandonLine();
    this.#context.unbindChannel(this.description.channel, reason);
  }

  packet(channel: Channel): void {
    const ring = channel.incoming;
    if (ring.type === PacketType.completion) this.#completion(ring);
    else this.#unsolicited(ring);
  }

  batchEnd(channel: Channel): void {
    channel.flush();
  }

  spaceArrived(): void {
    this.#sendLine();
  }

  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.#closedReason ??= reason;
    this.#abandonLine();
    const { size, state } = this.#table;
    for (let slot = 0; slot < size; slot++)
      if (state[slot] === SlotState.sent) this.#abandon(slot, true);
    if (this.#pool !== undefined) this.#pool.close();
    this.events?.closed(this.#closedReason);
  }

  /** What there is to know about the queue, as plain JSON. */
  inspect(): Record<string, unknown> {
    const { channel, slots } = this.description;
    return {
      relid: channel.relid,
      subChannelIndex: channel.subChannelIndex,
      cpu: channel.targetVp,
      slots,
      freeSlots: this.#table.freeCount,
      outstanding: this.#outstanding,
      waiting: this.#table.lineCount,
      bounceBuffers: this.#pool === undefined ? 0 : this.#pool.size,
      closed: this.#closedReason ?? null,
      counters: { ...this.counters },
      channel: { ...this.#channel.counters },
      rings: { rx: this.#channel.incoming.inspect(), tx: this.#channel.outgoing.inspect() },
    };
  }

  /** Refuses what a caller must not ask for, before anything has changed. */
  #check(slot: number, data: GpaRuns | undefined): void {
    if (this.#parameters === undefined) throw new Error("the queue is not configured");
    this.#table.checkIdle(slot);
    if (data === undefined) return;
    if (data.lengthBytes <= 0 || data.lengthBytes > this.#parameters.maxTransferBytes)
      throw new RangeError(`${data.lengthBytes} bytes: nothing, or above the largest transfer`);
    for (let run = 0; run < data.runs; run++)
      if (!this.memory.contains(data.runAddress(run), data.runLength(run)))
        throw new RangeError("data outside guest memory");
  }

  /** Puts a request whose packet is written in line, and sends it if it is the first there. */
  #start(slot: number, data: GpaRuns | undefined): void {
    this.#outstanding++;
    this.#table.data[slot] = data;
    this.#table.enqueue(slot);
    if (this.#table.lineCount === 1) this.#sendLine();
  }

  /** Puts the requests in line into the ring, as many as fit. */
  #sendLine(): void {
    const table = this.#table;
    this.#waitsForBuffer = false;
    while (table.lineCount > 0) {
      const slot = table.firstInLine();
      const data = table.data[slot];
      let pages = 0;
      if (data !== undefined && table.buffer[slot] === NO_BUFFER) {
        pages = singleRangePages(data);
        if (pages === 0 && !this.#bounce(slot, data)) {
          this.#waitsForBuffer = true;
          return;
        }
      }
      const missingBytes = this.#put(slot, data, pages);
      if (this.#closedReason !== undefined) return;
      if (missingBytes === 0) table.dequeue();
      else {
        this.counters.ring_full++;
        if (!this.#channel.waitForSpace(missingBytes)) return;
      }
    }
  }

  /** Puts a request into the ring; returns the size of its packet if that does not fit, else 0. */
  #put(slot: number, data: GpaRuns | undefined, pages: number): number {
    const channel = this.#channel;
    const ring = channel.outgoing;
    const buffer = this.#table.buffer[slot]!;
    const payload = slot === CONTROL_SLOT ? this.#controlBytes : this.#packetBytes;
    let header: number = Packet.descriptorBytes;
    if (pages > 0) header = singleRangeHeaderBytes(pages);
    else if (data !== undefined) header = gpaDirectHeaderBytes(buffer, data.lengthBytes);
    const result = channel.begin(
      data === undefined ? PacketType.inBand : PacketType.gpaDirect,
      PACKET_FLAG_COMPLETION_REQUESTED,
      header,
      header + payload,
      slot + 1,
      this.#table.generation[slot]!,
    );
    if (result !== SendResult.Ready) return header + payload;
    if (pages > 0) putSingleRange(ring, data!);
    else if (data !== undefined) putGpaRange(ring, buffer, data.lengthBytes);
    ring.putWords(this.#packets.words, this.#packets.firstWord(slot), payload >>> 2);
    ring.end();
    // Before anything is published: a host may answer inside the signal.
    this.#table.state[slot] = SlotState.sent;
    this.counters.send_req++;
    return 0;
  }

  /** Gives a slot a buffer in place of memory that no range describes; false if there is none now. */
  #bounce(slot: number, data: GpaRuns): boolean {
    const buffer = this.#pool!.take();
    if (buffer < 0) return false;
    this.#table.buffer[slot] = buffer;
    this.counters.bounced++;
    if (this.#packets.direction(slot) === DataDirection.toDevice)
      copyRuns(this.memory, data, buffer, data.lengthBytes, true);
    return true;
  }

  #completion(ring: IncomingRing): void {
    const table = this.#table;
    const slot = ring.idLow - 1;
    // A free or idle slot, or none at all, has no state "sent".
    if (table.state[slot] !== SlotState.sent || table.generation[slot] !== ring.idHigh) {
      this.counters.unknown_id++;
      return;
    }
    if (slot === CONTROL_SLOT) {
      const lengthBytes = Math.min(ring.payloadBytes, VSTOR_PACKET_BYTES);
      const packet = ring.copyOut(ring.headerBytes, lengthBytes);
      const reply = this.#controlReply;
      this.#finish(slot);
      reply?.(packet);
      return;
    }
    if (ring.payloadBytes < this.#packetBytes) {
      this.counters.malformed++;
      return;
    }
    const reply = this.#reply;
    if (!reply.read(ring)) {
      this.counters.malformed++;
      return;
    }
    const { srbStatus, scsiStatus } = reply;
    const requested = this.#packets.lengthBytes(slot);
    const transferred = transferredBytes(srbStatus, reply.returnedBytes, requested);
    if (autosenseValid(srbStatus, scsiStatus))
      table.keepSense(slot, reply.bytes, SrbPacket.sense, reply.senseBytes);
    const buffer = table.buffer[slot]!;
    if (buffer !== NO_BUFFER) {
      if (this.#packets.direction(slot) === DataDirection.fromDevice)
        copyRuns(this.memory, table.data[slot]!, buffer, transferred, false);
      this.#pool!.give(buffer);
    }
    this.#finish(slot);
    table.owner[slot]!.complete(table.tag[slot]!, srbStatus, scsiStatus, transferred);
    if (this.#waitsForBuffer) this.#sendLine();
  }

  #finish(slot: number): void {
    this.#table.finish(slot);
    if (slot === CONTROL_SLOT) this.#controlReply = undefined;
    if (--this.#outstanding === 0 && this.#drained.length > 0)
      for (const resolve of this.#drained.splice(0)) resolve();
  }

  #abandonLine(): void {
    const table = this.#table;
    while (table.lineCount > 0) {
      const slot = table.firstInLine();
      table.dequeue();
      this.#abandon(slot, false);
    }
  }

  #abandon(slot: number, sent: boolean): void {
    const buffer = this.#table.buffer[slot]!;
    if (buffer !== NO_BUFFER) {
      if (sent) this.#pool!.leak(buffer);
      else this.#pool!.give(buffer);
    }
    this.#finish(slot);
    this.#table.owner[slot]?.abandoned(this.#table.tag[slot]!, sent);
  }

  #unsolicited(ring: IncomingRing): void {
    const proper =
      ring.type === PacketType.inBand &&
      ring.idLow === UNSOLICITED_TRANSACTION_ID &&
      ring.idHigh === 0 &&
      ring.payloadBytes >= VstorPacket.HEADER_SIZE;
    const operation = proper ? ring.u32(ring.headerBytes + VstorPacket.operation) : 0;
    if (operation !== VstorOperation.enumerateBus && operation !== VstorOperation.removeDevice) {
      this.counters.dropped++;
      return;
    }
    this.counters.bus_changed++;
    this.events?.busChanged(operation);
  }
}
