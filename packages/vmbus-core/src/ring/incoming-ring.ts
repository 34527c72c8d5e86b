import {
  PACKET_DESCRIPTOR_BYTES,
  PACKET_FLAG_COMPLETION_REQUESTED,
  PACKET_TRAILER_BYTES,
  PACKET_TYPE_COMPLETION,
  PACKET_TYPE_GPA_DIRECT,
  PACKET_TYPE_IN_BAND,
  PACKET_TYPE_TRANSFER_PAGES,
} from "../protocol/packet-layout.js";
import { copyWithinMemory } from "./copy.js";
import type { GuestMemory } from "../guest-memory.js";
import type { RingArea } from "./ring-area.js";
import type { RingCore } from "./ring-core.js";
import {
  ringControl,
  type RingControl,
  type RingControlFactory,
  type RingState,
} from "./ring-control.js";
import { CORRUPT, EMPTY, PACKET, type ReceiveResult } from "./ring-results.js";

/** What a writer can do wrong with a ring. */
export type RingCorruption =
  | "write-index-range"
  | "write-index-moved-back"
  | "packet-truncated"
  | "packet-header-length"
  | "packet-length"
  | "packet-flags"
  | "packet-type";

/**
 * The reading end of a ring.
 *
 * `next` loads a packet's descriptor into the fields of this object; each shared field is read once,
 * checked, and used from the private copy only. The payload stays in the ring until `release`; a caller
 * copies what it will decide on into private memory. Read space is given back at `commit`.
 */
export class IncomingRing {
  readonly sizeBytes: number = 0;
  /** Halves of the current packet's transaction id, as signed 32-bit integers. */
  idLow = 0;
  idHigh = 0;
  /** Why `next` returned `Corrupt`. */
  corruption: RingCorruption | undefined;

  readonly #area: RingArea;
  readonly #memory: GuestMemory;
  /** Does whole packets where the ring is one piece of memory that has a core. */
  readonly #core: RingCore | undefined;
  readonly #words: Int32Array;
  /** Index in `words` of the data area, where that is one piece. */
  readonly #baseWord: number = 0;
  readonly #control: RingControl;
  /** Read index that the writer can see. */
  #published = 0;
  /** Read index after the packets released so far. */
  #read = 0;
  /** Newest write index that was seen and is possible. */
  #write = 0;
  /** Where the bytes from `#read` on end that were written, as far as they lie in one piece of the ring. */
  #wholeEnd = 0;
  /** Start of the current packet. */
  #start = 0;
  /** First half of the current packet's descriptor, checked: type, header length, packet length, flags. */
  #first = 0;
  #second = 0;

  constructor(area: RingArea, makeControl: RingControlFactory = ringControl) {
    this.#area = area;
    this.#memory = area.memory;
    this.#core = area.isContiguous ? area.memory.ringCore : undefined;
    this.#words = area.memory.words;
    this.#baseWord = area.address(0) >>> 2;
    this.sizeBytes = area.sizeBytes;
    this.#control = makeControl(area.memory, area.controlAddress);
    this.#published = this.#read = this.#control.loadReadIndex();
    if (this.#read >= this.sizeBytes || (this.#read & 7) !== 0)
      throw new RangeError("ring indices were not initialised");
    // Nothing seen yet: the first `next` loads and checks the writer's index.
    this.#write = this.#read;
  }

  /** Type of the current packet, one of `PacketType`. */
  get type(): number {
    return this.#first & 0xffff;
  }

  /** Flags of the current packet. */
  get flags(): number {
    return this.#second >>> 16;
  }

  /** Bytes from the start of the current packet to its payload. */
  get headerBytes(): number {
    return (this.#first >>> 16) << 3;
  }

  /** Bytes of the current packet without trailer. */
  get packetBytes(): number {
    return (this.#second & 0xffff) << 3;
  }

  /** Payload bytes of the current packet, padding included. */
  get payloadBytes(): number {
    return this.packetBytes - this.headerBytes;
  }

  /** True if the sender of the current packet waits for a completion. */
  get completionRequested(): boolean {
    return (this.flags & PACKET_FLAG_COMPLETION_REQUESTED) !== 0;
  }

  /** Looks at the next packet. */
  next(): ReceiveResult {
    let available = this.#write - this.#read;
    if (available < 0) available += this.sizeBytes;
    if (available === 0) {
      if (!this.#refresh()) return CORRUPT;
      available = this.#write - this.#read;
      if (available < 0) available += this.sizeBytes;
      if (available === 0) return EMPTY;
    }
    if (available < PACKET_DESCRIPTOR_BYTES + PACKET_TRAILER_BYTES)
      return this.#corrupt("packet-truncated");
    const start = this.#read;
    this.#start = start;
    const words = this.#words;
    // Whatever is 8 bytes at a multiple of 8 lies in one piece.
    const at = this.#area.address(start) >>> 2;
    const first = words[at]!;
    const second = words[at + 1]!;
    const type = first & 0xffff;
    const headerBytes = (first >>> 16) << 3;
    const packetBytes = (second & 0xffff) << 3;
    const flags = second >>> 16;
    const leastHeaderBytes =
      type === PACKET_TYPE_GPA_DIRECT || type === PACKET_TYPE_TRANSFER_PAGES ? 24 : 16;
    if (headerBytes < leastHeaderBytes || headerBytes > packetBytes)
      return this.#corrupt("packet-header-length");
    if (packetBytes + PACKET_TRAILER_BYTES > available) return this.#corrupt("packet-length");
    if ((flags & ~PACKET_FLAG_COMPLETION_REQUESTED) !== 0) return this.#corrupt("packet-flags");
    if (
      type !== PACKET_TYPE_IN_BAND &&
      type !== PACKET_TYPE_COMPLETION &&
      type !== PACKET_TYPE_GPA_DIRECT &&
      type !== PACKET_TYPE_TRANSFER_PAGES
    )
      return this.#corrupt("packet-type");
    this.#first = first;
    this.#second = second;
    const id = this.#area.address(start + 8 === this.sizeBytes ? 0 : start + 8) >>> 2;
    this.idLow = words[id]!;
    this.idHigh = words[id + 1]!;
    return PACKET;
  }

  /** The 4 bytes at `offset` of the current packet as a signed integer; the caller keeps inside `packetBytes`. Shared memory: read once. */
  u32(offset: number): number {
    let at = this.#start + offset;
    if (at >= this.sizeBytes) at -= this.sizeBytes;
    return this.#words[this.#area.address(at) >>> 2]!;
  }

  /** Copies `count` words from byte `offset` of the current packet into a private array. */
  readWords(offset: number, target: Int32Array, to: number, count: number): void {
    let at = this.#start + offset;
    if (at >= this.sizeBytes) at -= this.sizeBytes;
    const words = this.#words;
    if (this.#area.run(at, count * 4) === count * 4) {
      let source = this.#area.address(at) >>> 2;
      for (let index = to; index < to + count; index++) target[index] = words[source++]!;
      return;
    }
    for (let index = to; index < to + count; index++) {
      target[index] = words[this.#area.address(at) >>> 2]!;
      at += 4;
      if (at >= this.sizeBytes) at -= this.sizeBytes;
    }
  }

  /** Copies bytes of the current packet to guest memory, to a range that the caller has checked. */
  copyToMemory(offset: number, address: number, lengthBytes: number): void {
    let at = this.#start + offset;
    let to = address;
    let rest = lengthBytes;
    while (rest > 0) {
      if (at >= this.sizeBytes) at -= this.sizeBytes;
      const run = this.#area.run(at, rest);
      copyWithinMemory(this.#memory, to, this.#area.address(at), run);
      at += run;
      to += run;
      rest -= run;
    }
  }

  /** A private copy of bytes of the current packet: for rare packets. */
  copyOut(offset: number, lengthBytes: number): Uint8Array {
    const copy = new Uint8Array(lengthBytes);
    for (let index = 0; index < lengthBytes; index++) {
      let at = this.#start + offset + index;
      if (at >= this.sizeBytes) at -= this.sizeBytes;
      copy[index] = this.#memory.bytes[this.#area.address(at)]!;
    }
    return copy;
  }

  /** Is done with the current packet. Its space goes back to the writer at `commit`. */
  release(): void {
    this.#moveTo(this.#start + this.packetBytes + PACKET_TRAILER_BYTES);
  }

  /**
   * Looks at what the writer has published by now.
   *
   * @returns Bytes from the current packet on, that one included until `release`; 0 if the writer's index is
   *   impossible, which `next` will report.
   */
  look(): number {
    if (!this.#refresh()) return 0;
    const waiting = this.#write - this.#read;
    return waiting < 0 ? waiting + this.sizeBytes : waiting;
  }

  /**
   * Takes a whole packet: `next`, `copyToMemory` of its payload, and `release` in one, which is fastest.
   * Its bytes can be read until `commit`.
   *
   * @param address - where the payload goes, in guest memory. @param capacityBytes - what the caller has checked there;
   *   the rest of a longer payload is not copied.
   */
  take(address: number, capacityBytes: number): ReceiveResult {
    const read = this.#read;
    if (this.#write === read) {
      if (!this.#refresh()) return CORRUPT;
      if (this.#write === read) return EMPTY;
    }
    const core = this.#core;
    if (core === undefined) return this.#takeInSteps(address, capacityBytes);
    const words = this.#words;
    const at = this.#baseWord + (read >>> 2);
    const first = words[at]!;
    const second = words[at + 1]!;
    const packetBytes = (second & 0xffff) << 3;
    const end = read + packetBytes + PACKET_TRAILER_BYTES;
    // What is wrong with the rest, if anything, `next` finds out.
    if (
      (first !== (PACKET_TYPE_IN_BAND | (PACKET_DESCRIPTOR_BYTES << 13)) &&
        first !== (PACKET_TYPE_COMPLETION | (PACKET_DESCRIPTOR_BYTES << 13))) ||
      (second & ~(0xffff | (PACKET_FLAG_COMPLETION_REQUESTED << 16))) !== 0 ||
      packetBytes < PACKET_DESCRIPTOR_BYTES ||
      end > this.#wholeEnd
    )
      return this.#takeInSteps(address, capacityBytes);
    this.#first = first;
    this.#second = second;
    this.idLow = words[at + 2]!;
    this.idHigh = words[at + 3]!;
    this.#start = read;
    core.copyAhead(
      address | 0,
      (at + (PACKET_DESCRIPTOR_BYTES >>> 2)) << 2,
      packetBytes - PACKET_DESCRIPTOR_BYTES,
      capacityBytes,
      this.#wholeEnd - read,
    );
    this.#moveTo(end);
    return PACKET;
  }

  /** Bytes released but not yet given back. */
  get releasedBytes(): number {
    const freed = this.#read - this.#published;
    return freed < 0 ? freed + this.sizeBytes : freed;
  }

  /**
   * Gives the space of released packets back to the writer.
   *
   * @returns True if the writer must be signalled: it waits for room, and this commit crossed the amount.
   */
  commit(): boolean {
    const freed = this.releasedBytes;
    if (freed === 0) return false;
    const read = this.#read;
    this.#published = read;
    const wanted = this.#control.publishReadIndex(read);
    if (wanted === 0) return false;
    let used = this.#control.loadWriteIndex() - read;
    if (used < 0) used += this.sizeBytes;
    const free = this.sizeBytes - used;
    return free - freed <= wanted && free > wanted;
  }

  /** Tells the writer not to signal: this end is awake and will look by itself. */
  mask(): void {
    this.#control.storeInterruptMask(1);
  }

  /**
   * Asks for signals again, and looks once more.
   *
   * @returns True if the ring is empty and a signal will come; false if a packet slipped in, for which
   *   no signal may come.
   */
  unmask(): boolean {
    this.#control.storeInterruptMask(0);
    return this.#control.loadWriteIndex() === this.#read;
  }

  /** The ring as its control words show it. */
  inspect(): RingState {
    return this.#control.inspect(this.sizeBytes);
  }

  /** Goes on at an offset that may lie behind the end of the ring. */
  #moveTo(offset: number): void {
    if (offset < this.sizeBytes) {
      this.#read = offset;
    } else {
      this.#read = offset - this.sizeBytes;
      this.#wholeEnd = this.#write;
    }
  }

  #takeInSteps(address: number, capacityBytes: number): ReceiveResult {
    const result = this.next();
    if (result === PACKET) {
      const { payloadBytes } = this;
      this.copyToMemory(
        this.headerBytes,
        address,
        payloadBytes < capacityBytes ? payloadBytes : capacityBytes,
      );
      this.release();
    }
    return result;
  }

  #refresh(): boolean {
    const write = this.#control.loadWriteIndex();
    if (write >= this.sizeBytes || (write & 7) !== 0) {
      this.corruption = "write-index-range";
      return false;
    }
    let known = this.#write - this.#published;
    if (known < 0) known += this.sizeBytes;
    let now = write - this.#published;
    if (now < 0) now += this.sizeBytes;
    if (now < known) {
      this.corruption = "write-index-moved-back";
      return false;
    }
    this.#write = write;
    this.#wholeEnd = write < this.#read ? this.sizeBytes : write;
    return true;
  }

  #corrupt(reason: RingCorruption): typeof CORRUPT {
    this.corruption = reason;
    return CORRUPT;
  }
}
