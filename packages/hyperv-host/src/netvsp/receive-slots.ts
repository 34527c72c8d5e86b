import { RESERVED_CONTROL_SLOTS, ReceiveSlot } from "@hyperv-is/hv-netvsc/protocol";

/** The end of a chain of slots, and the owner of a slot that is free. */
const NONE = -1;

/** Bytes of a slot for frames of up to `mtu` bytes, their Ethernet header included. */
export function receiveSlotBytes(mtu: number): number {
  return ReceiveSlot.headerBytes + mtu + ReceiveSlot.footerBytes;
}

/**
 * The slots of a receive buffer: which are free, and which a guest has, in packets that it will complete. A packet's
 * transaction id is the number of its first slot; the others are chained to it, and come back with it.
 *
 * The first are for control messages. Channels share the others: all are on one thread.
 */
export class ReceiveSlots {
  readonly slotBytes: number;
  readonly count: number;
  /** Channel that has the packet that begins with a slot. */
  readonly #owners: Int32Array;
  readonly #next: Int32Array;
  /** Free slots for frames, and for control messages; the last was given back last. */
  readonly #frames: Int32Array;
  readonly #controls: Int32Array;
  #freeFrames = 0;
  #freeControls = 0;

  constructor(bufferBytes: number, mtu: number) {
    this.slotBytes = receiveSlotBytes(mtu);
    this.count = Math.floor(bufferBytes / this.slotBytes);
    this.#owners = new Int32Array(this.count).fill(NONE);
    this.#next = new Int32Array(this.count).fill(NONE);
    this.#frames = new Int32Array(this.count);
    this.#controls = new Int32Array(RESERVED_CONTROL_SLOTS);
    for (let slot = this.count - 1; slot >= 0; slot--) this.#free(slot);
  }

  /** Slots for frames; at least one for each channel is needed. */
  get frameSlots(): number {
    return Math.max(this.count - RESERVED_CONTROL_SLOTS, 0);
  }

  /** Slots that are not free. */
  get busy(): number {
    return this.count - this.#freeFrames - this.#freeControls;
  }

  /** Free slots for frames. */
  get freeFrames(): number {
    return this.#freeFrames;
  }

  /** A slot for a frame; -1 if none is free. */
  takeFrame(): number {
    return this.#freeFrames === 0 ? NONE : this.#frames[--this.#freeFrames]!;
  }

  /** A slot for a control message; -1 if none is free. */
  takeControl(): number {
    return this.#freeControls === 0 ? NONE : this.#controls[--this.#freeControls]!;
  }

  /** Chains a slot to the one before it in a packet. */
  chain(previous: number, slot: number): void {
    this.#next[previous] = slot;
  }

  /** The guest gets the packet that begins with `first`. @param channel - index of the one that it is sent on. */
  lend(first: number, channel: number): void {
    this.#owners[first] = channel;
  }

  /**
   * The guest has completed a packet, or it was never sent: its slots are free.
   *
   * @returns False if the channel has no packet that begins with this slot.
   */
  giveBack(first: number, channel: number): boolean {
    if (first < 0 || first >= this.count || this.#owners[first] !== channel) return false;
    this.#owners[first] = NONE;
    this.drop(first);
    return true;
  }

  /** Frees the slots of a packet that was not lent. */
  drop(first: number): void {
    for (let slot = first; slot !== NONE;) {
      const next = this.#next[slot]!;
      this.#next[slot] = NONE;
      this.#free(slot);
      slot = next;
    }
  }

  /** A channel is closed: what it has comes back. */
  takeBack(channel: number): void {
    for (let slot = 0; slot < this.count; slot++) this.giveBack(slot, channel);
  }

  #free(slot: number): void {
    if (slot < RESERVED_CONTROL_SLOTS) this.#controls[this.#freeControls++] = slot;
    else this.#frames[this.#freeFrames++] = slot;
  }
}
