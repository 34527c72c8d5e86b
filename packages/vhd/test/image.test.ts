import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  checkImage,
  copyDisk,
  createImage,
  describeImage,
  ImageError,
  type ImageFormat,
  openImage,
  RawDisk,
} from "../src/index.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

const random = new Prng(7);
const MIB = 1 << 20;
const formats = ["vhd-fixed", "vhd-dynamic", "vhdx-fixed", "vhdx-dynamic"] as const;

function makeImage(format: ImageFormat, sizeBytes = 4 * MIB): MemoryFile {
  const file = new MemoryFile();
  createImage(file, { format, sizeBytes, blockBytes: MIB, random }).close();
  file.reopen();
  return file;
}

function errorOf(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
}

function put(file: MemoryFile, position: number, text: string): void {
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  file.write(position, bytes, 0, bytes.byteLength);
}

describe.each(formats)("an image of format %s", (format) => {
  test("is known by its content", () => {
    const file = makeImage(format);
    expect(checkImage(file)).toEqual([]);
    expect(describeImage(file)).toMatchObject({ format, sizeBytes: 4 * MIB });
    const disk = openImage(file, { random });
    expect(disk).toMatchObject({ format, readOnly: false, sizeBytes: 4 * MIB });
    expect(disk.identity).toHaveLength(16);
    disk.close();
  });

  test("opens read-only on request, or because its file is", () => {
    const file = makeImage(format);
    const disk = openImage(file, { random, readOnly: true });
    expect(disk.readOnly).toBe(true);
    expect(errorOf(() => disk.write(0, new Uint8Array(512), 0, 512))).toMatchObject({
      code: "ERR_IMAGE_READ_ONLY",
    });
    disk.close();
    file.reopen();
    file.readOnly = true;
    expect(openImage(file, { random }).readOnly).toBe(true);
  });

  test("that was cut is refused, with the place", () => {
    const file = makeImage(format);
    const disk = openImage(file, { random });
    disk.write(3 * MIB, new Uint8Array(MIB).fill(1), 0, MIB);
    disk.close();
    file.reopen();
    file.truncate(file.sizeBytes - MIB / 2 - 512);
    const error = errorOf(() => openImage(file, { random }));
    expect(error).toBeInstanceOf(ImageError);
    // A fixed VHD has its only structure at the end.
    const code = format === "vhd-fixed" ? "ERR_IMAGE_FOREIGN" : "ERR_IMAGE_TRUNCATED";
    expect(error).toMatchObject({ code });
    expect((error as ImageError).offset).toBeTypeOf("number");
    expect((error as ImageError).structure).toBeTypeOf("string");
  });
});

describe("what is no image", () => {
  test.each([
    ["", 0, "neither"],
    ["\0", 0, "neither"],
    ["\xebX\x90mkfs.fat", 0, "neither"],
    ["QFI\xfb", 0, "a QCOW image"],
    ["KDMV", 0, "a VMDK image"],
    ["# Disk DescriptorFile", 0, "a VMDK description"],
    ["\x7f\x10\xda\xbe", 64, "a VDI image"],
    ["\x1f\x8b\x08", 0, "a gzip file"],
    ["PK\x03\x04", 0, "a zip file"],
  ])("%j is refused by name", (magic, offset, name) => {
    for (const sizeBytes of [magic.length + offset, 8192]) {
      const file = new MemoryFile();
      file.truncate(sizeBytes);
      put(file, offset, magic);
      const calls = [
        () => openImage(file, { random }),
        () => checkImage(file),
        () => describeImage(file),
      ];
      for (const call of calls)
        expect(errorOf(call)).toMatchObject({
          code: "ERR_IMAGE_FOREIGN",
          offset: 0,
          message: expect.stringContaining(name) as unknown,
        });
    }
  });

  test("and a format that is forced is believed", () => {
    const file = new MemoryFile();
    file.truncate(8192);
    expect(errorOf(() => openImage(file, { random, format: "vhd-fixed" }))).toMatchObject({
      code: "ERR_IMAGE_CORRUPT",
      structure: "footer",
      offset: 8192 - 512,
    });
  });
});

test("a fixed VHD whose guest wrote a VHDX to it is opened only as what it is said to be", () => {
  const file = makeImage("vhd-fixed", 8 * MIB);
  const inner = makeImage("vhdx-dynamic").bytes();
  file.write(0, inner, 0, inner.byteLength);
  expect(errorOf(() => openImage(file, { random }))).toMatchObject({
    code: "ERR_IMAGE_UNSUPPORTED",
    message: expect.stringContaining("forged") as unknown,
  });
  expect(openImage(file, { random, format: "vhd-fixed" })).toMatchObject({ sizeBytes: 8 * MIB });
  const other = file.clone();
  expect(openImage(other, { random, format: "vhdx-dynamic" })).toMatchObject({
    sizeBytes: 4 * MIB,
  });
});

test.each([
  { format: "vhd-dynamic" as const, sizeBytes: MIB, logicalSectorBytes: 4096 as const },
  { format: "vhd-fixed" as const, sizeBytes: MIB, physicalSectorBytes: 4096 as const },
  { format: "vhd-fixed" as const, sizeBytes: 1000 },
  { format: "vhdx-dynamic" as const, sizeBytes: 1000 },
  { format: "vhdx-fixed" as const, sizeBytes: MIB, blockBytes: 3 * MIB },
  { format: "vhdx-dynamic" as const, sizeBytes: 65 * 1024 ** 4 },
])("%j is refused", (options) => {
  expect(errorOf(() => createImage(new MemoryFile(), { ...options, random }))).toMatchObject({
    code: "ERR_IMAGE_UNSUPPORTED",
  });
});

describe("copying", () => {
  const extents = fc.array(
    fc.record({
      sector: fc.nat({ max: 40_000 }),
      sectors: fc.integer({ min: 1, max: 700 }),
      byte: fc.nat({ max: 255 }),
    }),
    { maxLength: 8 },
  );

  test("carries all content, and writes nothing that is all zero", () => {
    fc.assert(
      fc.property(fc.constantFrom(...formats), extents, (format, writes) => {
        const sizeBytes = 20 * MIB + 512;
        const source = openImage(makeImage(format, sizeBytes), { random });
        const model = new Uint8Array(sizeBytes);
        for (const { sector, sectors, byte } of writes) {
          const length = Math.min(sectors * 512, sizeBytes - sector * 512);
          model.fill(byte, sector * 512, sector * 512 + length);
          source.write(sector * 512, model, sector * 512, length);
        }
        const file = new MemoryFile();
        file.truncate(sizeBytes);
        file.trace = [];
        let last = 0;
        for (const done of copyDisk(source, new RawDisk(file, sizeBytes))) {
          expect(done).toBeGreaterThan(last);
          last = done;
        }
        expect(Buffer.compare(file.bytes(), model)).toBe(0);
        for (const operation of file.trace)
          if (operation.kind === "write")
            for (let at = 0; at < operation.bytes.byteLength; at += 65_536) {
              const piece = operation.bytes.subarray(at, at + 65_536);
              expect(piece.some((byte) => byte !== 0)).toBe(true);
            }
      }),
      { numRuns: 40 },
    );
  });

  test("passes over empty space without reading it", () => {
    const file = makeImage("vhd-dynamic", 1024 * 1024 * MIB);
    const source = openImage(file, { random });
    source.write(700 * 1024 * MIB, new Uint8Array(512).fill(1), 0, 512);
    const target = { sizeBytes: source.sizeBytes, written: 0, write: () => target.written++ };
    const steps = [...copyDisk(source, target)];
    expect(steps).toHaveLength(1);
    expect(target.written).toBe(1);
  });
});
