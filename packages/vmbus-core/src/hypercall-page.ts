import { VmbusError } from "./errors.js";
import type { HypervisorPort } from "./hypervisor-port.js";
import type { PageAllocator } from "./page-allocator.js";
import {
  CpuidLeaf,
  GuestOsId,
  HYPERVISOR_INTERFACE,
  HypervisorPrivilege,
  MSR_ENABLE,
  MSR_PAGE_MASK,
  Msr,
} from "./protocol/index.js";

/** An open-source system of FreeBSD's kind, of no particular release. */
export const FREEBSD_OS_ID = GuestOsId.openSource | (GuestOsId.freebsd << GuestOsId.typeShift);

/**
 * The page through which a partition makes hypercalls, once per machine and before any of them.
 * While it is enabled it belongs to the hypervisor.
 */
export class HypercallPage {
  readonly #hypervisor: HypervisorPort;
  readonly #allocator: PageAllocator;
  readonly #address: number;

  /**
   * Says who the guest is, and enables hypercalls. Throws `ERR_NO_HYPERVISOR` if there is no Hyper-V or
   * none that lets this partition post messages and signal events, `ERR_NO_MEMORY` without a free page.
   */
  constructor(hypervisor: HypervisorPort, allocator: PageAllocator, guestOsId = FREEBSD_OS_ID) {
    const needed = HypervisorPrivilege.postMessages | HypervisorPrivilege.signalEvents;
    if (
      hypervisor.cpuid(CpuidLeaf.interface).eax >>> 0 !== HYPERVISOR_INTERFACE ||
      (hypervisor.cpuid(CpuidLeaf.features).ebx & needed) !== needed
    )
      throw new VmbusError("ERR_NO_HYPERVISOR", "no Hyper-V that lets this partition use VMBus");
    const address = allocator.allocate(1);
    if (address === undefined) throw new VmbusError("ERR_NO_MEMORY", "no page for hypercalls");
    this.#hypervisor = hypervisor;
    this.#allocator = allocator;
    this.#address = address;
    hypervisor.writeMsr(Msr.guestOsId, guestOsId);
    this.#write(BigInt(address) | MSR_ENABLE);
  }

  /** Disables hypercalls and takes the page back. */
  disable(): void {
    this.#write(0n);
    this.#hypervisor.writeMsr(Msr.guestOsId, 0n);
    this.#allocator.free(this.#address);
  }

  #write(value: bigint): void {
    const kept = this.#hypervisor.readMsr(Msr.hypercall) & ~(MSR_ENABLE | MSR_PAGE_MASK);
    this.#hypervisor.writeMsr(Msr.hypercall, kept | value);
  }
}
