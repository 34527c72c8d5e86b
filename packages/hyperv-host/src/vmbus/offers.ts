import { OfferFlag, PipeType, PipeUserData, type Guid } from "@hyperv-is/vmbus-core/protocol";

/** A device that the host offers: plain data. */
export interface DeviceOffer {
  readonly classId: Guid;
  /** Unique among the host's devices. */
  readonly instanceId: Guid;
  /** `OfferFlag` bits; none unless given. */
  readonly flags?: number;
  /** At most 120 bytes; zeros unless given. */
  readonly userData?: Uint8Array;
  readonly mmioMegabytes?: number;
  /** Place among the devices of its class, before the instance id decides. */
  readonly order?: number;
  /** True to let the guest signal by the monitor page, if it has one. */
  readonly monitored?: boolean;
  /** Index of the host worker that has the device's data plane. */
  readonly worker: number;
}

/** User data of an offer in pipe mode with message framing, as integration components have it. */
export function messagePipeUserData(): Uint8Array {
  return PipeUserData.emit({ pipeType: PipeType.message, userData: new Uint8Array(0), flags: 0 });
}

/** Flags of an integration component's offer. */
export const INTEGRATION_COMPONENT_FLAGS =
  OfferFlag.enumerateDeviceInterface | OfferFlag.namedPipeMode;

/**
 * The order of a connection's first offers: class, then the device's own order, then instance. It does
 * not change from one connection to the next, and so neither do the relids.
 */
export function compareOffers(a: DeviceOffer, b: DeviceOffer): number {
  return (
    compareText(a.classId, b.classId) ||
    (a.order ?? Infinity) - (b.order ?? Infinity) ||
    compareText(a.instanceId, b.instanceId)
  );
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
