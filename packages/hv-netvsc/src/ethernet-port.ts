import type { ChannelClosedReason, GpaRuns } from "@hyperv-is/vmbus-core";

/** What `EthernetPort.transmit` did with a frame. */
export const TransmitResult = {
  /** Copied: its memory is the caller's again. */
  copied: 0,
  /** Lent: its memory and its list stay as they are until `transmitted` is called with its tag. */
  lent: 1,
  /** Not taken, because too many are on their way; `transmitReady` says when to try again. */
  full: 2,
  /** Not taken: too long, in too many pieces, or it asks for an offload that is off. Trying again is of no use. */
  refused: 3,
  /** Not taken: the channel is closed, or about to be. */
  closed: 4,
} as const;
export type TransmitResult = (typeof TransmitResult)[keyof typeof TransmitResult];

/**
 * What the host is asked to do to a frame. One is made once and filled again for each frame. It has no likeness
 * to what a received frame says of itself, so that a forwarder cannot take the one for the other.
 */
export class TransmitOffload {
  /**
   * Checksums to fill in, `TransmitChecksum` bits: the family, and TCP, UDP or the IPv4 header. The field of TCP or
   * UDP has the folded sum of the pseudo header with its length, not complemented.
   */
  checksum = 0;
  /** Where the TCP or UDP header begins in the frame, if one of its checksums or segmentation is asked for. */
  headerOffset = 0;
  /** TCP payload of each segment that the frame is to be cut into; 0: it is not cut. `checksum` says the family, and TCP. */
  segmentBytes = 0;
  /** 802.1Q tag to be put in, as its 16 bits are; -1: none. */
  vlanTag = -1;
  /** Hash of the frame's flow, as an int32; it counts if `hasHash`. */
  hashValue = 0;
  hasHash = false;

  /** A frame to be sent as it is. */
  clear(): void {
    this.checksum = 0;
    this.headerOffset = 0;
    this.segmentBytes = 0;
    this.vlanTag = -1;
    this.hashValue = 0;
    this.hasHash = false;
  }
}

/** What is known of a received frame's checksums. */
export const ChecksumVerdict = {
  /** The IPv4 header's is right. */
  ipValid: 1,
  /** That of TCP or UDP is right; hosts vouch for UDP under TCP's name, so it says nothing of which it is. */
  dataValid: 2,
  /** The header is right but its checksum was never filled in: the bytes must not be passed on as they are. */
  ipMissing: 4,
  /** The same of TCP or UDP. */
  dataMissing: 8,
} as const;

/**
 * A received frame: where it lies in guest memory, as runs, and what the host said of it. The same object is
 * filled again for the next frame.
 */
export interface ReceivedFrame extends GpaRuns {
  /** To be given to `EthernetPort.release`, once. */
  readonly ticket: number;
  /** `ChecksumVerdict` bits. */
  readonly verdict: number;
  /** 802.1Q tag that the frame came with, as its 16 bits are; -1: none. */
  readonly vlanTag: number;
  /** `RssHash` bits that say what was hashed; 0: no hash. */
  readonly hashInfo: number;
  /** As an int32. */
  readonly hashValue: number;
}

/** Who uses a port; called on its CPU. */
export interface EthernetUser {
  /**
   * A frame has come. What is needed of `frame` is taken before this returns; its bytes stay until
   * `release(frame.ticket)`, here or later.
   */
  received(frame: ReceivedFrame): void;
  /** The frames of one look at the ring are delivered. What is sent or released until this returns is published. */
  batchEnd(): void;
  /**
   * A lent frame is the caller's again.
   *
   * @param released - False if the channel closed first: the host may still read the memory, for ever.
   */
  transmitted(tag: number, released: boolean): void;
  /** After `full`: there is room. */
  transmitReady(): void;
  /** No frame comes or goes any more, and frames that were not released are gone. Called once. */
  closed(reason: ChannelClosedReason): void;
}

/** An Ethernet interface as code on one CPU uses it: one channel, which no other CPU touches. */
export interface EthernetPort {
  /** Who gets the frames; without one they are dropped. */
  user: EthernetUser | undefined;
  /**
   * Sends a frame, without its checksum sequence; `flush` publishes it.
   *
   * @param frame - Guest memory, at least an Ethernet header. @param tag - What the caller calls the frame: an int32.
   */
  transmit(frame: GpaRuns, offload: TransmitOffload, tag: number): TransmitResult;
  /** Publishes what was sent and released. Not needed inside a call of the user: the end of the batch does it. */
  flush(): void;
  /** Gives a received frame's memory back. */
  release(ticket: number): void;
}
