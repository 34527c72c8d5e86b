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
const HEADER_WORD = payloadSize.offset >>> 2;
const PENDING_BIT = MESSAGE_PENDING << ((flags.offset & 3) * 8);

interface Target {
  readonly vp: number;
  readonly sint: number;
  readonly waiting: Waiting[];
}

interface Waiting {
  readonly type: number;
  readonly payload: Uint8Array;
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
  readonly #targets = new Map<number, Target>();
  #backlog = 0;

  /** @param dropped - is told of each message to a SINT that takes none: it is lost, as on Hyper-V. */
  constructor(
    state: HypervisorState,
    memory: GuestMemory,
    interrupts: SyntheticInterrupts,
    dropped: (vp: number, sint: number) => void,
  ) {
    this.#state = state;
    this.#memory = memory;
    this.#interrupts = interrupts;
    this.#dropped = dropped;
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
    target.waiting.push({ type: SynicMessageType.channel, payload: bytes });
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
      const slot = this.#interrupts.messageSlot(vp, sint);
      if (slot !== undefined && !this.#write(slot, next)) return;
      waiting.shift();
      this.#backlog--;
      if (slot === undefined) this.#dropped(vp, sint);
      else this.#interrupts.raise(vp, sint);
    }
  }

  /** Writes a message into a slot; false if the slot is occupied, and the guest was asked to say when it is not. */
  #write(slot: number, message: Waiting): boolean {
    const { words, bytes } = this.#memory;
    const type = (slot + messageType.offset) >>> 2;
    if (Atomics.load(words, type) !== SynicMessageType.none) {
      Atomics.or(words, (slot >>> 2) + HEADER_WORD, PENDING_BIT);
      // The guest empties the slot, then reads the flag. If it emptied it before the flag was set it may
      // have read the flag too early, and will not write EOM: look again.
      if (Atomics.load(words, type) !== SynicMessageType.none) return false;
    }
    bytes.fill(0, slot + payload.offset, slot + MessageSlot.SIZE);
    bytes.set(message.payload, slot + payload.offset);
    Atomics.store(words, (slot + sender.offset) >>> 2, 0);
    Atomics.store(words, ((slot + sender.offset) >>> 2) + 1, 0);
    Atomics.store(words, (slot >>> 2) + HEADER_WORD, message.payload.byteLength);
    Atomics.store(words, type, message.type);
    return true;
  }
}
