import type { GuestMemory } from "./guest-memory.js";
import { MessageSlot, SynicMessageType } from "./protocol/index.js";

/** Index in the slot of the word with the payload size, the flags and two reserved bytes. */
const FLAGS_WORD = MessageSlot.fields.payloadSize.offset >>> 2;
/** Bits by which the flags are shifted in that word. */
const FLAGS_SHIFT = (MessageSlot.fields.flags.offset & 3) * 8;

/**
 * The guest's accesses to one slot of a message page, and the only place of them.
 *
 * Every access but the copy is sequentially consistent, so emptying the slot and then loading its flags
 * has the full barrier in between that the protocol asks for. The simulation derives from this class to
 * run the peer between any two accesses.
 */
export class MessageSlotControl {
  readonly #memory: GuestMemory;
  readonly #address: number;
  readonly #first: number;

  /** @param address - GPA of the slot. */
  constructor(memory: GuestMemory, address: number) {
    this.#memory = memory;
    this.#address = address;
    this.#first = address >>> 2;
  }

  /** The type of the message in the slot; `SynicMessageType.none` if it is empty. */
  loadType(): SynicMessageType {
    return Atomics.load(this.#memory.words, this.#first) >>> 0;
  }

  /** A private copy of the whole slot. */
  copyOut(): Uint8Array {
    return this.#memory.copyOut(this.#address, MessageSlot.SIZE);
  }

  /** Empties the slot if it still holds a message of this type; false if somebody else took it. */
  clear(type: SynicMessageType): boolean {
    const before = Atomics.compareExchange(
      this.#memory.words,
      this.#first,
      type | 0,
      SynicMessageType.none,
    );
    return before >>> 0 === type;
  }

  /** The flags, of which `MESSAGE_PENDING` says that the host holds more messages back. */
  loadFlags(): number {
    return (Atomics.load(this.#memory.words, this.#first + FLAGS_WORD) >>> FLAGS_SHIFT) & 0xff;
  }
}

/** Makes the accesses to the slot at `address`. */
export type MessageSlotFactory = (memory: GuestMemory, address: number) => MessageSlotControl;

/** The real one. */
export const messageSlotControl: MessageSlotFactory = (memory, address) =>
  new MessageSlotControl(memory, address);
