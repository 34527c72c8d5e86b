import {
  SendResult,
  type Channel,
  type GuestMemory,
  type IncomingRing,
} from "@hyperv-is/vmbus-core";
import {
  Packet,
  PacketType,
  TransferPageRange,
  TransferPages,
} from "@hyperv-is/vmbus-core/protocol";
import type { EthernetUser } from "./ethernet-port.js";
import {
  FrameInfo,
  FrameInfoPart,
  NvspStatus,
  NvspType,
  PacketFault,
  PacketIdFlag,
  packetIdFlags,
  PacketView,
  RANGES_PER_PACKET_MAX_RSC,
  readPacket,
  RECEIVE_BUFFER_ID,
} from "./protocol/index.js";
import type { NetvscQueueCounters } from "./queue-counters.js";
import type { ReceiveSide } from "./queue-description.js";
import { ReceiveTable } from "./receive-table.js";
import { CurrentFrame } from "./received-frames.js";

/** What a host's completion needs: type and status. Linux sends no more, either. */
const COMPLETION_BYTES = 8;
/** Least bytes of the NVSP message in a transfer-page packet: type and channel type. */
const MESSAGE_BYTES = 8;

/** Most packets to keep count of: more than the slots of the largest buffer that hosts divide. */
const PACKETS_MAX = 1 << 15;
/** The longest message that is no frame; what says that it is longer is none. */
const CONTROL_BYTES_MAX = 4096;

/**
 * The receiving half of a channel: frames are delivered where the host has put them, and their memory goes back
 * when the last user of a packet lets go. Completions that find no room in the ring wait; none is ever dropped,
 * for each is memory that the host would never use again.
 */
export class ReceiveQueue {
  /** Who gets the frames; without one they are dropped. */
  user: EthernetUser | undefined;
  readonly #memory: GuestMemory;
  readonly #counters: NetvscQueueCounters;
  readonly #control: (message: Uint8Array) => void;
  readonly #frame: CurrentFrame;
  readonly #info = new FrameInfo();
  readonly #view = new PacketView();
  #channel!: Channel;
  #address = 0;
  #lengthBytes = 0;
  #table = new ReceiveTable(1);
  #paused = false;
  /** Pieces of the coalesced frame that is being put together; 0: none is. */
  #pieces = 0;

  /** @param trust - `ReceiveTrust` bits. @param control - Gets a copy of each message that is no frame. */
  constructor(
    memory: GuestMemory,
    counters: NetvscQueueCounters,
    trust: number,
    control: (message: Uint8Array) => void,
  ) {
    this.#memory = memory;
    this.#counters = counters;
    this.#control = control;
    this.#frame = new CurrentFrame(memory, counters, trust);
  }

  /** To be called once, before anything is received. */
  bind(channel: Channel): void {
    this.#channel = channel;
  }

  /** Packets of the host that are not completed. */
  get held(): number {
    return this.#table.size - this.#table.freeCount;
  }

  /** Completions that wait for room in the ring. */
  get waiting(): number {
    return this.#table.lineCount;
  }

  configure({ address, lengthBytes, slots }: ReceiveSide): void {
    this.#address = address;
    this.#lengthBytes = lengthBytes;
    // An honest host has no more packets under way than slots; one entry stays free then.
    this.#table = new ReceiveTable(Math.min(slots, PACKETS_MAX) + 1);
  }

  /** @param trust - `ReceiveTrust` bits, for frames that come from now on. */
  tune(trust: number): void {
    this.#frame.trust = trust;
  }

  /** Takes the transfer-page packet that is in the ring. */
  packet(ring: IncomingRing): void {
    const table = this.#table;
    const entry = table.take(ring.idLow, ring.idHigh);
    const wanted = ring.completionRequested;
    const status = this.#deliver(ring, entry);
    table.status[entry] = wanted ? status : NvspStatus.none;
    this.release(entry);
    if (table.freeCount > 0) return;
    this.#paused = true;
    this.#channel.pause();
  }

  /**
   * One user of a packet less; the last one has it completed. Not yet visible to the host.
   *
   * @returns True if the channel was waiting for that, and is to be polled.
   */
  release(ticket: number): boolean {
    this.#table.release(ticket);
    if (this.#table.lineCount === 1) this.sendCompletions();
    if (!this.#paused || this.#table.freeCount === 0) return false;
    this.#paused = false;
    this.#channel.resume();
    return true;
  }

  /** Puts completions that wait into the ring. @returns False if some still wait. */
  sendCompletions(): boolean {
    const table = this.#table;
    const channel = this.#channel;
    const header = Packet.descriptorBytes;
    const size = header + COMPLETION_BYTES;
    while (table.lineCount > 0) {
      const entry = table.firstInLine();
      const status = table.status[entry]!;
      if (status !== NvspStatus.none) {
        const low = table.idLow[entry]!;
        const high = table.idHigh[entry]!;
        const result = channel.begin(PacketType.completion, 0, header, size, low, high);
        if (result === SendResult.Full) {
          this.#counters.rx_ack_failed++;
          if (channel.waitForSpace(size)) continue;
          return false;
        }
        // On a closed channel nothing waits for completions any more.
        if (result === SendResult.Ready) {
          channel.outgoing.putU32(NvspType.sendRndisPacketComplete);
          channel.outgoing.putU32(status);
          channel.outgoing.end();
        }
      }
      table.dequeue();
    }
    return true;
  }

  /** Looks at all ranges of the packet. @returns The status to complete it with. */
  #deliver(ring: IncomingRing, entry: number): number {
    const { headerBytes } = ring;
    const count = ring.u32(TransferPages.rangeCount) >>> 0;
    if (
      (ring.u32(TransferPages.setId) & 0xffff) !== RECEIVE_BUFFER_ID ||
      count > (headerBytes - TransferPages.ranges) / TransferPageRange.SIZE ||
      ring.payloadBytes < MESSAGE_BYTES ||
      ring.u32(headerBytes) !== NvspType.sendRndisPacket
    ) {
      this.#counters.malformed++;
      return NvspStatus.failure;
    }
    let status: number = NvspStatus.success;
    this.#pieces = 0;
    for (let index = 0; index < count; index++) {
      const at = TransferPages.ranges + index * TransferPageRange.SIZE;
      const bytes = ring.u32(at + TransferPageRange.byteCount) >>> 0;
      const offset = ring.u32(at + TransferPageRange.byteOffset) >>> 0;
      // An offset behind the buffer leaves less than nothing.
      if (bytes > this.#lengthBytes - offset) {
        this.#counters.malformed++;
        status = NvspStatus.failure;
      } else this.#range(this.#address + offset, bytes, entry);
    }
    if (this.#pieces > 0) this.#dropPieces();
    return status;
  }

  /** One message, of the type that it says itself: all drivers go by that, not by the NVSP message. */
  #range(address: number, lengthBytes: number, entry: number): void {
    const view = this.#view;
    const info = this.#info;
    const fault = readPacket(this.#memory.bytes, address, lengthBytes, view, info);
    if (fault === PacketFault.none) this.#frameIn(entry);
    else if (fault === PacketFault.type || fault === PacketFault.short)
      this.#control(this.#memory.copyOut(address, Math.min(lengthBytes, CONTROL_BYTES_MAX)));
    else this.#counters.malformed++;
  }

  #frameIn(entry: number): void {
    const info = this.#info;
    const flags = (info.parts & FrameInfoPart.packetId) === 0 ? 0 : packetIdFlags(info.packetId);
    if ((flags & PacketIdFlag.multi) !== 0) {
      this.#pieceIn(flags, entry);
      return;
    }
    if (this.#pieces > 0) this.#dropPieces();
    this.#frame.begin(this.#view.dataAt, this.#view.dataBytes, info);
    this.#hand(entry);
  }

  /** A piece of a coalesced frame: all of them come in one packet, and only the first says something of the frame. */
  #pieceIn(flags: number, entry: number): void {
    const { dataAt, dataBytes } = this.#view;
    if ((flags & PacketIdFlag.first) !== 0) {
      if (this.#pieces > 0) this.#dropPieces();
      this.#frame.begin(dataAt, dataBytes, this.#info);
    } else if (this.#pieces === 0 || this.#pieces === RANGES_PER_PACKET_MAX_RSC) {
      this.#dropPieces();
      return;
    } else this.#frame.add(dataAt, dataBytes);
    this.#pieces++;
    if ((flags & PacketIdFlag.last) === 0) return;
    this.#pieces = 0;
    this.#counters.rsc_pkts++;
    this.#hand(entry);
  }

  #dropPieces(): void {
    this.#pieces = 0;
    this.#counters.rsc_drop++;
  }

  #hand(entry: number): void {
    const { user } = this;
    if (user === undefined) {
      this.#counters.rxDropped++;
      return;
    }
    const frame = this.#frame;
    frame.ticket = entry;
    frame.end();
    this.#table.hold(entry);
    user.received(frame);
  }
}
