import {
  EventFlags,
  MessageSlotControl,
  RingControl,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import type { SynicMessageType } from "@hyperv-is/vmbus-core/protocol";
import type { Simulation } from "./simulation.js";

/** Control words between whose accesses the simulation may run the peer. */
export class InterleavedRingControl extends RingControl {
  readonly #simulation: Simulation;

  constructor(simulation: Simulation, memory: GuestMemory, address: number) {
    super(memory, address);
    this.#simulation = simulation;
  }

  override loadWriteIndex(): number {
    this.#simulation.yieldPoint();
    return super.loadWriteIndex();
  }

  override storeWriteIndex(value: number): void {
    this.#simulation.yieldPoint();
    super.storeWriteIndex(value);
  }

  override loadReadIndex(): number {
    this.#simulation.yieldPoint();
    return super.loadReadIndex();
  }

  override storeReadIndex(value: number): void {
    this.#simulation.yieldPoint();
    super.storeReadIndex(value);
  }

  override loadInterruptMask(): number {
    this.#simulation.yieldPoint();
    return super.loadInterruptMask();
  }

  override storeInterruptMask(value: number): void {
    this.#simulation.yieldPoint();
    super.storeInterruptMask(value);
  }

  override loadPendingSendSize(): number {
    this.#simulation.yieldPoint();
    return super.loadPendingSendSize();
  }

  override storePendingSendSize(value: number): void {
    this.#simulation.yieldPoint();
    super.storePendingSendSize(value);
  }
}

/** Event flags between whose accesses the simulation may run the peer. */
export class InterleavedEventFlags extends EventFlags {
  readonly #simulation: Simulation;

  constructor(simulation: Simulation, words: Int32Array, first: number, wordCount: number) {
    super(words, first, wordCount);
    this.#simulation = simulation;
  }

  override set(flag: number): boolean {
    this.#simulation.yieldPoint();
    return super.set(flag);
  }

  override clear(flag: number): boolean {
    this.#simulation.yieldPoint();
    return super.clear(flag);
  }

  override take(word: number): number {
    this.#simulation.yieldPoint();
    return super.take(word);
  }
}

/** The guest's side of a message slot between whose accesses the simulation may run the host. */
export class InterleavedMessageSlot extends MessageSlotControl {
  readonly #simulation: Simulation;

  constructor(simulation: Simulation, memory: GuestMemory, address: number) {
    super(memory, address);
    this.#simulation = simulation;
  }

  override loadType(): SynicMessageType {
    this.#simulation.yieldPoint();
    return super.loadType();
  }

  override copyOut(): Uint8Array {
    this.#simulation.yieldPoint();
    return super.copyOut();
  }

  override clear(type: SynicMessageType): boolean {
    this.#simulation.yieldPoint();
    return super.clear(type);
  }

  override loadFlags(): number {
    this.#simulation.yieldPoint();
    return super.loadFlags();
  }
}
