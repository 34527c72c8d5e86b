import { ChecksumVerdict, type ReceivedFrame, type TransmitOffload } from "@hyperv-is/hv-netvsc";
import { TransmitChecksum } from "@hyperv-is/hv-netvsc/protocol";
import { VnetFlag, VnetGso, VnetHeader } from "@hyperv-is/platform-node";
import { Ethernet, EtherType, IpProtocol, Ipv4 } from "../protocol.js";

// What Linux says of a frame in a `struct virtio_net_hdr`, and what the driver is told of it, in both directions.

/** Bytes of an 802.1Q tag. */
export const VLAN_TAG_BYTES = 4;
/** Byte offsets in an IPv6 header (RFC 8200), a TCP header (RFC 9293) and a UDP header (RFC 768). */
const Ipv6 = { payloadLength: 4, nextHeader: 6, source: 8, HEADER_BYTES: 40 } as const;
const Tcp = { dataOffset: 12, checksum: 16, HEADER_BYTES: 20 } as const;
const Udp = { checksum: 6, HEADER_BYTES: 8 } as const;

/** Where the headers of a frame are. One is filled again for each frame. */
export class FrameHeaders {
  /** 4 or 6; 0 for what is no TCP and no UDP. */
  ipVersion = 0;
  /** IP protocol. */
  protocol = 0;
  /** Offsets of the network and the transport header from the start of the frame. */
  networkAt = 0;
  transportAt = 0;
  /** Bytes from the transport header to the end of the packet, as the network header says; padding may follow. */
  transportBytes = 0;

  /** Looks at a frame's first bytes; fragments and headers behind IPv6's fixed one are left alone. */
  read(bytes: Uint8Array, at: number, lengthBytes: number): boolean {
    this.ipVersion = 0;
    if (lengthBytes < Ethernet.HEADER_BYTES + VLAN_TAG_BYTES) return false;
    const isTagged = get16(bytes, at + Ethernet.type) === EtherType.vlan;
    const network = Ethernet.HEADER_BYTES + (isTagged ? VLAN_TAG_BYTES : 0);
    const type = get16(bytes, at + network - 2);
    const header = at + network;
    let transport: number;
    let version: number;
    if (type === EtherType.ipv4) {
      if (lengthBytes < network + Ipv4.HEADER_BYTES) return false;
      if ((get16(bytes, header + Ipv4.fragment) & 0x3fff) !== 0) return false;
      const headerBytes = (bytes[header]! & 0xf) * 4;
      if (headerBytes < Ipv4.HEADER_BYTES) return false;
      transport = network + headerBytes;
      version = 4;
      this.transportBytes = get16(bytes, header + Ipv4.totalLength) - headerBytes;
      this.protocol = bytes[header + Ipv4.protocol]!;
    } else {
      if (type !== EtherType.ipv6 || lengthBytes < network + Ipv6.HEADER_BYTES) return false;
      transport = network + Ipv6.HEADER_BYTES;
      version = 6;
      this.transportBytes = get16(bytes, header + Ipv6.payloadLength);
      this.protocol = bytes[header + Ipv6.nextHeader]!;
    }
    const isTcp = this.protocol === IpProtocol.tcp;
    if (!isTcp && this.protocol !== IpProtocol.udp) return false;
    if (lengthBytes < transport + (isTcp ? Tcp.HEADER_BYTES : Udp.HEADER_BYTES)) return false;
    this.networkAt = network;
    this.transportAt = transport;
    this.ipVersion = version;
    return true;
  }
}

/**
 * Has a frame of the kernel sent with what its header asks for. Nothing is computed: where the kernel left a checksum or
 * the segmentation to its reader, the host is asked.
 *
 * @param bytes - Guest memory, with the header at `headerAt` and the frame at `at`.
 * @param offload - Is filled. @returns False for what the kernel was not told that it may ask for.
 */
export function readVnetHeader(
  bytes: Uint8Array,
  headerAt: number,
  at: number,
  lengthBytes: number,
  offload: TransmitOffload,
): boolean {
  offload.clear();
  if ((bytes[headerAt + VnetHeader.flags]! & VnetFlag.needsChecksum) === 0)
    return bytes[headerAt + VnetHeader.gsoType] === VnetGso.none;
  const isTagged = get16(bytes, at + Ethernet.type) === EtherType.vlan;
  const typeAt = Ethernet.type + (isTagged ? VLAN_TAG_BYTES : 0);
  if (lengthBytes < typeAt + 2) return false;
  const isIpv6 = get16(bytes, at + typeAt) === EtherType.ipv6;
  const isTcp = get16le(bytes, headerAt + VnetHeader.checksumOffset) === Tcp.checksum;
  offload.checksum =
    (isIpv6 ? TransmitChecksum.ipv6 : TransmitChecksum.ipv4) |
    (isTcp ? TransmitChecksum.tcp : TransmitChecksum.udp);
  offload.headerOffset = get16le(bytes, headerAt + VnetHeader.checksumStart);
  const gso = bytes[headerAt + VnetHeader.gsoType]! & ~VnetGso.ecn;
  if (gso === VnetGso.none) return true;
  offload.segmentBytes = get16le(bytes, headerAt + VnetHeader.gsoSize);
  return gso === (isIpv6 ? VnetGso.tcp6 : VnetGso.tcp4);
}

/** What the kernel is told of received frames. */
export class ReceivedHeader {
  readonly #bytes: Uint8Array;
  readonly #headers = new FrameHeaders();
  /** Longest packet that was not coalesced. */
  readonly #mtu: number;

  /** @param bytes - Guest memory. @param mtu - Of the interface. */
  constructor(bytes: Uint8Array, mtu: number) {
    this.#bytes = bytes;
    this.#mtu = mtu;
  }

  /**
   * Fills a header for a frame whose bytes are about to be given to the kernel.
   *
   * A checksum that the host vouches for is not computed again. One that nobody has computed is completed by the kernel if
   * it needs it at all; its field gets the sum of the pseudo header. Of what was coalesced the kernel can make segments.
   */
  write(header: DataView, frame: ReceivedFrame, addedBytes: number): void {
    header.setUint32(0, 0, true);
    header.setUint32(4, 0, true);
    header.setUint16(8, 0, true);
    const { dataMissing, dataValid } = ChecksumVerdict;
    const verdict = frame.verdict & (dataMissing | dataValid);
    if (verdict === 0) return;
    const at = frame.runAddress(0);
    const headers = this.#headers;
    if (!headers.read(this.#bytes, at, frame.runLength(0))) return;
    const { networkAt, transportAt, protocol } = headers;
    const isTcp = protocol === IpProtocol.tcp;
    const isCoalesced = isTcp && frame.lengthBytes - networkAt > this.#mtu;
    if (!isCoalesced && (verdict & dataMissing) === 0) {
      header.setUint8(VnetHeader.flags, VnetFlag.dataValid);
      return;
    }
    const checksumOffset = isTcp ? Tcp.checksum : Udp.checksum;
    if (transportAt + checksumOffset + 2 > frame.runLength(0)) return;
    this.#putPseudoHeaderSum(at, checksumOffset);
    header.setUint8(VnetHeader.flags, VnetFlag.needsChecksum);
    header.setUint16(VnetHeader.checksumStart, transportAt + addedBytes, true);
    header.setUint16(VnetHeader.checksumOffset, checksumOffset, true);
    if (!isCoalesced) return;
    const payloadAt = transportAt + (this.#bytes[at + transportAt + Tcp.dataOffset]! >>> 4) * 4;
    header.setUint8(VnetHeader.gsoType, headers.ipVersion === 4 ? VnetGso.tcp4 : VnetGso.tcp6);
    header.setUint16(VnetHeader.headerLength, payloadAt + addedBytes, true);
    header.setUint16(VnetHeader.gsoSize, this.#mtu - (payloadAt - networkAt), true);
  }

  #putPseudoHeaderSum(at: number, checksumOffset: number): void {
    const bytes = this.#bytes;
    const { ipVersion, networkAt, transportAt, transportBytes, protocol } = this.#headers;
    const first = at + networkAt + (ipVersion === 4 ? Ipv4.source : Ipv6.source);
    const end = first + (ipVersion === 4 ? 8 : 32);
    let sum = protocol + transportBytes;
    for (let next = first; next < end; next += 2) sum += get16(bytes, next);
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    const field = at + transportAt + checksumOffset;
    bytes[field] = sum >>> 8;
    bytes[field + 1] = sum;
  }
}

/** A 16-bit number in the order of the virtio header, little-endian. */
function get16le(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

/** A 16-bit number in network order. */
function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}
