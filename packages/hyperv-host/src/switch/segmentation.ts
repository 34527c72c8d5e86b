import { fillIpv4HeaderChecksum, pseudoHeaderSum } from "./checksum-offload.js";
import type { Frame } from "./frame.js";
import {
  IpProtocol,
  Ipv4,
  Ipv6,
  Tcp,
  TcpFlag,
  ipv4HeaderBytes,
  networkOffset,
  tcpHeaderBytes,
} from "./frame-headers.js";
import { checksumOf, foldSum, get16, put16 } from "./internet-checksum.js";

const IP_LENGTH_MAX = 0xffff;

/**
 * Has a frame be a TCP super-frame, as large send offload (LSOv2) asks: whatever lengths and checksums it has, they
 * become those of the whole, its TCP checksum a partial one. One that is not larger than a segment only lacks its checksum.
 *
 * @param ipVersion - 4 or 6, as the sender says. @param tcpAt - where its TCP header begins.
 * @param segmentBytes - TCP payload of each segment.
 * @returns False if the headers are not there, or contradict what is asked.
 */
export function setSuperFrame(
  frame: Frame,
  ipVersion: number,
  tcpAt: number,
  segmentBytes: number,
): boolean {
  const networkAt = networkOffset(frame);
  const { bytes } = frame.head;
  const least = networkAt + (ipVersion === 4 ? Ipv4.leastBytes : Ipv6.headerBytes);
  frame.extendHead(tcpAt + Tcp.leastBytes);
  if (segmentBytes === 0 || tcpAt < least || frame.headBytes < tcpAt + Tcp.leastBytes) return false;
  const payloadAt = tcpAt + tcpHeaderBytes(bytes, tcpAt);
  frame.extendHead(payloadAt);
  if (payloadAt < tcpAt + Tcp.leastBytes || payloadAt > frame.headBytes) return false;
  const packetBytes = frame.lengthBytes - networkAt;
  if (packetBytes > IP_LENGTH_MAX || bytes[networkAt]! >>> 4 !== ipVersion) return false;
  if (ipVersion === 4) {
    if (networkAt + ipv4HeaderBytes(bytes, networkAt) !== tcpAt) return false;
    put16(bytes, networkAt + Ipv4.totalLength, packetBytes);
    fillIpv4HeaderChecksum(frame, networkAt);
  } else put16(bytes, networkAt + Ipv6.payloadLength, packetBytes - Ipv6.headerBytes);
  const tcpBytes = frame.lengthBytes - tcpAt;
  const pseudo = pseudoHeaderSum(frame, ipVersion, networkAt, IpProtocol.tcp, tcpBytes);
  put16(bytes, tcpAt + Tcp.checksum, pseudo);
  frame.checksumStart = tcpAt;
  frame.checksumOffset = Tcp.checksum;
  frame.segmentBytes = frame.lengthBytes - payloadAt > segmentBytes ? segmentBytes : 0;
  frame.isParsed = false;
  return true;
}

/** 4 or 6. */
export function superFrameIpVersion(frame: Frame): number {
  return frame.head.bytes[networkOffset(frame)]! >>> 4;
}

/** Cuts super-frames into frames. One object serves many, one at a time. */
export class TcpSegmenter {
  #frame: Frame | undefined;
  #networkAt = 0;
  #tcpAt = 0;
  #payloadAt = 0;
  #ipVersion = 0;
  /** Payload bytes in the segments so far. */
  #done = 0;
  /** Number of the next segment. */
  #index = 0;
  /** Leave the transport checksums partial. */
  #leavesPartial = false;

  /**
   * Begins with a super-frame, which stays as it is.
   *
   * @param leavesPartial - the segments' transport checksums stay partial, for a receiver that completes them.
   */
  begin(frame: Frame, leavesPartial: boolean): void {
    this.#frame = frame;
    this.#networkAt = networkOffset(frame);
    this.#tcpAt = frame.checksumStart;
    this.#payloadAt = this.#tcpAt + tcpHeaderBytes(frame.head.bytes, this.#tcpAt);
    this.#ipVersion = superFrameIpVersion(frame);
    this.#done = 0;
    this.#index = 0;
    this.#leavesPartial = leavesPartial;
  }

  /** Has `segment` be the next one. @returns False if there is none any more. */
  next(segment: Frame): boolean {
    const frame = this.#frame;
    if (frame === undefined) return false;
    const payloadAt = this.#payloadAt;
    const payloadBytes = frame.lengthBytes - payloadAt;
    const rest = payloadBytes - this.#done;
    const pieceBytes = rest < frame.segmentBytes ? rest : frame.segmentBytes;
    segment.slice(frame, payloadAt, payloadAt + this.#done, pieceBytes);
    const isFirst = this.#done === 0;
    const isLast = pieceBytes === rest;
    this.#putNetworkHeader(segment, pieceBytes);
    this.#putTcpHeader(segment, isFirst, isLast);
    this.#putChecksum(segment);
    this.#done += pieceBytes;
    this.#index++;
    if (isLast) this.#frame = undefined;
    return true;
  }

  #putNetworkHeader(segment: Frame, pieceBytes: number): void {
    const { bytes } = segment.head;
    const at = this.#networkAt;
    const packetBytes = this.#payloadAt + pieceBytes - at;
    if (this.#ipVersion === 4) {
      put16(bytes, at + Ipv4.totalLength, packetBytes);
      const identification = get16(bytes, at + Ipv4.identification) + this.#index;
      put16(bytes, at + Ipv4.identification, identification);
      fillIpv4HeaderChecksum(segment, at);
    } else put16(bytes, at + Ipv6.payloadLength, packetBytes - Ipv6.headerBytes);
  }

  #putTcpHeader(segment: Frame, isFirst: boolean, isLast: boolean): void {
    const { bytes } = segment.head;
    const at = this.#tcpAt;
    const sequenceAt = at + Tcp.sequence;
    const low = get16(bytes, sequenceAt + 2) + (this.#done & 0xffff);
    const high = get16(bytes, sequenceAt) + (this.#done >>> 16) + (low >>> 16);
    put16(bytes, sequenceAt, high);
    put16(bytes, sequenceAt + 2, low);
    let flags = bytes[at + Tcp.flags]!;
    if (!isFirst) flags &= ~TcpFlag.congestionWindowReduced;
    if (!isLast) flags &= ~(TcpFlag.fin | TcpFlag.push);
    bytes[at + Tcp.flags] = flags;
  }

  #putChecksum(segment: Frame): void {
    const at = this.#tcpAt;
    const end = segment.lengthBytes;
    const pseudo = pseudoHeaderSum(
      segment,
      this.#ipVersion,
      this.#networkAt,
      IpProtocol.tcp,
      end - at,
    );
    const { bytes } = segment.head;
    if (this.#leavesPartial) {
      put16(bytes, at + Tcp.checksum, pseudo);
      segment.checksumStart = at;
      segment.checksumOffset = Tcp.checksum;
      return;
    }
    put16(bytes, at + Tcp.checksum, 0);
    put16(bytes, at + Tcp.checksum, checksumOf(foldSum(pseudo + segment.sum(at, end))));
    segment.isChecksumValid = true;
  }
}
