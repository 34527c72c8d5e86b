import { ControlPage } from "../protocol/index.js";
import type { GuestMemory } from "../guest-memory.js";
import type { RingCore } from "./ring-core.js";

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

  /** The word at an index of the control page. */
  protected load(word: number): number {
    return Atomics.load(this.#words, this.#first + word);
  }

  protected store(word: number, value: number): void {
    Atomics.store(this.#words, this.#first + word, value);
  }

  loadWriteIndex(): number {
    return this.load(ControlPage.writeIndexWord) >>> 0;
  }

  storeWriteIndex(value: number): void {
    this.store(ControlPage.writeIndexWord, value);
  }

  loadReadIndex(): number {
    return this.load(ControlPage.readIndexWord) >>> 0;
  }

  storeReadIndex(value: number): void {
    this.store(ControlPage.readIndexWord, value);
  }

  loadInterruptMask(): number {
    return this.load(ControlPage.interruptMaskWord) >>> 0;
  }

  storeInterruptMask(value: number): void {
    this.store(ControlPage.interruptMaskWord, value);
  }

  loadPendingSendSize(): number {
    return this.load(ControlPage.pendingSendSizeWord) >>> 0;
  }

  storePendingSendSize(value: number): void {
    this.store(ControlPage.pendingSendSizeWord, value);
  }

  /** Publishes the writer's index, then looks at the mask: never the other way round. @returns The mask. */
  publishWriteIndex(value: number): number {
    this.storeWriteIndex(value);
    return this.loadInterruptMask();
  }

  /** Publishes the reader's index, then looks at what the writer waits for: never the other way round. @returns That. */
  publishReadIndex(value: number): number {
    this.storeReadIndex(value);
    return this.loadPendingSendSize();
  }

  storeFeatureBits(value: number): void {
    this.store(ControlPage.featureBitsWord, value);
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

/** The control words in guest memory that has a core, whose calls cost less than those of `Atomics`. */
class CoreRingControl extends RingControl {
  readonly #core: RingCore;
  readonly #address: number;

  constructor(memory: GuestMemory, address: number, core: RingCore) {
    super(memory, address);
    this.#core = core;
    this.#address = address | 0;
  }

  protected override load(word: number): number {
    return this.#core.load((this.#address + word * 4) | 0);
  }

  protected override store(word: number, value: number): void {
    this.#core.store((this.#address + word * 4) | 0, value | 0);
  }

  override publishWriteIndex(value: number): number {
    return this.#core.publishWriteIndex(this.#address, value);
  }

  override publishReadIndex(value: number): number {
    return this.#core.publishReadIndex(this.#address, value) >>> 0;
  }
}

/** The real one. */
export const ringControl: RingControlFactory = (memory, address) =>
  memory.ringCore === undefined
    ? new RingControl(memory, address)
    : new CoreRingControl(memory, address, memory.ringCore);
