import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GpaRanges } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { QueueRig } from "./queue-rig.js";
import { RamDisk } from "./ram-target.js";

const BLOCK = 512;

const pattern = Uint8Array.from({ length: 1024 * BLOCK }, (_, index) => index ^ (index >>> 8));

/** One transfer through the ring, against a disk in memory; what the host was shown. */
function transfer(
  rig: QueueRig,
  slot: number,
  write: boolean,
  lba: number,
  list: GpaRanges,
): readonly (readonly [number, number])[] {
  rig.queue.submitTransfer(slot, 0, 0, write, lba, list.lengthBytes / BLOCK, list);
  rig.queue.flush();
  rig.run();
  const request = rig.host.requests.at(-1)!;
  expect(request.ranges).toBe(1);
  return request.runs;
}

/** The bytes of a list, in order. */
function gather(rig: QueueRig, list: GpaRanges): Uint8Array {
  const runs = Array.from({ length: list.runs }, (_, run) =>
    rig.memory.copyOut(list.runAddress(run), list.runLength(run)),
  );
  return Buffer.concat(runs);
}

/** Compares quickly; the position of the first difference is enough to know. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) === 0) return;
  expect(actual.findIndex((byte, index) => byte !== expected[index])).toBe(-1);
  expect(actual.byteLength).toBe(expected.byteLength);
}

function rigWithDisk(): { rig: QueueRig; disk: RamDisk; slot: number } {
  const rig = new QueueRig({ memoryPages: 512 });
  const disk = new RamDisk(1024, "S");
  rig.target.disks.set("0:0", disk);
  return { rig, disk, slot: rig.claim(1)[0]! };
}

describe("scatter lists", () => {
  test("33 segments at an odd offset are one range, and not copied", () => {
    const { rig, disk, slot } = rigWithDisk();
    disk.data.set(pattern);
    const list = new GpaRanges(rig.memory);
    // Every page from another place: 1 partial, 31 whole, 1 partial.
    const pages = Array.from({ length: 33 }, () => {
      const [page] = [rig.pages(1), rig.pages(1)];
      return page;
    }).reverse();
    list.add(pages[0]! + 4001, 95);
    for (const page of pages.slice(1, -1)) list.add(page, PAGE_SIZE);
    list.add(pages.at(-1)!, 4001);
    expect(list.lengthBytes).toBe(128 * 1024);
    const shown = transfer(rig, slot, false, 3, list);
    expect(shown).toHaveLength(33);
    expect(rig.queue.counters).toMatchObject({ bounced: 0, data_sg_cnt: 1 });
    expectSame(gather(rig, list), disk.data.slice(3 * BLOCK, 3 * BLOCK + 128 * 1024));
  });

  test("any list reads and writes the right bytes; a copy is made only when no range describes it", () => {
    const run = fc.record({
      pages: fc.integer({ min: 0, max: 2 }),
      offset: fc.constantFrom(0, 0, 0, 1, 512, 4095),
      tail: fc.constantFrom(0, 0, 0, 1, 512, 3584),
      joined: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(run, { minLength: 1, maxLength: 12 }),
        fc.boolean(),
        fc.nat(700),
        (parts, write, lba) => {
          const { rig, disk, slot } = rigWithDisk();
          const list = new GpaRanges(rig.memory);
          const raw: [number, number][] = [];
          for (const { pages, offset, tail, joined } of parts) {
            const last = raw.at(-1);
            const start = joined && last !== undefined ? last[0] + last[1] : rig.pages(8) + offset;
            const end = (Math.floor(start / PAGE_SIZE) + pages) * PAGE_SIZE + tail;
            const length = Math.max(end - start, 1);
            if (raw.some(([from, size]) => start < from + size && from < start + length)) continue;
            raw.push([start, length]);
          }
          // Whole blocks: the last run takes the rest.
          const total = raw.reduce((sum, [, length]) => sum + length, 0);
          raw.at(-1)![1] += (BLOCK - (total % BLOCK)) % BLOCK;
          const [lastStart, lastLength] = raw.at(-1)!;
          fc.pre(
            raw
              .slice(0, -1)
              .every(([from, size]) => lastStart >= from + size || from >= lastStart + lastLength),
          );
          for (const [address, length] of raw) list.add(address, length);
          const legal = raw.every(([address], index) => {
            const before = raw[index - 1];
            if (before === undefined || before[0] + before[1] === address) return true;
            return address % PAGE_SIZE === 0 && (before[0] + before[1]) % PAGE_SIZE === 0;
          });
          for (const [address, length] of raw)
            for (let byte = 0; byte < length; byte++)
              rig.memory.bytes[address + byte] = (address + byte) * 31;
          disk.data.set(pattern);
          const onDisk = disk.data.slice(lba * BLOCK, lba * BLOCK + list.lengthBytes);
          const inMemory = gather(rig, list);
          const outside = rig.memory.bytes[lastStart + lastLength];

          const shown = transfer(rig, slot, write, lba, list);

          expect(rig.queue.counters.bounced).toBe(legal ? 0 : 1);
          expect(rig.endings).toEqual([[0, 1, 0, list.lengthBytes]]);
          if (legal) expect(shown[0]![0]).toBe(list.runAddress(0));
          else expect(shown).toHaveLength(1);
          if (write)
            expectSame(disk.data.slice(lba * BLOCK, lba * BLOCK + list.lengthBytes), inMemory);
          else {
            expectSame(gather(rig, list), onDisk);
            expect(rig.memory.bytes[lastStart + lastLength]).toBe(outside);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test("copies wait for a buffer, and then go on by themselves", () => {
    const { rig, disk } = rigWithDisk();
    const slots = rig.claim(12).slice(1);
    const held: Parameters<typeof rig.host.answer>[0][] = [];
    rig.target.intercept = (request) => {
      held.push(request);
      return "hold";
    };
    const page = rig.pages(2);
    const list = new GpaRanges(rig.memory);
    list.add(page + 100, 256);
    list.add(page + 1000, 256);
    for (const [lba, slot] of slots.entries()) {
      rig.memory.bytes.fill(lba + 1, page, page + 4096);
      rig.queue.submitTransfer(slot, 0, 0, true, lba, 1, list);
    }
    rig.queue.flush();
    rig.run();
    // Two buffers, so two requests; and those behind them keep their place.
    expect(held).toHaveLength(2);
    expect(rig.queue.inspect()["waiting"]).toBe(9);
    rig.target.intercept = undefined;
    for (const request of held) rig.host.answer(request, rig.target.answer(request, rig.host));
    rig.run();
    expect(rig.queue.outstanding).toBe(0);
    expect(rig.queue.counters.bounced).toBe(11);
    expect(disk.data[0]).toBe(1);
    expect(disk.data[1 * BLOCK]).toBe(2);
    // What waited was copied when its turn came: the memory belonged to the request until then.
    expect(disk.data[10 * BLOCK]).toBe(11);
  });

  test("buffers go back to the arena at the end, but for those the host may still write to", () => {
    const { rig, slot } = rigWithDisk();
    const list = new GpaRanges(rig.memory);
    const page = rig.pages(2);
    list.add(page + 100, 256);
    list.add(page + 1000, 256);
    const before = rig.allocator.freePages;
    const bufferPages = 64;
    transfer(rig, slot, false, 0, list);
    rig.target.intercept = () => "hold";
    transfer(rig, slot, false, 0, list);
    rig.queue.stop();
    expect(rig.endings.at(-1)).toEqual([0, "sent"]);
    expect(rig.allocator.leakedPages).toBe(bufferPages);
    // One buffer had been there from the start.
    expect(rig.allocator.freePages).toBe(before);
  });
});
