import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AssertionError } from "../src/assertion.js";
import { ImageError } from "../src/errors.js";
import { DynamicHeaderLayout } from "../src/vhd/dynamic-header.js";
import {
  emitFooter,
  type Footer,
  FooterLayout,
  parseFooter,
  vhdChecksum,
} from "../src/vhd/footer.js";
import { checkVhd, createVhd, describeVhd, openVhd } from "../src/vhd/index.js";
import { type VirtualDisk } from "../src/virtual-disk.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

const random = new Prng(1);
const KIB = 1024;
const MIB = 1024 * KIB;
/** Where `createVhd` puts the dynamic header and the table. */
const HEADER = 512;
const TABLE = 1536;

function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  new Prng(seed).fill(bytes);
  return bytes;
}

/** Where two arrays differ first; -1 when they are equal. (`toEqual` takes seconds for so many bytes.) */
function difference(actual: Uint8Array, expected: Uint8Array): number {
  if (Buffer.compare(actual, expected) === 0) return -1;
  return expected.findIndex((byte, at) => actual[at] !== byte);
}

function readAll(disk: VirtualDisk): Uint8Array {
  const bytes = new Uint8Array(disk.sizeBytes);
  disk.read(0, bytes, 0, bytes.byteLength);
  return bytes;
}

/** A closed dynamic VHD of 10 blocks of 8 KiB less 3 sectors, with blocks 7, 2 and 9 in the file. */
function dynamicFile(): { file: MemoryFile; content: Uint8Array } {
  const file = new MemoryFile();
  const sizeBytes = 80 * KIB - 1536;
  const disk = createVhd(file, { sizeBytes, blockBytes: 8 * KIB, random });
  const content = new Uint8Array(sizeBytes);
  for (const block of [7, 2, 9]) {
    const at = block * 8 * KIB + 512;
    content.set(pattern(2048, block), at);
    disk.write(at, content, at, 2048);
  }
  disk.close();
  file.reopen();
  return { file, content };
}

function fixedFile(sizeBytes = 1 * MIB): MemoryFile {
  const file = new MemoryFile();
  createVhd(file, { sizeBytes, fixed: true, random }).close();
  file.reopen();
  return file;
}

function put(file: MemoryFile, position: number, bytes: readonly number[] | Uint8Array): void {
  file.write(position, Uint8Array.from(bytes), 0, bytes.length);
}

/** Rewrites the footer at `position` with some fields changed, and a right checksum. */
function changeFooter(file: MemoryFile, position: number, change: Partial<Footer>): void {
  const footer = parseFooter(file.bytes(position, 512));
  if (typeof footer === "string") throw new Error(footer);
  put(file, position, emitFooter({ ...footer, ...change }));
}

function changeBoth(file: MemoryFile, change: Partial<Footer>): void {
  changeFooter(file, 0, change);
  changeFooter(file, file.sizeBytes - 512, change);
}

/** Changes a u32 of the dynamic header and gives it a right checksum. */
function changeHeader(file: MemoryFile, field: number, value: number): void {
  const bytes = file.bytes(HEADER, 1024);
  const view = new DataView(bytes.buffer);
  view.setUint32(field, value);
  view.setUint32(DynamicHeaderLayout.checksum, vhdChecksum(bytes, DynamicHeaderLayout.checksum));
  put(file, HEADER, bytes);
}

function entry(file: MemoryFile, block: number): number {
  return new DataView(file.bytes(TABLE + block * 4, 4).buffer).getUint32(0);
}

function setEntry(file: MemoryFile, block: number, sector: number): void {
  put(file, TABLE + block * 4, [sector >>> 24, sector >>> 16, sector >>> 8, sector]);
}

function errorOf(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("what is written", () => {
  test("fixed: the disk, then the footer, with its exact size", () => {
    const file = fixedFile(3 * MIB + 512);
    expect(file.sizeBytes).toBe(3 * MIB + 1024);
    expect(parseFooter(file.bytes(3 * MIB + 512))).toMatchObject({
      features: 2,
      dataOffset: 0xffff_ffff_ffff_ffffn,
      creatorApplication: "win ",
      creatorHostOs: "Wi2k",
      currentSize: BigInt(3 * MIB + 512),
      originalSize: BigInt(3 * MIB + 512),
      diskType: 2,
    });
    expect(checkVhd(file)).toEqual([]);
  });

  test("dynamic: copy, header, table, aligned blocks with full bitmaps, footer", () => {
    const { file } = dynamicFile();
    const footer = file.bytes(file.sizeBytes - 512);
    expect(file.bytes(0, 512)).toEqual(footer);
    expect(parseFooter(footer)).toMatchObject({ diskType: 3, dataOffset: 512n });
    for (const [order, block] of [7, 2, 9].entries()) {
      const start = entry(file, block) * 512;
      expect((start + 512) % 4096).toBe(0);
      expect(start).toBeGreaterThan(TABLE + 512 + order * 8 * KIB);
      expect(file.bytes(start, 512)).toEqual(new Uint8Array(512).fill(0xff));
      expect(file.bytes(start + 512 + 512, 2048)).toEqual(pattern(2048, block));
    }
    expect(entry(file, 0)).toBe(0xffff_ffff);
    // Padding of the table's last sector.
    expect(file.bytes(TABLE + 40, 472)).toEqual(new Uint8Array(472).fill(0xff));
    expect(checkVhd(file)).toEqual([]);
  });

  test("a block is in the table on disk only after a flush, and the data before it", () => {
    const file = new MemoryFile();
    const disk = createVhd(file, { sizeBytes: MIB, blockBytes: 8 * KIB, random });
    file.trace = [];
    disk.write(0, pattern(512, 1), 0, 512);
    disk.write(512, pattern(512, 1), 0, 512);
    disk.write(64 * KIB, pattern(512, 1), 0, 512);
    expect(entry(file, 0)).toBe(0xffff_ffff);
    disk.flush();
    const kinds = file.trace.map((operation) =>
      operation.kind === "write"
        ? operation.position >= TABLE && operation.position < TABLE + 512
          ? "table"
          : "data"
        : operation.kind,
    );
    // One flush and one table sector for both blocks.
    expect(kinds.filter((kind) => kind !== "data")).toEqual(["flush", "table", "flush"]);
    expect(kinds.slice(-3)).toEqual(["flush", "table", "flush"]);
    file.trace.length = 0;
    disk.write(1024, pattern(512, 1), 0, 512);
    disk.flush();
    expect(file.trace.map(({ kind }) => kind)).toEqual(["write", "flush"]);
  });

  test("without any flush no more than 64 blocks are outside the table", () => {
    const file = new MemoryFile();
    const disk = createVhd(file, { sizeBytes: MIB, blockBytes: 4 * KIB, random });
    disk.write(0, pattern(65 * 4 * KIB, 1), 0, 65 * 4 * KIB);
    expect(entry(file, 63)).not.toBe(0xffff_ffff);
    expect(entry(file, 64)).toBe(0xffff_ffff);
  });

  test.each([
    { sizeBytes: 0 },
    { sizeBytes: 513 },
    { sizeBytes: 2040 * 1024 * MIB + 512 },
    { sizeBytes: MIB, blockBytes: 3 * MIB },
    { sizeBytes: MIB, blockBytes: 2048 },
    { sizeBytes: MIB, blockBytes: 512 * MIB },
    { sizeBytes: 2040 * 1024 * MIB, blockBytes: 4096 },
  ])("%j is refused", (options) => {
    const file = new MemoryFile();
    expect(() => createVhd(file, { ...options, random })).toThrow(ImageError);
    expect(file.sizeBytes).toBe(0);
  });
});

describe("reading and writing", () => {
  interface Step {
    readonly kind: "write" | "read" | "unmap" | "flush" | "reopen";
    readonly at: number;
    readonly sectors: number;
  }

  const steps: fc.Arbitrary<Step[]> = fc.array(
    fc.record({
      kind: fc.constantFrom("write", "write", "write", "read", "read", "unmap", "flush", "reopen"),
      at: fc.nat({ max: 399 }),
      sectors: fc.integer({ min: 1, max: 60 }),
    }),
    { maxLength: 30 },
  );

  test.each([
    { fixed: true, blockBytes: undefined },
    { fixed: false, blockBytes: 4 * KIB },
    { fixed: false, blockBytes: 16 * KIB },
    { fixed: false, blockBytes: 2 * MIB },
  ])("any sequence of calls is as on an array: %j", (options) => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 400 }), steps, (sizeSectors, script) => {
        const sizeBytes = sizeSectors * 512;
        const file = new MemoryFile();
        const model = new Uint8Array(sizeBytes);
        let disk = createVhd(file, { sizeBytes, ...options, random });
        let stamp = 0;
        for (const step of script) {
          if (step.kind === "flush") disk.flush();
          else if (step.kind === "reopen") {
            disk.close();
            file.reopen();
            disk = openVhd(file);
          } else {
            const position = Math.min(step.at, sizeSectors - 1) * 512;
            const length = Math.min(step.sectors * 512, sizeBytes - position);
            const bytes = pattern(length + 7, stamp++);
            if (step.kind === "write") {
              model.set(bytes.subarray(7), position);
              disk.write(position, bytes, 7, length);
            } else if (step.kind === "read") {
              const [before, after] = [bytes.slice(0, 3), bytes.slice(length + 3)];
              disk.read(position, bytes, 3, length);
              const read = bytes.subarray(3, length + 3);
              expect(difference(read, model.subarray(position, position + length))).toBe(-1);
              // What lies around the window is not touched.
              expect([bytes.slice(0, 3), bytes.slice(length + 3)]).toEqual([before, after]);
            } else disk.unmap(position, length);
          }
        }
        expect(difference(readAll(disk), model)).toBe(-1);
        for (let at = 0; at < sizeBytes; at += 512) {
          const data = disk.nextData?.(at) ?? at;
          expect(difference(model.subarray(at, data), new Uint8Array(data - at))).toBe(-1);
          if (disk.nextHole === undefined) continue;
          // Data ends where a hole begins, and where no data begins one is.
          const hole = disk.nextHole(at);
          expect(hole > at).toBe(data === at);
          expect(hole === sizeBytes || disk.nextData!(hole) > hole).toBe(true);
        }
        disk.close();
        file.reopen();
        expect(checkVhd(file)).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });

  test("sectors without their bit read as zero, until they are written", () => {
    const { file, content } = dynamicFile();
    const start = entry(file, 2) * 512;
    // Of sectors 0 to 15, which hold data in 1 to 4: only 2 and 4 have their bit, the rest is garbage.
    put(file, start, [0b0010_1000, 0]);
    put(file, start + 512 + 12 * 512, new Uint8Array(512).fill(0xee));
    content.fill(0, 16 * KIB + 512, 16 * KIB + 1024);
    content.fill(0, 16 * KIB + 1536, 16 * KIB + 2048);
    let disk = openVhd(file);
    expect(difference(readAll(disk), content)).toBe(-1);
    content.set(pattern(1024, 5), 16 * KIB + 9 * 512);
    disk.write(16 * KIB + 9 * 512, content, 16 * KIB + 9 * 512, 1024);
    expect(difference(readAll(disk), content)).toBe(-1);
    expect(file.bytes(start, 2)).toEqual(Uint8Array.of(0b0010_1000, 0));
    disk.close();
    file.reopen();
    expect(file.bytes(start, 2)).toEqual(Uint8Array.of(0b0010_1000, 0b0110_0000));
    disk = openVhd(file, { readOnly: true });
    expect(difference(readAll(disk), content)).toBe(-1);
  });

  test("what a caller gets wrong asserts", () => {
    for (const file of [dynamicFile().file, fixedFile()]) {
      const disk = openVhd(file);
      const bytes = new Uint8Array(1024);
      for (const [position, offset, length] of [
        [1, 0, 512],
        [0, 0, 100],
        [disk.sizeBytes, 0, 512],
        [-512, 0, 512],
        [0, 1, 1024],
        [0, -1, 512],
      ] as const) {
        expect(() => disk.read(position, bytes, offset, length)).toThrow(AssertionError);
        expect(() => disk.write(position, bytes, offset, length)).toThrow(AssertionError);
      }
      disk.close();
      expect(() => disk.flush()).toThrow(AssertionError);
      expect(() => disk.close()).toThrow(AssertionError);
    }
  });

  test("a read-only image refuses changes, and changes nothing itself", () => {
    const torn = dynamicFile().file;
    put(torn, torn.sizeBytes - 300, [1]);
    for (const file of [torn, fixedFile()]) {
      const copy = file.clone();
      file.readOnly = true;
      const disk = openVhd(file);
      expect(disk.readOnly).toBe(true);
      for (const change of [
        () => disk.write(0, new Uint8Array(512), 0, 512),
        () => disk.unmap(0, 512),
      ])
        expect(errorOf(change)).toMatchObject({ code: "ERR_IMAGE_READ_ONLY" });
      disk.flush();
      disk.close();
      file.reopen();
      expect(difference(file.bytes(), copy.bytes())).toBe(-1);
    }
  });
});

describe("damage that is repaired", () => {
  test.each([
    ["a torn footer", (file: MemoryFile) => put(file, file.sizeBytes - 300, [1, 2, 3])],
    ["a missing footer", (file: MemoryFile) => file.truncate(file.sizeBytes - 512)],
    ["half a footer", (file: MemoryFile) => file.truncate(file.sizeBytes - 256)],
    [
      "garbage behind the blocks",
      (file: MemoryFile) => put(file, file.sizeBytes, pattern(9000, 3)),
    ],
    ["a torn copy", (file: MemoryFile) => put(file, 100, [1])],
    [
      "guest data at the end that is the footer of another disk",
      (file: MemoryFile) => {
        const other = dynamicFile().file;
        put(file, file.sizeBytes + 4096, other.bytes(other.sizeBytes - 512));
      },
    ],
    [
      "guest data at the end that is the footer of a fixed disk",
      (file: MemoryFile) => put(file, file.sizeBytes, fixedFile().bytes(MIB)),
    ],
  ])("%s", (_name, damage) => {
    const { file, content } = dynamicFile();
    const sound = file.clone();
    damage(file);
    expect(checkVhd(file)).toMatchObject([{ severity: "warning" }]);
    const reader = openVhd(file.clone(), { readOnly: true });
    expect(difference(readAll(reader), content)).toBe(-1);
    const disk = openVhd(file);
    expect(difference(readAll(disk), content)).toBe(-1);
    disk.close();
    file.reopen();
    expect(checkVhd(file)).toEqual([]);
    expect(difference(file.bytes(), sound.bytes())).toBe(-1);
  });

  test("a last block that ends with the disk, and a footer right behind it", () => {
    const { file, content } = dynamicFile();
    // Block 9 is the last in the file, and three of its sectors are beyond the disk.
    const footer = file.bytes(file.sizeBytes - 512);
    const length = file.sizeBytes - 512 - 1536;
    file.truncate(length);
    put(file, length, footer);
    expect(checkVhd(file)).toMatchObject([{ severity: "warning", offset: length }]);
    const disk = openVhd(file);
    content.set(pattern(512, 77), 0);
    disk.write(0, content, 0, 512);
    expect(difference(readAll(disk), content)).toBe(-1);
    disk.close();
    file.reopen();
    expect(checkVhd(file)).toEqual([]);
    expect(difference(readAll(openVhd(file)), content)).toBe(-1);
  });

  test("space of blocks that never reached the table is given back; other space is not touched", () => {
    const { file } = dynamicFile();
    const sizeBytes = file.sizeBytes;
    const disk = openVhd(file);
    disk.write(0, new Uint8Array(512).fill(9), 0, 512);
    disk.write(24 * KIB, new Uint8Array(512).fill(9), 0, 512);
    // The process ends here: no flush.
    const left = file.clone();
    expect(left.sizeBytes).toBeGreaterThan(sizeBytes);
    expect(checkVhd(left)).toMatchObject([{ severity: "warning", structure: "blocks" }]);
    openVhd(left).close();
    expect(left.sizeBytes).toBe(sizeBytes);

    const other = dynamicFile().file;
    const footer = other.bytes(other.sizeBytes - 512);
    put(other, other.sizeBytes - 512, pattern(10_240, 8));
    put(other, other.sizeBytes, footer);
    const before = other.bytes();
    openVhd(other).close();
    other.reopen();
    expect(difference(other.bytes(), before)).toBe(-1);
  });

  test("a footer of 511 bytes", () => {
    const file = fixedFile();
    file.truncate(file.sizeBytes - 1);
    expect(openVhd(file).sizeBytes).toBe(MIB);
    const { file: dynamic, content } = dynamicFile();
    dynamic.truncate(dynamic.sizeBytes - 1);
    expect(difference(readAll(openVhd(dynamic)), content)).toBe(-1);
  });
});

describe("damage that is refused", () => {
  const footerAt = dynamicFile().file.sizeBytes - 512;
  const blockAt = (file: MemoryFile, block: number): number => entry(file, block) * 512;

  test.each<[string, (file: MemoryFile) => void, string, string, number]>([
    [
      "both footers torn",
      (file) => {
        put(file, 8, [9]);
        put(file, file.sizeBytes - 500, [9]);
      },
      "ERR_IMAGE_CORRUPT",
      "footer",
      footerAt,
    ],
    [
      "a differencing disk",
      (file) => changeBoth(file, { diskType: 4 }),
      "ERR_IMAGE_UNSUPPORTED",
      "dynamic header",
      HEADER,
    ],
    [
      "a deprecated disk type",
      (file) => changeBoth(file, { diskType: 6 }),
      "ERR_IMAGE_UNSUPPORTED",
      "footer",
      footerAt + FooterLayout.diskType,
    ],
    [
      "a size of half a sector",
      (file) => changeBoth(file, { currentSize: 81_664n }),
      "ERR_IMAGE_CORRUPT",
      "footer",
      footerAt + FooterLayout.currentSize,
    ],
    [
      "no size",
      (file) => changeBoth(file, { currentSize: 0n }),
      "ERR_IMAGE_CORRUPT",
      "footer",
      footerAt + FooterLayout.currentSize,
    ],
    [
      "a size above 2040 GiB",
      (file) => changeBoth(file, { currentSize: 1n << 42n }),
      "ERR_IMAGE_UNSUPPORTED",
      "footer",
      footerAt + FooterLayout.currentSize,
    ],
    [
      "a data offset into nothing",
      (file) => changeBoth(file, { dataOffset: 1n << 60n }),
      "ERR_IMAGE_CORRUPT",
      "footer",
      footerAt + FooterLayout.dataOffset,
    ],
    [
      "a data offset past the end",
      (file) => changeBoth(file, { dataOffset: 1n << 30n }),
      "ERR_IMAGE_TRUNCATED",
      "dynamic header",
      2 ** 30,
    ],
    [
      "a header without its cookie",
      (file) => put(file, HEADER, [0]),
      "ERR_IMAGE_CORRUPT",
      "dynamic header",
      HEADER,
    ],
    [
      "a header with a wrong checksum",
      (file) => put(file, HEADER + 900, [1]),
      "ERR_IMAGE_CORRUPT",
      "dynamic header",
      HEADER,
    ],
    [
      "blocks of no power of two",
      (file) => changeHeader(file, DynamicHeaderLayout.blockSize, 3 << 20),
      "ERR_IMAGE_CORRUPT",
      "dynamic header",
      HEADER,
    ],
    [
      "a table that is too short",
      (file) => changeHeader(file, DynamicHeaderLayout.maxTableEntries, 9),
      "ERR_IMAGE_CORRUPT",
      "dynamic header",
      HEADER + DynamicHeaderLayout.maxTableEntries,
    ],
    [
      "a table inside the header",
      (file) => changeHeader(file, DynamicHeaderLayout.tableOffset + 4, 1024),
      "ERR_IMAGE_CORRUPT",
      "dynamic header",
      HEADER + DynamicHeaderLayout.tableOffset,
    ],
    [
      "a table past the end",
      (file) => changeHeader(file, DynamicHeaderLayout.tableOffset, 1),
      "ERR_IMAGE_TRUNCATED",
      "block allocation table",
      2 ** 32 + TABLE,
    ],
    [
      "more blocks than any disk has",
      (file) => {
        changeBoth(file, { currentSize: 1n << 40n });
        changeHeader(file, DynamicHeaderLayout.maxTableEntries, 2 ** 31);
      },
      "ERR_IMAGE_UNSUPPORTED",
      "dynamic header",
      HEADER + DynamicHeaderLayout.maxTableEntries,
    ],
    [
      "a block past the end",
      (file) => setEntry(file, 4, 10_000),
      "ERR_IMAGE_TRUNCATED",
      "block allocation table entry 4",
      TABLE + 16,
    ],
    [
      "a file that was cut in the middle of a block",
      (file) => file.truncate(blockAt(file, 9) + 4096),
      "ERR_IMAGE_TRUNCATED",
      "block allocation table entry 9",
      TABLE + 36,
    ],
    [
      "a block over the header",
      (file) => setEntry(file, 4, 2),
      "ERR_IMAGE_CORRUPT",
      "block allocation table entry 4",
      TABLE + 16,
    ],
    [
      "a table of zeros",
      (file) => put(file, TABLE, new Uint8Array(40)),
      "ERR_IMAGE_CORRUPT",
      "block allocation table entry 0",
      TABLE,
    ],
    [
      "a block over the end of another",
      (file) => setEntry(file, 4, entry(file, 2) - 1),
      "ERR_IMAGE_CORRUPT",
      "block allocation table entry 2",
      TABLE + 8,
    ],
    [
      "a bitmap over the last sectors of another block",
      (file) => {
        setEntry(file, 4, entry(file, 9) + 16);
        put(file, file.sizeBytes + 8192, file.bytes(file.sizeBytes - 512));
      },
      "ERR_IMAGE_CORRUPT",
      "block allocation table entry 4",
      TABLE + 16,
    ],
    [
      "two blocks in one place",
      (file) => setEntry(file, 4, entry(file, 7)),
      "ERR_IMAGE_CORRUPT",
      "block allocation table entry 7",
      TABLE + 28,
    ],
  ])("%s", (_name, damage, code, structure, offset) => {
    const { file } = dynamicFile();
    damage(file);
    const before = file.clone();
    const error = errorOf(() => openVhd(file));
    expect(error).toBeInstanceOf(ImageError);
    expect(error).toMatchObject({ code, structure, offset });
    expect((error as Error).message).toContain(`${structure} at file offset ${offset}: `);
    // Nothing was lost on the way, and the caller still has the file.
    expect(difference(file.bytes(), before.bytes())).toBe(-1);
    expect(file.closed).toBe(false);
    expect(checkVhd(file)).toContainEqual(
      expect.objectContaining({ severity: "error", structure, offset }),
    );
  });

  test("a fixed disk that was cut, and one without its footer", () => {
    const short = fixedFile();
    changeFooter(short, MIB, { currentSize: BigInt(2 * MIB) });
    expect(errorOf(() => openVhd(short))).toMatchObject({
      code: "ERR_IMAGE_TRUNCATED",
      structure: "footer",
      offset: MIB,
    });
    const torn = fixedFile();
    put(torn, MIB + 20, [1]);
    expect(errorOf(() => openVhd(torn))).toMatchObject({
      code: "ERR_IMAGE_CORRUPT",
      structure: "footer",
      offset: MIB,
    });
  });

  test("a table full of garbage has a bounded list of findings", () => {
    const file = new MemoryFile();
    createVhd(file, { sizeBytes: 64 * MIB, blockBytes: 4096, random });
    put(file, TABLE, pattern(65_536, 4));
    const findings = checkVhd(file);
    expect(findings.length).toBeGreaterThan(50);
    expect(findings.length).toBeLessThan(200);
  });

  test("a disk that its guest made look like another is opened only as what it is said to be", () => {
    const inner = dynamicFile().file;
    const file = fixedFile();
    put(file, 0, inner.bytes(0, 4096));
    expect(errorOf(() => openVhd(file))).toMatchObject({
      code: "ERR_IMAGE_UNSUPPORTED",
      offset: MIB,
    });
    expect(openVhd(file, { format: "vhd-fixed" }).format).toBe("vhd-fixed");

    // The other way round: the tail of a torn dynamic file is a fixed footer of just the right size.
    const { file: outer, content } = dynamicFile();
    const forged = new MemoryFile();
    createVhd(forged, { sizeBytes: outer.sizeBytes, fixed: true, random });
    put(outer, outer.sizeBytes, forged.bytes(forged.sizeBytes - 512));
    expect(errorOf(() => openVhd(outer))).toMatchObject({ code: "ERR_IMAGE_UNSUPPORTED" });
    expect(difference(readAll(openVhd(outer, { format: "vhd-dynamic" })), content)).toBe(-1);
  });

  test("whatever bytes change, opening ends with a disk or an ImageError", () => {
    const { file } = dynamicFile();
    const fields = fc.oneof(fc.nat({ max: 100 }), fc.integer({ min: 512, max: 600 }), fc.nat());
    const changes = fc.array(fc.tuple(fields, fc.nat({ max: 255 })), {
      minLength: 1,
      maxLength: 6,
    });
    fc.assert(
      fc.property(changes, fc.boolean(), fc.boolean(), (edits, fixChecksums, readOnly) => {
        const image = file.clone();
        for (const [at, value] of edits) put(image, at % file.sizeBytes, [value]);
        if (fixChecksums) changeHeader(image, DynamicHeaderLayout.version, 0x10000);
        checkVhd(image);
        const error = errorOf(() => {
          const disk = openVhd(image, { readOnly });
          readAll(disk);
          if (!readOnly) disk.write(0, new Uint8Array(disk.sizeBytes), 0, disk.sizeBytes);
          disk.close();
        });
        if (error !== undefined) expect(error).toBeInstanceOf(ImageError);
      }),
      { numRuns: 500 },
    );
  });
});

describe("failures of the file below", () => {
  test("a full file system fails the write and loses nothing else", () => {
    const { file, content } = dynamicFile();
    const disk = openVhd(file);
    file.quotaBytes = file.storedBytes + 8192;
    const bytes = pattern(64 * KIB, 6);
    expect(errorOf(() => disk.write(0, bytes, 0, bytes.byteLength))).toMatchObject({
      code: "ERR_IMAGE_NO_SPACE",
    });
    // Blocks that were begun are old or new, everything else is as it was.
    const after = readAll(disk);
    for (let at = 0; at < content.byteLength; at += 512) {
      const sector = after.subarray(at, at + 512);
      const isOld = difference(sector, content.subarray(at, at + 512)) === -1;
      if (!isOld) expect(difference(sector, bytes.subarray(at, at + 512))).toBe(-1);
    }
    disk.flush();
    file.quotaBytes = Infinity;
    // A block that takes the place of the failed one has nothing of it.
    content.set(after.subarray(0, 64 * KIB));
    const untouched = 64 * KIB;
    expect(disk.nextData?.(untouched)).toBe(9 * 8 * KIB);
    content.set(bytes.subarray(0, 512), untouched + 7680);
    disk.write(untouched + 7680, bytes, 0, 512);
    expect(difference(readAll(disk), content)).toBe(-1);
    disk.write(0, bytes, 0, bytes.byteLength);
    content.set(bytes);
    expect(difference(readAll(disk), content)).toBe(-1);
    disk.close();
    file.reopen();
    expect(checkVhd(file)).toEqual([]);
    expect(difference(readAll(openVhd(file)), content)).toBe(-1);
  });

  test("after a failed flush every call fails, and the image opens again as it was flushed", () => {
    const { file, content } = dynamicFile();
    const disk = openVhd(file);
    disk.write(0, pattern(512, 1), 0, 512);
    file.before = (operation) => {
      if (operation.kind === "flush") throw new Error("input/output error");
    };
    expect(() => disk.flush()).toThrow("input/output error");
    file.before = undefined;
    for (const call of [
      () => disk.read(0, new Uint8Array(512), 0, 512),
      () => disk.write(0, new Uint8Array(512), 0, 512),
      () => disk.flush(),
      () => disk.close(),
    ])
      expect(errorOf(call)).toMatchObject({
        code: "ERR_IMAGE_POISONED",
        cause: expect.objectContaining({ message: "input/output error" }) as unknown,
      });
    expect(file.closed).toBe(true);
    file.reopen();
    expect(difference(readAll(openVhd(file)), content)).toBe(-1);
  });
});

test("an image describes itself", () => {
  const { file } = dynamicFile();
  expect(describeVhd(file)).toMatchObject({
    format: "vhd-dynamic",
    sizeBytes: 80 * KIB - 1536,
    fileBytes: file.sizeBytes,
    blockBytes: 8 * KIB,
    blocks: 10,
    allocatedBlocks: 3,
    creator: "win ",
    createdUnixSeconds: 946_684_800,
  });
  changeBoth(file, {
    diskType: 4,
    uniqueId: Uint8Array.from({ length: 16 }, (_, index) => 0x10 + index),
  });
  put(file, HEADER + DynamicHeaderLayout.parentName, [0, 0x70, 0, 0x2e, 0, 0x76]);
  changeHeader(file, DynamicHeaderLayout.version, 0x10000);
  expect(describeVhd(file)).toMatchObject({
    format: "vhd-differencing",
    parentName: "p.v",
    diskId: "10111213-1415-1617-1819-1a1b1c1d1e1f",
  });
});
