import { FEATURE_PENDING_SEND_SIZE, RING_PORTABLE_RESERVE } from "../protocol/index.js";
import {
  PACKET_DESCRIPTOR_BYTES,
  PACKET_MAX_BYTES,
  PACKET_TRAILER_BYTES,
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
import { CORRUPT, FULL, READY, type SendResult } from "./ring-results.js";

/**
 * The writing end of a ring.
 *
 * A packet is built in place: `begin`, any number of `put…`, `end`. Packets become visible together at
 * `publish`, which also decides whether the reader must be signalled. Nothing here allocates.
 *
 * The reader owns the read index and can write anything into it at any time; it is loaded once per use
 * and checked. The write index is ours: it is stored and never read back.
 */
export class OutgoingRing {
  readonly sizeBytes: number = 0;
  /** Bytes of the largest packet: descriptor included, trailer not. */
  readonly maxPacketBytes: number = 0;
  readonly #area: RingArea;
  readonly #memory: GuestMemory;
  /** Does whole packets where the ring is one piece of memory that has a core. */
  readonly #core: RingCore | undefined;
  readonly #words: Int32Array;
  readonly #base: number = 0;
  readonly #control: RingControl;
  /** Write index that the reader can see. */
  #published = 0;
  /** Write index after the packets put so far. */
  #staged = 0;
  /** Newest read index that was seen and is possible. */
  #read = 0;
  /** Where the bytes from `#staged` on end that may be written, as far as they lie in one piece of the ring. */
  #wholeEnd = 0;
  /** The current packet lies in one piece of guest memory, trailer included: `#shift` makes GPAs of its offsets. */
  #isWhole = false;
  #shift = 0;
  #packetEnd = 0;
  /** Ring offset of the next byte; runs past the end of the ring in a packet that the wrap splits. */
  #cursor = 0;
  #waiting = false;

  constructor(area: RingArea, makeControl: RingControlFactory = ringControl) {
    this.#area = area;
    this.#memory = area.memory;
    this.#core = area.isContiguous ? area.memory.ringCore : undefined;
    this.#words = area.memory.words;
    this.#base = area.address(0);
    this.sizeBytes = area.sizeBytes;
    this.maxPacketBytes = Math.min(
      area.sizeBytes - RING_PORTABLE_RESERVE - PACKET_TRAILER_BYTES,
      PACKET_MAX_BYTES,
    );
    this.#control = makeControl(area.memory, area.controlAddress);
    this.#published = this.#staged = this.#control.loadWriteIndex();
    this.#read = this.#control.loadReadIndex();
    if (!this.#possible(this.#published) || !this.#possible(this.#read))
      throw new RangeError("ring indices were not initialised");
    this.#wholeEnd = this.#read > this.#staged ? this.#read : this.sizeBytes;
    // The promise that this end sets the pending size when it waits for room.
    this.#control.storeFeatureBits(FEATURE_PENDING_SEND_SIZE);
    this.#control.storePendingSendSize(0);
  }

  /** True while this end waits for room that `requestSpace` asked for. */
  get waiting(): boolean {
    return this.#waiting;
  }

  /**
   * Starts a packet.
   *
   * @param headerBytes - Descriptor and type-specific header; a multiple of 8, at least 16.
   * @param packetBytes - Header and payload, rounded up to a multiple of 8 here; at most `maxPacketBytes`.
   * @param idLow - Low half of the transaction id. @param idHigh - High half.
   */
  begin(
    type: number,
    flags: number,
    headerBytes: number,
    packetBytes: number,
    idLow: number,
    idHigh: number,
  ): SendResult {
    const length = (packetBytes + 7) & ~7;
    if (length > this.maxPacketBytes) throw new RangeError("packet larger than the ring");
    const total = length + PACKET_TRAILER_BYTES;
    if (this.#free() <= total) {
      const result = this.#lookForRoom(total);
      if (result !== READY) return result;
    }
    const start = this.#staged;
    const shift = this.#area.address(start) - start;
    this.#shift = shift;
    this.#isWhole = this.#area.run(start, total) === total;
    this.#cursor = start + PACKET_DESCRIPTOR_BYTES;
    this.#packetEnd = start + length;
    const first = type | (headerBytes << 13);
    const second = (length >>> 3) | (flags << 16);
    if (this.#isWhole) {
      const words = this.#words;
      const at = (start + shift) >>> 2;
      const trailer = at + (length >>> 2);
      // The payload goes over all of the last 8 bytes but the padding.
      words[trailer - 2] = words[trailer - 1] = 0;
      words[at] = first;
      words[at + 1] = second;
      words[at + 2] = idLow;
      words[at + 3] = idHigh;
      words[trailer] = 0;
      words[trailer + 1] = start;
    } else {
      this.#putQuad(start + length - 8, 0, 0);
      this.#putQuad(start, first, second);
      this.#putQuad(start + 8, idLow, idHigh);
      this.#putQuad(start + length, 0, start);
    }
    return READY;
  }

  /** Puts the next 4 bytes, little-endian. */
  putU32(value: number): void {
    this.#words[this.#word(this.#cursor)] = value;
    this.#cursor += 4;
  }

  /** Puts `count` words of a private array from index `from` on. */
  putWords(source: Int32Array, from: number, count: number): void {
    let at = this.#cursor;
    this.#cursor = at + count * 4;
    if (at >= this.sizeBytes) at -= this.sizeBytes;
    const words = this.#words;
    if (this.#area.run(at, count * 4) === count * 4) {
      let target = this.#area.address(at) >>> 2;
      for (let index = from; index < from + count; index++) words[target++] = source[index]!;
      return;
    }
    for (let index = from; index < from + count; index++) {
      words[this.#area.address(at) >>> 2] = source[index]!;
      at += 4;
      if (at >= this.sizeBytes) at -= this.sizeBytes;
    }
  }

  /** Puts bytes of guest memory, from a range that the caller has checked. */
  putMemory(address: number, lengthBytes: number): void {
    const to = this.#cursor;
    this.#cursor = to + lengthBytes;
    if (this.#isWhole) copyWithinMemory(this.#memory, to + this.#shift, address, lengthBytes);
    else this.#putSplit(to, address, lengthBytes);
  }

  /** Puts bytes of a private array: for small or rare payloads. */
  putBytes(source: Uint8Array, from: number, lengthBytes: number): void {
    const bytes = this.#memory.bytes;
    for (let index = from; index < from + lengthBytes; index++) {
      let at = this.#cursor++;
      if (at >= this.sizeBytes) at -= this.sizeBytes;
      bytes[this.#area.address(at)] = source[index]!;
    }
  }

  /** Ends the packet: all of the announced length is put, but for padding of up to 7 bytes. Not yet visible. */
  end(): void {
    if (((this.#cursor + 7) & ~7) !== this.#packetEnd)
      throw new Error("packet does not have its announced length");
    const end = this.#packetEnd + PACKET_TRAILER_BYTES;
    if (end < this.sizeBytes) {
      this.#staged = end;
    } else {
      this.#staged = end - this.sizeBytes;
      this.#wholeEnd = this.#read;
    }
  }

  /**
   * Puts a whole packet whose payload lies in guest memory, in a range that the caller has checked, and follows the
   * descriptor: `begin`, `putMemory` and `end` in one, which is fastest.
   */
  putPacket(
    type: number,
    flags: number,
    idLow: number,
    idHigh: number,
    address: number,
    lengthBytes: number,
  ): SendResult {
    const length = (PACKET_DESCRIPTOR_BYTES + lengthBytes + 7) & ~7;
    const start = this.#staged;
    const end = start + length + PACKET_TRAILER_BYTES;
    const core = this.#core;
    if (core === undefined || length > this.maxPacketBytes || end >= this.#wholeEnd)
      return this.#putInSteps(type, flags, idLow, idHigh, address, lengthBytes);
    core.put(
      (this.#base + start) | 0,
      type | (PACKET_DESCRIPTOR_BYTES << 13),
      (length >>> 3) | (flags << 16),
      idLow,
      idHigh,
      address | 0,
      lengthBytes,
      start,
    );
    this.#staged = end;
    return READY;
  }

  /**
   * Makes all ended packets visible.
   *
   * @returns True if the reader must be signalled: it has not masked signals, and it had read
   *   everything that was there before this batch.
   */
  publish(): boolean {
    const before = this.#published;
    const staged = this.#staged;
    if (staged === before) return false;
    this.#published = staged;
    if (this.#control.publishWriteIndex(staged) !== 0) return false;
    return this.#control.loadReadIndex() === before;
  }

  /**
   * Asks the reader to signal when a packet of `packetBytes` fits, and looks once more.
   *
   * @returns True if it fits already (nothing is asked any more), false if the caller must wait for a signal.
   */
  requestSpace(packetBytes: number): boolean {
    const total = ((packetBytes + 7) & ~7) + PACKET_TRAILER_BYTES;
    // Ask for a quarter of the ring at least, so that the two ends do not wake each other per packet.
    const quarter = (this.sizeBytes >>> 2) & ~7;
    this.#waiting = true;
    this.#control.storePendingSendSize(total > quarter ? total : quarter);
    return this.spaceArrived(packetBytes);
  }

  /** True if a packet of `packetBytes` fits now; what was asked for stands. An impossible read index counts as room, too. */
  hasSpace(packetBytes: number): boolean {
    const total = ((packetBytes + 7) & ~7) + PACKET_TRAILER_BYTES;
    return !this.#refresh() || this.#free() > total;
  }

  /**
   * Looks for room again after a signal; withdraws the request when it is there.
   * An impossible read index counts as room, so that the next `begin` reports it.
   */
  spaceArrived(packetBytes: number): boolean {
    const total = ((packetBytes + 7) & ~7) + PACKET_TRAILER_BYTES;
    if (this.#refresh() && this.#free() <= total) return false;
    this.#waiting = false;
    this.#control.storePendingSendSize(0);
    return true;
  }

  /** True when the reader has taken everything that was published. */
  isDrained(): boolean {
    return this.#control.loadReadIndex() === this.#published;
  }

  /** The ring as its control words show it. */
  inspect(): RingState {
    return this.#control.inspect(this.sizeBytes);
  }

  #putInSteps(
    type: number,
    flags: number,
    idLow: number,
    idHigh: number,
    address: number,
    lengthBytes: number,
  ): SendResult {
    const header = PACKET_DESCRIPTOR_BYTES;
    const result = this.begin(type, flags, header, header + lengthBytes, idLow, idHigh);
    if (result === READY) {
      this.putMemory(address, lengthBytes);
      this.end();
    }
    return result;
  }

  /** Index in `words` of the word at an offset of the current packet. */
  #word(offset: number): number {
    if (this.#isWhole) return (offset + this.#shift) >>> 2;
    return this.#area.address(offset >= this.sizeBytes ? offset - this.sizeBytes : offset) >>> 2;
  }

  /** Puts 8 bytes at an offset that is a multiple of 8: they lie in one piece, in a split packet too. */
  #putQuad(offset: number, low: number, high: number): void {
    const at = this.#word(offset);
    this.#words[at] = low;
    this.#words[at + 1] = high;
  }

  #putSplit(offset: number, address: number, lengthBytes: number): void {
    let at = offset;
    let from = address;
    let rest = lengthBytes;
    while (rest > 0) {
      if (at >= this.sizeBytes) at -= this.sizeBytes;
      const run = this.#area.run(at, rest);
      copyWithinMemory(this.#memory, this.#area.address(at), from, run);
      at += run;
      from += run;
      rest -= run;
    }
  }

  /** The last known read index leaves no room for `total` bytes: asks for a newer one. */
  #lookForRoom(total: number): SendResult {
    if (!this.#refresh()) return CORRUPT;
    return this.#free() <= total ? FULL : READY;
  }

  /** Bytes between the last known read index and what is staged; one more than may be written. */
  #free(): number {
    let used = this.#staged - this.#read;
    if (used < 0) used += this.sizeBytes;
    return this.sizeBytes - used;
  }

  /** Takes the reader's index over if the reader could have got there. */
  #refresh(): boolean {
    const read = this.#control.loadReadIndex();
    if (!this.#possible(read)) return false;
    let advanced = read - this.#read;
    if (advanced < 0) advanced += this.sizeBytes;
    let readable = this.#published - this.#read;
    if (readable < 0) readable += this.sizeBytes;
    if (advanced > readable) return false;
    this.#read = read;
    this.#wholeEnd = read > this.#staged ? read : this.sizeBytes;
    return true;
  }

  #possible(index: number): boolean {
    return index < this.sizeBytes && (index & 7) === 0;
  }
}
