// The NBD protocol, fixed newstyle, as its document fixes it (github.com/NetworkBlockDevice/nbd, doc/proto.md).
// Everything is big-endian. Magic numbers of 64 bits are given as two halves.

/** What a server sends first: `NBDMAGIC`, `IHAVEOPT`, u16 handshake flags. */
export const Greeting = {
  magic: [0x4e42_444d, 0x4147_4943],
  optionMagic: [0x4948_4156, 0x454f_5054],
  SIZE: 18,
} as const;

/** Handshake flags, bits of a u16; the client answers with the same bits in a u32. */
export const HandshakeFlag = { fixedNewstyle: 1 << 0, noZeroes: 1 << 1 } as const;
/** Bytes of the client's flags. */
export const CLIENT_FLAGS_BYTES = 4;

/** Byte offsets in an option of the client. */
export const OptionHeader = {
  magic: 0, // u64, `Greeting.optionMagic`
  option: 8, // u32
  length: 12, // u32, bytes of data that follow
  SIZE: 16,
} as const;

/** Options. Open enumeration: any u32 may arrive. */
export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

/** Byte offsets in a reply to an option. */
export const OptionReply = {
  magic: 0, // u64
  option: 8, // u32
  type: 12, // u32, a `ReplyType`
  length: 16, // u32, bytes of data that follow
  SIZE: 20,
  MAGIC: [0x0003_e889, 0x0455_65a9],
} as const;

/** Types of replies to options; those from `unsupported` on are errors, whose data is a text. */
export const ReplyType = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x8000_0001,
  policy: 0x8000_0002,
  invalid: 0x8000_0003,
  unknown: 0x8000_0006,
  shutdown: 0x8000_0007,
} as const;
export type ReplyType = (typeof ReplyType)[keyof typeof ReplyType];

/** Types of information about an export. */
export const InfoType = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Zeros behind the answer to `Option.exportName`, unless both sides agreed to leave them out. */
export const EXPORT_NAME_ZEROES = 124;

/** Longest string: name, description, query or message. */
export const STRING_BYTES_MAX = 4096;

/** Transmission flags of an export, bits of a u16. */
export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
} as const;

/** Byte offsets in a request. */
export const RequestHeader = {
  magic: 0, // u32
  flags: 4, // u16
  type: 6, // u16
  cookie: 8, // u64, the client's own
  offset: 16, // u64
  length: 24, // u32
  SIZE: 28,
  MAGIC: 0x2560_9513,
} as const;

/** Commands. Open enumeration: any u16 may arrive. */
export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** Command flags, bits of a u16. */
export const CommandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
} as const;

/** Byte offsets in a simple reply. */
export const SimpleReply = {
  magic: 0, // u32
  error: 4, // u32, a `NbdError`
  cookie: 8, // u64
  SIZE: 16,
  MAGIC: 0x6744_6698,
} as const;

/** Byte offsets in a chunk of a structured reply. */
export const ReplyChunk = {
  magic: 0, // u32
  flags: 4, // u16
  type: 6, // u16, a `ChunkType`
  cookie: 8, // u64
  length: 16, // u32, bytes of payload that follow
  SIZE: 20,
  MAGIC: 0x668e_33ef,
} as const;

/** Flag of the last chunk of a reply. */
export const CHUNK_DONE = 1 << 0;

/** Types of chunks. */
export const ChunkType = { offsetData: 1, blockStatus: 5, error: 0x8001 } as const;

/** Bytes in front of the data of a `ChunkType.offsetData`: its place on the disk, u64. */
export const DATA_OFFSET_BYTES = 8;
/** Payload of a `ChunkType.error` without a message: error u32, length of the message u16. */
export const ERROR_PAYLOAD_BYTES = 6;
/** Payload of a `ChunkType.blockStatus`: context u32, then so many bytes per extent: length u32, flags u32. */
export const STATUS_EXTENT_BYTES = 8;

/** Flags of an extent in the context `base:allocation`. */
export const AllocationFlag = { hole: 1 << 0, zero: 1 << 1 } as const;

/** The metadata context that there is. */
export const ALLOCATION_CONTEXT = "base:allocation";
/** Its number, which is ours to choose. */
export const ALLOCATION_CONTEXT_ID = 1;

/** Errors of requests. */
export const NbdError = {
  none: 0,
  EPERM: 1,
  EIO: 5,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdError = (typeof NbdError)[keyof typeof NbdError];

/** The largest payload of a request: what a client may use that was not told, 32 MiB. */
export const PAYLOAD_BYTES_MAX = 1 << 25;

/** Writes a u64; `value` is an integer below 2^53. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 0x1_0000_0000));
  view.setUint32(at + 4, value >>> 0);
}
