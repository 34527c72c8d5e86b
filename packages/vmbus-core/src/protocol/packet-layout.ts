// First in the file, where builds put such numbers in place of their names; the engine reads a property of an exported
// object anew each time, and checks what it got. Code that runs for every packet uses these.
/** Bytes of a packet's descriptor, which a header may follow. */
export const PACKET_DESCRIPTOR_BYTES = 16;
/** Bytes of the trailer behind a packet. */
export const PACKET_TRAILER_BYTES = 8;
export const PACKET_TYPE_IN_BAND = 6;
export const PACKET_TYPE_TRANSFER_PAGES = 7;
export const PACKET_TYPE_GPA_DIRECT = 9;
export const PACKET_TYPE_COMPLETION = 11;
/** The only packet flag: the sender waits for a completion with its transaction id. */
export const PACKET_FLAG_COMPLETION_REQUESTED = 1;

/** Byte offsets in a packet's descriptor, and the sizes of what surrounds the payload. */
export const Packet = {
  type: 0, // u16, PacketType
  dataOffset8: 2, // u16, from the descriptor to the payload, in units of 8 bytes; at least 2
  length8: 4, // u16, whole packet without the trailer, in units of 8 bytes; at least dataOffset8
  flags: 6, // u16
  transactionIdLow: 8, // low half of the u64
  transactionIdHigh: 12, // high half
  descriptorBytes: PACKET_DESCRIPTOR_BYTES,
  trailerBytes: PACKET_TRAILER_BYTES,
} as const;

/** Byte offsets in the trailer behind a packet; readers skip it. */
export const PacketTrailer = {
  reserved: 0, // u32
  packetStart: 4, // u32, ring offset of the packet's first byte
  SIZE: PACKET_TRAILER_BYTES, // bytes
} as const;

/** Packet types in use; any other is corruption. */
export const PacketType = {
  inBand: PACKET_TYPE_IN_BAND,
  transferPages: PACKET_TYPE_TRANSFER_PAGES,
  gpaDirect: PACKET_TYPE_GPA_DIRECT,
  completion: PACKET_TYPE_COMPLETION,
} as const;
/** Open enumeration: any u16 may arrive. */
export type PacketType = (typeof PacketType)[keyof typeof PacketType] | (number & {});

/** Bytes of the largest packet that `length8` can express, trailer excluded. */
export const PACKET_MAX_BYTES = 0xffff * 8;

/** Header of a transfer-pages packet (host to guest): ranges of a buffer that the guest has shared. */
export const TransferPages = {
  setId: 16, // u16, 0xcafe for the network
  rangeCount: 20, // u32; bytes 18 and 19 may hold garbage
  ranges: 24, // TransferPageRange[]
} as const;

/** One range of a transfer-pages packet. */
export const TransferPageRange = {
  byteCount: 0, // u32
  byteOffset: 4, // u32, in the shared buffer
  SIZE: 8, // bytes
} as const;

/** Header of a GPA-direct packet (guest to host): ranges of guest memory, laid out as `GpaRange`. */
export const GpaDirect = {
  rangeCount: 20, // u32, not 0; bytes 16 to 19 may hold garbage
  ranges: 24, // GpaRange[], one behind the other
} as const;

/** Most ranges, and most page numbers of one range, that FreeBSD and Linux put into a packet. */
export const GPA_DIRECT_CUSTOMARY_MAX = 32;

/**
 * Header in front of the payload on channels offered in pipe mode, so that a payload need not be a
 * multiple of 8 bytes. Integration components use it.
 */
export const PipeHeader = {
  packetType: 0, // u32, PipePacketType
  length: 4, // u32, bytes that follow; at most the packet's payload less this header
  SIZE: 8, // bytes
} as const;

/** Types in a pipe header. */
export const PipePacketType = {
  data: 1,
  /** A reader's note in a packet that it has received, never sent. */
  partial: 2,
  setUpGpaDirect: 3,
  tearDownGpaDirect: 4,
} as const;
/** Open enumeration: any u32 may arrive. */
export type PipePacketType = (typeof PipePacketType)[keyof typeof PipePacketType] | (number & {});

/** Largest payload behind a pipe header. */
export const PIPE_PAYLOAD_MAX = 16_384;
