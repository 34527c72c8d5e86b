import { ControlPage } from "../protocol/index.js";
import type { GuestMemory } from "../guest-memory.js";

/**
 * The control words of one ring, and the only place that touches them.
 *
 * Every access is sequentially consistent, so a store followed by a load of another word is a full
 * barrier: that is what the sleep and signal rules need (a release store would let both sides read
 * stale values and both decide to do nothing). The simulation derives from this class to run the peer
 * between any two accesses.
 */
export class RingControl {
  readonly #words: Int32Array;
  readonly #first: number;

  /** @param address - GPA of the ring's control page. */
  constructor(memory: GuestMemory, address: number) {
    this.#words = memory.words;
    this.#first = address >>> 2;
  }

  loadWriteIndex(): number {
    return Atomics.load(this.#words, this.#first + ControlPage.writeIndexWord) >>> 0;
  }

  storeWriteIndex(value: number): void {
    Atomics.store(this.#words, this.#first + ControlPage.writeIndexWord, value);
  }

  loadReadIndex(): number {
    return Atomics.load(this.#words, this.#first + ControlPage.readIndexWord) >>> 0;
  }

  storeReadIndex(value: number): void {
    Atomics.store(this.#words, this.#first + ControlPage.readIndexWord, value);
  }

  loadInterruptMask(): number {
    return Atomics.load(this.#words, this.#first + ControlPage.interruptMaskWord) >>> 0;
  }

  storeInterruptMask(value: number): void {
    Atomics.store(this.#words, this.#first + ControlPage.interruptMaskWord, value);
  }

  loadPendingSendSize(): number {
    return Atomics.load(this.#words, this.#first + ControlPage.pendingSendSizeWord) >>> 0;
  }

  storePendingSendSize(value: number): void {
    Atomics.store(this.#words, this.#first + ControlPage.pendingSendSizeWord, value);
  }

  storeFeatureBits(value: number): void {
    Atomics.store(this.#words, this.#first + ControlPage.featureBitsWord, value);
  }

  /** @param sizeBytes - of the ring's data area. */
  inspect(sizeBytes: number): RingState {
    const [readIndex, writeIndex] = [this.loadReadIndex(), this.loadWriteIndex()];
    const readAvailable = (writeIndex - readIndex + sizeBytes) % sizeBytes;
    return {
      readIndex,
      writeIndex,
      interruptMask: this.loadInterruptMask(),
      readAvailable,
      writeAvailable: sizeBytes - readAvailable,
    };
  }
}

/** What the control words of a ring say, for people: not for decisions, since each word is read by itself. */
export interface RingState {
  readonly readIndex: number;
  readonly writeIndex: number;
  readonly interruptMask: number;
  /** Bytes that the reader could read. */
  readonly readAvailable: number;
  /** Bytes of the data area that hold nothing; one packet of that size does not fit. */
  readonly writeAvailable: number;
}

/** Makes the control words of the ring whose control page is at `address`. */
export type RingControlFactory = (memory: GuestMemory, address: number) => RingControl;

/** The real one. */
export const ringControl: RingControlFactory = (memory, address) =>
  new RingControl(memory, address);
