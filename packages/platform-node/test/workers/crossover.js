// The smallest hypervisor surface by which a guest CPU and a host worker signal each other: a signal of the
// guest is a flag in a shared word, a signal of the host is a flag in the guest's event-flags page.
import { EventFlags } from "@hyperv-is/vmbus-core";
import {
  CpuidLeaf,
  EventFlagsPage,
  HYPERCALL_CODE_MASK,
  HypercallCode,
  HypervisorFeature,
  Msr,
  VMBUS_SINT,
} from "@hyperv-is/vmbus-core/protocol";
import { Doorbell, DoorbellCause } from "@hyperv-is/platform-node";

/** @import { GuestMemory, HypervisorPort, Signal } from "@hyperv-is/vmbus-core" */

/** Rings the host worker for the channel whose flag is set. */
export const CAUSE_SIGNAL = 1 << 8;

/** Shared words: the bells of guest and host, the flags for the host, the GPA of the guest's flags page. */
const At = { guestBell: 0, hostBell: 16, hostFlags: 32, flagsPage: 48, WORDS: 64 };
export const CROSSOVER_WORDS = At.WORDS;

/** @param {Int32Array} words */
export const guestBell = (words) => new Doorbell(words, At.guestBell);
/** @param {Int32Array} words */
export const hostBell = (words) => new Doorbell(words, At.hostBell);
/** @param {Int32Array} words */
export const hostFlags = (words) => new EventFlags(words, At.hostFlags, 1);

/**
 * The hypervisor as the guest CPU meets it.
 * @implements {HypervisorPort}
 */
export class CrossoverPort {
  #words;
  #index;
  #bell;
  #flags;
  /** @type {Map<number, bigint>} */
  #msrs = new Map();

  /** @param {Int32Array} words @param {number} index */
  constructor(words, index) {
    this.#words = words;
    this.#index = index;
    this.#bell = hostBell(words);
    this.#flags = hostFlags(words);
  }

  /** @param {number} leaf */
  cpuid(leaf) {
    const { synic, hypercall, vpIndex } = HypervisorFeature;
    const eax = leaf === CpuidLeaf.features ? synic | hypercall | vpIndex : 0;
    return { eax, ebx: 0, ecx: 0, edx: 0 };
  }

  /** @param {number} msr */
  readMsr(msr) {
    return msr === Msr.vpIndex ? BigInt(this.#index) : (this.#msrs.get(msr) ?? 0n);
  }

  /** @param {number} msr @param {bigint} value */
  writeMsr(msr, value) {
    this.#msrs.set(msr, value);
    if (msr === Msr.siefp) Atomics.store(this.#words, At.flagsPage, Number(value & ~0xfffn));
  }

  /** @param {number} control @param {number} connection */
  hypercall(control, connection) {
    if ((control & HYPERCALL_CODE_MASK) !== HypercallCode.signalEvent) return 2;
    if (this.#flags.set(connection)) this.#bell.ring(CAUSE_SIGNAL);
    return 0;
  }
}

/**
 * The host's signal of one channel.
 * @implements {Signal}
 */
export class GuestSignal {
  #flags;
  #bell;
  #relid;

  /**
   * @param {Int32Array} words @param {GuestMemory} memory
   * @param {number} relid
   */
  constructor(words, memory, relid) {
    const area = Atomics.load(words, At.flagsPage) + VMBUS_SINT * EventFlagsPage.areaBytes;
    this.#flags = EventFlags.at(memory, area, EventFlagsPage.areaBytes);
    this.#bell = guestBell(words);
    this.#relid = relid;
  }

  signal() {
    if (this.#flags.set(this.#relid)) this.#bell.ring(DoorbellCause.interrupt);
  }
}
