import type { EventFlags, EventFlagsFactory, GuestMemory, Signal } from "@hyperv-is/vmbus-core";
import { INTERRUPT_PAGE_FLAG, InterruptPage } from "@hyperv-is/vmbus-core/protocol";
import type { SyntheticInterrupts } from "./hypervisor/synic.js";
import type { GuestInterrupt } from "./vmbus/worker-link.js";

/** Rings the guest's bell for one channel: from protocol 2.4 on by the channel's own event flag. */
export class GuestSignal implements Signal {
  readonly #interrupts: SyntheticInterrupts;
  readonly #sint: number;
  readonly #flag: number;
  #vp: number;

  constructor(interrupts: SyntheticInterrupts, { vp, sint, flag }: GuestInterrupt) {
    this.#interrupts = interrupts;
    this.#vp = vp;
    this.#sint = sint;
    this.#flag = flag;
  }

  /** Where the channel's interrupts go. */
  get vp(): number {
    return this.#vp;
  }

  /** From now on the channel's interrupts go to this virtual processor, and no other. */
  retarget(vp: number): void {
    this.#vp = vp;
  }

  signal(): void {
    this.#interrupts.signalEvent(this.#vp, this.#sint, this.#flag);
  }
}

/** The same below 2.4: a bit in the interrupt page says which channel, and one flag that there is any. */
export class InterruptPageSignal implements Signal {
  readonly #interrupts: SyntheticInterrupts;
  readonly #vp: number;
  readonly #sint: number;
  readonly #relid: number;
  readonly #receiveHalf: EventFlags;

  constructor(
    interrupts: SyntheticInterrupts,
    memory: GuestMemory,
    receiveHalf: number,
    { vp, sint, flag }: GuestInterrupt,
    makeEventFlags: EventFlagsFactory,
  ) {
    this.#interrupts = interrupts;
    this.#vp = vp;
    this.#sint = sint;
    this.#relid = flag;
    this.#receiveHalf = makeEventFlags(memory, receiveHalf, InterruptPage.halfBytes);
  }

  signal(): void {
    this.#receiveHalf.set(this.#relid);
    this.#interrupts.signalEvent(this.#vp, this.#sint, INTERRUPT_PAGE_FLAG);
  }
}

/** The signal of a channel whose guest polls. */
export const noSignal: Signal = {
  signal: () => undefined,
};
