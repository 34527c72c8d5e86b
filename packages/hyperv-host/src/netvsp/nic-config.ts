import type { Guid } from "@hyperv-is/vmbus-core/protocol";
import type { BandwidthOptions, PortCounters, VlanMode } from "../switch/switch-port.js";

/** How a network adapter behaves towards its guest: plain data. */
export interface NicOptions {
  /** u32 values of the NVSP versions to accept; all unless told. */
  readonly versions?: readonly number[];
  /** Sub-channels that the guest may ask for; none unless told. */
  readonly subChannelsMax?: number;
  /** Bits per second that the guest is told; 10 Gbit/s unless told. */
  readonly linkSpeed?: number;
  /** Offers to coalesce received segments, which takes NVSP 6.1; yes unless told. */
  readonly receiveCoalescing?: boolean;
  /**
   * Hands over frames from other guests with transport checksums that nobody has computed, and says that they are good, as
   * Hyper-V does between virtual machines. A guest that forwards such frames spoils them unless it knows. Yes unless told.
   */
  readonly partialChecksums?: boolean;
}

/** A network adapter of a guest, and its port: plain data, fit for a worker. */
export interface NicConfig extends NicOptions {
  readonly instanceId: Guid;
  /** Six bytes. */
  readonly mac: Uint8Array;
  /** Name of the switch that it is connected to. */
  readonly switch: string;
  readonly allowMacSpoofing?: boolean;
  readonly vlan?: VlanMode;
  readonly bandwidth?: BandwidthOptions;
}

/** Running totals of an adapter over all its channels. `transmit` is what the guest sends. */
export interface NicCounters {
  transmitFrames: number;
  transmitBytes: number;
  /** Packets of the ring that these frames came in. */
  transmitPackets: number;
  /** Super-frames that the guest sent whole. */
  transmitLargeSends: number;
  /** Sends that were answered with a failure. */
  transmitErrors: number;
  receiveFrames: number;
  receiveBytes: number;
  /** Packets of the ring that carried them. */
  receivePackets: number;
  /** Super-frames that came as several ranges. */
  receiveCoalesced: number;
  /** Frames that the guest's packet filter kept out. */
  receiveFiltered: number;
  /** Frames while the guest had no driver at work. */
  receiveNotReady: number;
  /** Frames larger than the guest's MTU. */
  receiveTooLong: number;
  /** Frames lost for want of a free slot of the receive buffer. */
  receiveNoSlot: number;
  /** Frames lost because the ring was full. */
  receiveRingFull: number;
  /** Completions of packets that the guest reported as failed. */
  receiveFailed: number;
  /** Completions that waited for room in the ring. */
  completionsDelayed: number;
  /** RNDIS control messages. */
  controlMessages: number;
  /** Packets that the fault plan touched. */
  faults: number;
}

/** Counters of an adapter that has done nothing. */
export function newNicCounters(): NicCounters {
  return {
    transmitFrames: 0,
    transmitBytes: 0,
    transmitPackets: 0,
    transmitLargeSends: 0,
    transmitErrors: 0,
    receiveFrames: 0,
    receiveBytes: 0,
    receivePackets: 0,
    receiveCoalesced: 0,
    receiveFiltered: 0,
    receiveNotReady: 0,
    receiveTooLong: 0,
    receiveNoSlot: 0,
    receiveRingFull: 0,
    receiveFailed: 0,
    completionsDelayed: 0,
    controlMessages: 0,
    faults: 0,
  };
}

/** What a capture has: plain data. */
export interface CaptureStats {
  readonly path: string;
  /** Frames in the file, or on their way to it. */
  readonly frames: number;
}

/** What an adapter and its port have done. */
export interface NicStats extends Readonly<NicCounters> {
  readonly instanceId: Guid;
  /** With colons. */
  readonly mac: string;
  /** Name of the negotiated NVSP version such as "6.1"; null without a driver. */
  readonly version: string | null;
  /** Largest frame without its Ethernet header. */
  readonly mtu: number;
  readonly isLinkUp: boolean;
  /** `PacketFilter` bits. */
  readonly packetFilter: number;
  /** Open channels. */
  readonly channels: number;
  /** Slots of the receive buffer, and those that the guest has not given back. */
  readonly receiveSlots: number;
  readonly receiveSlotsBusy: number;
  readonly port: Readonly<PortCounters>;
  /** What is captured of the port; absent if nothing is. */
  readonly capture?: CaptureStats;
}
