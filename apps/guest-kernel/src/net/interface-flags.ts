// Flags and capabilities of an interface: FreeBSD's bits and names (sys/net/if.h), as `ifconfig` prints them.

export const InterfaceFlag = {
  up: 0x1,
  broadcast: 0x2,
  loopback: 0x8,
  running: 0x40,
  promiscuous: 0x100,
  simplex: 0x800,
  multicast: 0x8000,
} as const;

/** Bits with their names, in the order in which they are shown. */
export type BitNames = readonly (readonly [bit: number, name: string])[];

const flagNames: BitNames = [
  [InterfaceFlag.up, "UP"],
  [InterfaceFlag.broadcast, "BROADCAST"],
  [InterfaceFlag.loopback, "LOOPBACK"],
  [InterfaceFlag.running, "RUNNING"],
  [InterfaceFlag.promiscuous, "PROMISC"],
  [InterfaceFlag.simplex, "SIMPLEX"],
  [InterfaceFlag.multicast, "MULTICAST"],
];

export const InterfaceOption = {
  rxcsum: 0x1,
  txcsum: 0x2,
  vlanMtu: 0x8,
  vlanHwtagging: 0x10,
  jumboMtu: 0x20,
  vlanHwcsum: 0x80,
  tso4: 0x100,
  tso6: 0x200,
  lro: 0x400,
  linkstate: 0x8_0000,
  rxcsumIpv6: 0x20_0000,
  txcsumIpv6: 0x40_0000,
} as const;

const optionNames: BitNames = [
  [InterfaceOption.rxcsum, "RXCSUM"],
  [InterfaceOption.txcsum, "TXCSUM"],
  [InterfaceOption.vlanMtu, "VLAN_MTU"],
  [InterfaceOption.vlanHwtagging, "VLAN_HWTAGGING"],
  [InterfaceOption.jumboMtu, "JUMBO_MTU"],
  [InterfaceOption.vlanHwcsum, "VLAN_HWCSUM"],
  [InterfaceOption.tso4, "TSO4"],
  [InterfaceOption.tso6, "TSO6"],
  [InterfaceOption.lro, "LRO"],
  [InterfaceOption.linkstate, "LINKSTATE"],
  [InterfaceOption.rxcsumIpv6, "RXCSUM_IPV6"],
  [InterfaceOption.txcsumIpv6, "TXCSUM_IPV6"],
];

/** Options by the words of `ifconfig` that switch them on; with a hyphen in front they are switched off. */
export const optionWords: Readonly<Record<string, number>> = {
  rxcsum: InterfaceOption.rxcsum,
  txcsum: InterfaceOption.txcsum,
  rxcsum6: InterfaceOption.rxcsumIpv6,
  txcsum6: InterfaceOption.txcsumIpv6,
  tso: InterfaceOption.tso4 | InterfaceOption.tso6,
  tso4: InterfaceOption.tso4,
  tso6: InterfaceOption.tso6,
  lro: InterfaceOption.lro,
  vlanmtu: InterfaceOption.vlanMtu,
  vlanhwtag: InterfaceOption.vlanHwtagging,
  vlanhwcsum: InterfaceOption.vlanHwcsum,
};

/** `8843<UP,BROADCAST,...>`: a number in hexadecimal and the names of its bits. */
export function formatBits(value: number, names: BitNames): string {
  const set = names.filter(([bit]) => (value & bit) !== 0).map(([, name]) => name);
  return `${value.toString(16)}<${set.join(",")}>`;
}

export function formatFlags(flags: number): string {
  return formatBits(flags, flagNames);
}

export function formatOptions(options: number): string {
  return formatBits(options, optionNames);
}
