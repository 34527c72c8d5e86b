import type { ChannelDescription } from "@hyperv-is/vmbus-core";

/**
 * Everything that one CPU needs to serve one channel of an interface: plain data, which the control half sends
 * to the CPU that the channel is bound to.
 */
export interface NetvscQueueDescription {
  readonly channel: ChannelDescription;
  readonly tuning: QueueTuning;
  /** What was agreed; absent on the primary channel, which is there to agree on it. */
  readonly agreed?: { readonly receive: ReceiveSide; readonly transmit: TransmitSide };
}

/** What can be chosen about a queue, by FreeBSD's tunables `hw.hn.*`. */
export interface QueueTuning {
  /** Sends that can be on their way (`txdesc_cnt`). */
  readonly descriptors: number;
  /** Largest message to copy into the send buffer (`tx_chimney_size`); 0: what a section holds. */
  readonly copyBytesMax: number;
  /** Most bytes and messages to put into one section (`tx_agg_size`, `tx_agg_pkts`); -1: what the host allows. */
  readonly aggregationBytes: number;
  readonly aggregationPackets: number;
  /** Longest IPv4 packet that may be fragmented whose UDP checksum is left to the host (`udpcs_fixup_mtu`). */
  readonly udpChecksumBytesMax: number;
  /** `ReceiveTrust` bits (`trust_hosttcp`, `trust_hostudp`, `trust_hostip`). */
  readonly trust: number;
}

/** What of it may be changed while the queue is in use. */
export type RunTuning = Pick<
  QueueTuning,
  "copyBytesMax" | "aggregationBytes" | "aggregationPackets" | "trust"
>;

/** What to believe of a frame about whose checksums the host says nothing. */
export const ReceiveTrust = { tcp: 1, udp: 2, ip: 4 } as const;

/** The receive buffer, which all channels share. */
export interface ReceiveSide {
  /** GPA of its first byte. */
  readonly address: number;
  readonly lengthBytes: number;
  /** Pieces that the host has divided it into. */
  readonly slots: number;
}

/** Offloads that are on, per family. */
export const Offload = {
  ipHeader: 1 << 0,
  tcp4: 1 << 1,
  udp4: 1 << 2,
  tcp6: 1 << 3,
  udp6: 1 << 4,
} as const;

/** How a channel sends. */
export interface TransmitSide {
  /** The channel's own sections of the send buffer; absent without one. */
  readonly sections?: {
    /** GPA of section 0. */
    readonly address: number;
    readonly sectionBytes: number;
    readonly first: number;
    readonly count: number;
  };
  /** What the host allows in one send. */
  readonly maxPackets: number;
  readonly maxBytes: number;
  /** Alignment of the messages in one send: a power of two. */
  readonly alignmentBytes: number;
  /** The host takes hash values. */
  readonly hashValues: boolean;
  /** `Offload` bits of the checksums that the host fills in. */
  readonly checksums: number;
  /** Longest frame to be segmented, per family; 0: none. */
  readonly largeSend4BytesMax: number;
  readonly largeSend6BytesMax: number;
  /** Longest frame otherwise, Ethernet header included. */
  readonly frameBytesMax: number;
}
