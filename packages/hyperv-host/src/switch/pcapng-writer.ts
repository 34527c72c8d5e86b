// Capture files as Wireshark and tcpdump read them: pcapng (draft-ietf-opsawg-pcapng), little-endian.

const BlockType = { section: 0x0a0d_0d0a, interface: 1, packet: 6 } as const;
const BYTE_ORDER_MAGIC = 0x1a2b_3c4d;
const LINK_TYPE_ETHERNET = 1;

/** Options of blocks. */
const Option = { end: 0, interfaceName: 2, timeResolution: 9, packetFlags: 2 } as const;

/** Time stamps are in units of 10 to the power of -6 s. */
const TIME_RESOLUTION = 6;

/** Values of the direction in `packetFlags`, from the interface's point of view. */
const Direction = { inbound: 1, outbound: 2 } as const;

const BLOCK_BYTES = 12;
const PACKET_FIELDS_BYTES = 20;
const PACKET_OPTIONS_BYTES = 12;

/** Header of a capture file with one interface. @param snapBytes - kept of each frame at most; 0 for all. */
export function pcapngHeader(interfaceName: string, snapBytes: number): Uint8Array {
  const section = block(BlockType.section, [
    BYTE_ORDER_MAGIC,
    0x0000_0001, // version 1.0
    0xffff_ffff, // the length of the section is not told
    0xffff_ffff,
  ]);
  const name = Uint8Array.from(interfaceName, (letter) => letter.charCodeAt(0));
  const description = block(
    BlockType.interface,
    [LINK_TYPE_ETHERNET, snapBytes],
    option(Option.interfaceName, name),
    option(Option.timeResolution, Uint8Array.of(TIME_RESOLUTION)),
    option(Option.end, new Uint8Array(0)),
  );
  return join(section, description);
}

/** Bytes of the block of a frame of which `keptBytes` are kept. */
export function pcapngPacketBytes(keptBytes: number): number {
  return BLOCK_BYTES + PACKET_FIELDS_BYTES + padded(keptBytes) + PACKET_OPTIONS_BYTES;
}

/** Where in its block the bytes of a frame are to be put. */
export const PCAPNG_FRAME_OFFSET = 8 + PACKET_FIELDS_BYTES;

/**
 * Writes the block of a frame around its bytes.
 *
 * @param timeUs - since 1970. @param lengthBytes - of the frame, `keptBytes` of which are kept.
 */
export function writePcapngPacket(
  bytes: Uint8Array,
  at: number,
  timeUs: number,
  keptBytes: number,
  lengthBytes: number,
  isSent: boolean,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, pcapngPacketBytes(keptBytes));
  const total = view.byteLength;
  const end = PCAPNG_FRAME_OFFSET + padded(keptBytes);
  bytes.fill(0, at + PCAPNG_FRAME_OFFSET + keptBytes, at + end);
  const fields = [
    BlockType.packet,
    total,
    0, // interface
    Math.floor(timeUs / 2 ** 32),
    timeUs % 2 ** 32,
    keptBytes,
    lengthBytes,
  ];
  fields.forEach((value, index) => {
    view.setUint32(index * 4, value, true);
  });
  view.setUint16(end, Option.packetFlags, true);
  view.setUint16(end + 2, 4, true);
  view.setUint32(end + 4, isSent ? Direction.outbound : Direction.inbound, true);
  view.setUint32(end + 8, Option.end, true);
  view.setUint32(end + 12, total, true);
}

function padded(bytes: number): number {
  return (bytes + 3) & ~3;
}

function block(type: number, words: readonly number[], ...options: Uint8Array[]): Uint8Array {
  const body = join(new Uint8Array(words.length * 4), ...options);
  const bytes = new Uint8Array(BLOCK_BYTES + body.byteLength);
  const view = new DataView(bytes.buffer);
  bytes.set(body, 8);
  view.setUint32(0, type, true);
  view.setUint32(4, bytes.byteLength, true);
  words.forEach((word, index) => {
    view.setUint32(8 + index * 4, word, true);
  });
  view.setUint32(bytes.byteLength - 4, bytes.byteLength, true);
  return bytes;
}

function option(code: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + padded(value.byteLength));
  const view = new DataView(bytes.buffer);
  view.setUint16(0, code, true);
  view.setUint16(2, value.byteLength, true);
  bytes.set(value, 4);
  return bytes;
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}
