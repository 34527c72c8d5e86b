import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  DynamicHeaderLayout,
  emitDynamicHeader,
  parseDynamicHeader,
  sectorBitmapBytes,
} from "../src/vhd/dynamic-header.js";
import { emitFooter, type Footer, FooterLayout, parseFooter } from "../src/vhd/footer.js";
import { chsGeometry } from "../src/vhd/geometry.js";

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/[0-9a-f]{2}/g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** Written down by hand from the field table of the format; every field has a value of its own. */
const footerVector: { readonly bytes: Uint8Array; readonly record: Footer } = {
  bytes: (() => {
    const bytes = new Uint8Array(512);
    bytes.set(
      bytesOf(`
        63 6f 6e 65 63 74 69 78  00 00 00 03 00 01 00 00  00 00 00 00 00 00 02 00  2f 3c 4d 5e
        77 69 6e 20  00 0a 00 01  57 69 32 6b  00 00 00 01 23 45 66 00  00 00 00 02 34 56 78 00
        12 34 05 3f  00 00 00 03  ff ff eb d7
        a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aa ab ac ad ae af  01`),
    );
    return bytes;
  })(),
  record: {
    features: 3,
    dataOffset: 512n,
    timestamp: 0x2f3c4d5e,
    creatorApplication: "win ",
    creatorVersion: 0x000a0001,
    creatorHostOs: "Wi2k",
    originalSize: 0x1_2345_6600n,
    currentSize: 0x2_3456_7800n,
    geometry: { cylinders: 0x1234, heads: 5, sectorsPerTrack: 0x3f },
    diskType: 3,
    uniqueId: bytesOf("a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 aa ab ac ad ae af"),
    savedState: 1,
  },
};

/** As above. */
const headerVector = {
  bytes: (() => {
    const bytes = new Uint8Array(1024);
    bytes.set(
      bytesOf(`
        63 78 73 70 61 72 73 65  ff ff ff ff ff ff ff ff  00 00 00 00 01 23 46 00
        00 01 00 00  00 00 50 01  00 08 00 00  ff ff f3 da`),
    );
    return bytes;
  })(),
  record: { tableOffset: 0x123_4600n, maxTableEntries: 0x5001, blockBytes: 0x80000 },
};

describe("footer", () => {
  test("its bytes parse to its record, and its record emits its bytes", () => {
    expect(parseFooter(footerVector.bytes)).toEqual(footerVector.record);
    expect(emitFooter(footerVector.record)).toEqual(footerVector.bytes);
    expect(FooterLayout.savedState + 1 + 427).toBe(FooterLayout.SIZE);
  });

  test("emit, then parse, is the identity", () => {
    const u32 = fc.nat({ max: 0xffff_ffff });
    const u64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
    const text = fc.string({ minLength: 4, maxLength: 4, unit: "binary-ascii" });
    const footers = fc.record({
      features: u32,
      dataOffset: u64,
      timestamp: u32,
      creatorApplication: text,
      creatorVersion: u32,
      creatorHostOs: text,
      originalSize: u64,
      currentSize: u64,
      geometry: fc.record({
        cylinders: fc.nat({ max: 0xffff }),
        heads: fc.nat({ max: 255 }),
        sectorsPerTrack: fc.nat({ max: 255 }),
      }),
      diskType: u32,
      uniqueId: fc.uint8Array({ minLength: 16, maxLength: 16 }),
      savedState: fc.nat({ max: 255 }),
    });
    fc.assert(
      fc.property(footers, (footer) => {
        expect(parseFooter(emitFooter(footer))).toEqual(footer);
      }),
    );
  });

  test("any change of a byte is seen, and any bytes are survived", () => {
    fc.assert(
      fc.property(fc.nat({ max: 511 }), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bytes = footerVector.bytes.slice();
        bytes[at]! ^= flip;
        expect(typeof parseFooter(bytes)).toBe("string");
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 512 }), (bytes) => {
        expect(typeof parseFooter(bytes)).toBe("string");
      }),
    );
  });
});

describe("dynamic header", () => {
  test("its bytes parse to its record, and its record emits its bytes", () => {
    expect(parseDynamicHeader(headerVector.bytes)).toEqual({
      ...headerVector.record,
      parentName: "",
    });
    expect(emitDynamicHeader(headerVector.record)).toEqual(headerVector.bytes);
    expect(DynamicHeaderLayout.parentLocators + 8 * 24 + 256).toBe(DynamicHeaderLayout.SIZE);
  });

  test("any bytes are survived", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1024, maxLength: 1024 }), (bytes) => {
        bytes.set(headerVector.bytes.subarray(0, 8));
        expect(typeof parseDynamicHeader(bytes)).toBe("string");
      }),
    );
  });

  test.each([
    [512, 512],
    [4096, 512],
    [512 << 10, 512],
    [2 << 20, 512],
    [4 << 20, 1024],
    [32 << 20, 8192],
    [256 << 20, 65536],
  ])("blocks of %i bytes have bitmaps of %i bytes", (blockBytes, expected) => {
    expect(sectorBitmapBytes(blockBytes)).toBe(expected);
  });
});

describe("geometry", () => {
  // What qemu-img 7.2 writes; its sizes are rounded up to whole cylinders.
  test.each([
    [1_079_296, 31, 4, 17],
    [3_168_256, 91, 4, 17],
    [10_514_432, 302, 4, 17],
    [133_171_200, 1020, 15, 17],
    [528_482_304, 1024, 16, 63],
    [8_590_417_920, 16645, 16, 63],
    [42_951_106_560, 20561, 16, 255],
    [136_365_219_840, 65279, 16, 255],
    [139_586_437_120, 65535, 16, 255],
  ])("a disk of %i bytes has %i cylinders, %i heads, %i sectors", (size, c, h, s) => {
    expect(chsGeometry(size)).toEqual({ cylinders: c, heads: h, sectorsPerTrack: s });
  });

  test("it fits its fields, and covers a disk of up to 127 GiB but for one cylinder", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 127 * 2 ** 21 }), (sectors) => {
        const { cylinders, heads, sectorsPerTrack } = chsGeometry(sectors * 512);
        expect(cylinders).toBeLessThanOrEqual(65535);
        expect(heads).toBeLessThanOrEqual(16);
        const covered = cylinders * heads * sectorsPerTrack;
        expect(covered).toBeLessThanOrEqual(sectors);
        expect(covered).toBeGreaterThan(sectors - heads * sectorsPerTrack - sectorsPerTrack);
      }),
    );
  });
});
