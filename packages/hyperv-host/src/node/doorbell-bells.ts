import { Doorbell, DoorbellCause } from "@hyperv-is/platform-node";
import type { Bells } from "../hypervisor/bells.js";
import type { HypervisorState } from "../hypervisor/hypervisor-state.js";

/** Why a thread of the host is woken, beside the causes of the platform. */
export const HostCause = {
  /** A host worker has event flags to take. */
  eventFlags: 1 << 8,
  /** The control thread has posted messages, or free message slots, to look at. */
  control: 1 << 9,
} as const;

/** The bells of a partition whose processors and host workers are threads: doorbells in the hypervisor's own memory. */
export class DoorbellBells implements Bells {
  readonly #vps: readonly Doorbell[];
  readonly #workers: readonly Doorbell[];
  readonly #control: Doorbell;

  /** @param state - over shared memory; every thread makes its own bells from it. */
  constructor(state: HypervisorState) {
    const { words } = state;
    this.#vps = Array.from(
      { length: state.vpCount },
      (_, vp) => new Doorbell(words, state.vpDoorbell(vp)),
    );
    this.#workers = Array.from(
      { length: state.workerCount },
      (_, worker) => new Doorbell(words, state.workerDoorbell(worker)),
    );
    this.#control = new Doorbell(words, state.controlDoorbell);
  }

  interrupt(vp: number): void {
    this.#vps[vp]?.ring(DoorbellCause.interrupt);
  }

  control(): void {
    this.#control.ring(HostCause.control);
  }

  worker(index: number): void {
    this.#workers[index]?.ring(HostCause.eventFlags);
  }
}
