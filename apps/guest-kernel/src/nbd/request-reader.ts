import { RequestHeader } from "./protocol.js";

/** The header of a request, as it came. */
export interface RequestFields {
  readonly flags: number;
  readonly type: number;
  /** The client's own number for it, in two halves. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** Exact below 2^53. */
  readonly offset: number;
  readonly lengthBytes: number;
}

/** What becomes of a request. */
export const Verdict = {
  /** Not now; it is offered again with the next read. */
  busy: 0,
  /** Taken; no bytes belong to it. */
  taken: 1,
  /** Taken; its data goes to `payload`. */
  payload: 2,
  /** Refused; its data is dropped. */
  skip: 3,
  /** Nothing of what the client sends is looked at any more. */
  end: 4,
} as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/** Whom requests are for. */
export interface RequestSink {
  /** @param fields - Valid during the call. */
  request(fields: RequestFields): Verdict;
  /** Takes data of the request that was taken last, from `at` to `end`. @returns Up to where; less than `end` when it is busy. */
  payload(bytes: Uint8Array, at: number, end: number): number;
  /** What came is no request. Nothing is looked at any more. */
  violation(): void;
}

/** Cuts what a client sends into requests and their data, in pieces of any size. Allocates nothing. */
export class RequestReader implements RequestFields {
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offset = 0;
  lengthBytes = 0;
  readonly #sink: RequestSink;
  readonly #header = new Uint8Array(RequestHeader.SIZE);
  readonly #view = new DataView(this.#header.buffer);
  #filled = 0;
  /** Bytes of data that are still to come, and whether they are dropped. */
  #payloadBytes = 0;
  #isSkipping = false;
  #isEnded = false;

  constructor(sink: RequestSink) {
    this.#sink = sink;
  }

  /** The client is in the middle of a request. */
  get isWithin(): boolean {
    return this.#filled > 0 || this.#payloadBytes > 0;
  }

  /** Takes bytes of the client, from `at` to `end`. @returns Where the first byte is that was not consumed, because the sink is busy. */
  read(bytes: Uint8Array, at: number, end = bytes.byteLength): number {
    while (!this.#isEnded) {
      if (this.#payloadBytes > 0) {
        if (at === end) return at;
        const wanted = Math.min(end, at + this.#payloadBytes);
        const upTo = this.#isSkipping ? wanted : this.#sink.payload(bytes, at, wanted);
        this.#payloadBytes -= upTo - at;
        at = upTo;
        if (upTo < wanted) return at;
        continue;
      }
      while (this.#filled < RequestHeader.SIZE) {
        if (at === end) return at;
        this.#header[this.#filled++] = bytes[at++]!;
      }
      if (!this.#offer()) {
        // The last byte of the header counts as not consumed: so there is something left to come back with.
        this.#filled--;
        return at - 1;
      }
    }
    return end;
  }

  /** Offers the request in the header; false if the sink is busy. */
  #offer(): boolean {
    const view = this.#view;
    if (view.getUint32(RequestHeader.magic) !== RequestHeader.MAGIC) {
      this.#isEnded = true;
      this.#sink.violation();
      return true;
    }
    this.flags = view.getUint16(RequestHeader.flags);
    this.type = view.getUint16(RequestHeader.type);
    this.cookieHigh = view.getUint32(RequestHeader.cookie);
    this.cookieLow = view.getUint32(RequestHeader.cookie + 4);
    this.offset =
      view.getUint32(RequestHeader.offset) * 0x1_0000_0000 +
      view.getUint32(RequestHeader.offset + 4);
    this.lengthBytes = view.getUint32(RequestHeader.length);
    const verdict = this.#sink.request(this);
    if (verdict === Verdict.busy) return false;
    this.#filled = 0;
    if (verdict === Verdict.end) this.#isEnded = true;
    if (verdict === Verdict.payload || verdict === Verdict.skip) {
      this.#payloadBytes = this.lengthBytes;
      this.#isSkipping = verdict === Verdict.skip;
    }
    return true;
  }
}
