import type { GuestCpu } from "../guest-cpu.js";
import type { HypervisorPort } from "../hypervisor-port.js";
import { Feature, type Guid, type ProtocolVersion } from "../protocol/index.js";
import type { BindingEra } from "./channel-binding.js";
import type { PostRetryPolicy } from "./post-queue.js";

/** How long the host may take, in milliseconds. */
export interface VmbusTimeouts {
  /** For VERSION_RESPONSE, per version. */
  readonly versionMs: number;
  /** From REQUESTOFFERS to ALLOFFERS_DELIVERED. */
  readonly offersMs: number;
  /** For each answer about channels and shared memory. */
  readonly answerMs: number;
  /** For UNLOAD_RESPONSE: hosts were seen to flush their disk caches first, for up to 50 s. */
  readonly unloadMs: number;
}

/** Unless told otherwise. */
export const DEFAULT_TIMEOUTS: VmbusTimeouts = {
  versionMs: 30_000,
  offersMs: 30_000,
  answerMs: 30_000,
  unloadMs: 100_000,
};

/** Features of 6.0 that this guest can live with. */
export const KNOWN_FEATURES =
  Feature.guestSignalParameters |
  Feature.interruptRedirection |
  Feature.clientId |
  Feature.hostMonitorPages;

/** Where the bus runs, and what it asks the host for. */
export interface VmbusOptions {
  /** The boot processor, started. Gets the host's messages; its memory, arena and timers are the bus's. */
  readonly cpu: GuestCpu;
  /** The instructions of the boot processor. */
  readonly hypervisor: HypervisorPort;
  /** Versions to try; all that exist unless told. */
  readonly versions?: readonly ProtocolVersion[];
  /** Highest version to try. */
  readonly ceiling?: ProtocolVersion;
  /** `Feature` bits to ask for in 6.0; guest signal parameters unless told. */
  readonly features?: number;
  /** Asks for the feature client id, and is it. */
  readonly clientId?: Guid;
  /** False: no monitor pages, so that all signals are hypercalls. */
  readonly monitorPages?: boolean;
  /** The hypervisor's number of each CPU; the boot processor alone unless told. */
  readonly vpIndexes?: readonly number[];
  /** How channels are spread over CPUs; as FreeBSD 11 and later do it unless told. */
  readonly bindingEra?: BindingEra;
  /** What to do when the hypervisor does not take a message; see `linuxPostRetries`, the default, and `freebsdPostRetries`. */
  readonly postRetries?: PostRetryPolicy;
  readonly timeouts?: Partial<VmbusTimeouts>;
  /** What the guest calls itself in its MSR; `FREEBSD_OS_ID` unless told. */
  readonly guestOsId?: bigint;
}
