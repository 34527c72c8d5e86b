import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

const PAGES = 16;
const FIRST = 2;

function arena(): { memory: GuestMemory; allocator: PageAllocator } {
  const memory = new GuestMemory(new ArrayBuffer((FIRST + PAGES + 1) * PAGE_SIZE));
  return { memory, allocator: new PageAllocator(memory, FIRST * PAGE_SIZE, PAGES * PAGE_SIZE) };
}

describe("page allocator", () => {
  test("hands out zeroed pages of its arena only", () => {
    const { memory, allocator } = arena();
    memory.bytes.fill(0xff);
    const address = allocator.allocate(PAGES);
    expect(address).toBe(FIRST * PAGE_SIZE);
    expect(memory.bytes.indexOf(0)).toBe(address);
    expect(memory.bytes.lastIndexOf(0)).toBe((FIRST + PAGES) * PAGE_SIZE - 1);
    expect(allocator.allocate(1)).toBeUndefined();
  });

  test("neighbours that are free become one run again, in whatever order they come back", () => {
    fc.assert(
      fc.property(fc.shuffledSubarray([0, 1, 2, 3], { minLength: 4 }), (order) => {
        const { allocator } = arena();
        const runs = [4, 1, 8, 3].map((pages) => allocator.allocate(pages)!);
        for (const index of order) allocator.free(runs[index]!);
        expect(allocator.allocate(PAGES)).toBe(FIRST * PAGE_SIZE);
      }),
    );
  });

  test("what is leaked is counted and never comes back", () => {
    const { allocator } = arena();
    const lost = allocator.allocate(3)!;
    allocator.leak(lost);
    expect([allocator.leakedPages, allocator.freePages]).toEqual([3, PAGES - 3]);
    expect(() => allocator.free(lost)).toThrow("was not allocated");
    expect(allocator.allocate(PAGES)).toBeUndefined();
  });

  test("refuses what it did not hand out, twice the same, and no pages", () => {
    const { memory, allocator } = arena();
    const address = allocator.allocate(2)!;
    expect(() => allocator.free(address + PAGE_SIZE)).toThrow("was not allocated");
    allocator.free(address);
    expect(() => allocator.free(address)).toThrow("was not allocated");
    expect(() => allocator.allocate(0)).toThrow(RangeError);
    expect(() => allocator.allocate(1.5)).toThrow(RangeError);
    expect(() => new PageAllocator(memory, 1, PAGE_SIZE)).toThrow(RangeError);
    expect(() => new PageAllocator(memory, 0, memory.sizeBytes + PAGE_SIZE)).toThrow(RangeError);
  });

  test("runs never overlap and no page is lost, over any history", () => {
    const action = fc.record({
      kind: fc.constantFrom("allocate", "free", "leak"),
      number: fc.integer({ min: 0, max: 100 }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 200 }), (actions) => {
        const { allocator } = arena();
        const live: { address: number; pages: number }[] = [];
        let leaked = 0;
        for (const { kind, number } of actions) {
          if (kind === "allocate") {
            const pages = 1 + (number % 6);
            const address = allocator.allocate(pages);
            if (address === undefined) continue;
            for (const other of live)
              expect(
                address + pages * PAGE_SIZE <= other.address ||
                  other.address + other.pages * PAGE_SIZE <= address,
              ).toBe(true);
            live.push({ address, pages });
          } else if (live.length > 0) {
            const [{ address, pages }] = live.splice(number % live.length, 1) as [
              { address: number; pages: number },
            ];
            if (kind === "free") allocator.free(address);
            else allocator.leak(address);
            if (kind === "leak") leaked += pages;
          }
          const taken = live.reduce((sum, { pages }) => sum + pages, 0);
          expect(allocator.leakedPages).toBe(leaked);
          expect(allocator.freePages).toBe(PAGES - taken - leaked);
        }
      }),
    );
  });
});
