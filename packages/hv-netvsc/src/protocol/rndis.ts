import {
  record,
  u32,
  type Fields,
  type RecordOf,
  type WireRecord,
} from "@hyperv-is/vmbus-core/protocol";

/** Types of RNDIS messages. */
export const RndisType = {
  packet: 1,
  initialize: 2,
  halt: 3,
  query: 4,
  set: 5,
  reset: 6,
  indicateStatus: 7,
  keepalive: 8,
  setEx: 9,
  initializeComplete: 0x8000_0002,
  queryComplete: 0x8000_0004,
  setComplete: 0x8000_0005,
  resetComplete: 0x8000_0006,
  keepaliveComplete: 0x8000_0008,
  setExComplete: 0x8000_0009,
} as const;
/** Open enumeration: any u32 may arrive. */
export type RndisType = (typeof RndisType)[keyof typeof RndisType] | (number & {});

/** Status of a completion, and of INDICATE_STATUS. */
export const RndisStatus = {
  success: 0,
  pending: 0x0000_0103,
  mediaConnect: 0x4001_000b,
  mediaDisconnect: 0x4001_000c,
  linkSpeedChange: 0x4001_0013,
  networkChange: 0x4001_0018,
  taskOffloadCurrentConfig: 0x4002_0006,
  bufferOverflow: 0x8000_0005,
  failure: 0xc000_0001,
  resources: 0xc000_009a,
  notSupported: 0xc000_00bb,
  badVersion: 0xc001_0004,
  invalidLength: 0xc001_0014,
  invalidData: 0xc001_0015,
  bufferTooShort: 0xc001_0016,
  invalidOid: 0xc001_0017,
} as const;
/** Open enumeration: any u32 may arrive. */
export type RndisStatus = (typeof RndisStatus)[keyof typeof RndisStatus] | (number & {});

/** The first 8 bytes of every RNDIS message. */
export const RndisHeader = record({
  type: u32(0),
  /** Bytes of the whole message. */
  length: u32(4),
});
export type RndisHeader = RecordOf<typeof RndisHeader.fields>;

/** Where the offsets in PACKET, QUERY, SET, their completions and INDICATE_STATUS count from. */
export const RNDIS_OFFSET_BASE = 8;

/**
 * One kind of RNDIS message. `write` takes the bytes of the whole message and puts their number into its
 * header; what lies behind the fields is the caller's. `parse` looks neither at the type nor at the length.
 */
export interface RndisMessage<T> extends WireRecord<T> {
  readonly type: RndisType;
}

/** Defines a message; offsets count from its type. */
export function rndisMessage<F extends Fields>(
  type: RndisType,
  fields: F,
  size: number = RndisHeader.SIZE,
): RndisMessage<RecordOf<F>> {
  const body = record(fields, size);
  const write = (bytes: Uint8Array, value: RecordOf<F>): void => {
    body.write(bytes, value);
    const view = new DataView(bytes.buffer, bytes.byteOffset, RndisHeader.SIZE);
    RndisHeader.fields.type.write(view, type);
    RndisHeader.fields.length.write(view, bytes.byteLength);
  };
  return {
    ...body,
    type,
    write,
    emit(value) {
      const bytes = new Uint8Array(body.SIZE);
      write(bytes, value);
      return bytes;
    },
  };
}

/**
 * The bytes of the message that starts `bytes`, as many as its header says; undefined if they are not there.
 */
export function rndisMessageBytes(bytes: Uint8Array): Uint8Array | undefined {
  const header = RndisHeader.parse(bytes);
  if (header === undefined) return undefined;
  if (header.length < RndisHeader.SIZE || header.length > bytes.byteLength) return undefined;
  return bytes.subarray(0, header.length);
}

/**
 * The information buffer of a whole `message`, not copied; undefined if it does not lie behind the first
 * `headerBytes` and inside the message. One of no bytes may have any offset.
 */
export function rndisInformation(
  message: Uint8Array,
  headerBytes: number,
  infoOffset: number,
  infoLength: number,
): Uint8Array | undefined {
  if (infoLength === 0) return message.subarray(0, 0);
  const at = infoOffset + RNDIS_OFFSET_BASE;
  if (at < headerBytes || at > message.byteLength) return undefined;
  if (infoLength > message.byteLength - at) return undefined;
  return message.subarray(at, at + infoLength);
}

/** A message with `information` right behind its fields. */
export function rndisWithInformation<T>(
  kind: RndisMessage<T>,
  value: T,
  information: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(kind.SIZE + information.byteLength);
  kind.write(bytes, value);
  bytes.set(information, kind.SIZE);
  return bytes;
}
