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

/** Who gets what a device receives. */
export interface DeviceInput {
  /** A frame, without its checksum. Valid during the call. Never throws, whatever the frame holds. */
  input(frame: Uint8Array): void;
  /** The link has come up or gone down: `NetworkDevice.hasLink` is different. */
  linkChanged(): void;
}

/** A network interface as its driver offers it to the stack. */
export interface NetworkDevice {
  /** FreeBSD's name: `hn0`, `lo0`. */
  readonly name: string;
  readonly kind: "ethernet" | "loopback";
  /** 6 bytes; all zeros for a loopback. */
  readonly macAddress: Uint8Array;
  /** Largest packet behind the Ethernet header, in bytes. */
  readonly mtu: number;
  /** Capabilities in use: bits that `ifconfig` names, see `interface-flags.ts`. */
  readonly options: number;
  /** `Ethernet autoselect (10Gbase-T <full-duplex>)`; empty where there is none. */
  readonly media: string;
  readonly hasLink: boolean;
  readonly counters: DeviceCounters;
  /**
   * Sends a frame with its Ethernet header, not longer than the MTU allows. The bytes are taken before it returns, and
   * nothing is received within. @returns False if it could not be queued.
   */
  send(frame: Uint8Array): boolean;
  /** Begins or ends to send and receive. */
  setUp(up: boolean): Promise<void>;
  /** Rejects when the device cannot have that MTU; the old one stays. */
  setMtu(mtu: number): Promise<void>;
  /** Has the device pass on frames for other stations too, if they reach it. */
  setPromiscuous(promiscuous: boolean): void;
}
