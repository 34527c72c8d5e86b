import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EventFlags, GuestMemory } from "@hyperv-is/vmbus-core";
import { EventFlagsPage, PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";

const ADDRESS = 512;

function flags(): { memory: GuestMemory; flags: EventFlags } {
  const memory = new GuestMemory(new ArrayBuffer(PAGE_SIZE));
  return { memory, flags: EventFlags.at(memory, ADDRESS, EventFlagsPage.areaBytes) };
}

describe("event flags", () => {
  test("flag f is bit f % 8 of byte f / 8, and nothing else changes", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: EventFlagsPage.flagsPerArea - 1 }), (flag) => {
        const { memory, flags: area } = flags();
        expect(area.set(flag)).toBe(true);
        expect(memory.bytes[ADDRESS + (flag >>> 3)]).toBe(1 << (flag & 7));
        expect(memory.bytes.reduce((sum, byte) => sum + byte, 0)).toBe(1 << (flag & 7));
      }),
    );
  });

  test("setting and clearing tell whether they changed anything", () => {
    const { flags: area } = flags();
    expect([area.set(31), area.set(31)]).toEqual([true, false]);
    expect([area.clear(31), area.clear(31)]).toEqual([true, false]);
  });

  test("taking a word leaves it clear and keeps the others", () => {
    const { flags: area } = flags();
    for (const flag of [32, 63, 64]) area.set(flag);
    expect(area.take(1) >>> 0).toBe(0x8000_0001);
    expect(area.take(1)).toBe(0);
    expect(area.take(2)).toBe(1);
    expect(area.wordCount).toBe(64);
  });

  test("every signal is taken once or merged with one that was not taken yet", () => {
    const step = fc.record({ set: fc.boolean(), flag: fc.integer({ min: 0, max: 127 }) });
    fc.assert(
      fc.property(fc.array(step), (steps) => {
        const { flags: area } = flags();
        const model = new Set<number>();
        for (const { set, flag } of steps) {
          if (set) {
            expect(area.set(flag)).toBe(!model.has(flag));
            model.add(flag);
            continue;
          }
          const word = flag >>> 5;
          const taken = area.take(word);
          for (let bit = 0; bit < 32; bit++)
            expect((taken >>> bit) & 1).toBe(model.delete(word * 32 + bit) ? 1 : 0);
        }
      }),
    );
  });
});
