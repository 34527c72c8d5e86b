import { GpaRangeHeader, PFN_SIZE, emitGpaRanges, type GpaRange } from "./gpa-ranges.js";
import { MessageType, message } from "./message-record.js";
import { u16, u32, type RecordOf } from "./record.js";
import { MESSAGE_PAYLOAD_MAX } from "./synic.js";

/** First GPADL id of Linux and FreeBSD, which count up from it; never 0. */
export const FIRST_GPADL_ID = 0xe1e10;

/** The fixed part of GPADL_HEADER. */
export const HeaderPart = message(MessageType.gpadlHeader, {
  relid: u32(8),
  gpadlId: u32(12),
  rangeBytes: u16(16),
  rangeCount: u16(18),
});
/** The fixed part of GPADL_BODY. */
export const BodyPart = message(MessageType.gpadlBody, { messageNumber: u32(8), gpadlId: u32(12) });

/** Bytes of ranges that fit behind the fixed part of GPADL_HEADER: a range header and 26 page numbers. */
export const GPADL_HEADER_DATA_MAX = (MESSAGE_PAYLOAD_MAX - HeaderPart.SIZE) & ~7;

/** Bytes of ranges that fit behind the fixed part of GPADL_BODY: 28 page numbers. */
export const GPADL_BODY_DATA_MAX = (MESSAGE_PAYLOAD_MAX - BodyPart.SIZE) & ~7;

/** Most pages of a GPADL of one range (32,760 KiB): `rangeBytes` has 16 bits. */
export const GPADL_MAX_PAGES = Math.floor((0xffff - GpaRangeHeader.SIZE) / PFN_SIZE);

/** GPADL_HEADER (8): begins a GPADL. */
export interface GpadlHeader {
  readonly relid: number;
  readonly gpadlId: number;
  /** Bytes of all ranges, their headers included, over all messages of this GPADL. */
  readonly rangeBytes: number;
  readonly rangeCount: number;
  /** The first bytes of the ranges: whole words of 8 bytes, at most `rangeBytes`; owned by the record. */
  readonly data: Uint8Array;
}
export const GpadlHeader = {
  /** Bytes before the ranges. */
  SIZE: HeaderPart.SIZE,

  /** Undefined if bytes of the fixed part are missing; the ranges are checked when all have arrived. */
  parse(bytes: Uint8Array): GpadlHeader | undefined {
    const header = HeaderPart.parse(bytes);
    return header && { ...header, data: words(bytes, HeaderPart.SIZE, header.rangeBytes) };
  },

  emit(header: GpadlHeader): Uint8Array<ArrayBuffer> {
    return withData(HeaderPart.emit(header), header.data);
  },
} as const;

/** GPADL_BODY (9): continues the GPADL with this id, which is unique over the connection. */
export interface GpadlBody {
  /** Linux and FreeBSD send 0; ignored. */
  readonly messageNumber: number;
  readonly gpadlId: number;
  /** More bytes of the ranges: whole words of 8 bytes, perhaps more than are missing. */
  readonly data: Uint8Array;
}
export const GpadlBody = {
  /** Bytes before the page numbers. */
  SIZE: BodyPart.SIZE,

  /** Undefined if bytes of the fixed part are missing. */
  parse(bytes: Uint8Array): GpadlBody | undefined {
    const body = BodyPart.parse(bytes);
    return body && { ...body, data: words(bytes, BodyPart.SIZE, bytes.byteLength) };
  },

  emit(body: GpadlBody): Uint8Array<ArrayBuffer> {
    return withData(BodyPart.emit(body), body.data);
  },
} as const;

/** A copy of the whole 8-byte words at `offset`, at most `limit` bytes of them. */
function words(bytes: Uint8Array, offset: number, limit: number): Uint8Array {
  const length = Math.min(bytes.byteLength - offset, limit);
  return bytes.slice(offset, offset + length - (length % 8));
}

function withData(fixed: Uint8Array, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const length = fixed.byteLength + data.byteLength;
  if (data.byteLength % 8 !== 0 || length > MESSAGE_PAYLOAD_MAX)
    throw new RangeError(`${data.byteLength} bytes of ranges do not fit behind a GPADL message`);
  const bytes = new Uint8Array(length);
  bytes.set(fixed);
  bytes.set(data, fixed.byteLength);
  return bytes;
}

/**
 * The messages that create a GPADL of these ranges, in the order of posting.
 *
 * Throws a RangeError if a range is malformed or all together exceed what 16 bits can count: a device
 * with a larger buffer makes several GPADLs.
 */
export function emitGpadl(
  relid: number,
  gpadlId: number,
  ranges: readonly GpaRange[],
): Uint8Array<ArrayBuffer>[] {
  const data = emitGpaRanges(ranges);
  const messages = [
    GpadlHeader.emit({
      relid,
      gpadlId,
      rangeBytes: data.byteLength,
      rangeCount: ranges.length,
      data: data.subarray(0, GPADL_HEADER_DATA_MAX),
    }),
  ];
  for (let at = GPADL_HEADER_DATA_MAX; at < data.byteLength; at += GPADL_BODY_DATA_MAX) {
    const part = data.subarray(at, at + GPADL_BODY_DATA_MAX);
    messages.push(GpadlBody.emit({ messageNumber: 0, gpadlId, data: part }));
  }
  return messages;
}

/** GPADL_CREATED (10). */
export const GpadlCreated = message(MessageType.gpadlCreated, {
  relid: u32(8),
  gpadlId: u32(12),
  /** NTSTATUS. */
  status: u32(16),
});
export type GpadlCreated = RecordOf<typeof GpadlCreated.fields>;

/** GPADL_TEARDOWN (11). */
export const GpadlTeardown = message(MessageType.gpadlTeardown, {
  relid: u32(8),
  gpadlId: u32(12),
});
export type GpadlTeardown = RecordOf<typeof GpadlTeardown.fields>;

/** GPADL_TORNDOWN (12): carries no relid, match by id. The only proof that the host is off the memory. */
export const GpadlTorndown = message(MessageType.gpadlTorndown, { gpadlId: u32(8) });
export type GpadlTorndown = RecordOf<typeof GpadlTorndown.fields>;
