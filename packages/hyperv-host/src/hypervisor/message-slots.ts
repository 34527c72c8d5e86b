import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  MESSAGE_PAYLOAD_MAX,
  MESSAGE_PENDING,
  MessageSlot,
  SynicMessageType,
} from "@hyperv-is/vmbus-core/protocol";
import type { HypervisorState } from "./hypervisor-state.js";
import type { SyntheticInterrupts } from "./synic.js";

const { messageType, payloadSize, flags, sender, payload } = MessageSlot.fields;

/** Payload size and flags share a word, whose other half is reserved. */
const PENDING_BIT = MESSAGE_PENDING << ((flags.offset & 3) * 8);

/**
 * The host's accesses to one message slot, and the only place of them. The simulation derives from this
 * class to run the guest between any two.
 */
export class HostMessageSlot {
  readonly #memory: GuestMemory;
  readonly #address: number;

  /** @param address - GPA of the slot. */
  constructor(memory: GuestMemory, address: number) {
    this.#memory = memory;
    this.#address = address;
  }

  /** True if the guest has emptied the slot. */
  isEmpty(): boolean {
    const type = this.#word(messageType.offset);
    return Atomics.load(this.#memory.words, type) === SynicMessageType.none;
  }

  /** Asks the guest to write EOM once it has emptied the slot. */
  requestEndOfMessage(): void {
    Atomics.or(this.#memory.words, this.#word(payloadSize.offset), PENDING_BIT);
  }

  /** Writes a message into the slot, which is empty; its type comes last and hands it over. */
  write(type: SynicMessageType, bytes: Uint8Array): void {
    const { words, bytes: all } = this.#memory;
    const start = this.#address + payload.offset;
    all.fill(0, start + bytes.byteLength, start + MESSAGE_PAYLOAD_MAX);
    all.set(bytes, start);
    words[this.#word(sender.offset)] = 0;
    words[this.#word(sender.offset) + 1] = 0;
    Atomics.store(words, this.#word(payloadSize.offset), bytes.byteLength);
    Atomics.store(words, this.#word(messageType.offset), type);
  }

  #word(offset: number): number {
    return (this.#address + offset) >>> 2;
  }
}

/** Makes the accesses to the slot at `address`. */
export type HostMessageSlotFactory = (memory: GuestMemory, address: number) => HostMessageSlot;

interface Target {
  readonly vp: number;
  readonly sint: number;
  readonly waiting: Uint8Array[];
}

/** What the sender of messages needs of its machine. */
export interface MessageSlotsOptions {
  readonly state: HypervisorState;
  readonly memory: GuestMemory;
  readonly interrupts: SyntheticInterrupts;
  /** Is told of each message to a SINT that takes none: it is lost, as on Hyper-V. */
  readonly dropped: (vp: number, sint: number) => void;
  /** Is told of each message when it is in its slot, or lost. */
  readonly delivered?: (vp: number, sint: number, bytes: Uint8Array, isLost: boolean) => void;
  readonly makeSlot?: HostMessageSlotFactory;
}

/**
 * Messages from the host to virtual processors, strictly in order per processor and SINT.
 *
 * A message is written only into a slot of type 0. While the slot is occupied the message waits, and the
 * flag "message pending" in the slot asks the guest to write EOM once it has emptied it. Only the control
 * thread writes slots.
 */
export class MessageSlots {
  readonly #state: HypervisorState;
  readonly #memory: GuestMemory;
  readonly #interrupts: SyntheticInterrupts;
  readonly #dropped: (vp: number, sint: number) => void;
  readonly #delivered: MessageSlotsOptions["delivered"];
  readonly #makeSlot: HostMessageSlotFactory;
  readonly #targets = new Map<number, Target>();
  #backlog = 0;

  constructor({ state, memory, interrupts, dropped, delivered, makeSlot }: MessageSlotsOptions) {
    this.#state = state;
    this.#memory = memory;
    this.#interrupts = interrupts;
    this.#dropped = dropped;
    this.#delivered = delivered;
    this.#makeSlot = makeSlot ?? ((...slot) => new HostMessageSlot(...slot));
  }

  /** Messages that wait for a slot. */
  get backlog(): number {
    return this.#backlog;
  }

  /** Sends a channel message, now or when the slot is free. @param bytes - at most 240; not changed afterwards. */
  post(vp: number, sint: number, bytes: Uint8Array): void {
    if (bytes.byteLength > MESSAGE_PAYLOAD_MAX) throw new RangeError("message longer than a slot");
    const key = vp * 256 + sint;
    let target = this.#targets.get(key);
    if (target === undefined) {
      target = { vp, sint, waiting: [] };
      this.#targets.set(key, target);
    }
    target.waiting.push(bytes);
    this.#backlog++;
    this.#deliver(target);
  }

  /** Looks again at the slots of processors that wrote EOM. */
  run(): void {
    const { endOfMessage } = this.#state;
    for (let word = 0; word < endOfMessage.wordCount; word++) {
      const bits = endOfMessage.take(word);
      if (bits === 0) continue;
      for (const target of this.#targets.values())
        if (target.vp >>> 5 === word && ((bits >>> (target.vp & 31)) & 1) !== 0)
          this.#deliver(target);
    }
  }

  /** Forgets what waits. */
  clear(): void {
    this.#targets.clear();
    this.#backlog = 0;
  }

  #deliver(target: Target): void {
    const { vp, sint, waiting } = target;
    for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
      const address = this.#interrupts.messageSlot(vp, sint);
      if (address !== undefined) {
        const slot = this.#makeSlot(this.#memory, address);
        if (!this.#isFree(slot)) return;
        slot.write(SynicMessageType.channel, next);
      }
      waiting.shift();
      this.#backlog--;
      this.#delivered?.(vp, sint, next, address === undefined);
      if (address === undefined) this.#dropped(vp, sint);
      else this.#interrupts.raise(vp, sint);
    }
  }

  /** False if the slot is occupied; the guest was then asked to say when it is not. */
  #isFree(slot: HostMessageSlot): boolean {
    if (slot.isEmpty()) return true;
    slot.requestEndOfMessage();
    // The guest empties the slot, then reads the flag. If it has read the flag before it was set, it will
    // not write EOM; but then it has emptied the slot by now: look again.
    return slot.isEmpty();
  }
}
