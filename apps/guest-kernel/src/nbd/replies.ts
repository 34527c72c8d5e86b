import type { DiskExtent } from "../kernel/guest-system.js";
import {
  ALLOCATION_CONTEXT_ID,
  AllocationFlag,
  CHUNK_DONE,
  ChunkType,
  DATA_OFFSET_BYTES,
  ERROR_PAYLOAD_BYTES,
  ReplyChunk,
  STATUS_EXTENT_BYTES,
  SimpleReply,
  putU64,
  type NbdError,
} from "./protocol.js";

/** What a reply repeats of its request. */
interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

/** Bytes in front of the data of a chunk. */
export const DATA_CHUNK_BYTES = ReplyChunk.SIZE + DATA_OFFSET_BYTES;
/** Bytes of a chunk that says that a request failed. */
export const ERROR_CHUNK_BYTES = ReplyChunk.SIZE + ERROR_PAYLOAD_BYTES;

/** Writes a simple reply, or what is in front of its data. */
export function putSimpleReply(
  view: DataView,
  at: number,
  { cookieHigh, cookieLow }: Cookie,
  error: NbdError,
): void {
  view.setUint32(at + SimpleReply.magic, SimpleReply.MAGIC);
  view.setUint32(at + SimpleReply.error, error);
  view.setUint32(at + SimpleReply.cookie, cookieHigh);
  view.setUint32(at + SimpleReply.cookie + 4, cookieLow);
}

/** Writes what is in front of the data of a chunk. */
export function putDataChunk(
  view: DataView,
  at: number,
  cookie: Cookie,
  position: number,
  lengthBytes: number,
  isLast: boolean,
): void {
  const flags = isLast ? CHUNK_DONE : 0;
  putChunk(view, at, cookie, flags, ChunkType.offsetData, DATA_OFFSET_BYTES + lengthBytes);
  putU64(view, at + ReplyChunk.SIZE, position);
}

/** Writes the chunk that says that a request failed, the last of its reply. */
export function putErrorChunk(view: DataView, at: number, cookie: Cookie, error: NbdError): void {
  putChunk(view, at, cookie, CHUNK_DONE, ChunkType.error, ERROR_PAYLOAD_BYTES);
  view.setUint32(at + ReplyChunk.SIZE, error);
  view.setUint16(at + ReplyChunk.SIZE + 4, 0);
}

/** The reply that says what extents are allocated. @param holesReadZero - Unallocated blocks read as zeros. */
export function statusReply(
  cookie: Cookie,
  extents: readonly DiskExtent[],
  holesReadZero: boolean,
): Buffer {
  const payloadBytes = 4 + extents.length * STATUS_EXTENT_BYTES;
  const reply = Buffer.alloc(ReplyChunk.SIZE + payloadBytes);
  const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
  putChunk(view, 0, cookie, CHUNK_DONE, ChunkType.blockStatus, payloadBytes);
  view.setUint32(ReplyChunk.SIZE, ALLOCATION_CONTEXT_ID);
  const hole = AllocationFlag.hole | (holesReadZero ? AllocationFlag.zero : 0);
  for (const [index, { lengthBytes, isHole }] of extents.entries()) {
    const at = ReplyChunk.SIZE + 4 + index * STATUS_EXTENT_BYTES;
    view.setUint32(at, lengthBytes);
    view.setUint32(at + 4, isHole ? hole : 0);
  }
  return reply;
}

function putChunk(
  view: DataView,
  at: number,
  { cookieHigh, cookieLow }: Cookie,
  flags: number,
  type: number,
  payloadBytes: number,
): void {
  view.setUint32(at + ReplyChunk.magic, ReplyChunk.MAGIC);
  view.setUint16(at + ReplyChunk.flags, flags);
  view.setUint16(at + ReplyChunk.type, type);
  view.setUint32(at + ReplyChunk.cookie, cookieHigh);
  view.setUint32(at + ReplyChunk.cookie + 4, cookieLow);
  view.setUint32(at + ReplyChunk.length, payloadBytes);
}
