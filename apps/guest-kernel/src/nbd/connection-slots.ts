import type { GpaRuns, GuestMemory } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { NbdError } from "./protocol.js";
import { DATA_CHUNK_BYTES, ERROR_CHUNK_BYTES } from "./replies.js";
import type { RequestFields } from "./request-reader.js";

/** Data that a slot holds; what is longer takes several. */
export const SLOT_BYTES = 128 * 1024;
/** Pages of a slot: its data, and one in front in whose last bytes the reply's header is put. */
export const SLOT_PAGES = SLOT_BYTES / PAGE_SIZE + 1;

/** A request of the client, from its header until its reply is with the system; used again afterwards. */
export class NbdRequest {
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offset = 0;
  lengthBytes = 0;
  error: NbdError = NbdError.none;
  /** Bytes that no slot has carried yet. */
  unissuedBytes = 0;
  /** Slots that carry parts of it. */
  parts = 0;
  /** Room for a reply without data. */
  readonly reply: Buffer = Buffer.alloc(ERROR_CHUNK_BYTES);
  readonly replyView = new DataView(this.reply.buffer, this.reply.byteOffset, ERROR_CHUNK_BYTES);
  /** Called when its reply is with the system, or never will be. */
  readonly replied: () => void;

  /** @param free - Takes it back. */
  constructor(free: (request: NbdRequest) => void) {
    this.replied = () => free(this);
  }

  begin(fields: RequestFields, error: NbdError): void {
    this.flags = fields.flags;
    this.type = fields.type;
    this.cookieHigh = fields.cookieHigh;
    this.cookieLow = fields.cookieLow;
    this.offset = fields.offset;
    this.lengthBytes = fields.lengthBytes;
    this.unissuedBytes = fields.lengthBytes;
    this.parts = 0;
    this.error = error;
  }
}

/**
 * Guest memory for a request or a part of one, and where that stands. Header and data of a reply lie in a row, so
 * that they go to the socket as one piece, from where the host has put the data.
 */
export class Slot implements GpaRuns {
  readonly runs = 1;
  /** Its number, in the disk's queue too. */
  readonly index: number;
  /** GPA of the data, a page. */
  readonly address: number;
  request: NbdRequest | undefined;
  /** Where on the disk the data belongs. */
  position = 0;
  lengthBytes = 0;
  /** Bytes of the client's data that have come. */
  filledBytes = 0;
  /** The reply of its request ends with it. */
  isLast = false;
  /** The bytes in front of the data. */
  readonly header: DataView;
  /** Called when the data is with the system, or never will be. */
  readonly sent: () => void;
  readonly #bytes: Buffer;
  /** The last reply, which serves again for the next one of the same length. */
  #reply: Buffer;

  /** @param free - Takes it back. */
  constructor(
    index: number,
    memory: GuestMemory,
    pagesAddress: number,
    free: (slot: Slot) => void,
  ) {
    this.index = index;
    this.address = pagesAddress + PAGE_SIZE;
    const { buffer, byteOffset } = memory;
    const from = byteOffset + this.address - DATA_CHUNK_BYTES;
    this.#bytes = Buffer.from(buffer, from, DATA_CHUNK_BYTES + SLOT_BYTES);
    this.header = new DataView(buffer, from, DATA_CHUNK_BYTES);
    this.#reply = this.#bytes;
    this.sent = () => free(this);
  }

  /** Takes the next part of a request on. */
  begin(request: NbdRequest): void {
    this.request = request;
    this.position = request.offset + request.lengthBytes - request.unissuedBytes;
    this.lengthBytes = Math.min(request.unissuedBytes, SLOT_BYTES);
    this.filledBytes = 0;
    this.isLast = false;
    request.unissuedBytes -= this.lengthBytes;
    request.parts++;
  }

  runAddress(): number {
    return this.address;
  }

  runLength(): number {
    return this.lengthBytes;
  }

  /** Where in `header` a header of so many bytes begins. */
  headerAt(headerBytes: number): number {
    return DATA_CHUNK_BYTES - headerBytes;
  }

  /** A header of so many bytes, and the data behind it. */
  reply(headerBytes: number): Buffer {
    const length = headerBytes + this.lengthBytes;
    if (this.#reply.byteLength !== length) {
      const from = this.headerAt(headerBytes);
      this.#reply = this.#bytes.subarray(from, from + length);
    }
    return this.#reply;
  }

  /** Takes data of the client, as much as there is room for up to `lengthBytes`. @returns How much. */
  fill(bytes: Uint8Array, at: number, end: number): number {
    const count = Math.min(end - at, this.lengthBytes - this.filledBytes);
    this.#bytes.set(bytes.subarray(at, at + count), DATA_CHUNK_BYTES + this.filledBytes);
    this.filledBytes += count;
    return count;
  }
}
