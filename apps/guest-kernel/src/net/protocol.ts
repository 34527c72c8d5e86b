// Layouts of Ethernet II (IEEE 802.3), ARP (RFC 826), IPv4 (RFC 791), ICMP (RFC 792, RFC 1191) and UDP (RFC 768).
// Byte offsets; all numbers are in network order.

export const Ethernet = {
  destination: 0, // 6 bytes
  source: 6, // 6 bytes
  type: 12, // u16, an `EtherType`
  HEADER_BYTES: 14,
  /** Shortest frame without its checksum: shorter ones are padded with zeros. */
  MIN_BYTES: 60,
} as const;

/** Open enumeration: any u16 may arrive; below 1536 it is a length (IEEE 802.3). */
export const EtherType = { ipv4: 0x0800, arp: 0x0806, vlan: 0x8100, ipv6: 0x86dd } as const;

/** ARP for IPv4 over Ethernet. */
export const Arp = {
  hardwareType: 0, // u16, 1
  protocolType: 2, // u16, `EtherType.ipv4`
  hardwareLength: 4, // u8, 6
  protocolLength: 5, // u8, 4
  operation: 6, // u16, an `ArpOperation`
  senderMac: 8, // 6 bytes
  senderAddress: 14, // u32
  targetMac: 18, // 6 bytes
  targetAddress: 24, // u32
  SIZE: 28,
} as const;

export const ArpOperation = { request: 1, reply: 2 } as const;
export type ArpOperation = (typeof ArpOperation)[keyof typeof ArpOperation];

export const Ipv4 = {
  versionAndLength: 0, // u8, version 4 in the high half, header length in words in the low one
  typeOfService: 1, // u8
  totalLength: 2, // u16
  identification: 4, // u16
  fragment: 6, // u16, flags and offset in units of 8 bytes
  timeToLive: 8, // u8
  protocol: 9, // u8, an `IpProtocol`
  checksum: 10, // u16, of the header
  source: 12, // u32
  destination: 16, // u32
  /** Without options. */
  HEADER_BYTES: 20,
  HEADER_BYTES_MAX: 60,
} as const;

export const FragmentFlag = { dontFragment: 0x4000, moreFragments: 0x2000 } as const;
/** Bits of `Ipv4.fragment` that are the offset. */
export const FRAGMENT_OFFSET_MASK = 0x1fff;

/** Open enumeration: any u8 may arrive. */
export const IpProtocol = { icmp: 1, igmp: 2, tcp: 6, udp: 17, carp: 112 } as const;

export const Icmp = {
  type: 0, // u8, an `IcmpType`
  code: 1, // u8
  checksum: 2, // u16, of the whole message
  identifier: 4, // u16, of echo messages
  sequence: 6, // u16, of echo messages
  nextMtu: 6, // u16, of `UnreachableCode.fragmentationNeeded`
  HEADER_BYTES: 8,
} as const;

/** Open enumeration: any u8 may arrive. */
export const IcmpType = {
  echoReply: 0,
  unreachable: 3,
  sourceQuench: 4,
  redirect: 5,
  echo: 8,
  timeExceeded: 11,
  parameterProblem: 12,
} as const;

/** Codes of `IcmpType.unreachable`. */
export const UnreachableCode = {
  net: 0,
  host: 1,
  protocol: 2,
  port: 3,
  fragmentationNeeded: 4,
} as const;

export const Udp = {
  sourcePort: 0, // u16
  destinationPort: 2, // u16
  length: 4, // u16, with the header
  checksum: 6, // u16; 0: there is none
  HEADER_BYTES: 8,
} as const;

/** What an IPv4 packet can be at most, by its length field. */
export const IP_PACKET_BYTES_MAX = 65_535;
