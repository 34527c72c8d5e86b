import type { HostSignal } from "../channel-description.js";
import {
  ConnectionId,
  InterruptPage,
  MONITOR_COUNT,
  monitorPendingOffset,
  versionHas,
  type OfferChannel,
  type ProtocolVersion,
} from "../protocol/index.js";

/** GPAs of the pages that signals go through; 0 if the connection has none. */
export interface SignalPages {
  readonly interruptPage: number;
  /** Child to parent. */
  readonly monitorPage: number;
}

/**
 * The road of a channel's signals to the host.
 *
 * A monitor is used where one was given, unless the channel cannot wait for the hypervisor's next look.
 * The interrupt page says which channel is meant wherever the signal itself does not: without a
 * connection of the channel's own, without a dedicated interrupt, and with a monitor, as Linux does it.
 *
 * @param lowLatency - Signal by hypercall even with a monitor.
 */
export function hostSignal(
  offer: OfferChannel,
  version: ProtocolVersion,
  pages: SignalPages,
  lowLatency: boolean,
): HostSignal {
  const own = versionHas(version, "channelConnectionIds");
  const monitored =
    !lowLatency &&
    offer.monitorAllocated &&
    offer.monitorId < MONITOR_COUNT &&
    pages.monitorPage !== 0;
  const marked = pages.interruptPage !== 0 && (!own || !offer.dedicatedInterrupt || monitored);
  return {
    connectionId: own ? offer.connectionId : ConnectionId.event,
    ...(marked && { interruptPageAddress: pages.interruptPage + InterruptPage.send }),
    ...(monitored && {
      monitor: {
        pendingAddress: pages.monitorPage + monitorPendingOffset(offer.monitorId),
        bit: offer.monitorId % 32,
      },
    }),
  };
}
