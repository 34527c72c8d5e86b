import type { GuestMemory } from "@hyperv-is/vmbus-core";
import { InterleavedEventFlags, InterleavedRingControl } from "./interleaving.js";
import type { Simulation } from "./simulation.js";

/**
 * The ways to lose a wake-up that the protocol warns of, each as a fault that can be put into one end.
 * A simulation that does not catch every one of them proves nothing when it passes.
 */
export type RingMutant =
  | "no-recheck-after-unmask"
  | "mask-read-before-publish"
  | "event-flag-cleared-late"
  | "pending-size-not-rechecked";

/** Every mutant: a campaign plants each in turn. */
export const ringMutants: readonly RingMutant[] = [
  "no-recheck-after-unmask",
  "mask-read-before-publish",
  "event-flag-cleared-late",
  "pending-size-not-rechecked",
];

/** Control words as an end with the fault would use them. */
export class MutantRingControl extends InterleavedRingControl {
  readonly #mutant: RingMutant | undefined;
  #stale: (() => number) | undefined;
  #early = 0;
  #readIndex = 0;

  constructor(
    mutant: RingMutant | undefined,
    simulation: Simulation,
    memory: GuestMemory,
    address: number,
  ) {
    super(simulation, memory, address);
    this.#mutant = mutant;
  }

  override storeWriteIndex(value: number): void {
    if (this.#mutant === "mask-read-before-publish") {
      const mask = super.loadInterruptMask();
      super.storeWriteIndex(value);
      this.#early = mask;
      return;
    }
    super.storeWriteIndex(value);
  }

  override loadInterruptMask(): number {
    return this.#mutant === "mask-read-before-publish" ? this.#early : super.loadInterruptMask();
  }

  override storeInterruptMask(value: number): void {
    if (this.#mutant === "no-recheck-after-unmask" && value === 0) {
      // What the look after unmasking would have seen before it.
      const seen = super.loadWriteIndex();
      super.storeInterruptMask(value);
      this.#stale = () => seen;
      return;
    }
    super.storeInterruptMask(value);
  }

  override loadWriteIndex(): number {
    const stale = this.#stale;
    this.#stale = undefined;
    return stale === undefined ? super.loadWriteIndex() : stale();
  }

  override storePendingSendSize(value: number): void {
    super.storePendingSendSize(value);
    if (this.#mutant === "pending-size-not-rechecked" && value !== 0) {
      const seen = this.#readIndex;
      this.#stale = () => seen;
    }
  }

  override loadReadIndex(): number {
    const stale = this.#stale;
    this.#stale = undefined;
    if (stale !== undefined && this.#mutant === "pending-size-not-rechecked") return stale();
    this.#readIndex = super.loadReadIndex();
    return this.#readIndex;
  }
}

/** Event flags as a CPU with the fault would use them: looked at first, cleared when the work is done. */
export class LateClearedEventFlags extends InterleavedEventFlags {
  readonly #late: number[] = [];

  override take(word: number): number {
    let bits = 0;
    for (let bit = 0; bit < 32; bit++) {
      if (!super.clear(word * 32 + bit)) continue;
      super.set(word * 32 + bit);
      this.#late.push(word * 32 + bit);
      bits |= 1 << bit;
    }
    return bits;
  }

  /** Clears what `take` only looked at. */
  clearLate(): void {
    for (const flag of this.#late.splice(0)) super.clear(flag);
  }
}
