import { Offload, type NetvscParameters } from "@hyperv-is/hv-netvsc";
import { InterfaceOption, type BitNames } from "../interface-flags.js";

// Bits of FreeBSD's driver and of its stack, with the names under which sysctl shows them. Sources: `if_hnvar.h`,
// `sys/mbuf.h`, `net/rndis.h`, `ndis.h`.

/** What was agreed with the host (`HN_CAP_*`). */
export const HnCapability = {
  vlan: 0x001,
  mtu: 0x002,
  ipChecksum: 0x004,
  tcp4Checksum: 0x008,
  tcp6Checksum: 0x010,
  udp4Checksum: 0x020,
  udp6Checksum: 0x040,
  tso4: 0x080,
  tso6: 0x100,
  hashValue: 0x200,
} as const;

export const capabilityNames: BitNames = [
  [HnCapability.vlan, "VLAN"],
  [HnCapability.mtu, "MTU"],
  [HnCapability.ipChecksum, "IPCS"],
  [HnCapability.tcp4Checksum, "TCP4CS"],
  [HnCapability.tcp6Checksum, "TCP6CS"],
  [HnCapability.udp4Checksum, "UDP4CS"],
  [HnCapability.udp6Checksum, "UDP6CS"],
  [HnCapability.tso4, "TSO4"],
  [HnCapability.tso6, "TSO6"],
  [HnCapability.hashValue, "HASHVAL"],
];

/** What the stack leaves to the interface (`CSUM_*`). */
export const HardwareAssist = {
  ip: 0x0001,
  udp4: 0x0002,
  tcp4: 0x0004,
  tso4: 0x0010,
  udp6: 0x0200,
  tcp6: 0x0400,
  tso6: 0x1000,
} as const;

export const assistNames: BitNames = [
  [HardwareAssist.ip, "CSUM_IP"],
  [HardwareAssist.udp4, "CSUM_IP_UDP"],
  [HardwareAssist.tcp4, "CSUM_IP_TCP"],
  [HardwareAssist.tso4, "CSUM_IP_TSO"],
  [HardwareAssist.udp6, "CSUM_IP6_UDP"],
  [HardwareAssist.tcp6, "CSUM_IP6_TCP"],
  [HardwareAssist.tso6, "CSUM_IP6_TSO"],
];

/** Of `PacketFilter`. */
export const filterNames: BitNames = [
  [0x01, "DIRECT"],
  [0x02, "MULTICAST"],
  [0x04, "ALLMULTI"],
  [0x08, "BROADCAST"],
  [0x10, "SRCROUTE"],
  [0x20, "PROMISC"],
  [0x80, "ALLLOCAL"],
];

/** Of `RssHash`. */
export const hashNames: BitNames = [
  [0x0001, "TOEPLITZ"],
  [0x0100, "IP4"],
  [0x0200, "TCP4"],
  [0x0400, "IP6"],
  [0x0800, "IP6EX"],
  [0x1000, "TCP6"],
  [0x2000, "TCP6EX"],
  [0x4000, "UDP4_X"],
];

/** From this NVSP version on there are tags beside frames and an MTU, from that one on hash values. */
const NVSP_2 = 0x0003_0002;
const NVSP_5 = 0x0005_0000;

/** `HnCapability` bits of what was agreed. */
export function agreedCapabilities({ version, offloads }: NetvscParameters): number {
  const { transmitChecksums, largeSend4BytesMax, largeSend6BytesMax } = offloads;
  let capabilities = version >= NVSP_2 ? HnCapability.vlan | HnCapability.mtu : 0;
  for (const [offload, capability] of checksumCapabilities)
    if ((transmitChecksums & offload) !== 0) capabilities |= capability;
  if (largeSend4BytesMax > 0) capabilities |= HnCapability.tso4;
  if (largeSend6BytesMax > 0) capabilities |= HnCapability.tso6;
  if (version >= NVSP_5) capabilities |= HnCapability.hashValue;
  return capabilities;
}

const checksumCapabilities: readonly (readonly [offload: number, capability: number])[] = [
  [Offload.ipHeader, HnCapability.ipChecksum],
  [Offload.tcp4, HnCapability.tcp4Checksum],
  [Offload.tcp6, HnCapability.tcp6Checksum],
  [Offload.udp4, HnCapability.udp4Checksum],
  [Offload.udp6, HnCapability.udp6Checksum],
];

/** What each option of an interface needs, and what the stack may leave to the interface when it is on. */
const optionAssists: readonly (readonly [option: number, capability: number, assist: number])[] = [
  [InterfaceOption.txcsum, HnCapability.ipChecksum, HardwareAssist.ip],
  [InterfaceOption.txcsum, HnCapability.udp4Checksum, HardwareAssist.udp4],
  [InterfaceOption.txcsum, HnCapability.tcp4Checksum, HardwareAssist.tcp4],
  [InterfaceOption.txcsumIpv6, HnCapability.udp6Checksum, HardwareAssist.udp6],
  [InterfaceOption.txcsumIpv6, HnCapability.tcp6Checksum, HardwareAssist.tcp6],
  [InterfaceOption.tso4, HnCapability.tso4, HardwareAssist.tso4],
  [InterfaceOption.tso6, HnCapability.tso6, HardwareAssist.tso6],
];

/** The options that an interface has. */
export function interfaceOptions(capabilities: number): number {
  let options: number = InterfaceOption.rxcsum | InterfaceOption.linkstate;
  if ((capabilities & HnCapability.vlan) !== 0)
    options |= InterfaceOption.vlanHwtagging | InterfaceOption.vlanMtu;
  for (const [option, capability] of optionAssists)
    if ((capabilities & capability) !== 0) options |= option;
  return options;
}

/** Those that FreeBSD does not switch on by itself. */
export const INITIALLY_OFF: number = InterfaceOption.txcsumIpv6 | InterfaceOption.tso6;

/** `HardwareAssist` bits with these options on. */
export function hardwareAssist(capabilities: number, options: number): number {
  let assist = 0;
  for (const [option, capability, bit] of optionAssists)
    if ((options & option) !== 0 && (capabilities & capability) !== 0) assist |= bit;
  return assist;
}
