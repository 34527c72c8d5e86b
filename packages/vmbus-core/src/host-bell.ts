import type { Signal } from "./channel.js";
import type { ChannelDescription } from "./channel-description.js";
import { EventFlags } from "./event-flags.js";
import type { GuestMemory } from "./guest-memory.js";
import type { HypervisorPort } from "./hypervisor-port.js";
import { HYPERCALL_FAST, HypercallCode, InterruptPage } from "./protocol/index.js";

/** Signals the host for one channel, on the road that its description names. Nothing here allocates. */
export class HostBell implements Signal {
  readonly #hypervisor: HypervisorPort;
  readonly #words: Int32Array;
  readonly #relid: number;
  readonly #connectionId: number;
  readonly #sendHalf: EventFlags | undefined;
  /** Index of the word with the monitor's pending bit; -1 without a monitor. */
  readonly #monitorWord: number;
  readonly #monitorBit: number;
  #silent = false;

  constructor(
    memory: GuestMemory,
    hypervisor: HypervisorPort,
    { relid, signal }: Pick<ChannelDescription, "relid" | "signal">,
  ) {
    this.#hypervisor = hypervisor;
    this.#words = memory.words;
    this.#relid = relid;
    this.#connectionId = signal.connectionId;
    if (signal.interruptPageAddress !== undefined)
      this.#sendHalf = EventFlags.at(memory, signal.interruptPageAddress, InterruptPage.halfBytes);
    this.#monitorWord = signal.monitor === undefined ? -1 : signal.monitor.pendingAddress >>> 2;
    this.#monitorBit = signal.monitor === undefined ? 0 : 1 << signal.monitor.bit;
  }

  /** After a rescind the host has no use for signals, and counts them as mistakes. */
  silence(): void {
    this.#silent = true;
  }

  signal(): void {
    if (this.#silent) return;
    this.#sendHalf?.set(this.#relid);
    if (this.#monitorWord >= 0) Atomics.or(this.#words, this.#monitorWord, this.#monitorBit);
    else
      this.#hypervisor.hypercall(
        HypercallCode.signalEvent | HYPERCALL_FAST,
        this.#connectionId,
        0, // flag number: always 0 from a guest
      );
  }
}
