import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  GpaRanges,
  GpaRangesResult,
  GuestMemory,
  gpaDirectHeaderBytes,
  type OutgoingRing,
  putGpaRange,
  putSingleRange,
  ReceiveResult,
  SendResult,
  singleRangeHeaderBytes,
  singleRangePages,
  type GpaRuns,
} from "@hyperv-is/vmbus-core";
import { GpaDirect, PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { pairOfEnds } from "./ring-ends.js";

type Run = readonly [address: number, lengthBytes: number];

const listOf = (...runs: readonly Run[]): GpaRuns => ({
  runs: runs.length,
  lengthBytes: runs.reduce((sum, [, length]) => sum + length, 0),
  runAddress: (index) => runs[index]![0],
  runLength: (index) => runs[index]![1],
});

/** Sends the list as one range through a ring; the peer's ring end with the packet. */
function send(
  list: GpaRuns,
  put: (ring: OutgoingRing) => void = (ring) => putSingleRange(ring, list),
): { incoming: ReturnType<typeof pairOfEnds>["incoming"] } {
  const { out, incoming } = pairOfEnds(9);
  const header = singleRangeHeaderBytes(singleRangePages(list));
  expect(out.begin(PacketType.gpaDirect, 1, header, header + 8, 1, 0)).toBe(SendResult.Ready);
  put(out);
  out.putU32(0x11);
  out.putU32(0x22);
  out.end();
  out.publish();
  expect(incoming.next()).toBe(ReceiveResult.Packet);
  expect([incoming.u32(header), incoming.u32(header + 4)]).toEqual([0x11, 0x22]);
  return { incoming };
}

/** Every byte address of a list, in order. */
const flat = (list: GpaRuns): string => {
  let text = "";
  let from = -1;
  let to = -1;
  for (let run = 0; run < list.runs; run++) {
    if (list.runAddress(run) !== to) {
      text += ` ${from}-${to}`;
      from = list.runAddress(run);
    }
    to = list.runAddress(run) + list.runLength(run);
  }
  return `${text} ${from}-${to}`;
};

describe("a scatter list as one range", () => {
  test.each<[string, readonly Run[], number]>([
    ["one run inside a page", [[0x1200, 512]], 1],
    ["one run across two pages", [[0x1f00, 512]], 2],
    [
      "partial first, whole middle, partial last",
      [
        [0x1e00, 512],
        [0x5000, 8192],
        [0x9000, 100],
      ],
      4,
    ],
    [
      "runs that touch inside a page",
      [
        [0x1000, 100],
        [0x1064, 5000],
      ],
      2,
    ],
    [
      "the same page twice",
      [
        [0x3000, 4096],
        [0x3000, 4096],
      ],
      2,
    ],
    [
      "a hole behind the first",
      [
        [0x1000, 100],
        [0x2000, 4096],
      ],
      0,
    ],
    [
      "a hole before the last",
      [
        [0x1000, 4096],
        [0x2200, 512],
      ],
      0,
    ],
    [
      "a short middle",
      [
        [0x1000, 4096],
        [0x5000, 4000],
        [0x7000, 4096],
      ],
      0,
    ],
    ["nothing", [], 0],
  ])("%s", (_, runs, pages) => {
    const list = listOf(...runs);
    expect(singleRangePages(list)).toBe(pages);
    if (pages === 0) return;
    const ranges = new GpaRanges(new GuestMemory(new ArrayBuffer(16 * PAGE_SIZE)));
    expect(ranges.load(send(list).incoming)).toBe(GpaRangesResult.Ok);
    expect(ranges.count).toBe(1);
    expect(ranges.lengthBytes).toBe(list.lengthBytes);
    expect(flat(ranges)).toBe(flat(list));
  });

  test.each([
    ["a list", (ring: OutgoingRing, run: Run) => putSingleRange(ring, listOf(run))],
    ["a range", (ring: OutgoingRing, run: Run) => putGpaRange(ring, ...run)],
  ])("33 pages, and page numbers above 32 bits, of %s", (_, put) => {
    const above16Tib = 2 ** 45 + 5 * PAGE_SIZE;
    const run: Run = [above16Tib + 512, 128 * 1024];
    expect(singleRangePages(listOf(run))).toBe(33);
    expect(gpaDirectHeaderBytes(...run)).toBe(singleRangeHeaderBytes(33));
    const { incoming } = send(listOf(run), (ring) => put(ring, run));
    expect(incoming.u32(GpaDirect.ranges)).toBe(128 * 1024);
    expect(incoming.u32(GpaDirect.ranges + 4)).toBe(512);
    for (let page = 0; page < 33; page++) {
      expect(incoming.u32(GpaDirect.ranges + 8 + 8 * page)).toBe(5 + page);
      expect(incoming.u32(GpaDirect.ranges + 12 + 8 * page)).toBe(2);
    }
  });

  test("every legal list arrives as the bytes it names, and every other one is refused", () => {
    const pagesOfMemory = 64;
    const run = fc.tuple(
      fc.nat(7),
      fc.constantFrom(0, 0, 0, 512, 4095, 1),
      fc.integer({ min: 1, max: 3 }),
      fc.constantFrom(0, 0, 0, 512, 1, 4095),
    );
    fc.assert(
      fc.property(fc.array(run, { minLength: 1, maxLength: 33 }), (parts) => {
        const runs = parts.map(([page, offset, pages, cut]): Run => {
          const address = page * PAGE_SIZE + offset;
          return [address, Math.max(1, pages * PAGE_SIZE - offset - cut)];
        });
        const list = listOf(...runs);
        // The rule again, byte by byte: a seam is harmless if the next byte follows, or both sides end pages.
        const legal = runs.every(([address], index) => {
          if (index === 0) return true;
          const end = runs[index - 1]![0] + runs[index - 1]![1];
          return address === end || (address % PAGE_SIZE === 0 && end % PAGE_SIZE === 0);
        });
        expect(singleRangePages(list) > 0).toBe(legal);
        if (!legal) return;
        const ranges = new GpaRanges(new GuestMemory(new ArrayBuffer(pagesOfMemory * PAGE_SIZE)));
        expect(ranges.load(send(list).incoming)).toBe(GpaRangesResult.Ok);
        expect(flat(ranges)).toBe(flat(list));
      }),
    );
  });
});
