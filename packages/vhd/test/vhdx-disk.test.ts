import { describe, expect, test } from "vitest";
import { AssertionError } from "../src/assertion.js";
import { ImageError } from "../src/errors.js";
import { readHead } from "../src/vhdx/image.js";
import {
  checkVhdx,
  createVhdx,
  type CreateVhdxOptions,
  describeVhdx,
  openVhdx,
  type VhdxDisk,
} from "../src/vhdx/index.js";
import { MIB } from "../src/vhdx/layout.js";
import { type FileOperation, MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

const random = new Prng(1);
const BAT = 3 * MIB;

function create(options: Partial<CreateVhdxOptions> = {}): { file: MemoryFile; disk: VhdxDisk } {
  const file = new MemoryFile();
  const disk = createVhdx(file, { sizeBytes: 16 * MIB, blockBytes: MIB, random, ...options });
  return { file, disk };
}

function sector(value: number): Uint8Array {
  return new Uint8Array(512).fill(value);
}

function bytesOf(disk: VhdxDisk, position: number, lengthBytes = 512): Uint8Array {
  const bytes = new Uint8Array(lengthBytes).fill(0xcc);
  disk.read(position, bytes, 0, lengthBytes);
  return bytes;
}

function reopen(file: MemoryFile, readOnly = false): VhdxDisk {
  if (file.closed) file.reopen();
  return openVhdx(file, { random, readOnly });
}

/** What a process leaves that dies now. */
function abandoned(file: MemoryFile): VhdxDisk {
  return reopen(file.clone());
}

/** Vitest's own comparison takes seconds for a MiB. */
function same(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

const kinds = (trace: readonly FileOperation[]): string[] =>
  trace.map((operation) => operation.kind);

describe("a new image", () => {
  test("is dynamic, empty and clean", () => {
    const { file, disk } = create();
    expect(disk.format).toBe("vhdx-dynamic");
    expect(disk.sizeBytes).toBe(16 * MIB);
    expect(disk.logicalSectorBytes).toBe(512);
    expect(disk.physicalSectorBytes).toBe(4096);
    expect(disk.nextData(0)).toBe(disk.sizeBytes);
    expect(checkVhdx(file)).toEqual([]);
    expect(describeVhdx(file)).toEqual({
      format: "vhdx-dynamic",
      creator: "hyperv-is",
      sizeBytes: 16 * MIB,
      fileBytes: 4 * MIB,
      blockBytes: MIB,
      logicalSectorBytes: 512,
      physicalSectorBytes: 4096,
      logBytes: MIB,
      logEntries: 0,
      blocks: 16,
      allocatedBlocks: 0,
      unownedBytes: 0,
      diskId: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
      fileWriteGuid: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
      dataWriteGuid: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
    });
  });

  test("replaces what the file held", () => {
    const file = MemoryFile.of(new Uint8Array(20 * MIB).fill(0xaa));
    const disk = createVhdx(file, { sizeBytes: 4 * MIB, blockBytes: MIB, random });
    expect(file.sizeBytes).toBe(4 * MIB);
    disk.write(512, sector(1), 0, 512);
    const expected = new Uint8Array(MIB).fill(1, 512, 1024);
    expect(same(bytesOf(disk, 0, MIB), expected)).toBe(true);
  });

  test("is fixed when asked for: every block has its place, one after the other", () => {
    const { file, disk } = create({ fixed: true, sizeBytes: 5 * MIB + 512, blockBytes: 2 * MIB });
    expect(disk.format).toBe("vhdx-fixed");
    expect(describeVhdx(file).allocatedBlocks).toBe(3);
    expect(file.sizeBytes).toBe(4 * MIB + 6 * MIB);
    // In one piece: a read of everything is one read of the file.
    expect(disk.resolve(0, disk.sizeBytes)).toBe(disk.sizeBytes);
    expect(disk.resolvedPosition).toBe(4 * MIB);
  });

  test("has identities of its own", () => {
    const [one, two] = [create().disk, create().disk];
    expect(one.identity).not.toEqual(two.identity);
    expect(one.identity).toHaveLength(16);
  });

  test("is no VHDX before it is finished", () => {
    const file = new MemoryFile();
    let operations = 0;
    file.before = () => {
      operations++;
    };
    createVhdx(file, { sizeBytes: 4 * MIB, random });
    const all = operations;
    for (let failing = 1; failing < all; failing++) {
      const cut = new MemoryFile();
      let count = 0;
      cut.before = () => {
        if (++count >= failing) throw new Error("cut");
      };
      expect(() => createVhdx(cut, { sizeBytes: 4 * MIB, random })).toThrow("cut");
      cut.before = undefined;
      expect(() => openVhdx(cut, { random })).toThrow(
        expect.objectContaining({ code: "ERR_IMAGE_FOREIGN" }),
      );
    }
  });

  test.each([
    [{ sizeBytes: 0 }],
    [{ sizeBytes: -512 }],
    [{ sizeBytes: 513 }],
    [{ sizeBytes: 4096 + 512, logicalSectorBytes: 4096 }],
    [{ sizeBytes: 64 * 1024 ** 4 + 512 }],
    [{ sizeBytes: Number.NaN }],
    [{ blockBytes: 512 * 1024 }],
    [{ blockBytes: 3 * MIB }],
    [{ blockBytes: 512 * MIB }],
    [{ logicalSectorBytes: 1024 }],
    [{ physicalSectorBytes: 0 }],
    [{ logBytes: 0 }],
    [{ logBytes: MIB + 4096 }],
    [{ logBytes: 2048 * MIB }],
  ])("refused: %o", (options) => {
    const file = MemoryFile.of(sector(1));
    expect(() => createVhdx(file, { sizeBytes: 16 * MIB, random, ...options })).toThrow(
      expect.objectContaining({ code: "ERR_IMAGE_UNSUPPORTED" }),
    );
    expect(file.bytes()).toEqual(sector(1));
  });

  test("of the largest size opens", () => {
    const { file, disk } = create({ sizeBytes: 64 * 1024 ** 4, blockBytes: 256 * MIB });
    const last = disk.sizeBytes - 512;
    disk.write(last, sector(9), 0, 512);
    disk.close();
    const again = reopen(file);
    expect(bytesOf(again, last)).toEqual(sector(9));
    expect(again.nextData(512)).toBe(disk.sizeBytes - 256 * MIB);
  });
});

describe("the file", () => {
  test("stays as it is until something is written", () => {
    const { file, disk } = create();
    disk.close();
    file.reopen();
    const before = file.bytes();
    const again = reopen(file);
    again.read(0, sector(0), 0, 512);
    again.unmap(0, again.sizeBytes);
    again.flush();
    again.close();
    file.reopen();
    expect(same(file.bytes(), before)).toBe(true);
  });

  test("gets new GUIDs by the rules", () => {
    const { file, disk } = create();
    disk.close();
    file.reopen();
    const guids = (): { file: string; data: string; log: string } => {
      const { current } = readHead(file, {
        error: () => undefined,
        warning: () => undefined,
      })!.headers;
      return { file: current.fileWriteGuid, data: current.dataWriteGuid, log: current.logGuid };
    };
    const before = guids();
    const session = reopen(file);
    session.write(0, sector(1), 0, 512);
    const first = guids();
    expect(first.file).not.toBe(before.file);
    expect(first.data).not.toBe(before.data);
    expect(first.log).not.toBe(before.log);
    session.write(MIB, sector(1), 0, 512);
    session.flush();
    expect(guids()).toEqual(first);
    session.close();
    file.reopen();
    expect(guids()).toEqual({ ...first, log: before.log });
    const next = reopen(file);
    next.unmap(0, MIB);
    expect(guids().data).not.toBe(first.data);
    expect(guids().file).not.toBe(first.file);
    expect(guids().log).not.toBe(first.log);
  });

  test("the headers, and the log, are ready before the first data is written", () => {
    const { file, disk } = create();
    file.trace = [];
    disk.write(0, sector(1), 0, 512);
    const places = file.trace.map((operation) =>
      operation.kind === "write" ? operation.position : operation.kind,
    );
    expect(places).toEqual([
      ...[65536, "flush"], // the file write GUID
      ...["flush", MIB, "flush"], // an entry in the log
      ...[131072, "flush", 65536, "flush"], // the log GUID and the data write GUID, in both
      "truncate",
      4 * MIB, // the data
    ]);
  });

  test("one flush of the disk is one flush of the file", () => {
    const { file, disk } = create();
    disk.write(0, sector(1), 0, 512);
    file.trace = [];
    disk.write(MIB, sector(2), 0, 512);
    disk.flush();
    expect(kinds(file.trace)).toEqual(["truncate", "write", "write", "flush"]);
    file.trace = [];
    disk.write(MIB, sector(3), 0, 512);
    disk.flush();
    expect(kinds(file.trace)).toEqual(["write", "flush"]);
    file.trace = [];
    disk.flush();
    expect(kinds(file.trace)).toEqual([]);
  });

  test("space with a past is flushed before the log names it, new space is not", () => {
    const { file, disk } = create();
    disk.write(0, sector(1), 0, 512);
    disk.flush();
    disk.unmap(0, MIB);
    disk.flush();
    file.trace = [];
    // The rest of the block is zeroed, in pieces, before and after the sector.
    disk.write(MIB - 1024, sector(2), 0, 512);
    disk.flush();
    expect(kinds(file.trace)).toEqual([
      ...Array<string>(6).fill("write"),
      "flush",
      "write",
      "flush",
    ]);
    expect(file.trace.at(-2)).toMatchObject({ kind: "write", position: MIB + 5 * 4096 });
  });

  test("grows in steps and is cut to what it needs when it is closed", () => {
    const { file, disk } = create({ sizeBytes: 2000 * MIB });
    file.trace = [];
    const block = new Uint8Array(MIB).fill(7);
    for (let index = 0; index < 200; index++) disk.write(index * 2 * MIB, block, 0, MIB);
    const truncations = kinds(file.trace).filter((kind) => kind === "truncate").length;
    expect(truncations).toBeLessThan(40);
    disk.close();
    expect(file.sizeBytes).toBe(204 * MIB);
  });

  test("a fixed one keeps its length", () => {
    const { file, disk } = create({ fixed: true });
    const { sizeBytes } = file;
    file.trace = [];
    disk.write(0, sector(1), 0, 512);
    disk.unmap(0, 4 * MIB);
    expect(bytesOf(disk, 0)).toEqual(sector(1));
    disk.close();
    expect(file.sizeBytes).toBe(sizeBytes);
    expect(kinds(file.trace)).not.toContain("truncate");
  });
});

describe("reading and writing", () => {
  test("contiguous blocks are one read of the file, empty ones none", () => {
    const { file, disk } = create();
    const data = new Uint8Array(4 * MIB);
    random.fill(data.subarray(0, 4 * MIB));
    disk.write(4 * MIB, data, 0, data.byteLength);
    file.reads = 0;
    expect(same(bytesOf(disk, 4 * MIB, 4 * MIB), data)).toBe(true);
    expect(file.reads).toBe(1);
    expect(bytesOf(disk, 0, 4 * MIB).every((byte) => byte === 0)).toBe(true);
    expect(file.reads).toBe(1);
    // Two thirds of a block, two blocks, nothing.
    bytesOf(disk, 7 * MIB + 512, 4 * MIB);
    expect(file.reads).toBe(2);
  });

  test("blocks in any order come back in the right one", () => {
    const { file, disk } = create();
    for (const block of [5, 3, 4, 0, 15]) disk.write(block * MIB, sector(block + 1), 0, 512);
    disk.close();
    const again = reopen(file);
    for (let block = 0; block < 16; block++)
      expect(bytesOf(again, block * MIB)[0]).toBe([5, 3, 4, 0, 15].includes(block) ? block + 1 : 0);
    expect(again.nextData(0)).toBe(0);
    expect(again.nextData(MIB)).toBe(3 * MIB);
    expect(again.nextData(3 * MIB + 5)).toBe(3 * MIB + 5);
    expect(again.nextData(6 * MIB)).toBe(15 * MIB);
    expect(again.nextData(16 * MIB)).toBe(16 * MIB);
    expect(again.nextHole(0)).toBe(MIB);
    expect(again.nextHole(MIB + 5)).toBe(MIB + 5);
    expect(again.nextHole(3 * MIB + 5)).toBe(6 * MIB);
    expect(again.nextHole(15 * MIB)).toBe(16 * MIB);
    expect(again.nextHole(16 * MIB)).toBe(16 * MIB);
  });

  test("positions above 4 GiB, in the disk and in the file, past sector bitmap slots", () => {
    // A slot follows every 16 blocks of 256 MiB, and every page of the BAT holds 512 entries.
    const GIB = 1024 * MIB;
    const { file, disk } = create({ sizeBytes: 200 * GIB + 512, blockBytes: 256 * MIB });
    const blocks = 801;
    for (let block = 0; block < blocks; block++) {
      const mark = new Uint8Array(512);
      new DataView(mark.buffer).setUint32(0, block + 1);
      disk.write(block * 256 * MIB, mark, 0, 512);
    }
    disk.flush();
    expect(file.sizeBytes).toBeGreaterThan(200 * GIB);
    const dead = abandoned(file);
    disk.close();
    for (const opened of [dead, reopen(file)])
      for (let block = 0; block < blocks; block++) {
        const found = bytesOf(opened, block * 256 * MIB);
        expect(new DataView(found.buffer).getUint32(0)).toBe(block + 1);
      }
    expect(checkVhdx(file)).toEqual([]);
    // Entry 511 of the first page has its high bytes at the very end of the page.
    const entry511 = new DataView(file.bytes(BAT + 4088, 8).buffer).getBigUint64(0, true);
    const block511 = 511 - Math.floor(511 / 17);
    expect(Number(entry511 & ~0xf_ffffn)).toBe(4 * MIB + block511 * 256 * MIB);
    // The slots between the chunks stay empty.
    expect(file.bytes(BAT + 16 * 8, 8).every((byte) => byte === 0)).toBe(true);
    expect(file.bytes(BAT + 15 * 8, 8).every((byte) => byte === 0)).toBe(false);
  });

  test("sectors of 4096 bytes", () => {
    const { file, disk } = create({ logicalSectorBytes: 4096, sizeBytes: 8 * MIB + 4096 });
    expect(disk.logicalSectorBytes).toBe(4096);
    const data = new Uint8Array(4096).fill(5);
    disk.write(8 * MIB, data, 0, 4096);
    expect(() => disk.write(512, data, 0, 4096)).toThrow(AssertionError);
    disk.close();
    expect(bytesOf(reopen(file), 8 * MIB, 4096)).toEqual(data);
  });

  test("an unmapped block reads as zeros, and so does the rest of it when it is written again", () => {
    const { disk, file } = create({ blockBytes: 2 * MIB });
    const data = new Uint8Array(2 * MIB).fill(9);
    disk.write(0, data, 0, data.byteLength);
    // Not the whole block: left alone.
    disk.unmap(512, 2 * MIB - 512);
    expect(bytesOf(disk, 512)).toEqual(sector(9));
    disk.unmap(0, 3 * MIB);
    expect(bytesOf(disk, 0, 2 * MIB).every((byte) => byte === 0)).toBe(true);
    disk.write(MIB, sector(4), 0, 512);
    disk.close();
    const again = bytesOf(reopen(file), 0, 2 * MIB);
    expect(again.findIndex((byte) => byte !== 0)).toBe(MIB);
    expect(again.findLastIndex((byte) => byte !== 0)).toBe(MIB + 511);
  });

  test("the last block, cut short by the end of the disk, is unmapped with it", () => {
    const { disk } = create({ sizeBytes: 4 * MIB + 512 });
    disk.write(4 * MIB, sector(9), 0, 512);
    disk.unmap(4 * MIB, 512);
    expect(bytesOf(disk, 4 * MIB)).toEqual(sector(0));
  });

  test("unmapped blocks give their space to others once that is safe", () => {
    const { disk, file } = create({ sizeBytes: 64 * MIB });
    const block = new Uint8Array(MIB).fill(1);
    for (let index = 0; index < 16; index++) disk.write(index * MIB, block, 0, MIB);
    disk.unmap(0, 16 * MIB);
    disk.flush();
    const before = file.sizeBytes;
    for (let index = 16; index < 32; index++) disk.write(index * MIB, block, 0, MIB);
    expect(file.sizeBytes).toBe(before);
    disk.close();
    const again = reopen(file);
    expect(bytesOf(again, 0, 16 * MIB).every((byte) => byte === 0)).toBe(true);
    expect(bytesOf(again, 16 * MIB, 16 * MIB).every((byte) => byte === 1)).toBe(true);
    expect(checkVhdx(file)).toEqual([]);
  });

  test("a range that is not whole sectors of the disk is the caller's mistake", () => {
    const { disk } = create();
    const bytes = new Uint8Array(1024);
    for (const [position, offset, length] of [
      [1, 0, 512],
      [0, 0, 100],
      [-512, 0, 512],
      [16 * MIB, 0, 512],
      [16 * MIB - 512, 0, 1024],
      [0, 600, 512],
      [0, -1, 512],
      [0.5, 0, 512],
      [Number.NaN, 0, 512],
    ] as const) {
      expect(() => disk.read(position, bytes, offset, length)).toThrow(AssertionError);
      expect(() => disk.write(position, bytes, offset, length)).toThrow(AssertionError);
    }
    disk.read(16 * MIB, bytes, 1024, 0);
    disk.close();
    expect(() => disk.read(0, bytes, 0, 512)).toThrow(AssertionError);
    expect(() => disk.close()).toThrow(AssertionError);
  });

  test("a read-only image refuses changes", () => {
    const { file, disk } = create();
    disk.write(0, sector(1), 0, 512);
    disk.close();
    for (const readOnlyFile of [true, false]) {
      file.readOnly = readOnlyFile;
      const opened = reopen(file, !readOnlyFile);
      expect(opened.readOnly).toBe(true);
      expect(bytesOf(opened, 0)).toEqual(sector(1));
      const refused = expect.objectContaining({ code: "ERR_IMAGE_READ_ONLY" }) as Error;
      expect(() => opened.write(0, sector(2), 0, 512)).toThrow(refused);
      expect(() => opened.unmap(0, 512)).toThrow(refused);
      opened.flush();
      opened.close();
    }
  });
});

describe("failures", () => {
  test("a payload that cannot be written changes nothing else", () => {
    const { file, disk } = create();
    disk.write(0, sector(1), 0, 512);
    disk.flush();
    const fault = new Error("no such luck");
    file.before = (operation) => {
      if (operation.kind === "write" && operation.position >= 4 * MIB) throw fault;
    };
    expect(() => disk.write(0, sector(2), 0, 512)).toThrow(fault);
    expect(() => disk.write(5 * MIB, sector(3), 0, 512)).toThrow(fault);
    file.before = undefined;
    expect(disk.nextData(MIB)).toBe(disk.sizeBytes);
    disk.write(6 * MIB, sector(4), 0, 512);
    expect(
      bytesOf(disk, 6 * MIB, MIB)
        .subarray(512)
        .every((byte) => byte === 0),
    ).toBe(true);
    disk.close();
    expect(checkVhdx(file.clone())).toEqual([]);
    expect(bytesOf(reopen(file), 0)).toEqual(sector(1));
  });

  test("a full file system loses nothing that was flushed, and the image goes on when there is space", () => {
    const { file, disk } = create();
    const block = new Uint8Array(MIB).fill(3);
    disk.write(0, block, 0, MIB);
    disk.flush();
    file.quotaBytes = file.storedBytes + MIB / 2;
    const full = expect.objectContaining({ code: "ERR_IMAGE_NO_SPACE" }) as Error;
    expect(() => disk.write(MIB, block, 0, MIB)).toThrow(full);
    expect(same(bytesOf(disk, 0, MIB), block)).toBe(true);
    expect(bytesOf(disk, MIB).every((byte) => byte === 0)).toBe(true);
    const dead = abandoned(file);
    expect(same(bytesOf(dead, 0, MIB), block)).toBe(true);
    // What was half written must not show up behind the next sector.
    file.quotaBytes = Infinity;
    disk.write(2 * MIB, sector(1), 0, 512);
    expect(
      bytesOf(disk, 2 * MIB, MIB)
        .subarray(512)
        .every((byte) => byte === 0),
    ).toBe(true);
    disk.close();
    expect(checkVhdx(file.clone())).toEqual([]);
  });

  /** Operations during which a fault can strike, with the disk that it leaves. */
  test.each([
    ["the log", (at: number) => at >= MIB && at < 2 * MIB],
    ["a header", (at: number) => at < MIB],
    ["the BAT in place", (at: number) => at >= BAT && at < BAT + MIB],
  ])("a failed write of %s poisons the image, and opening it again recovers", (_name, strikes) => {
    for (const during of ["write", "flush", "close"] as const) {
      const { file, disk } = create();
      disk.close();
      file.reopen();
      const opened = openVhdx(file, { random });
      if (during !== "write") {
        opened.write(0, sector(1), 0, 512);
        opened.flush();
        opened.write(MIB, sector(2), 0, 512);
      }
      let struck = false;
      file.before = (operation) => {
        if (operation.kind !== "write" || !strikes(operation.position)) return;
        struck = true;
        throw new ImageError("ERR_IMAGE_NO_SPACE", { text: "full" });
      };
      const act = (): void => {
        if (during === "write") opened.write(0, sector(1), 0, 512);
        else if (during === "flush") opened.flush();
        else opened.close();
      };
      let failed = false;
      try {
        act();
      } catch (error) {
        failed = true;
        expect(error).toMatchObject({ code: "ERR_IMAGE_NO_SPACE" });
      }
      expect(failed).toBe(struck);
      file.before = undefined;
      if (failed && during !== "close") {
        const poisoned = expect.objectContaining({ code: "ERR_IMAGE_POISONED" }) as Error;
        expect(() => opened.read(0, sector(0), 0, 512)).toThrow(poisoned);
        expect(() => opened.write(0, sector(0), 0, 512)).toThrow(poisoned);
        expect(() => opened.unmap(0, MIB)).toThrow(poisoned);
        expect(() => opened.flush()).toThrow(poisoned);
        expect(() => opened.close()).toThrow(poisoned);
        // The file is released all the same.
      } else if (during !== "close") opened.close();
      expect(file.closed).toBe(true);
      const again = reopen(file);
      if (during !== "write") expect(bytesOf(again, 0)).toEqual(sector(1));
      again.close();
      file.reopen();
      expect(checkVhdx(file)).toEqual([]);
    }
  });

  test("a failed flush of the file poisons the image", () => {
    const { file, disk } = create();
    disk.write(0, sector(1), 0, 512);
    file.before = (operation) => {
      if (operation.kind === "flush") throw new Error("EIO");
    };
    expect(() => disk.flush()).toThrow("EIO");
    file.before = undefined;
    const cause = expect.objectContaining({ message: "EIO" }) as Error;
    const poisoned = expect.objectContaining({ code: "ERR_IMAGE_POISONED", cause }) as Error;
    expect(() => disk.flush()).toThrow(poisoned);
  });

  test("a file that cannot be cut at the end is still closed in order", () => {
    const { file, disk } = create({ sizeBytes: 64 * MIB });
    // The file grows by more than it needs.
    for (let block = 0; block < 17; block++) disk.write(block * MIB, sector(1), 0, 512);
    const { sizeBytes } = file;
    expect(sizeBytes).toBeGreaterThan((4 + 17) * MIB);
    let tried = false;
    file.before = (operation) => {
      if (operation.kind !== "truncate") return;
      tried = true;
      throw new Error("EPERM");
    };
    disk.close();
    expect(tried).toBe(true);
    expect(file.sizeBytes).toBe(sizeBytes);
    file.before = undefined;
    file.reopen();
    expect(checkVhdx(file)).toEqual([]);
  });
});
