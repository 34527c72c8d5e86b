import type { Frame } from "./frame.js";

/** What a receiver of frames does itself; what it does not, the switch does before it delivers. */
export interface PortOffloads {
  /** Transport checksums may be partial. */
  readonly partialChecksum: boolean;
  /** Super-frames of TCP over IPv4, and over IPv6, may come whole. */
  readonly segmentation4: boolean;
  readonly segmentation6: boolean;
  /** A VLAN tag may be beside the bytes of its frame. */
  readonly vlanTag: boolean;
}

/** For a receiver that takes frames as they are on a wire. */
export const noOffloads: PortOffloads = {
  partialChecksum: false,
  segmentation4: false,
  segmentation6: false,
  vlanTag: false,
};

/** What is connected to a port: the network adapter of a guest, a socket, a TAP. */
export interface PortEnd {
  /** May change at any time. */
  readonly offloads: PortOffloads;
  /**
   * Takes a frame, which is valid during the call only, and may be changed by it only as an offload needs. It must not
   * send meanwhile. Of a frame that is lasting the bytes behind the head are valid until the next `flush`.
   *
   * @returns False if the frame is lost: there is no room, or the end does not want it.
   */
  deliver(frame: Frame): boolean;
  /** A batch of frames has been delivered. */
  flush(): void;
  /** The link went up or down. */
  linkChanged(isUp: boolean): void;
}

/**
 * Which VLANs a port is in. `access`: one, and its frames are untagged at the port; 0 is the network without VLANs.
 * `trunk`: several, tagged at the port, but for those of the native one.
 */
export type VlanMode =
  | { readonly mode: "access"; readonly id: number }
  | {
      readonly mode: "trunk";
      readonly nativeId: number;
      /** Besides the native one; all if not given. */
      readonly allowedIds?: readonly number[];
    };

/** A port as its owner asks for it. */
export interface PortOptions {
  readonly name: string;
  /**
   * `guest`: frames must come from the assigned address, and those to it go there. `external`: leads to other networks,
   * so that any address may be there, and unknown ones are looked for there.
   */
  readonly kind: "guest" | "external";
  /** Six bytes; a guest's port has one. */
  readonly mac?: Uint8Array;
  /** A guest may send from other addresses, too, and gets frames to unknown ones; no unless told. */
  readonly allowMacSpoofing?: boolean;
  /** A guest's port is in VLAN 0 and an external one a trunk of all unless told. */
  readonly vlan?: VlanMode;
  /** Most that the end may send; no limit unless told. */
  readonly bandwidth?: BandwidthOptions;
}

/** A limit of what may be sent in a time. */
export interface BandwidthOptions {
  readonly bitsPerSecond: number;
  /** What may be sent at once after a pause; 64 KiB unless told. */
  readonly burstBytes?: number;
  /** What may wait for its turn, the rest is dropped; 512 KiB unless told. */
  readonly queueBytes?: number;
}

/** Running totals of a port. What its end sends is `sent`; what goes there is `delivered`. */
export interface PortCounters {
  framesSent: number;
  bytesSent: number;
  framesDelivered: number;
  bytesDelivered: number;
  /** Super-frames that had to be cut for the end, and the frames that they became. */
  superFramesCut: number;
  segmentsCut: number;
  /** Transport checksums that had to be completed for the end, those of segments apart. */
  checksumsFilled: number;
  /** Sent from an address that is not the port's. */
  droppedSpoofed: number;
  /** Sent in, or tagged for, a VLAN that the port is not in. */
  droppedVlan: number;
  /** Shorter than an Ethernet header. */
  droppedShort: number;
  /** Sent or to be delivered while the link was down. */
  droppedLinkDown: number;
  /** Sent above the bandwidth, with the queue full. */
  droppedBandwidth: number;
  /** The end did not take it: it has no room, or does not want it. */
  droppedByEnd: number;
  /** Frames that the fault plan touched. */
  faults: number;
}

/** Counters of a port that has done nothing. */
export function newPortCounters(): PortCounters {
  return {
    framesSent: 0,
    bytesSent: 0,
    framesDelivered: 0,
    bytesDelivered: 0,
    superFramesCut: 0,
    segmentsCut: 0,
    checksumsFilled: 0,
    droppedSpoofed: 0,
    droppedVlan: 0,
    droppedShort: 0,
    droppedLinkDown: 0,
    droppedBandwidth: 0,
    droppedByEnd: 0,
    faults: 0,
  };
}
