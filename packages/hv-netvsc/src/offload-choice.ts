import type { AgreedOffloads } from "./parameters.js";
import {
  ChecksumFlag4,
  ChecksumFlag6,
  ENCAPSULATION_802_3,
  LargeSend6Option,
  LargeSendParameter,
  OffloadParameter,
  type NdisOffload,
  type NdisOffloadParameters,
} from "./protocol/index.js";
import { Offload } from "./queue-description.js";

/** What a guest wants of the offloads that a host has; all unless told. */
export interface OffloadWishes {
  /** Checksums of UDP (`enable_udp4cs`, `enable_udp6cs`). */
  readonly udp4Checksum?: boolean;
  readonly udp6Checksum?: boolean;
  readonly largeSend?: boolean;
  /** Longest frame to have segmented (`tso_maxlen`). */
  readonly largeSendBytesMax?: number;
  readonly receiveCoalescing?: boolean;
}

/** No offload is on. */
export const NO_OFFLOADS: AgreedOffloads = {
  transmitChecksums: 0,
  receiveChecksums: 0,
  largeSend4BytesMax: 0,
  largeSend6BytesMax: 0,
  coalescing4: false,
  coalescing6: false,
};

/** Bytes of an Ethernet header with a tag, which a host's limit for segmentation includes. */
const LINK_HEADER_BYTES = 18;
const IP_BYTES_MAX = 0xffff;

/** Flags without which FreeBSD does not use a checksum: without options, half of all segments would be wrong. */
const needed4: readonly (readonly [offload: number, flags: number])[] = [
  [Offload.ipHeader, ChecksumFlag4.ipHeader | ChecksumFlag4.ipOptions],
  [Offload.tcp4, ChecksumFlag4.tcp | ChecksumFlag4.tcpOptions],
  [Offload.udp4, ChecksumFlag4.udp],
];
const needed6: readonly (readonly [offload: number, flags: number])[] = [
  [Offload.tcp6, ChecksumFlag6.tcp | ChecksumFlag6.tcpOptions | ChecksumFlag6.ipExtensions],
  [Offload.udp6, ChecksumFlag6.udp | ChecksumFlag6.ipExtensions],
];

/**
 * What to switch on, of what the host can do. Source: FreeBSD `hn_rndis_conf_offload`.
 *
 * @param mtu - Of the interface: a host that segments less than two of it is not asked to.
 * @param coalescing - The NVSP version has it.
 */
export function chooseOffloads(
  host: NdisOffload,
  mtu: number,
  coalescing: boolean,
  wishes: OffloadWishes,
): AgreedOffloads {
  let unwanted = 0;
  if (wishes.udp4Checksum === false) unwanted |= Offload.udp4;
  if (wishes.udp6Checksum === false) unwanted |= Offload.udp6;
  const wishedBytes = wishes.largeSend === false ? 0 : (wishes.largeSendBytesMax ?? IP_BYTES_MAX);
  const segmented = (hostBytes: number): number => {
    const bytes = Math.min(hostBytes, wishedBytes, IP_BYTES_MAX) - LINK_HEADER_BYTES;
    return hostBytes < 2 * mtu || bytes < 2 * mtu ? 0 : bytes + LINK_HEADER_BYTES;
  };
  const has4 = (host.lsoV2Ipv4Encapsulation & ENCAPSULATION_802_3) !== 0;
  const options6 = LargeSend6Option.ipExtensions | LargeSend6Option.tcpOptions;
  const has6 =
    (host.lsoV2Ipv6Encapsulation & ENCAPSULATION_802_3) !== 0 &&
    (host.lsoV2Ipv6Options & options6) === options6;
  const wantsCoalescing = coalescing && wishes.receiveCoalescing !== false;
  return {
    transmitChecksums:
      (offloadsOf(host.ipv4TxChecksum, needed4) | offloadsOf(host.ipv6TxChecksum, needed6)) &
      ~unwanted,
    receiveChecksums:
      (offloadsOf(host.ipv4RxChecksum, needed4) | offloadsOf(host.ipv6RxChecksum, needed6)) &
      ~unwanted,
    largeSend4BytesMax: has4 ? segmented(host.lsoV2Ipv4MaxBytes) : 0,
    largeSend6BytesMax: has6 ? segmented(host.lsoV2Ipv6MaxBytes) : 0,
    coalescing4: wantsCoalescing && host.rscIpv4 !== 0,
    coalescing6: wantsCoalescing && host.rscIpv6 !== 0,
  };
}

function offloadsOf(
  flags: number,
  needed: readonly (readonly [offload: number, flags: number])[],
): number {
  let offloads = 0;
  for (const [offload, all] of needed) if ((flags & all) === all) offloads |= offload;
  return offloads;
}

/** The parameters that switch these offloads on, and all others off. @param revision - 2, or 3 from NDIS 6.30 on. */
export function offloadParameters(
  offloads: AgreedOffloads,
  revision: number,
): NdisOffloadParameters {
  const checksum = (offload: number): number => {
    const { off, tx, rx, txRx } = OffloadParameter;
    const transmits = (offloads.transmitChecksums & offload) !== 0;
    const receives = (offloads.receiveChecksums & offload) !== 0;
    if (transmits) return receives ? txRx : tx;
    return receives ? rx : off;
  };
  const onOrOff = (on: boolean): number => (on ? LargeSendParameter.on : LargeSendParameter.off);
  return {
    revision,
    ipv4Checksum: checksum(Offload.ipHeader),
    tcp4Checksum: checksum(Offload.tcp4),
    udp4Checksum: checksum(Offload.udp4),
    tcp6Checksum: checksum(Offload.tcp6),
    udp6Checksum: checksum(Offload.udp6),
    lsoV1: LargeSendParameter.noChange,
    ipsecV1: 0,
    lsoV2Ipv4: onOrOff(offloads.largeSend4BytesMax > 0),
    lsoV2Ipv6: onOrOff(offloads.largeSend6BytesMax > 0),
    tcp4Connection: 0,
    tcp6Connection: 0,
    flags: 0,
    ipsecV2: 0,
    ipsecV2Ipv4: 0,
    rscIpv4: revision < 3 ? 0 : onOrOff(offloads.coalescing4),
    rscIpv6: revision < 3 ? 0 : onOrOff(offloads.coalescing6),
    encapsulation: 0,
    encapsulationTypes: 0,
  };
}
