import { getU16, getU32, getU8 } from "./network-order.js";

/** Byte offsets of TCP (RFC 9293), network order. */
const Tcp = {
  sequence: 4, // u32
  acknowledgment: 8, // u32
  offset: 12, // u8, header length in words in the high half
  flags: 13, // u8
  window: 14, // u16
  urgent: 18, // u16
  HEADER_BYTES: 20,
} as const;

const flagLetters: readonly (readonly [number, string])[] = [
  [0x01, "F"],
  [0x02, "S"],
  [0x04, "R"],
  [0x08, "P"],
  [0x10, "."],
  [0x20, "U"],
  [0x40, "E"],
  [0x80, "W"],
];
const ACK = 0x10;
const SYN_FIN_RST = 0x07;
const URG = 0x20;

/**
 * What tcpdump -S prints of a segment behind its ports; undefined if not even the header is there.
 * @param lengthBytes - Of the segment, by its IP header.
 */
export function tcpLine(
  frame: Uint8Array,
  at: number,
  end: number,
  lengthBytes: number,
): string | undefined {
  if (end - at < Tcp.HEADER_BYTES) return undefined;
  const headerBytes = (getU8(frame, at + Tcp.offset) >> 4) * 4;
  const flags = getU8(frame, at + Tcp.flags);
  const letters = flagLetters
    .filter(([bit]) => (flags & bit) !== 0)
    .map(([, letter]) => letter)
    .join("");
  const parts = [`Flags [${letters === "" ? "none" : letters}]`];
  const dataBytes = lengthBytes - headerBytes;
  if (headerBytes < Tcp.HEADER_BYTES || dataBytes < 0)
    return `${parts.join(", ")} [bad hdr length ${headerBytes} - too ${dataBytes < 0 ? "long" : "short"}, < 20]`;
  const sequence = getU32(frame, at + Tcp.sequence);
  if (dataBytes > 0) parts.push(`seq ${sequence}:${(sequence + dataBytes) >>> 0}`);
  else if ((flags & SYN_FIN_RST) !== 0) parts.push(`seq ${sequence}`);
  if ((flags & ACK) !== 0) parts.push(`ack ${getU32(frame, at + Tcp.acknowledgment)}`);
  parts.push(`win ${getU16(frame, at + Tcp.window)}`);
  if ((flags & URG) !== 0) parts.push(`urg ${getU16(frame, at + Tcp.urgent)}`);
  const options = optionTexts(frame, at + Tcp.HEADER_BYTES, Math.min(end, at + headerBytes));
  if (options.length > 0) parts.push(`options [${options.join(",")}]`);
  parts.push(`length ${dataBytes}`);
  return parts.join(", ");
}

function optionTexts(frame: Uint8Array, from: number, to: number): string[] {
  const texts: string[] = [];
  for (let at = from; at < to;) {
    const kind = getU8(frame, at);
    if (kind === 0) return [...texts, "eol"];
    if (kind === 1) {
      texts.push("nop");
      at++;
      continue;
    }
    const lengthBytes = at + 1 < to ? getU8(frame, at + 1) : 0;
    if (lengthBytes < 2 || at + lengthBytes > to) return [...texts, "bad opt"];
    texts.push(optionText(frame, at, kind, lengthBytes));
    at += lengthBytes;
  }
  return texts;
}

function optionText(frame: Uint8Array, at: number, kind: number, lengthBytes: number): string {
  if (kind === 2 && lengthBytes === 4) return `mss ${getU16(frame, at + 2)}`;
  if (kind === 3 && lengthBytes === 3) return `wscale ${getU8(frame, at + 2)}`;
  if (kind === 4 && lengthBytes === 2) return "sackOK";
  if (kind === 8 && lengthBytes === 10)
    return `TS val ${getU32(frame, at + 2)} ecr ${getU32(frame, at + 6)}`;
  if (kind === 5 && lengthBytes % 8 === 2) {
    const blocks: string[] = [];
    for (let block = at + 2; block < at + lengthBytes; block += 8)
      blocks.push(`{${getU32(frame, block)}:${getU32(frame, block + 4)}}`);
    return `sack ${blocks.length} ${blocks.join("")}`;
  }
  return `unknown-${kind}`;
}
