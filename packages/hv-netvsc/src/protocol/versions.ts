/** What one version of NVSP fixes. */
export interface NvspVersion {
  readonly name: string;
  /** u32 on the wire: major << 16 | minor, and 2 for the first. */
  readonly value: number;
  /** Bytes of a whole message; shorter ones are padded with zeros to it. */
  readonly messageBytes: number;
  /** The same, rounded up to what a ring packet takes. */
  readonly packetBytes: number;
  /** Highest message type that a peer may send. */
  readonly typeMax: number;
  /** Minor number of the NDIS version that a guest announces; the major one is 6. */
  readonly ndisMinor: number;
  /** SEND_NDIS_CONFIG must come before the receive buffer. */
  readonly ndisConfig: boolean;
  /** SUB_CHANNEL, the send indirection table and hash values on transmit. */
  readonly multiChannel: boolean;
  /** Receive segment coalescing may be asked for. */
  readonly receiveCoalescing: boolean;
}

/** Bytes of every message of versions up to 6, and of 6.1. */
export const NVSP_MESSAGE_BYTES = { legacy: 28, v61: 40 } as const;

const legacy = {
  messageBytes: NVSP_MESSAGE_BYTES.legacy,
  packetBytes: 32,
  receiveCoalescing: false,
};
const chimney = { ...legacy, ndisMinor: 1, multiChannel: false };
const multiChannel = { ...legacy, ndisMinor: 30, ndisConfig: true, multiChannel: true };

/**
 * The versions from newest to oldest, the order in which a guest offers them. 6 has the messages of 5.
 *
 * Source: OpenVMM `netvsp/src/protocol.rs`, FreeBSD `if_hnreg.h`.
 */
export const nvspVersions: readonly NvspVersion[] = [
  {
    ...multiChannel,
    name: "6.1",
    value: 0x0006_0001,
    messageBytes: NVSP_MESSAGE_BYTES.v61,
    packetBytes: 40,
    typeMax: 136,
    receiveCoalescing: true,
  },
  { ...multiChannel, name: "6", value: 0x0006_0000, typeMax: 134 },
  { ...multiChannel, name: "5", value: 0x0005_0000, typeMax: 134 },
  { ...chimney, name: "4", value: 0x0004_0000, typeMax: 130, ndisConfig: true },
  { ...chimney, name: "2", value: 0x0003_0002, typeMax: 127, ndisConfig: true },
  { ...chimney, name: "1", value: 0x0000_0002, typeMax: 108, ndisConfig: false },
];

/** The version with this value; undefined if there is none. */
export function findNvspVersion(value: number): NvspVersion | undefined {
  return nvspVersions.find((version) => version.value === value);
}

/** The major number that every guest announces in SEND_NDIS_VERSION. */
export const NDIS_MAJOR = 6;
