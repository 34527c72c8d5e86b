import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as protocol from "../src/protocol/index.js";

const { emitGpaRanges, emitGpadl, gpaRangePages, parseGpaRanges, GpaRangeFault } = protocol;

const range: fc.Arbitrary<protocol.GpaRange> = fc
  .record({
    byteOffset: fc.integer({ min: 0, max: 4095 }),
    byteCount: fc.integer({ min: 1, max: 60 * 4096 }),
  })
  .chain(({ byteOffset, byteCount }) => {
    const pages = Math.ceil((byteOffset + byteCount) / 4096);
    const pfn = fc.oneof(fc.nat(), fc.integer({ min: 0, max: 2 ** 41 - 1 }));
    return fc.record({
      byteCount: fc.constant(byteCount),
      byteOffset: fc.constant(byteOffset),
      pfns: fc.array(pfn, { minLength: pages, maxLength: pages }),
    });
  });

function pages(count: number): protocol.GpaRange {
  return {
    byteCount: count * 4096,
    byteOffset: 0,
    pfns: Array.from({ length: count }, (_, index) => index + 1),
  };
}

/** What a host collects from the messages of one GPADL. */
function collect(messages: readonly Uint8Array[]): {
  header: protocol.GpadlHeader;
  data: Uint8Array;
} {
  const header = protocol.GpadlHeader.parse(messages[0]!)!;
  const data = new Uint8Array(header.rangeBytes);
  data.set(header.data);
  let at = header.data.byteLength;
  for (const message of messages.slice(1)) {
    const body = protocol.GpadlBody.parse(message)!;
    expect(body.gpadlId).toBe(header.gpadlId);
    data.set(body.data.subarray(0, data.byteLength - at), at);
    at += body.data.byteLength;
  }
  return { header, data };
}

describe("GPADL messages", () => {
  test("ranges travel unchanged, whatever the number of messages", () => {
    fc.assert(
      fc.property(fc.array(range, { maxLength: 6 }), fc.boolean(), (ranges, padded) => {
        const messages = emitGpadl(7, 0xe1e10, ranges);
        for (const message of messages) expect(message.byteLength).toBeLessThanOrEqual(240);
        const sent = padded
          ? messages.map((message) => {
              const full = new Uint8Array(240).fill(0xee);
              full.set(message);
              return full;
            })
          : messages;
        const { header, data } = collect(sent);
        expect(header).toMatchObject({ relid: 7, gpadlId: 0xe1e10, rangeCount: ranges.length });
        expect(parseGpaRanges(data, header.rangeCount, header.rangeBytes)).toEqual({
          kind: "ok",
          ranges,
        });
      }),
    );
  });

  test.each([
    [1, [36]],
    [26, [236]],
    [27, [236, 24]],
    [54, [236, 240]],
    [55, [236, 240, 24]],
  ])("%i pages take messages of %j bytes", (count, sizes) => {
    expect(emitGpadl(1, 2, [pages(count)]).map((message) => message.byteLength)).toEqual(sizes);
  });

  test("16 bits count at most 8190 pages of one range", () => {
    expect(protocol.GPADL_MAX_PAGES).toBe(8190);
    const messages = emitGpadl(1, 2, [pages(8190)]);
    expect(messages).toHaveLength(1 + Math.ceil((8190 - 26) / 28));
    const { header, data } = collect(messages);
    expect(header.rangeBytes).toBe(65_528);
    expect(parseGpaRanges(data, 1, 65_528)).toMatchObject({ kind: "ok" });
    expect(() => emitGpadl(1, 2, [pages(8191)])).toThrow(/rangeBytes/);
  });

  test("a header takes no more data than it announces, nor broken words", () => {
    const bytes = emitGpadl(1, 2, [pages(20)])[0]!;
    new DataView(bytes.buffer).setUint16(16, 21, true);
    expect(protocol.GpadlHeader.parse(bytes)!.data.byteLength).toBe(16);
    new DataView(bytes.buffer).setUint16(16, 0xffff, true);
    expect(protocol.GpadlHeader.parse(bytes.subarray(0, 20 + 15))!.data.byteLength).toBe(8);
    expect(protocol.GpadlHeader.parse(bytes.subarray(0, 20))!.data.byteLength).toBe(0);
    expect(() =>
      protocol.GpadlBody.emit({ messageNumber: 0, gpadlId: 1, data: new Uint8Array(232) }),
    ).toThrow(RangeError);
    expect(() =>
      protocol.GpadlBody.emit({ messageNumber: 0, gpadlId: 1, data: new Uint8Array(12) }),
    ).toThrow(RangeError);
  });
});

describe("ranges", () => {
  /** Headers and page numbers as 8-byte words: [byte count, byte offset] or a page number. */
  function wordsOf(...words: readonly (readonly [number, number] | number | bigint)[]): Uint8Array {
    const bytes = new Uint8Array(words.length * 8);
    const view = new DataView(bytes.buffer);
    words.forEach((word, index) => {
      if (typeof word === "object") {
        view.setUint32(index * 8, word[0], true);
        view.setUint32(index * 8 + 4, word[1], true);
      } else view.setBigUint64(index * 8, BigInt(word), true);
    });
    return bytes;
  }

  test.each([
    ["nothing where a range should be", 1, wordsOf(), "missing-range", 0, 0],
    ["no room for the second range", 2, wordsOf([1, 0], 7), "missing-range", 1, 16],
    ["an empty range", 1, wordsOf([0, 0], 7), "empty-range", 0, 0],
    ["an offset in the second page", 1, wordsOf([1, 4096], 7), "offset-beyond-page", 0, 0],
    ["more bytes than 32 bits can count", 1, wordsOf([0xffff_f001, 0], 7), "overflow", 0, 0],
    ["an offset that makes them too many", 1, wordsOf([0xffff_ef02, 0xfff], 7), "overflow", 0, 0],
    ["no page number", 1, wordsOf([1, 0]), "missing-pfns", 0, 0],
    ["one page number too few", 1, wordsOf([4096, 1], 7), "missing-pfns", 0, 0],
    ["the largest range without its pages", 1, wordsOf([0xffff_f000, 0], 7), "missing-pfns", 0, 0],
    ["a fault behind a good range", 2, wordsOf([4096, 0], 7, [0, 0], 8), "empty-range", 1, 16],
    ["a page beyond all memory", 1, wordsOf([8192, 0], 7, 2n ** 41n), "pfn-too-large", 0, 16],
    ["a page beyond exact numbers", 1, wordsOf([1, 0], 2n ** 64n - 1n), "pfn-too-large", 0, 8],
  ] as const)("%s", (_, count, bytes, fault, index, offset) => {
    expect(parseGpaRanges(bytes, count, bytes.byteLength)).toEqual({
      kind: "fault",
      fault,
      range: index,
      offset,
    });
  });

  test("announced bytes that are not there", () => {
    const bytes = wordsOf([1, 0], 7);
    expect(parseGpaRanges(bytes, 1, 24)).toMatchObject({ fault: "missing-bytes" });
    // Less than a word more is cut off, as the sender's messages are.
    expect(parseGpaRanges(bytes, 1, 23)).toMatchObject({ kind: "ok" });
    // Bytes that are there but not announced do not count.
    expect(parseGpaRanges(bytes, 1, 8)).toMatchObject({ fault: "missing-pfns" });
  });

  test("what lies behind the last range, and no range at all, are in order", () => {
    expect(parseGpaRanges(wordsOf([1, 0], 7, [0, 9999]), 1, 24)).toEqual({
      kind: "ok",
      ranges: [{ byteCount: 1, byteOffset: 0, pfns: [7] }],
    });
    expect(parseGpaRanges(wordsOf(), 0, 0)).toEqual({ kind: "ok", ranges: [] });
  });

  test("the rule for pages is that of 32-bit arithmetic with overflow refused", () => {
    const u32 = fc.oneof(
      fc.integer({ min: 0, max: 0xffff_ffff }),
      fc.integer({ min: 0xffff_e000, max: 0xffff_ffff }),
      fc.integer({ min: 0, max: 8192 }),
    );
    fc.assert(
      fc.property(u32, u32, (byteCount, byteOffset) => {
        const sum = BigInt(byteCount) + BigInt(byteOffset) + 4095n;
        const expected =
          byteCount === 0
            ? GpaRangeFault.emptyRange
            : byteOffset > 0xfff
              ? GpaRangeFault.offsetBeyondPage
              : sum > 0xffff_ffffn
                ? GpaRangeFault.overflow
                : Number(sum / 4096n);
        expect(gpaRangePages(byteCount, byteOffset)).toBe(expected);
      }),
    );
  });

  test("any bytes are parsed or refused, and nothing outside them is read", () => {
    const small = fc.oneof(fc.nat({ max: 5000 }), fc.constant(0));
    const word = fc.tuple(small, small);
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 80 }),
      fc.array(word, { maxLength: 12 }).map((words) => wordsOf(...words)),
    );
    fc.assert(
      fc.property(bytes, fc.nat({ max: 4 }), fc.nat({ max: 96 }), (data, count, total) => {
        const guarded = (guard: number): Uint8Array => {
          const memory = new Uint8Array(data.byteLength + 32).fill(guard);
          memory.set(data, 16);
          return memory.subarray(16, 16 + data.byteLength);
        };
        const outcome = parseGpaRanges(guarded(0), count, total);
        expect(parseGpaRanges(guarded(0xff), count, total)).toEqual(outcome);
        if (outcome.kind === "fault") return;
        expect(outcome.ranges).toHaveLength(count);
        const emitted = emitGpaRanges(outcome.ranges);
        expect(emitted).toEqual(data.slice(0, emitted.byteLength));
      }),
    );
  });

  test.each([
    ["too few pages", { byteCount: 4097, byteOffset: 0, pfns: [1] }],
    ["too many pages", { byteCount: 1, byteOffset: 0, pfns: [1, 2] }],
    ["no bytes", { byteCount: 0, byteOffset: 0, pfns: [] }],
    ["a page number beyond exact addresses", { byteCount: 1, byteOffset: 0, pfns: [2 ** 41] }],
    ["half a page number", { byteCount: 1, byteOffset: 0, pfns: [0.5] }],
    ["a negative page number", { byteCount: 1, byteOffset: 0, pfns: [-1] }],
  ])("%s are not emitted", (_, bad) => {
    expect(() => emitGpaRanges([bad])).toThrow(RangeError);
  });
});
