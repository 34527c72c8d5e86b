// Frames whose bytes follow from flow and position: whoever gets one can tell what it is, and whether it is whole.

/** What the frames of a flow are: raw Ethernet, UDP packets, or pieces of a TCP stream. */
export type FlowKind = "raw" | "udp4" | "udp6" | "tcp4" | "tcp6";

/** A flow of frames from one adapter. */
export interface FlowPlan {
  /** From 1 on. */
  readonly id: number;
  readonly kind: FlowKind;
  /** Index of the adapter that sends, and of the one that receives; "all": broadcast. */
  readonly from: number;
  readonly to: number | "all";
  /** 802.1Q tag beside the frames; -1: none. */
  readonly vlanTag: number;
}

/** What a frame says that it is. */
export interface FoundFrame {
  readonly flow: number;
  readonly kind: FlowKind;
  /** Number of the packet, or position in the stream. */
  readonly position: number;
  /** Payload bytes: the position counts them in a stream. */
  readonly payloadBytes: number;
  /** Adapter that it is addressed to; "all": broadcast. */
  readonly to: number | "all";
  /** The checksum of TCP or UDP fits; a raw frame has none. */
  readonly isChecksumRight: boolean;
}

export const ETHERNET_BYTES = 14;
/** Flow, position and length, which a packet without a stream begins with. */
export const LABEL_BYTES = 12;
const ETHERTYPE_RAW = 0x88b5;
const TCP_ACK = 0x10;
const PORT_BASE = 20_000;

/** Address of an adapter. */
export function macOf(index: number): Uint8Array {
  return Uint8Array.of(0x00, 0x15, 0x5d, 0x0a, 0x02, index + 1);
}

/** Headers of a kind, from the start of the frame to its payload. */
export function headerBytesOf(kind: FlowKind): number {
  if (kind === "raw") return ETHERNET_BYTES;
  return transportAt(kind) + (isTcp(kind) ? 20 : 8);
}

/** Where the transport header begins. */
export function transportAt(kind: FlowKind): number {
  return ETHERNET_BYTES + (isIpv6(kind) ? 40 : 20);
}

export function isTcp(kind: FlowKind): boolean {
  return kind === "tcp4" || kind === "tcp6";
}

export function isIpv6(kind: FlowKind): boolean {
  return kind === "udp6" || kind === "tcp6";
}

/** How the transport checksum of a frame is built: whole, or the sum of the pseudo header for a host that fills it in. */
export type ChecksumForm = "whole" | "partial";

/** The frame of a flow at a position, with so many payload bytes, at least `LABEL_BYTES` unless it is of a stream. */
export function buildFrame(
  flow: FlowPlan,
  position: number,
  payloadBytes: number,
  form: ChecksumForm,
): Uint8Array {
  const { kind, id } = flow;
  const header = headerBytesOf(kind);
  const bytes = new Uint8Array(header + payloadBytes);
  bytes.set(flow.to === "all" ? new Uint8Array(6).fill(0xff) : macOf(flow.to), 0);
  bytes.set(macOf(flow.from), 6);
  fillPayload(bytes.subarray(header), id, kind, position);
  if (kind === "raw") {
    put16(bytes, 12, ETHERTYPE_RAW);
    return bytes;
  }
  putNetworkHeader(bytes, flow);
  putTransportHeader(bytes, flow, position);
  const at = transportAt(kind);
  const field = at + (isTcp(kind) ? 16 : 6);
  const pseudo = pseudoSum(bytes, kind);
  const sum = form === "partial" ? pseudo : ~fold(pseudo + sumOf(bytes, at)) & 0xffff;
  put16(bytes, field, sum === 0 && !isTcp(kind) && form === "whole" ? 0xffff : sum);
  return bytes;
}

/** Takes a frame apart, and compares all of its payload with what it must be; undefined if a byte is wrong. */
export function readFrame(bytes: Uint8Array): FoundFrame | undefined {
  if (bytes.length < ETHERNET_BYTES + LABEL_BYTES) return undefined;
  const to = bytes[0] === 0xff ? "all" : bytes[5]! - 1;
  const kind = kindOf(bytes);
  if (kind === undefined) return undefined;
  const header = headerBytesOf(kind);
  if (bytes.length < header || !hasRightLengths(bytes, kind)) return undefined;
  const payload = bytes.subarray(header);
  const stream = isTcp(kind);
  if (!stream && payload.length < LABEL_BYTES) return undefined;
  const flow = stream ? get16(bytes, transportAt(kind)) - PORT_BASE : get32(payload, 0);
  const position = stream ? get32(bytes, transportAt(kind) + 4) : get32(payload, 4);
  const expected = new Uint8Array(payload.length);
  fillPayload(expected, flow, kind, position);
  for (let index = 0; index < expected.length; index++)
    if (payload[index] !== expected[index]) return undefined;
  const isChecksumRight =
    kind === "raw" || fold(pseudoSum(bytes, kind) + sumOf(bytes, transportAt(kind))) === 0xffff;
  return { flow, kind, position, payloadBytes: payload.length, to, isChecksumRight };
}

function kindOf(bytes: Uint8Array): FlowKind | undefined {
  switch (get16(bytes, 12)) {
    case ETHERTYPE_RAW:
      return "raw";
    case 0x0800:
      return bytes[23] === 6 ? "tcp4" : "udp4";
    case 0x86dd:
      return bytes[20] === 6 ? "tcp6" : "udp6";
    default:
      return undefined;
  }
}

/** A stream's bytes follow from their positions in it, a packet's from its number. */
function fillPayload(payload: Uint8Array, flow: number, kind: FlowKind, position: number): void {
  const stream = isTcp(kind);
  const seed = Math.imul(flow, 0x9e37_79b1) ^ (stream ? 0 : Math.imul(position, 0x85eb_ca6b));
  const first = stream ? position : 0;
  for (let index = 0; index < payload.length; index++) {
    const at = first + index;
    payload[index] = (seed >>> ((at & 3) * 8)) ^ at ^ (at >>> 8);
  }
  if (stream) return;
  put32(payload, 0, flow);
  put32(payload, 4, position);
  put32(payload, 8, payload.length);
}

function putNetworkHeader(bytes: Uint8Array, { kind, from, to }: FlowPlan): void {
  const peer = to === "all" ? 0xff : to + 1;
  const protocol = isTcp(kind) ? 6 : 17;
  const at = ETHERNET_BYTES;
  if (isIpv6(kind)) {
    put16(bytes, 12, 0x86dd);
    bytes[at] = 0x60;
    put16(bytes, at + 4, bytes.length - at - 40);
    bytes.set([protocol, 64], at + 6);
    for (const [offset, host] of [
      [8, from + 1],
      [24, peer],
    ] as const) {
      bytes.set([0x20, 0x01, 0x0d, 0xb8], at + offset);
      bytes[at + offset + 15] = host;
    }
    return;
  }
  put16(bytes, 12, 0x0800);
  bytes[at] = 0x45;
  put16(bytes, at + 2, bytes.length - at);
  bytes.set([64, protocol], at + 8);
  bytes.set([192, 0, 2, from + 1, 192, 0, 2, peer], at + 12);
  put16(bytes, at + 10, ~fold(sumOf(bytes, at, at + 20)) & 0xffff);
}

function putTransportHeader(bytes: Uint8Array, { kind, id }: FlowPlan, position: number): void {
  const at = transportAt(kind);
  put16(bytes, at, PORT_BASE + id);
  put16(bytes, at + 2, 443);
  if (isTcp(kind)) {
    put32(bytes, at + 4, position);
    bytes[at + 12] = 5 << 4;
    bytes[at + 13] = TCP_ACK;
    put16(bytes, at + 14, 0xffff);
  } else put16(bytes, at + 4, bytes.length - at);
}

function hasRightLengths(bytes: Uint8Array, kind: FlowKind): boolean {
  const at = ETHERNET_BYTES;
  switch (kind) {
    case "raw":
      return true;
    case "udp4":
    case "tcp4":
      return (
        get16(bytes, at + 2) === bytes.length - at && fold(sumOf(bytes, at, at + 20)) === 0xffff
      );
    case "udp6":
    case "tcp6":
      return get16(bytes, at + 4) === bytes.length - at - 40;
  }
}

/** Sum of the pseudo header. */
function pseudoSum(bytes: Uint8Array, kind: FlowKind): number {
  const at = transportAt(kind);
  const addresses = isIpv6(kind) ? 32 : 8;
  return fold(sumOf(bytes, at - addresses, at) + (isTcp(kind) ? 6 : 17) + (bytes.length - at));
}

function sumOf(bytes: Uint8Array, from: number, to = bytes.length): number {
  let sum = 0;
  for (let at = from; at < to; at += 2)
    sum += (bytes[at]! << 8) | (at + 1 < to ? bytes[at + 1]! : 0);
  return sum;
}

function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x1_0000);
  return folded;
}

function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

function get32(bytes: Uint8Array, at: number): number {
  return get16(bytes, at) * 0x1_0000 + get16(bytes, at + 2);
}

function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

function put32(bytes: Uint8Array, at: number, value: number): void {
  put16(bytes, at, value >>> 16);
  put16(bytes, at + 2, value);
}
