/** What a driver counts of an interface; FreeBSD's `if_data`. */
export interface DeviceCounters {
  readonly receivedPackets: number;
  readonly receivedBytes: number;
  readonly receiveErrors: number;
  /** Frames that came and were dropped for want of room. */
  readonly receiveDrops: number;
  readonly sentPackets: number;
  readonly sentBytes: number;
  readonly sendErrors: number;
}

/** Checksums in a frame: bits. */
export const FrameChecksum = {
  /** Of the IPv4 header. */
  ip: 1 << 0,
  /** Of TCP or UDP over IPv4. */
  data: 1 << 1,
} as const;

/** Who gets what a device receives. */
export interface DeviceInput {
  /**
   * A frame, without its frame check sequence. Valid during the call. Never throws, whatever the frame holds.
   *
   * @param verified - `FrameChecksum` bits of those that are right, or that nobody has computed because the frame has seen
   * no wire; none unless told.
   */
  input(frame: Uint8Array, verified?: number): void;
  /** The link has come up or gone down: `NetworkDevice.hasLink` is different. */
  linkChanged(): void;
}

/** A network interface as its driver offers it to the stack. */
export interface NetworkDevice {
  /** FreeBSD's name: `hn0`, `lo0`. */
  readonly name: string;
  readonly kind: "ethernet" | "loopback";
  /** Its own address, which an interface has unless it is given another one: 6 bytes; all zeros for a loopback. */
  readonly macAddress: Uint8Array;
  /** Largest packet behind the Ethernet header, in bytes. */
  readonly mtu: number;
  /** Capabilities, and those in use: bits that `ifconfig` names, see `interface-flags.ts`. */
  readonly capabilities: number;
  readonly options: number;
  /** `FrameChecksum` bits of those that the device fills in if `send` asks for it; FreeBSD's `if_hwassist`. */
  readonly checksumOffloads: number;
  /** `Ethernet autoselect (10Gbase-T <full-duplex>)`; empty where there is none. */
  readonly media: string;
  readonly hasLink: boolean;
  /** What the driver has counted, on all CPUs. */
  readCounters(): Promise<DeviceCounters>;
  /**
   * Sends a frame with its Ethernet header, not longer than the MTU allows. The bytes are taken before it returns, and
   * nothing is received within.
   *
   * @param checksums - `FrameChecksum` bits of those to fill in, of those that are offered; none unless told. The field of
   * TCP or UDP has the folded sum of the pseudo header, not complemented.
   * @returns False if it could not be queued.
   */
  send(frame: Uint8Array, checksums?: number): boolean;
  /** Begins or ends to send and receive. */
  setUp(up: boolean): Promise<void>;
  /** Rejects when the device cannot have that MTU; the old one stays. */
  setMtu(mtu: number): Promise<void>;
  /** Has the device pass on frames for other stations too, if they reach it. */
  setPromiscuous(promiscuous: boolean): void;
  /** Uses these capabilities, and no others; what it does not have does not count. */
  setOptions(options: number): void;
  /** The interface has another address now. Absent: that is nothing to the device. */
  macAddressChanged?(mac: Uint8Array): void;
}
