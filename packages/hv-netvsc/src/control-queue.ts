import {
  gpaDirectHeaderBytes,
  putGpaRange,
  SendResult,
  type Channel,
  type GuestMemory,
  type IncomingRing,
  type PageAllocator,
} from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  Packet,
  PacketType,
  PAGE_SIZE,
} from "@hyperv-is/vmbus-core/protocol";
import { NetvscError } from "./errors.js";
import {
  NvspSendRndisPacket,
  NvspStatus,
  RndisChannelType,
  SECTION_INDEX_NONE,
} from "./protocol/index.js";
import { RNDIS_PACKET_BYTES, sendStatus } from "./rndis-packets.js";
import { SendState, TransmitTable } from "./transmit-table.js";

/** Slot of the NVSP request, of which there is one at a time. */
const REQUEST = 0;
/** Slots of RNDIS messages, each with a page of its own. */
const FIRST_MESSAGE = 1;
const MESSAGES = 4;
const SLOTS = FIRST_MESSAGE + MESSAGES;

/** Transaction ids of control sends begin here; frames have those below. */
export const FIRST_CONTROL_ID = 0x4000_0000;

/** What the control half sends on the primary channel. What finds no room in the ring waits in line. */
export class ControlQueue {
  readonly #memory: GuestMemory;
  readonly #allocator: PageAllocator;
  readonly #channel: Channel;
  readonly #table = new TransmitTable(SLOTS, SLOTS);
  readonly #packets = new Array<Uint8Array>(SLOTS).fill(new Uint8Array(0));
  readonly #done = new Array<((packet: Uint8Array) => void) | undefined>(SLOTS).fill(undefined);
  /** Messages of each slot that were let go of, and whose completions have not come. */
  readonly #late = new Int32Array(SLOTS);
  readonly #pages: number;
  #closed = false;

  /** Throws `ERR_NETVSC_MEMORY` when there is no room for messages. */
  constructor(memory: GuestMemory, allocator: PageAllocator, channel: Channel) {
    const pages = allocator.allocate(MESSAGES);
    if (pages === undefined)
      throw new NetvscError("ERR_NETVSC_MEMORY", "no room for control messages");
    this.#memory = memory;
    this.#allocator = allocator;
    this.#channel = channel;
    this.#pages = pages;
    this.#packets.fill(
      NvspSendRndisPacket.packet(
        {
          channelType: RndisChannelType.control,
          sectionIndex: SECTION_INDEX_NONE,
          sectionBytes: 0,
        },
        RNDIS_PACKET_BYTES,
      ),
    );
  }

  /**
   * Sends an NVSP message; the completion's payload goes to `done` as a copy. An unanswered earlier request is given
   * up, and its late answer ignored.
   *
   * @returns False if the channel is closed.
   */
  request(packet: Uint8Array, done: (packet: Uint8Array) => void): boolean {
    const { state } = this.#table;
    if (this.#closed) return false;
    if (state[REQUEST] === SendState.waiting) throw new Error("the last request still waits");
    if (state[REQUEST] === SendState.sent) this.#table.end(REQUEST);
    this.#packets[REQUEST] = packet;
    this.#done[REQUEST] = done;
    this.#start(REQUEST);
    return true;
  }

  /** Sends an NVSP message that is not answered. @returns False if there is no room, or the channel is closed. */
  notice(packet: Uint8Array): boolean {
    const channel = this.#channel;
    const header = Packet.descriptorBytes;
    if (this.#closed) return false;
    const result = channel.begin(PacketType.inBand, 0, header, header + packet.byteLength, 0, 0);
    if (result !== SendResult.Ready) return false;
    channel.outgoing.putBytes(packet, 0, packet.byteLength);
    channel.outgoing.end();
    return true;
  }

  /**
   * Sends an RNDIS message of at most a page.
   *
   * @param taken - Called with the NVSP status when the host has read it; not if the channel closes first.
   * @returns Lets go of the message: the host is known to have read it, whether it completes it or not. Undefined if the
   *   host has not read earlier ones, or the channel is closed.
   */
  message(message: Uint8Array, taken: (status: number) => void): (() => void) | undefined {
    if (message.byteLength > PAGE_SIZE) throw new RangeError("a control message is at most a page");
    if (this.#closed) return undefined;
    const slot = this.#table.state.indexOf(SendState.free, FIRST_MESSAGE);
    if (slot < 0) return undefined;
    const generation = this.#table.generation[slot]!;
    this.#memory.bytes.set(message, this.#address(slot));
    this.#table.bytes[slot] = message.byteLength;
    this.#done[slot] = (packet) => taken(sendStatus(packet) ?? NvspStatus.failure);
    this.#start(slot);
    return () => this.#letGo(slot, generation);
  }

  /** Takes the completion that is in the ring. @returns False if nothing waits for it. */
  completion(ring: IncomingRing): boolean {
    const slot = ring.idLow - FIRST_CONTROL_ID;
    const { state, generation } = this.#table;
    if (state[slot] !== SendState.sent || generation[slot] !== ring.idHigh) {
      if ((this.#late[slot] ?? 0) === 0) return false;
      this.#late[slot]!--;
      return true;
    }
    const packet = ring.copyOut(ring.headerBytes, Math.min(ring.payloadBytes, PAGE_SIZE));
    const done = this.#done[slot];
    this.#table.end(slot);
    done?.(packet);
    return true;
  }

  /** Puts what is in line into the ring. @returns False if some still waits. */
  sendLine(): boolean {
    const table = this.#table;
    while (table.lineCount > 0) {
      const missingBytes = this.#put(table.firstInLine());
      if (this.#channel.isClosed()) return true;
      if (missingBytes === 0) table.dequeue();
      else if (!this.#channel.waitForSpace(missingBytes)) return false;
    }
    return true;
  }

  /** The channel is closed: messages that the host may still read are leaked. */
  close(): void {
    this.#closed = true;
    let lent = false;
    for (let slot = FIRST_MESSAGE; slot < SLOTS; slot++)
      if (this.#table.state[slot] === SendState.sent) lent = true;
    if (lent) this.#allocator.leak(this.#pages);
    else this.#allocator.free(this.#pages);
  }

  #letGo(slot: number, generation: number): void {
    const table = this.#table;
    if (table.state[slot] !== SendState.sent || table.generation[slot] !== generation) return;
    table.end(slot);
    this.#late[slot]!++;
  }

  #address(slot: number): number {
    return this.#pages + (slot - FIRST_MESSAGE) * PAGE_SIZE;
  }

  #start(slot: number): void {
    this.#table.enqueue(slot);
    if (this.#table.lineCount === 1) this.sendLine();
  }

  /** Puts a send into the ring; returns the size of its packet if that does not fit, else 0. */
  #put(slot: number): number {
    const { state, generation, bytes } = this.#table;
    const packet = this.#packets[slot]!;
    const isMessage = slot >= FIRST_MESSAGE;
    const header = isMessage
      ? gpaDirectHeaderBytes(this.#address(slot), bytes[slot]!)
      : Packet.descriptorBytes;
    const size = header + packet.byteLength;
    const result = this.#channel.begin(
      isMessage ? PacketType.gpaDirect : PacketType.inBand,
      PACKET_FLAG_COMPLETION_REQUESTED,
      header,
      size,
      slot + FIRST_CONTROL_ID,
      generation[slot]!,
    );
    if (result !== SendResult.Ready) return size;
    const { outgoing } = this.#channel;
    if (isMessage) putGpaRange(outgoing, this.#address(slot), bytes[slot]!);
    outgoing.putBytes(packet, 0, packet.byteLength);
    outgoing.end();
    // Before anything is published: a host may answer inside the signal.
    state[slot] = SendState.sent;
    return 0;
  }
}
