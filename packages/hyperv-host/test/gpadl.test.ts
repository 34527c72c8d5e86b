import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  GPADL_BODY_DATA_MAX,
  GPADL_HEADER_DATA_MAX,
  GpadlBody,
  GpadlHeader,
  PAGE_SIZE,
  RelidReleased,
  emitGpaRanges,
  emitGpadl,
  type GpaRange,
} from "@hyperv-is/vmbus-core/protocol";
import { GpadlTable, type GpadlOutcome } from "../src/vmbus/gpadl.js";
import { ScriptedGuest, pageList } from "./scripted-guest.js";
import { DeviceClass } from "@hyperv-is/vmbus-core/protocol";

const PAGES = 64;
const KEY = 7;
const ID = 0xe1e10;
const memory = new GuestMemory(new ArrayBuffer(PAGES * PAGE_SIZE));

/** Feeds the messages of a GPADL into a table; what the last one leads to. */
function feed(table: GpadlTable, messages: readonly Uint8Array[]): GpadlOutcome {
  const [header, ...bodies] = messages;
  let outcome = table.begin(KEY, GpadlHeader.parse(header!)!);
  for (const body of bodies) {
    expect(outcome.kind).toBe("in-progress");
    outcome = table.append(GpadlBody.parse(body)!);
  }
  return outcome;
}

function begin(fields: Partial<GpadlHeader>, table = new GpadlTable(memory)): GpadlOutcome {
  const data = emitGpaRanges([{ byteCount: 8192, byteOffset: 0, pfns: [1, 2] }]);
  const header = { relid: 1, gpadlId: ID, rangeBytes: data.length, rangeCount: 1, data };
  return table.begin(KEY, { ...header, ...fields });
}

function words(...values: readonly (number | bigint)[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values, BigInt).buffer);
}

/** A range header: byte count and offset in one word. */
const range = (byteCount: number, byteOffset = 0): bigint =>
  BigInt(byteCount) | (BigInt(byteOffset) << 32n);

describe("GPADLs that are in order", () => {
  const arbitraryRange = fc
    .record({
      byteOffset: fc.nat(PAGE_SIZE - 1),
      byteCount: fc.integer({ min: 1, max: 100 * PAGE_SIZE }),
      first: fc.nat(1000),
    })
    .map(({ byteOffset, byteCount, first }): GpaRange => ({
      byteCount,
      byteOffset,
      pfns: Array.from(
        { length: Math.ceil((byteOffset + byteCount) / PAGE_SIZE) },
        (_, index) => (first + index * 7) % PAGES,
      ),
    }));

  test("arrive whole, however many messages they take", () => {
    fc.assert(
      fc.property(fc.array(arbitraryRange, { minLength: 1, maxLength: 5 }), (ranges) => {
        const outcome = feed(new GpadlTable(memory), emitGpadl(1, ID, ranges));
        if (outcome.kind !== "complete") throw new Error(outcome.kind);
        expect(outcome.gpadl.ranges).toEqual(ranges);
        expect(outcome.gpadl.state).toBe("offered");
      }),
    );
  });

  test("26 pages fit the first message, and 28 each of the others", () => {
    const messages = (pages: number): number =>
      emitGpadl(1, ID, [
        { byteCount: pages * PAGE_SIZE, byteOffset: 0, pfns: Array<number>(pages).fill(3) },
      ]).length;
    expect([messages(26), messages(27), messages(26 + 28), messages(26 + 29)]).toEqual([
      1, 2, 2, 3,
    ]);
  });

  test("bytes behind the announced ones are ignored, as firmware sends them", () => {
    const pfns = Array<number>(40).fill(3);
    const [header, body] = emitGpadl(1, ID, [{ byteCount: 40 * PAGE_SIZE, byteOffset: 0, pfns }]);
    const long = new Uint8Array(240).fill(0xff);
    long.set(body!);
    expect(feed(new GpadlTable(memory), [header!, long])).toMatchObject({ kind: "complete" });
  });
});

describe("hostile GPADLs", () => {
  test.each([
    ["a range without bytes", words(range(0), 1), 1, "gpadl-ranges"],
    ["an offset of a whole page", words(range(1, PAGE_SIZE), 1), 1, "gpadl-ranges"],
    ["a range of 4 GiB", words(range(0xffff_ffff, 1), 1), 1, "gpadl-ranges"],
    ["fewer pages than the range needs", words(range(8193), 1, 2), 1, "gpadl-ranges"],
    ["fewer ranges than announced", words(range(4096), 1), 2, "gpadl-ranges"],
    ["65535 ranges in one word", words(range(4096)), 65_535, "gpadl-ranges"],
    ["a page number of 2^41", words(range(4096), 2n ** 41n), 1, "gpadl-ranges"],
    ["a page number of 2^64 - 1", words(range(4096), 2n ** 64n - 1n), 1, "gpadl-ranges"],
    ["the page behind memory", words(range(4096), PAGES), 1, "gpadl-outside-memory"],
    ["a page far away", words(range(4096), 2n ** 40n), 1, "gpadl-outside-memory"],
    [
      "one bad page among good ones",
      words(range(3 * 4096), 1, PAGES, 2),
      1,
      "gpadl-outside-memory",
    ],
  ])("%s", (_, data, rangeCount, rule) => {
    const table = new GpadlTable(memory);
    const outcome = begin({ data, rangeBytes: data.length, rangeCount }, table);
    expect(outcome).toMatchObject({ kind: "fault", key: KEY, fault: { rule } });
    // Nothing is left of it: the id is free again.
    expect(table.has(KEY)).toBe(false);
    expect(begin({}, table)).toMatchObject({ kind: "complete" });
  });

  test("the last page of memory is good", () => {
    const data = words(range(4096), PAGES - 1);
    expect(begin({ data, rangeBytes: data.length })).toMatchObject({ kind: "complete" });
  });

  test("an id that is in use", () => {
    const table = new GpadlTable(memory);
    begin({}, table);
    expect(begin({}, table)).toMatchObject({ fault: { rule: "gpadl-duplicate-id" } });
    // Another channel may use it, once all messages are there.
    const header = { relid: 2, gpadlId: ID, rangeBytes: 16, rangeCount: 1 };
    const whole = { ...header, data: words(range(4096), 1) };
    expect(table.begin(8, whole)).toMatchObject({ kind: "complete" });
  });

  test("an id whose messages are missing on another channel", () => {
    const table = new GpadlTable(memory);
    expect(begin({ rangeBytes: 1000 }, table)).toEqual({ kind: "in-progress" });
    const other = { relid: 2, gpadlId: ID, rangeBytes: 1000, rangeCount: 1, data: words(1) };
    const fault = { rule: "gpadl-duplicate-id" };
    expect(table.begin(8, other)).toMatchObject({ kind: "fault", key: 8, fault });
    expect(table.has(8)).toBe(false);
    // The first one is not disturbed.
    expect(table.find(KEY, ID)?.state).toBe("in-progress");
  });

  test("a body without a header, and one too many", () => {
    const table = new GpadlTable(memory);
    const body = { messageNumber: 0, gpadlId: ID, data: words(1) };
    expect(table.append(body)).toEqual({ kind: "unknown" });
    begin({}, table);
    expect(table.append(body)).toEqual({ kind: "unknown" });
  });

  test("a body that completes bad ranges takes all of it away", () => {
    const table = new GpadlTable(memory);
    const data = words(range(2 * 4096), 1);
    expect(begin({ rangeBytes: 24, data }, table)).toEqual({ kind: "in-progress" });
    const outcome = table.append({ messageNumber: 0, gpadlId: ID, data: words(PAGES) });
    expect(outcome).toMatchObject({ kind: "fault", fault: { rule: "gpadl-outside-memory" } });
    expect(table.has(KEY)).toBe(false);
  });

  test("memory lent over and over again ends somewhere", () => {
    const table = new GpadlTable(memory);
    const results = new Set<string>();
    let granted = 0;
    for (let id = 1; id < 20; id++) {
      const outcome = begin({ gpadlId: id, rangeBytes: 65_535, data: words(1) }, table);
      results.add(outcome.kind === "fault" ? outcome.fault.rule : outcome.kind);
      if (outcome.kind === "in-progress") granted += 8191;
    }
    expect(results).toEqual(new Set(["in-progress", "gpadl-too-many-pages"]));
    expect(granted).toBeGreaterThan(PAGES * 4);
    expect(granted).toBeLessThan(PAGES * 4 + 65_536 + 8191);
    // What is given back can be lent again.
    for (const gpadl of table.of(KEY)) table.remove(gpadl);
    expect(begin({}, table)).toMatchObject({ kind: "complete" });
  });

  test("no bytes at all do any harm", () => {
    const message = fc.oneof(
      fc.record({
        header: fc.constant(true),
        rangeBytes: fc.nat(65_535),
        rangeCount: fc.nat(65_535),
        data: fc.uint8Array({ maxLength: GPADL_HEADER_DATA_MAX }),
        gpadlId: fc.nat(3),
      }),
      fc.record({
        header: fc.constant(false),
        rangeBytes: fc.constant(0),
        rangeCount: fc.constant(0),
        data: fc.uint8Array({ maxLength: GPADL_BODY_DATA_MAX }),
        gpadlId: fc.nat(3),
      }),
    );
    fc.assert(
      fc.property(fc.array(message, { maxLength: 40 }), (messages) => {
        const table = new GpadlTable(memory);
        for (const { header, data: some, ...fields } of messages) {
          const data = some.slice(0, some.length & ~7);
          const outcome = header
            ? table.begin(KEY, { relid: 1, ...fields, data })
            : table.append({ messageNumber: 0, gpadlId: fields.gpadlId, data });
          if (outcome.kind !== "complete") continue;
          for (const { pfns, byteCount, byteOffset } of outcome.gpadl.ranges) {
            expect(pfns).toHaveLength(Math.ceil((byteCount + byteOffset) / PAGE_SIZE));
            expect(pfns.every((pfn) => pfn < PAGES)).toBe(true);
          }
        }
      }),
    );
  });
});

describe("GPADLs as a guest makes them", () => {
  function connected(): ScriptedGuest {
    const guest = new ScriptedGuest();
    const { classId, instanceIds } = DeviceClass.kvp;
    guest.partition.offer({ classId, instanceId: instanceIds[0], worker: 0 });
    guest.connect();
    guest.requestOffers();
    return guest;
  }
  const rangeOf = (pages: readonly number[]): GpaRange => ({
    byteCount: pages.length * PAGE_SIZE,
    byteOffset: 0,
    pfns: pages.map((page) => page / PAGE_SIZE),
  });

  test("of 300 scattered pages, with guest memory at an offset", () => {
    const guest = connected();
    const pages = pageList(guest.pages(300), 300).reverse();
    guest.createGpadl(1, [rangeOf(pages)]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("that name memory which is not there are refused and recorded", () => {
    const guest = connected();
    const { messages } = guest.tryGpadl(1, [rangeOf([guest.memory.sizeBytes])]);
    expect(messages).toEqual([{ type: 10, relid: 1, gpadlId: 0xe1e10, status: 0x8000_ffff }]);
    expect(guest.partition.violations.list).toMatchObject([
      { rule: "gpadl-outside-memory", relid: 1 },
    ]);
  });

  test("that are never finished end with the channel", () => {
    const guest = connected();
    const pages = pageList(guest.pages(40), 40);
    const [header, body] = emitGpadl(1, 5, [rangeOf(pages)]);
    expect(guest.send(header!)).toEqual([]);
    expect(guest.send(RelidReleased.emit({ relid: 1 }))).toEqual([]);
    expect(guest.brokenRules).toEqual([]);
    expect(guest.send(body!)).toEqual([]);
    expect(guest.brokenRules).toEqual(["gpadl-unknown"]);
  });
});
