import type { Gpadl } from "@hyperv-is/vmbus-core";

/** A buffer that is shared with the host, and its size. */
export interface SharedBuffer extends Gpadl {
  readonly lengthBytes: number;
}

/** What of the receive buffer the host uses: plain data. */
export interface ReceiveBuffer extends SharedBuffer {
  readonly slotBytes: number;
  readonly slots: number;
}

/** The send buffer, in the sections that the host wants: plain data. */
export interface SendBuffer extends SharedBuffer {
  readonly sectionBytes: number;
  readonly sections: number;
}

/** Offloads that are on: plain data. */
export interface AgreedOffloads {
  /** `Offload` bits of the checksums that the host fills in, and that it verifies. */
  readonly transmitChecksums: number;
  readonly receiveChecksums: number;
  /** Longest frame to be segmented, per family; 0: none. */
  readonly largeSend4BytesMax: number;
  readonly largeSend6BytesMax: number;
  readonly coalescing4: boolean;
  readonly coalescing6: boolean;
}

/** What the host can do to spread received frames over channels: plain data. */
export interface AgreedScaling {
  /** Channels at most, the primary's included. */
  readonly receiveQueues: number;
  readonly indirectionEntries: number;
  /** `RssHash` bits. */
  readonly hashInfo: number;
}

/** What was agreed with the host about an interface: plain data. */
export interface NetvscParameters {
  /** NVSP version, as on the wire. */
  readonly version: number;
  /** Bytes of an NVSP message of the control half. */
  readonly packetBytes: number;
  readonly ndisMajor: number;
  readonly ndisMinor: number;
  readonly receiveBuffer: ReceiveBuffer;
  /** Absent if the host or the guest has none. */
  readonly sendBuffer?: SendBuffer;
  /** What the host allows in one send, and the alignment of the messages in it. */
  readonly maxPackets: number;
  readonly maxBytes: number;
  readonly alignmentBytes: number;
  readonly offloads: AgreedOffloads;
  /** Absent with one channel. */
  readonly scaling?: AgreedScaling;
  /** Permanent address: 6 bytes. */
  readonly address: Uint8Array;
  /** Largest payload of a frame: what was asked for, or less if the host says so. */
  readonly mtu: number;
  readonly linkUp: boolean;
  /** Bits per second; 0 if the host does not say. */
  readonly linkSpeed: number;
}
