import { describe, expect, test } from "vitest";
import { crc32c } from "../src/crc32c.js";
import { emitGuid, ZERO_GUID } from "../src/guid.js";
import { readHead } from "../src/vhdx/image.js";
import { checkVhdx, createVhdx, describeVhdx, openVhdx } from "../src/vhdx/index.js";
import { MIB } from "../src/vhdx/layout.js";
import { refusing } from "../src/reporter.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

const SECTOR = 4096;
const LOG = MIB;
const LOG_BYTES = MIB;
/** Unused space in the metadata region: a log may change it, and nobody reads it. */
const SCRATCH = 2 * MIB + 512 * 1024;
const guid = "6b8c3e1a-0d5f-4e92-8a77-3c1b9f24d605";
const otherGuid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

type Descriptor =
  | { readonly page: number; readonly bytes: Uint8Array }
  | { readonly zero: number; readonly lengthBytes: number };

interface EntryOptions {
  readonly sequence: bigint;
  readonly tail: number;
  readonly guid?: string;
  readonly flushed?: number;
  readonly last?: number;
  readonly descriptors?: readonly Descriptor[];
}

/** A log entry made by hand from the table of its fields, apart from the code under test. */
function entry(options: EntryOptions): Uint8Array {
  const { sequence, tail, descriptors = [], flushed = 4 * MIB, last = 4 * MIB } = options;
  const pages = descriptors.filter((descriptor) => "page" in descriptor);
  const area = Math.ceil((64 + 32 * descriptors.length) / SECTOR) * SECTOR;
  const bytes = new Uint8Array(area + pages.length * SECTOR);
  const view = new DataView(bytes.buffer);
  const text = (at: number, word: string): void => bytes.set(new TextEncoder().encode(word), at);
  text(0, "loge");
  view.setUint32(8, bytes.byteLength, true);
  view.setUint32(12, tail, true);
  view.setBigUint64(16, sequence, true);
  view.setUint32(24, descriptors.length, true);
  emitGuid(bytes, 32, options.guid ?? guid);
  view.setBigUint64(48, BigInt(flushed), true);
  view.setBigUint64(56, BigInt(last), true);
  let data = area;
  for (const [index, descriptor] of descriptors.entries()) {
    const at = 64 + 32 * index;
    view.setBigUint64(at + 24, sequence, true);
    if ("zero" in descriptor) {
      text(at, "zero");
      view.setBigUint64(at + 8, BigInt(descriptor.lengthBytes), true);
      view.setBigUint64(at + 16, BigInt(descriptor.zero), true);
      continue;
    }
    text(at, "desc");
    bytes.set(descriptor.bytes.subarray(4092), at + 4);
    bytes.set(descriptor.bytes.subarray(0, 8), at + 8);
    view.setBigUint64(at + 16, BigInt(descriptor.page), true);
    bytes.set(descriptor.bytes, data);
    text(data, "data");
    view.setUint32(data + 4, Number(sequence >> 32n), true);
    view.setUint32(data + 4092, Number(sequence & 0xffff_ffffn), true);
    data += SECTOR;
  }
  view.setUint32(4, crc32c(bytes), true);
  return bytes;
}

function page(seed: number): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  new Prng(seed).fill(bytes);
  return bytes;
}

/** An image of 4 MiB without blocks, whose header names the log. */
function dirtyImage(logGuid = guid): MemoryFile {
  const file = new MemoryFile();
  const disk = createVhdx(file, { sizeBytes: 8 * MIB, blockBytes: MIB, random: new Prng(1) });
  disk.close();
  file.reopen();
  readHead(file, refusing)!.headers.updateBoth({ logGuid });
  expect(file.sizeBytes).toBe(4 * MIB);
  return file;
}

/** Writes an entry at a log offset, around the end of the log if need be; the offset behind it. */
function put(file: MemoryFile, at: number, bytes: Uint8Array): number {
  for (let done = 0; done < bytes.byteLength; done += SECTOR)
    file.write(LOG + ((at + done) % LOG_BYTES), bytes, done, SECTOR);
  return (at + bytes.byteLength) % LOG_BYTES;
}

function open(file: MemoryFile, readOnly = false): void {
  openVhdx(file, { random: new Prng(2), readOnly });
}

function scratch(file: MemoryFile, index = 0): Uint8Array {
  return file.bytes(SCRATCH + index * SECTOR, SECTOR);
}

const change = (index: number, seed: number): Descriptor => ({
  page: SCRATCH + index * SECTOR,
  bytes: page(seed),
});

describe("replay", () => {
  test("does all entries in order, and then the log is empty", () => {
    const file = dirtyImage();
    let at = put(
      file,
      0,
      entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1), change(1, 2)] }),
    );
    at = put(file, at, entry({ sequence: 2n, tail: 0, descriptors: [change(1, 3)] }));
    put(file, at, entry({ sequence: 3n, tail: 0 }));
    expect(describeVhdx(file).logEntries).toBe(3);
    open(file);
    expect(scratch(file, 0)).toEqual(page(1));
    expect(scratch(file, 1)).toEqual(page(3));
    const { headers, log } = readHead(file, refusing)!;
    expect(headers.current.logGuid).toBe(ZERO_GUID);
    expect(log).toBeUndefined();
    expect(checkVhdx(file)).toEqual([]);
  });

  test("announces itself with a new file write GUID, and flushes before it empties the log", () => {
    const file = dirtyImage();
    put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1)] }));
    const before = readHead(file, refusing)!.headers.current;
    file.trace = [];
    open(file);
    expect(
      file.trace.map((operation) =>
        operation.kind === "write" ? operation.position : operation.kind,
      ),
    ).toEqual([65536, "flush", SCRATCH, "flush", 131072, "flush", 65536, "flush"]);
    const after = readHead(file, refusing)!.headers.current;
    expect(after.fileWriteGuid).not.toBe(before.fileWriteGuid);
    expect(after.dataWriteGuid).toBe(before.dataWriteGuid);
  });

  test("of an image that may not be changed happens in memory", () => {
    const file = dirtyImage();
    // Block 0 comes to lie at 4 MiB, past the end of the file before the replay.
    const bat = new Uint8Array(SECTOR);
    new DataView(bat.buffer).setBigUint64(0, (4n << 20n) | 6n, true);
    put(
      file,
      0,
      entry({ sequence: 1n, tail: 0, last: 5 * MIB, descriptors: [{ page: 3 * MIB, bytes: bat }] }),
    );
    for (const readOnlyFile of [false, true]) {
      const copy = file.clone();
      copy.trace = [];
      copy.readOnly = readOnlyFile;
      const disk = openVhdx(copy, { random: new Prng(1), readOnly: true });
      expect(disk.readOnly).toBe(true);
      expect(disk.nextData(0)).toBe(0);
      expect(disk.nextData(MIB)).toBe(disk.sizeBytes);
      const bytes = new Uint8Array(512).fill(1);
      disk.read(0, bytes, 0, 512);
      expect(bytes.every((byte) => byte === 0)).toBe(true);
      expect(checkVhdx(copy)).toEqual([
        expect.objectContaining({ severity: "warning", structure: "log", offset: LOG }),
      ]);
      disk.close();
      expect(copy.trace).toEqual([]);
    }
    expect(file.sizeBytes).toBe(4 * MIB);
    open(file);
    expect(file.sizeBytes).toBe(5 * MIB);
  });

  test.each([1, 2, 126, 127])("of an entry with %d descriptors", (count) => {
    const file = dirtyImage();
    const descriptors: Descriptor[] = [];
    // Pages and zeros in turn: their order must not matter to which sector belongs to which page.
    for (let index = 0; index < count; index++)
      descriptors.push(
        index % 3 === 2
          ? { zero: SCRATCH + index * SECTOR, lengthBytes: SECTOR }
          : change(index, index + 100),
      );
    for (let index = 0; index < count; index++)
      file.write(SCRATCH + index * SECTOR, page(7), 0, 512);
    put(file, 0, entry({ sequence: 1n, tail: 0, descriptors }));
    open(file);
    for (let index = 0; index < count; index++)
      expect(scratch(file, index), `page ${index}`).toEqual(
        index % 3 === 2 ? new Uint8Array(SECTOR) : page(index + 100),
      );
  });

  test("of an entry with 255 descriptors, all zeros", () => {
    const file = dirtyImage();
    file.write(SCRATCH, new Uint8Array(256 * SECTOR).fill(9), 0, 100 * SECTOR);
    const descriptors = Array.from({ length: 255 }, (_, index) => ({
      zero: SCRATCH + (index % 99) * SECTOR,
      lengthBytes: SECTOR,
    }));
    put(file, 0, entry({ sequence: 1n, tail: 0, descriptors }));
    open(file);
    expect(file.bytes(SCRATCH, 99 * SECTOR).every((byte) => byte === 0)).toBe(true);
    expect(scratch(file, 99)[0]).toBe(9);
  });

  test("of zeros over many pages", () => {
    const file = dirtyImage();
    file.write(SCRATCH, new Uint8Array(40 * SECTOR).fill(9), 0, 40 * SECTOR);
    put(
      file,
      0,
      entry({
        sequence: 1n,
        tail: 0,
        descriptors: [{ zero: SCRATCH + SECTOR, lengthBytes: 38 * SECTOR }],
      }),
    );
    open(file);
    const left = file.bytes(SCRATCH, 40 * SECTOR);
    expect(left.findIndex((byte) => byte === 0)).toBe(SECTOR);
    expect(left.findLastIndex((byte) => byte === 0)).toBe(39 * SECTOR - 1);
  });

  test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 4091, 4092, 4093, 4094, 4095])(
    "of a page that differs in byte %d",
    (at) => {
      const file = dirtyImage();
      file.write(SCRATCH, page(1), 0, SECTOR);
      const bytes = page(1);
      bytes[at]! ^= 0xff;
      put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [{ page: SCRATCH, bytes }] }));
      open(file);
      expect(scratch(file)).toEqual(bytes);
    },
  );

  test("extends the file to what the newest entry asks for", () => {
    const file = dirtyImage();
    const at = put(file, 0, entry({ sequence: 1n, tail: 0, last: 9 * MIB }));
    put(file, at, entry({ sequence: 2n, tail: 0, last: 7 * MIB }));
    open(file);
    expect(file.sizeBytes).toBe(7 * MIB);
  });

  test("with a sequence number above 32 bits", () => {
    const file = dirtyImage();
    const sequence = 0x1234_5678_9abc_def0n;
    put(file, 0, entry({ sequence, tail: 0, descriptors: [change(0, 5)] }));
    open(file);
    expect(scratch(file)).toEqual(page(5));
  });
});

describe("the active sequence", () => {
  test("goes around the end of the log, inside an entry", () => {
    const file = dirtyImage();
    const start = LOG_BYTES - 3 * SECTOR;
    const at = put(
      file,
      start,
      entry({ sequence: 7n, tail: start, descriptors: [0, 1, 2, 3].map((it) => change(it, it)) }),
    );
    expect(at).toBe(2 * SECTOR);
    put(file, at, entry({ sequence: 8n, tail: start, descriptors: [change(2, 9)] }));
    open(file);
    expect(scratch(file, 0)).toEqual(page(0));
    expect(scratch(file, 2)).toEqual(page(9));
    expect(scratch(file, 3)).toEqual(page(3));
  });

  test("begins at the newest entry's tail", () => {
    const file = dirtyImage();
    const second = put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1)] }));
    const third = put(file, second, entry({ sequence: 2n, tail: 0, descriptors: [change(1, 2)] }));
    put(file, third, entry({ sequence: 3n, tail: second, descriptors: [change(2, 3)] }));
    open(file);
    // The first entry is no longer needed, so it must not be done.
    expect(scratch(file, 0)).toEqual(new Uint8Array(SECTOR));
    expect(scratch(file, 1)).toEqual(page(2));
    expect(scratch(file, 2)).toEqual(page(3));
  });

  test("is not confused by what older logs left around it", () => {
    const file = dirtyImage();
    let at = put(
      file,
      0,
      entry({ sequence: 500n, tail: 0, guid: otherGuid, descriptors: [change(0, 9)] }),
    );
    // An older lap of the same log, with its newer entries overwritten.
    const old = put(file, at, entry({ sequence: 4n, tail: at, descriptors: [change(1, 9)] }));
    at = put(file, old, entry({ sequence: 40n, tail: old, descriptors: [change(2, 5)] }));
    at = put(file, at, entry({ sequence: 41n, tail: old, descriptors: [change(3, 6)] }));
    put(
      file,
      at,
      entry({ sequence: 42n, tail: old, guid: ZERO_GUID, descriptors: [change(0, 9)] }),
    );
    put(
      file,
      LOG_BYTES / 2,
      entry({ sequence: 6n, tail: LOG_BYTES / 2, descriptors: [change(0, 9)] }),
    );
    open(file);
    expect(scratch(file, 0)).toEqual(new Uint8Array(SECTOR));
    expect(scratch(file, 1)).toEqual(new Uint8Array(SECTOR));
    expect(scratch(file, 2)).toEqual(page(5));
    expect(scratch(file, 3)).toEqual(page(6));
  });

  test.each([0n, 1n, 3n])("ends before an entry with number %d after 1", (sequence) => {
    const file = dirtyImage();
    const at = put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1)] }));
    put(file, at, entry({ sequence, tail: 0, descriptors: [change(1, 2)] }));
    open(file);
    expect(scratch(file, 0)).toEqual(page(1));
    expect(scratch(file, 1)).toEqual(new Uint8Array(SECTOR));
  });

  const head = { sequence: 2n, tail: 0, descriptors: [0, 1, 2].map((it) => change(it, it + 50)) };
  test.each([0, 1, 2, 3])("ends before an entry whose sector %d is torn", (torn) => {
    const file = dirtyImage();
    const at = put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1)] }));
    const bytes = entry(head);
    bytes.fill(0, torn * SECTOR + 64, torn * SECTOR + 2048);
    put(file, at, bytes);
    open(file);
    expect(scratch(file, 0)).toEqual(page(1));
    expect(scratch(file, 1)).toEqual(new Uint8Array(SECTOR));
  });

  const field = (name: string, spoil: (bytes: Uint8Array, view: DataView) => void) =>
    [name, spoil] as const;
  test.each([
    field("signature", (bytes) => bytes.fill(0x58, 0, 4)),
    field("length, too short", (_, view) => view.setUint32(8, 3 * SECTOR, true)),
    field("length, too long", (_, view) => view.setUint32(8, 5 * SECTOR, true)),
    field("length, more than the log", (_, view) => view.setUint32(8, 0xffff_f000, true)),
    field("length, all of the log", (_, view) => view.setUint32(8, LOG_BYTES, true)),
    field("length, zero", (_, view) => view.setUint32(8, 0, true)),
    field("length, crooked", (_, view) => view.setUint32(8, 4 * SECTOR + 1, true)),
    field("tail, crooked", (_, view) => view.setUint32(12, 1, true)),
    field("tail, outside", (_, view) => view.setUint32(12, LOG_BYTES, true)),
    field("tail, not in the sequence", (_, view) => view.setUint32(12, LOG_BYTES / 2, true)),
    field("sequence number", (_, view) => view.setBigUint64(16, 3n, true)),
    field("descriptor count, small", (_, view) => view.setUint32(24, 2, true)),
    field("descriptor count, huge", (_, view) => view.setUint32(24, 0xffff_ffff, true)),
    field("GUID", (bytes) => bytes.fill(1, 32, 48)),
    field("descriptor signature", (bytes) => bytes.fill(0x58, 64, 68)),
    field("descriptor sequence number", (_, view) => view.setBigUint64(64 + 24, 1n, true)),
    field("sector signature", (bytes) => bytes.fill(0x58, 2 * SECTOR, 2 * SECTOR + 4)),
    field("sector's high half", (_, view) => view.setUint32(2 * SECTOR + 4, 1, true)),
    field("sector's low half", (_, view) => view.setUint32(3 * SECTOR - 4, 3, true)),
  ])("ends before an entry with a wrong %s, though its checksum is right", (_name, spoil) => {
    const file = dirtyImage();
    const at = put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1)] }));
    const bytes = entry(head);
    const view = new DataView(bytes.buffer);
    view.setUint32(4, 0, true);
    spoil(bytes, view);
    view.setUint32(4, crc32c(bytes), true);
    put(file, at, bytes);
    open(file);
    expect(scratch(file, 0)).toEqual(page(1));
    expect(scratch(file, 1)).toEqual(new Uint8Array(SECTOR));
  });

  test("a whole log that looks like entries is looked through in linear time", () => {
    const file = dirtyImage();
    const sound = entry({ sequence: 1n, tail: 0 });
    // Every sector begins an entry that claims to go on for most of the log.
    const liar = entry({ sequence: 1n, tail: 0 });
    const view = new DataView(liar.buffer);
    view.setUint32(8, LOG_BYTES - SECTOR, true);
    view.setUint32(24, 20_000, true);
    for (let at = 0; at < LOG_BYTES; at += SECTOR) put(file, at, liar);
    put(file, LOG_BYTES / 2, entry({ sequence: 1n, tail: LOG_BYTES / 2 }));
    expect(sound.byteLength).toBe(SECTOR);
    file.reads = 0;
    open(file);
    expect(file.reads).toBeLessThan((4 * LOG_BYTES) / SECTOR);
  });
});

describe("refused", () => {
  const refused = (file: MemoryFile, code: string): void => {
    for (const readOnly of [true, false]) {
      const copy = file.clone();
      copy.trace = [];
      expect(() => open(copy, readOnly)).toThrow(
        expect.objectContaining({ code, structure: "log" }),
      );
      expect(copy.trace, "the file is as it was").toEqual([]);
    }
    expect(checkVhdx(file)).toContainEqual(
      expect.objectContaining({ severity: "error", structure: "log" }),
    );
  };

  test("a log GUID without any entry", () => {
    refused(dirtyImage(), "ERR_IMAGE_CORRUPT");
  });

  test("entries of another log only", () => {
    const file = dirtyImage();
    put(file, 0, entry({ sequence: 1n, tail: 0, guid: otherGuid }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });

  test("a sequence whose tail is missing", () => {
    const file = dirtyImage();
    put(file, SECTOR, entry({ sequence: 5n, tail: 0 }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });

  test("a tail in the middle of an entry", () => {
    const file = dirtyImage();
    const at = put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [change(0, 1)] }));
    put(file, at, entry({ sequence: 2n, tail: SECTOR }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });

  test("a file that was longer when the log was written", () => {
    const file = dirtyImage();
    put(file, 0, entry({ sequence: 1n, tail: 0, flushed: 5 * MIB, last: 5 * MIB }));
    refused(file, "ERR_IMAGE_TRUNCATED");
  });

  test("a file length beyond all reason", () => {
    const file = dirtyImage();
    put(file, 0, entry({ sequence: 1n, tail: 0, last: 2 ** 52 }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });

  test.each([
    ["the headers", 128 * 1024],
    ["the identifier", 0],
    ["the log itself", LOG + LOG_BYTES - SECTOR],
    ["a crooked place", SCRATCH + 512],
    ["past the end", 4 * MIB],
    ["far past the end", 2 ** 52],
  ])("a page for %s", (_name, target) => {
    const file = dirtyImage();
    const descriptors = [change(0, 1), { page: target, bytes: page(2) }];
    put(file, 0, entry({ sequence: 1n, tail: 0, descriptors }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });

  test.each([
    ["over the log", SCRATCH - 2 * MIB, 2 * MIB],
    ["of a crooked length", SCRATCH, 100],
    ["past the end", SCRATCH, 2 * MIB],
    ["without end", SCRATCH, 2 ** 63 - SECTOR],
  ])("zeros %s", (_name, zero, lengthBytes) => {
    const file = dirtyImage();
    put(file, 0, entry({ sequence: 1n, tail: 0, descriptors: [{ zero, lengthBytes }] }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });

  test("zeros that would keep us busy for hours", () => {
    const file = dirtyImage();
    const huge = { zero: SCRATCH, lengthBytes: 2 ** 40 };
    put(file, 0, entry({ sequence: 1n, tail: 0, last: 2 ** 41, descriptors: [huge] }));
    refused(file, "ERR_IMAGE_CORRUPT");
  });
});
