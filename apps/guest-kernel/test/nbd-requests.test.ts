import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ExportDescription } from "../src/nbd/handshake.js";
import { checkRequest } from "../src/nbd/request-check.js";
import {
  RequestReader,
  Verdict,
  type RequestFields,
  type RequestSink,
} from "../src/nbd/request-reader.js";
import { request, type WireRequest } from "./nbd-wire.js";

const SIZE = 2 ** 33 + 512;
const READ = 0;
const WRITE = 1;
const FLUSH = 3;
const TRIM = 4;
const CACHE = 5;
const WRITE_ZEROES = 6;
const BLOCK_STATUS = 7;
const [FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO] = [1, 2, 4, 8, 16];
const [OK, EPERM, EINVAL, ENOSPC] = [0, 1, 22, 28];

/** Everything offered, and what a disk without UNMAP, or one that is only for reading, offers. */
const ALL = 0x0d6d;
const NO_TRIM = ALL & ~(1 << 5);
const READ_ONLY = 0x050f;

const agreed = (
  flags = ALL,
  minimumBlockBytes = 512,
  structuredReplies = true,
  allocationContext = true,
) => ({
  export: {
    name: "da0",
    description: "",
    sizeBytes: SIZE,
    flags,
    minimumBlockBytes,
    preferredBlockBytes: 4096,
    maximumPayloadBytes: 2 ** 25,
  } satisfies ExportDescription,
  structuredReplies,
  allocationContext,
});

const fields = (type: number, offset: number, lengthBytes: number, flags = 0): RequestFields => ({
  type,
  offset,
  lengthBytes,
  flags,
  cookieHigh: 0,
  cookieLow: 0,
});

describe("a request may be carried out, or is refused with", () => {
  const commands: [string, number, outside: number, readOnly: number][] = [
    ["READ", READ, EINVAL, OK],
    ["WRITE", WRITE, ENOSPC, EPERM],
    ["TRIM", TRIM, EINVAL, EPERM],
    ["CACHE", CACHE, EINVAL, OK],
    ["WRITE_ZEROES", WRITE_ZEROES, ENOSPC, EPERM],
    ["BLOCK_STATUS", BLOCK_STATUS, EINVAL, OK],
  ];
  describe.each(commands)("%s", (_name, type, outside, readOnly) => {
    test.each([
      ["the first block", 0, 512, OK],
      ["the last block", SIZE - 512, 512, OK],
      ["nothing", 4096, 0, EINVAL],
      ["nothing at the end", SIZE, 0, EINVAL],
      ["one block past the end", SIZE, 512, outside],
      ["a range that leaves the disk", SIZE - 512, 1024, outside],
      ["the end of 2^64", 2 ** 64 - 512, 512, outside],
      ["a range that wraps around", 2 ** 64 - 512, 4096, outside],
      ["a length of 2^32 - 512 from the start", 0, 2 ** 32 - 512, OK],
      ["an offset between blocks", 511, 512, EINVAL],
      ["a length of parts of blocks", 0, 513, EINVAL],
      ["one byte at the end", SIZE - 1, 1, EINVAL],
    ])("%s", (_where, offset, length, error) => {
      expect(checkRequest(fields(type, offset, length), agreed())).toBe(error);
    });

    test("blocks of 4096 bytes", () => {
      const large = agreed(ALL, 4096);
      expect(checkRequest(fields(type, 4096, 4096), large)).toBe(OK);
      expect(checkRequest(fields(type, 512, 4096), large)).toBe(EINVAL);
      expect(checkRequest(fields(type, 4096, 512), large)).toBe(EINVAL);
    });

    test("a disk that is only for reading", () => {
      expect(checkRequest(fields(type, 0, 512), agreed(READ_ONLY))).toBe(readOnly);
      // Which comes before everything else that may be wrong with it.
      expect(checkRequest(fields(type, SIZE, 512), agreed(READ_ONLY))).toBe(readOnly || outside);
    });
  });

  test.each([
    ["READ", READ, FUA | DF],
    ["WRITE", WRITE, FUA],
    ["TRIM", TRIM, FUA],
    ["CACHE", CACHE, FUA],
    ["WRITE_ZEROES", WRITE_ZEROES, FUA | NO_HOLE | FAST_ZERO],
    ["BLOCK_STATUS", BLOCK_STATUS, FUA | REQ_ONE],
    ["FLUSH", FLUSH, FUA],
  ])("%s with each of the 16 flags", (_name, type, allowed) => {
    for (let bit = 0; bit < 16; bit++) {
      const flag = 1 << bit;
      const length = type === FLUSH ? 0 : 512;
      const error = (allowed & flag) === 0 ? EINVAL : OK;
      expect([bit, checkRequest(fields(type, 0, length, flag), agreed())]).toEqual([bit, error]);
    }
  });

  test("FLUSH with a range", () => {
    expect(checkRequest(fields(FLUSH, 0, 0), agreed())).toBe(OK);
    expect(checkRequest(fields(FLUSH, 0, 512), agreed())).toBe(EINVAL);
    expect(checkRequest(fields(FLUSH, 512, 0), agreed())).toBe(EINVAL);
    expect(checkRequest(fields(FLUSH, 0, 0), agreed(READ_ONLY))).toBe(OK);
  });

  test("what was not offered or agreed on", () => {
    expect(checkRequest(fields(TRIM, 0, 512), agreed(NO_TRIM))).toBe(EINVAL);
    expect(checkRequest(fields(READ, 0, 512, DF), agreed(ALL, 512, false))).toBe(EINVAL);
    expect(checkRequest(fields(BLOCK_STATUS, 0, 512), agreed(ALL, 512, true, false))).toBe(EINVAL);
    for (const type of [8, 9, 77, 0xffff])
      expect(checkRequest(fields(type, 0, 512), agreed())).toBe(EINVAL);
  });
});

/** Takes what it is offered as a script says, and remembers it. */
class Sink implements RequestSink {
  readonly events: string[] = [];
  /** Calls of `request` and `payload` that are busy, by their number; they come again. */
  readonly #busy: ReadonlySet<number>;
  #calls = 0;
  #data: Buffer[] = [];

  constructor(busy: readonly number[]) {
    this.#busy = new Set(busy);
  }

  request(fields: RequestFields): Verdict {
    if (this.#busy.has(this.#calls++)) return Verdict.busy;
    this.#endData();
    const { type, flags, offset, lengthBytes, cookieHigh, cookieLow } = fields;
    const cookie = (BigInt(cookieHigh) << 32n) | BigInt(cookieLow);
    this.events.push(`${type}/${flags} ${cookie} ${lengthBytes}@${offset}`);
    if (type === 2) return Verdict.end;
    if (type === WRITE) return flags === 0 ? Verdict.payload : Verdict.skip;
    return Verdict.taken;
  }

  payload(bytes: Uint8Array, at: number, end: number): number {
    const upTo = this.#busy.has(this.#calls++) ? at + ((end - at) >> 1) : end;
    this.#data.push(Buffer.from(bytes.subarray(at, upTo)));
    return upTo;
  }

  violation(): void {
    this.events.push("violation");
  }

  /** Data that came since the last request. */
  end(): readonly string[] {
    this.#endData();
    return this.events;
  }

  #endData(): void {
    const data = Buffer.concat(this.#data.splice(0));
    if (data.byteLength > 0) this.events.push(data.toString("hex"));
  }
}

/** Feeds bytes in pieces of the given sizes, again and again where the sink is busy. */
function read(bytes: Buffer, cuts: readonly number[], busy: readonly number[]): readonly string[] {
  const sink = new Sink(busy);
  const reader = new RequestReader(sink);
  let at = 0;
  for (let index = 0; at < bytes.byteLength; index++) {
    const part = bytes.subarray(at, at + cuts[index % cuts.length]!);
    for (let from = 0; from < part.byteLength;) from = reader.read(part, from);
    at += part.byteLength;
  }
  return sink.end();
}

describe("the reader of requests", () => {
  const write: WireRequest = {
    type: WRITE,
    cookie: 2n ** 64n - 2n,
    offset: 2 ** 40,
    data: Buffer.from("data"),
  };

  test("hands fields and data over as they were sent, and drops what was refused", () => {
    const bytes = Buffer.concat([
      request({
        type: READ,
        cookie: 0x0102030405060708n,
        offset: 513,
        length: 0xffff_ffff,
        flags: 0xfffe,
      }),
      request(write),
      request({ ...write, flags: 1 }),
      request({ type: FLUSH }),
    ]);
    expect(read(bytes, [1000], [])).toEqual([
      "0/65534 72623859790382856 4294967295@513",
      "1/0 18446744073709551614 4@1099511627776",
      "64617461",
      "1/1 18446744073709551614 4@1099511627776",
      "3/0 0 0@0",
    ]);
  });

  test("looks at nothing behind a disconnect or what is no request", () => {
    const flush = request({ type: FLUSH });
    const end = request({ type: 2 });
    expect(read(Buffer.concat([flush, end, flush]), [5], [])).toEqual(["3/0 0 0@0", "2/0 0 0@0"]);
    const broken = request({ type: FLUSH, magic: 0x25609514 });
    expect(read(Buffer.concat([flush, broken, flush]), [5], [])).toEqual([
      "3/0 0 0@0",
      "violation",
    ]);
  });

  const anyRequest = fc
    .record({
      type: fc.oneof(
        { weight: 12, arbitrary: fc.constantFrom(READ, WRITE, WRITE, FLUSH, 9) },
        { weight: 1, arbitrary: fc.constant(2) },
      ),
      flags: fc.constantFrom(0, 1),
      cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      offset: fc.maxSafeNat(),
      data: fc.uint8Array({ maxLength: 200 }),
    })
    .map(({ type, data, ...rest }) =>
      request(
        type === WRITE ? { type, data, ...rest } : { type, length: data.byteLength, ...rest },
      ),
    );

  test("sees the same whatever the pieces are, and however often its sink is busy", () => {
    fc.assert(
      fc.property(
        fc.array(anyRequest, { minLength: 1, maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 }),
        fc.array(fc.nat(60)),
        fc.option(fc.nat(2000)),
        (requests, cuts, busy, flip) => {
          const bytes = Buffer.concat(requests);
          if (flip !== null && flip < bytes.byteLength) bytes[flip]! ^= 0x10;
          expect(read(bytes, cuts, busy)).toEqual(read(bytes, [bytes.byteLength], []));
        },
      ),
      { numRuns: 1000 },
    );
  });
});
