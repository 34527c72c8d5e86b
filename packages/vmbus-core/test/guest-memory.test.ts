import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuestMemory } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

describe("guest memory", () => {
  test("all views begin at GPA 0, wherever that lies in the buffer", () => {
    const buffer = new ArrayBuffer(4 * PAGE_SIZE);
    const memory = new GuestMemory(buffer, 24, 2 * PAGE_SIZE);
    memory.bytes[8] = 0x11;
    memory.words[3] = 0x2233;
    expect(memory.quads[1]).toBe(0x2233_0000_0011n);
    expect(new Uint8Array(buffer)[24 + 8]).toBe(0x11);
    expect([memory.bytes.length, memory.words.length, memory.quads.length]).toEqual([
      2 * PAGE_SIZE,
      PAGE_SIZE / 2,
      PAGE_SIZE / 4,
    ]);
  });

  test("takes the rest of the buffer unless told, and shared buffers too", () => {
    const memory = new GuestMemory(new SharedArrayBuffer(3 * PAGE_SIZE), PAGE_SIZE);
    expect(memory.sizeBytes).toBe(2 * PAGE_SIZE);
    Atomics.store(memory.words, 0, 7);
    expect(memory.bytes[0]).toBe(7);
  });

  test.each([
    ["an odd offset", 4, PAGE_SIZE],
    ["half a page", 0, PAGE_SIZE / 2],
    ["nothing", 0, 0],
  ])("refuses %s", (_what, byteOffset, sizeBytes) => {
    const buffer = new ArrayBuffer(2 * PAGE_SIZE);
    expect(() => new GuestMemory(buffer, byteOffset, sizeBytes)).toThrow(RangeError);
  });

  test("contains is true exactly for ranges that lie inside, for any numbers", () => {
    const memory = new GuestMemory(new ArrayBuffer(2 * PAGE_SIZE));
    const near = fc.oneof(
      fc.integer({ min: -8, max: 2 * PAGE_SIZE + 8 }),
      fc.constantFrom(2 ** 32, 2 ** 53, -(2 ** 53), Number.POSITIVE_INFINITY, Number.NaN),
    );
    fc.assert(
      fc.property(near, near, (address, lengthBytes) => {
        const inside = address >= 0 && lengthBytes >= 0 && address + lengthBytes <= 2 * PAGE_SIZE;
        expect(memory.contains(address, lengthBytes)).toBe(inside);
      }),
    );
  });

  test("a copy is private, and clearing keeps to its range", () => {
    const memory = new GuestMemory(new ArrayBuffer(PAGE_SIZE));
    memory.bytes.fill(0xaa);
    const copy = memory.copyOut(16, 4);
    memory.clear(16, 4);
    expect([...copy]).toEqual([0xaa, 0xaa, 0xaa, 0xaa]);
    expect([...memory.bytes.subarray(15, 21)]).toEqual([0xaa, 0, 0, 0, 0, 0xaa]);
  });
});
