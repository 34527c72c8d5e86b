import {
  ReceiveTrust,
  type NetvscInterface,
  type NetvscQueueCounters,
  type RunTuning,
} from "@hyperv-is/hv-netvsc";
import {
  agreedCapabilities,
  assistNames,
  capabilityNames,
  filterNames,
  hashNames,
} from "../net/hn/hn-bits.js";
import type { HnInterface } from "../net/hn/hn-interfaces.js";
import { formatBits, type BitNames } from "../net/interface-flags.js";
import { NetworkError } from "../net/network-error.js";
import { channelCounters, channelLeaves } from "./channel-sysctls.js";
import { parseInteger, type SysctlLeaf, type SysctlTree } from "./sysctl.js";

/** Counters of FreeBSD's driver, over all channels. */
const totals: readonly (readonly [name: keyof NetvscQueueCounters, description: string])[] = [
  ["csum_ip", "RXCSUM IP"],
  ["csum_tcp", "RXCSUM TCP"],
  ["csum_udp", "RXCSUM UDP"],
  ["csum_trusted", "# of packets that we trust host's csum verification"],
  ["small_pkts", "# of small packets received"],
  ["rx_ack_failed", "# of RXBUF ack failures"],
  ["no_txdescs", "# of times short of TX descs"],
  ["send_failed", "# of hyper-v sending failure"],
  ["txdma_failed", "# of TX DMA failure"],
  ["agg_flush_failed", "# of packet transmission aggregation flush failure"],
  ["tx_collapsed", "# of TX mbuf collapsed"],
  ["tx_chimney", "# of chimney send"],
  ["tx_chimney_tried", "# of chimney send tries"],
];

/** Counters of each ring, and of our own names. */
const rings: readonly (readonly [
  direction: "rx" | "tx",
  name: string,
  description: string,
  counter: keyof NetvscQueueCounters,
])[] = [
  ["rx", "packets", "# of packets received", "rxPackets"],
  ["rx", "rss_pkts", "# of packets w/ RSS info received", "rss_pkts"],
  ["rx", "rsc_pkts", "# of RSC packets received", "rsc_pkts"],
  ["rx", "rsc_drop", "# of RSC fragments dropped", "rsc_drop"],
  ["tx", "packets", "# of packets transmitted", "txPackets"],
  ["tx", "sends", "# of sends", "sends"],
  ["tx", "oactive", "over active", "oactive"],
];

/** Most pages of a frame that is sent from where it lies, and the bytes of each. */
const TSO_SEGMENTS_MAX = 31;
const TSO_SEGMENT_BYTES = 4096;
/** 40 bytes. */
const RSS_KEY = /^[\da-f]{80}$/i;
/** Bytes of an Ethernet header with a tag, which a host's limit for segmentation includes. */
const VLAN_HEADER_BYTES = 18;

/** Adds what there is to know about an attached interface, below `prefix`, under FreeBSD's names. */
export function addNetworkSysctls(
  sysctl: SysctlTree,
  prefix: string,
  { netvsc, device }: HnInterface,
): void {
  const show = (
    name: string,
    description: string,
    read: () => string | number | Promise<string | number>,
  ): void => sysctl.show(`${prefix}.${name}`, description, read);
  const set = (
    name: string,
    description: string,
    read: () => string | number,
    write: (text: string) => Promise<void>,
  ): void => sysctl.add(`${prefix}.${name}`, { description, read, write });
  const tune = (
    name: string,
    description: string,
    read: () => number,
    change: (value: number) => Partial<RunTuning>,
  ): void => set(name, description, read, (text) => netvsc.tune(change(parseInteger(text))));
  const trust = (what: string, bit: number, name: string): void =>
    tune(
      name,
      `Trust ${what} verification on host side, when csum info is missing`,
      () => ((netvsc.tuning.trust & bit) === 0 ? 0 : 1),
      (value) => ({ trust: value === 0 ? netvsc.tuning.trust & ~bit : netvsc.tuning.trust | bit }),
    );
  const hash = (): string => kernelBits(netvsc.parameters.scaling?.hashInfo ?? 0, hashNames);
  const sectionBytes = (): number => netvsc.parameters.sendBuffer?.sectionBytes ?? 0;
  const isOpen = (): number => netvsc.channels.length;

  show("nvs_version", "NVS version", () => netvsc.parameters.version);
  show("ndis_version", "NDIS version", () => {
    const { ndisMajor, ndisMinor } = netvsc.parameters;
    return `${ndisMajor}.${ndisMinor}`;
  });
  show("caps", "capabilities", () =>
    kernelBits(agreedCapabilities(netvsc.parameters), capabilityNames),
  );
  show("hwassist", "hwassist", () => kernelBits(device.hardwareAssist, assistNames));
  show("tso_max", "max TSO size", () => {
    const { largeSend4BytesMax, largeSend6BytesMax } = netvsc.parameters.offloads;
    return Math.max(0, Math.max(largeSend4BytesMax, largeSend6BytesMax) - VLAN_HEADER_BYTES);
  });
  show("tso_maxsegcnt", "max # of TSO segments", () => TSO_SEGMENTS_MAX);
  show("tso_maxsegsz", "max size of TSO segment", () => TSO_SEGMENT_BYTES);
  show("rxfilter", "rxfilter", () => kernelBits(device.filter, filterNames));
  show("rss_hash", "RSS hash", hash);
  show("rss_hashcap", "RSS hash capabilities", hash);
  show(
    "rss_ind_size",
    "RSS indirect entry count",
    () => netvsc.parameters.scaling?.indirectionEntries ?? 0,
  );
  set(
    "rss_key",
    "RSS key, in hexadecimal",
    () => Buffer.from(netvsc.scaling.key).toString("hex"),
    (text) => {
      if (!RSS_KEY.test(text)) throw new NetworkError("EINVAL");
      return netvsc.setScaling({ key: Uint8Array.from(Buffer.from(text, "hex")) });
    },
  );
  set(
    "rss_ind",
    "RSS indirect table: ring of each entry; a shorter list is repeated",
    () => netvsc.scaling.table.join(","),
    (text) => {
      const { length } = netvsc.scaling.table;
      if (length === 0) throw new NetworkError("EOPNOTSUPP");
      const wanted = text.split(",").map(parseInteger);
      const isOpen = (ring: number): boolean => netvsc.channels.some(({ index }) => index === ring);
      if (wanted.length > length || !wanted.every(isOpen)) throw new NetworkError("EINVAL");
      return netvsc.setScaling({
        table: Array.from({ length }, (_, entry) => wanted[entry % wanted.length]!),
      });
    },
  );
  show(
    "rndis_agg_size",
    "RNDIS offered packet transmission aggregation size limit",
    () => netvsc.parameters.maxBytes,
  );
  show(
    "rndis_agg_pkts",
    "RNDIS offered packet transmission aggregation count limit",
    () => netvsc.parameters.maxPackets,
  );
  show(
    "rndis_agg_align",
    "RNDIS packet transmission aggregation alignment",
    () => netvsc.parameters.alignmentBytes,
  );
  tune(
    "agg_size",
    "Packet transmission aggregation size, 0 -- disable, -1 -- auto",
    () => netvsc.tuning.aggregationBytes,
    (aggregationBytes) => ({ aggregationBytes }),
  );
  tune(
    "agg_pkts",
    "Packet transmission aggregation packets, 0 -- disable, -1 -- auto",
    () => netvsc.tuning.aggregationPackets,
    (aggregationPackets) => ({ aggregationPackets }),
  );
  show(
    "agg_szmax",
    "Applied packet transmission aggregation size",
    () => netvsc.aggregation.bytesMax,
  );
  show(
    "agg_pktmax",
    "Applied packet transmission aggregation packets",
    () => netvsc.aggregation.messagesMax,
  );
  show(
    "agg_align",
    "Applied packet transmission aggregation alignment",
    () => netvsc.parameters.alignmentBytes,
  );
  set(
    "rsc_switch",
    "Received segments are coalesced by the host",
    () => {
      const { coalescing4, coalescing6 } = netvsc.parameters.offloads;
      return coalescing4 || coalescing6 ? 1 : 0;
    },
    (text) => netvsc.setCoalescing(parseInteger(text) !== 0),
  );
  show("rx_ring_cnt", "# created RX rings", isOpen);
  show("rx_ring_inuse", "# used RX rings", isOpen);
  show("tx_ring_cnt", "# created TX rings", isOpen);
  show("tx_ring_inuse", "# used TX rings", isOpen);
  show("txdesc_cnt", "# of total TX descs", () => netvsc.tuning.descriptors);
  show("tx_chimney_max", "Chimney send packet size upper boundary", sectionBytes);
  tune(
    "tx_chimney_size",
    "Chimney send packet size limit",
    () => Math.min(netvsc.tuning.copyBytesMax || Infinity, sectionBytes()),
    (copyBytesMax) => {
      if (copyBytesMax <= 0 || copyBytesMax > sectionBytes()) throw new NetworkError("EINVAL");
      return { copyBytesMax };
    },
  );
  trust("tcp segment", ReceiveTrust.tcp, "trust_hosttcp");
  trust("udp datagram", ReceiveTrust.udp, "trust_hostudp");
  trust("ip packet", ReceiveTrust.ip, "trust_hostip");
  for (const [name, description] of totals)
    sysctl.count(`${prefix}.${name}`, description, async () => (await netvsc.counters())[name]);
  for (const direction of ["rx", "tx"] as const)
    sysctl.mount(`${prefix}.${direction}`, () =>
      ringLeaves(sysctl, `${prefix}.${direction}`, direction, netvsc),
    );
  sysctl.mount(`${prefix}.channel`, () => channelLeaves(prefix, netvsc.channels, channelCounters));
}

/** The kernel's `%b`: other than `ifconfig`, it prints nothing behind a 0. */
function kernelBits(value: number, names: BitNames): string {
  return value === 0 ? "0" : formatBits(value, names);
}

/** The leaves of all channels that are open, by their indices. */
function ringLeaves(
  sysctl: SysctlTree,
  at: string,
  wanted: "rx" | "tx",
  netvsc: NetvscInterface,
): SysctlLeaf[] {
  let asked: Promise<ReadonlyMap<number, NetvscQueueCounters>> | undefined;
  // One question for all leaves of one look.
  const counters = () => (asked ??= netvsc.channelCounters());
  const counted = rings.filter(([direction]) => direction === wanted);
  return netvsc.channels.flatMap(({ index }) =>
    counted.map(([, leaf, description, counter]): SysctlLeaf => {
      const name = `${at}.${index}.${leaf}`;
      const total = async () => (await counters()).get(index)?.[counter] ?? 0;
      return [name, sysctl.counter(name, description, total)];
    }),
  );
}
