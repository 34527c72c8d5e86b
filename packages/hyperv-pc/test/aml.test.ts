import { describe, expect, test } from "vitest";
import fc from "fast-check";
import { buffer, device, integer, named, scope, string, table } from "../src/firmware/aml.js";
import { vmbusTable } from "../src/firmware/vmbus-table.js";

const hex = (bytes: Iterable<number>): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

describe("the VMBus table", () => {
  const bytes = vmbusTable();

  // The byte code of iasl 20200925 for the same source, which has an IO (Decode16, 0x900, 0x900, 1, 1).
  test("has the byte code that the ACPI compiler makes", () => {
    expect(hex(bytes.subarray(36))).toBe(
      "10395c5f53425f5b8231564d4230085f4849440d564d42757300085f55494400085f5354410a0f" +
        "085f435253110d0a0a47010009000901017900",
    );
  });

  test("has a header whose sum is 0", () => {
    expect(bytes.reduce((sum, byte) => sum + byte, 0) & 0xff).toBe(0);
    const text = new TextDecoder("latin1").decode(bytes.subarray(0, 36));
    expect([text.slice(0, 4), text.slice(10, 16), text.slice(16, 24)]).toEqual([
      "SSDT",
      "HVIS  ",
      "VMBUSTBL",
    ]);
    expect(new DataView(bytes.buffer).getUint32(4, true)).toBe(bytes.byteLength);
  });
});

describe("AML", () => {
  test.each([
    [0, "00"],
    [1, "0a01"],
    [0xff, "0aff"],
    [0x100, "0b0001"],
    [0xffff, "0bffff"],
    [0x1_0000, "0c00000100"],
    [0xffff_ffff, "0cffffffff"],
  ])("the integer %i takes the fewest bytes", (value, bytes) => {
    expect(hex(integer(value))).toBe(bytes);
  });

  test("names are padded, and are names", () => {
    expect(hex(named("A", integer(0)))).toBe("08415f5f5f00");
    for (const wrong of ["", "abcd", "ABCDE", "1ABC", "\\\\SB"])
      expect(() => named(wrong, string(""))).toThrow(RangeError);
  });

  /** Reads a package's length as the specification has it: how long it is, and where its content begins. */
  function packageOf(
    code: readonly number[],
    at: number,
  ): { readonly end: number; readonly start: number } {
    const following = code[at]! >>> 6;
    let length = following === 0 ? code[at]! & 0x3f : code[at]! & 0xf;
    for (let byte = 0; byte < following; byte++) length += code[at + 1 + byte]! << (4 + 8 * byte);
    return { end: at + length, start: at + 1 + following };
  }

  test("packages of any length say their length", () => {
    const lengths = fc.oneof(
      fc.integer({ min: 0, max: 200 }),
      fc.integer({ min: 4080, max: 4110 }),
      fc.integer({ min: 2 ** 16 - 40, max: 2 ** 16 + 40 }),
    );
    fc.assert(
      fc.property(lengths, (length) => {
        const content = new Array<number>(length).fill(0xa5);
        const outer = scope("\\_SB", device("DEV0", buffer(content)));
        const whole = packageOf(outer, 1);
        expect(whole.end).toBe(outer.length);
        // Root, name, and the two bytes of the device's opcode.
        const inner = packageOf(outer, whole.start + 5 + 2);
        expect(inner.end).toBe(outer.length);
        const bytes = packageOf(outer, inner.start + 4 + 1);
        expect(bytes.end).toBe(outer.length);
        const size = integer(length).length;
        expect(outer.slice(bytes.start, bytes.start + size)).toEqual(integer(length));
        expect(outer.length - bytes.start - size).toBe(length);
      }),
      { numRuns: 40, examples: [[2 ** 20 - 32], [2 ** 20]] },
    );
  });

  test("a table counts its bytes", () => {
    const identity = {
      signature: "SSDT",
      revision: 2,
      oemId: "ABCDEF",
      oemTableId: "ABCDEFGH",
      oemRevision: 0x0102_0304,
    };
    const bytes = table(identity, [1, 2, 3]);
    expect(bytes.byteLength).toBe(39);
    expect(hex(bytes.subarray(24, 28))).toBe("04030201");
  });
});
