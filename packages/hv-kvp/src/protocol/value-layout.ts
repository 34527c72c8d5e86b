import { KvpLimit } from "./operations.js";

/** Byte offsets of a value in a message (`hv_kvp_exchg_msg_value`). Little-endian. */
export const ValueLayout = {
  type: 0, // u32
  keyBytes: 4, // u32, the NUL included
  valueBytes: 8, // u32, the NUL of a string included
  key: 12,
  value: 12 + KvpLimit.keyBytes,
  SIZE: 12 + KvpLimit.keyBytes + KvpLimit.valueBytes,
} as const;

/** Byte offsets of the key of a deletion (`hv_kvp_msg_delete`). */
export const DeleteLayout = {
  keyBytes: 0, // u32, the NUL included
  key: 4,
  SIZE: 4 + KvpLimit.keyBytes,
} as const;

/** Byte offsets of an enumeration (`hv_kvp_msg_enumerate`). */
export const EnumerateLayout = {
  index: 0, // u32
  value: 4, // `ValueLayout`
  SIZE: 4 + ValueLayout.SIZE,
} as const;

/** Byte offsets of the addresses of an adapter in text form (`hv_kvp_ipaddr_value`): UTF-16LE on the wire, UTF-8 to the daemon. */
export const IpTextLayout = {
  adapterId: 0, // 128 units
  family: 256, // u8, AddressFamily
  dhcp: 257, // u8
  addresses: 258, // 1024 units
  subnets: 2306, // 1024 units
  gateways: 4354, // 512 units
  dnsServers: 5378, // 1024 units
  SIZE: 7426,
} as const;

/** Byte offsets of the addresses of an adapter in binary form: versions 5.0 and up. Addresses in network order. */
export const IpBinaryLayout = {
  ipv4Count: 0, // u32, as the other counts
  ipv6Count: 4,
  ipv4GatewayCount: 8,
  ipv6GatewayCount: 12,
  ipv4DnsCount: 16,
  ipv6DnsCount: 20,
  adapterId: 24, // 128 units
  family: 280, // u8, AddressFamily
  dhcp: 281, // u8
  ipv4Addresses: 284, // 64 of 4 bytes
  ipv6Addresses: 540, // 64 of 16 bytes
  ipv4Masks: 1564, // 64 of 4 bytes
  ipv6Prefixes: 1820, // 64 u32
  ipv4Gateways: 2076, // 5 of 4 bytes
  ipv6Gateways: 2096, // 5 of 16 bytes
  ipv4DnsServers: 2176, // 64 of 4 bytes
  ipv6DnsServers: 2432, // 64 of 16 bytes
  origins: 3456, // 128 u16, IPv4 first, IPv6 directly behind
  SIZE: 3712,
} as const;

/** Byte offsets in the body of a message, which begins with the operation and the pool. */
export const KvpBody = {
  operation: 0, // u8
  pool: 1, // u8
  /** Of values, deletions, enumerations, and addresses in binary form: what begins with a u32 is aligned to 4. */
  aligned: 4,
  /** Of addresses in text form. In the daemon's message they lie at 4. */
  ipText: 2,
  /** Bytes of the body of every message of the first four operations. */
  SIZE: 2580,
  /** Bytes of the body of every message about addresses. */
  IP_SIZE: 7428,
} as const;
