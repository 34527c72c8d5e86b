import { EventFlags, type GuestMemory } from "@hyperv-is/vmbus-core";
import {
  InterruptPage,
  MONITOR_COUNT,
  VMBUS_SINT,
  eventConnectionId,
  monitorPendingOffset,
} from "@hyperv-is/vmbus-core/protocol";
import type { Bells } from "./bells.js";
import type { HypervisorState } from "./hypervisor-state.js";
import { NO_PORT } from "./signal-ports.js";

/**
 * Signals from the guest to host workers: by hypercall, by the interrupt page, by the monitor page.
 * One object per thread that signals or polls; nothing here allocates once a page is known.
 */
export class HostSignals {
  readonly #state: HypervisorState;
  readonly #memory: GuestMemory;
  readonly #bells: Bells;
  readonly #workers: readonly EventFlags[];
  #sendHalf: { readonly address: number; readonly flags: EventFlags } | undefined;

  constructor(state: HypervisorState, memory: GuestMemory, bells: Bells) {
    this.#state = state;
    this.#memory = memory;
    this.#bells = bells;
    this.#workers = Array.from({ length: state.workerCount }, (_, worker) =>
      state.workerFlags(worker),
    );
  }

  /** Signals the port of a connection. @returns False if the connection has none. */
  signal(connectionId: number): boolean {
    const port = this.#state.ports.lookup(connectionId);
    if (port === NO_PORT) return false;
    this.#ring(port);
    return true;
  }

  /**
   * Protocol 0.13: all channels share one connection, and bits in the send half of the interrupt page say
   * which are meant.
   *
   * @returns False if the guest has no interrupt page.
   */
  scanSendHalf(): boolean {
    const address = this.#state.sendHalf;
    if (address === undefined) return false;
    if (this.#sendHalf?.address !== address)
      this.#sendHalf = {
        address,
        flags: EventFlags.at(this.#memory, address, InterruptPage.scannedFlags / 8),
      };
    const { flags } = this.#sendHalf;
    for (let word = 0; word < flags.wordCount; word++) {
      let bits = flags.take(word);
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        this.signal(eventConnectionId(word * 32 + bit, VMBUS_SINT, 0));
      }
    }
    return true;
  }

  /**
   * Looks for monitored notifications: bits that the guest set in its child-to-parent page instead of
   * making a hypercall. A real hypervisor notices them within the latency that the channel has; where
   * writes cannot be trapped, the platform calls this as often as it wants to be prompt.
   *
   * @returns True if there were any.
   */
  pollMonitors(): boolean {
    const page = this.#state.monitorPage;
    if (page === undefined) return false;
    let found = false;
    for (let first = 0; first < MONITOR_COUNT; first += 32) {
      const at = (page + monitorPendingOffset(first)) >>> 2;
      if (Atomics.load(this.#memory.words, at) === 0) continue;
      let bits = Atomics.exchange(this.#memory.words, at, 0);
      while (bits !== 0) {
        const bit = 31 - Math.clz32(bits & -bits);
        bits &= bits - 1;
        const port = this.#state.ports.monitor(first + bit);
        if (port === NO_PORT) continue;
        found = true;
        this.#ring(port);
      }
    }
    return found;
  }

  #ring(port: number): void {
    const worker = port >>> 16;
    if (this.#workers[worker]!.set(port & 0xffff)) this.#bells.worker(worker);
  }
}
