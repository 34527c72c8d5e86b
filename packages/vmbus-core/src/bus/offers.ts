import {
  maximumRelid,
  versionHas,
  type OfferChannel,
  type ProtocolVersion,
} from "../protocol/index.js";

/** What is to be done about an offer. */
export type OfferOutcome =
  /** A new device. */
  | { readonly kind: "device" }
  /** A further channel of the device whose primary channel has this relid. */
  | { readonly kind: "sub-channel"; readonly primary: number }
  /** `release`: tell the host that its relid is free, or it would be lost. */
  | { readonly kind: "refused"; readonly reason: OfferRefusal; readonly release: boolean };

/** Why an offer is not taken. */
export type OfferRefusal =
  "relid-range" | "relid-in-use" | "duplicate-device" | "no-sub-channels" | "late-sub-channel";

interface Entry {
  readonly classId: string;
  readonly instanceId: string;
  readonly subChannelIndex: number;
  rescinded: boolean;
}

/**
 * The offers of a connection that the guest has not released: which relid stands for what.
 *
 * From its rescind to its release a relid is kept, because the host keeps it, but no offer is matched
 * with it any more.
 */
export class OfferTable {
  readonly #version: ProtocolVersion;
  readonly #entries = new Map<number, Entry>();

  constructor(version: ProtocolVersion) {
    this.#version = version;
  }

  /** Relids that are offered or not released yet. */
  get size(): number {
    return this.#entries.size;
  }

  /**
   * Takes note of OFFERCHANNEL.
   *
   * @param isOpen - Whether a primary channel is open, or opening: the device of a closed one cannot have
   *   been asked for sub-channels, so what arrives for it is late.
   */
  offer(offer: OfferChannel, isOpen: (relid: number) => boolean): OfferOutcome {
    const { relid, classId, instanceId, subChannelIndex } = offer;
    if (relid === 0 || relid > maximumRelid(this.#version)) return refused("relid-range");
    if (this.#entries.has(relid)) return refused("relid-in-use");
    const primary = this.#primary(classId, instanceId);
    if (subChannelIndex === 0 && primary !== undefined) return refused("duplicate-device");
    if (subChannelIndex !== 0) {
      if (!versionHas(this.#version, "subChannels")) return refused("no-sub-channels");
      if (primary === undefined || !isOpen(primary)) return refused("late-sub-channel", true);
    }
    this.#entries.set(relid, { classId, instanceId, subChannelIndex, rescinded: false });
    return primary === undefined ? { kind: "device" } : { kind: "sub-channel", primary };
  }

  /** Takes note of RESCIND_CHANNELOFFER; false if it is for nothing or comes again. */
  rescind(relid: number): boolean {
    const entry = this.#entries.get(relid);
    if (entry === undefined || entry.rescinded) return false;
    entry.rescinded = true;
    return true;
  }

  /** The guest sends RELID_RELEASED: from now on the relid can mean anything. */
  release(relid: number): void {
    this.#entries.delete(relid);
  }

  #primary(classId: string, instanceId: string): number | undefined {
    for (const [relid, entry] of this.#entries)
      if (
        entry.subChannelIndex === 0 &&
        !entry.rescinded &&
        entry.classId === classId &&
        entry.instanceId === instanceId
      )
        return relid;
    return undefined;
  }
}

function refused(reason: OfferRefusal, release = false): OfferOutcome {
  return { kind: "refused", reason, release };
}
