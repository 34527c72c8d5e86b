import { HypercallPage } from "../hypercall-page.js";
import type { HypervisorPort } from "../hypervisor-port.js";
import type { PageAllocator } from "../page-allocator.js";
import { PAGE_SIZE } from "../protocol/index.js";
import { BusError } from "./bus-error.js";

const PAGES = 3;

/** The pages that a connection takes: for hypercalls, and those that INITIATE_CONTACT names to the host. */
export class ConnectionPages {
  readonly #allocator: PageAllocator;
  readonly #hypercalls: HypercallPage;
  /** GPAs. */
  readonly interruptPage: number;
  readonly parentToChildMonitor: number;
  readonly childToParentMonitor: number;

  /** Enables hypercalls. Throws `ERR_NO_HYPERVISOR` or `ERR_NO_MEMORY`. */
  constructor(hypervisor: HypervisorPort, allocator: PageAllocator, guestOsId?: bigint) {
    this.#allocator = allocator;
    this.#hypercalls = new HypercallPage(hypervisor, allocator, guestOsId);
    const address = allocator.allocate(PAGES);
    if (address === undefined) {
      this.#hypercalls.disable();
      throw new BusError("ERR_NO_MEMORY", "connecting");
    }
    this.interruptPage = address;
    this.parentToChildMonitor = address + PAGE_SIZE;
    this.childToParentMonitor = address + 2 * PAGE_SIZE;
  }

  /**
   * Disables hypercalls.
   * @param confirmed - The host no longer uses the pages; otherwise they are leaked.
   * @returns The number of pages that were leaked.
   */
  drop(confirmed: boolean): number {
    this.#hypercalls.disable();
    if (confirmed) this.#allocator.free(this.interruptPage);
    else this.#allocator.leak(this.interruptPage);
    return confirmed ? 0 : PAGES;
  }
}
