import { describe, expect, test } from "vitest";
import { checkVhdx, describeVhdx, openVhdx } from "../src/vhdx/index.js";
import { MIB } from "../src/vhdx/layout.js";
import { MetadataId } from "../src/vhdx/metadata.js";
import { type MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";
import {
  BAT,
  bat,
  ITEMS,
  edit,
  item,
  newGuid,
  poke,
  region,
  regions,
  sound,
  u32,
} from "./vhdx-fixture.js";

describe("accepted", () => {
  const first = (file: MemoryFile, block: number, readOnly = false): number => {
    const bytes = new Uint8Array(512).fill(0xcc);
    openVhdx(file, { random: new Prng(2), readOnly }).read(block * MIB, bytes, 0, 512);
    return bytes[0]!;
  };
  const warned = (file: MemoryFile, structure: string): void => {
    expect(checkVhdx(file)).toEqual([expect.objectContaining({ severity: "warning", structure })]);
  };

  test.each([
    [1, 65536],
    [2, 131072],
  ])("header %d alone damaged, until the next write", (slot, offset) => {
    const file = sound.clone();
    poke(file, offset + 100, [1]);
    warned(file, `header ${slot}`);
    const disk = openVhdx(file, { random: new Prng(2) });
    disk.write(0, new Uint8Array(512).fill(1), 0, 512);
    disk.close();
    file.reopen();
    expect(checkVhdx(file)).toEqual([]);
  });

  test.each([
    [1, 196608],
    [2, 262144],
  ])("region table %d alone damaged, and repaired by opening for writing", (copy, offset) => {
    const file = sound.clone();
    poke(file, offset + 100, [1]);
    warned(file, `region table ${copy}`);
    expect(first(file.clone(), 5, true)).toBe(6);
    openVhdx(file, { random: new Prng(2) }).close();
    file.reopen();
    expect(checkVhdx(file)).toEqual([]);
    expect(Buffer.compare(file.bytes(196608, 131072), sound.bytes(196608, 131072))).toBe(0);
    expect(first(file, 5)).toBe(6);
  });

  test("the repair of region tables goes through the log, as one entry", () => {
    const file = sound.clone();
    poke(file, 262144, new Uint8Array(65536).fill(7));
    file.trace = [];
    openVhdx(file, { random: new Prng(2) });
    const entry = file.trace.filter(
      (operation) =>
        operation.kind === "write" && operation.position > MIB && operation.position < 2 * MIB,
    );
    expect(entry).toEqual([expect.objectContaining({ position: MIB + 4096 })]);
    expect(entry[0]).toMatchObject({
      bytes: expect.objectContaining({ byteLength: 33 * 4096 }) as object,
    });
    // It counts as a change of the file, not of the disk.
    expect(describeVhdx(file).dataWriteGuid).toBe(describeVhdx(sound).dataWriteGuid);
    expect(describeVhdx(file).fileWriteGuid).not.toBe(describeVhdx(sound).fileWriteGuid);
  });

  test("two region tables that differ: the first counts", () => {
    const file = sound.clone();
    edit(file, 262144, 65536, (view) => view.setUint32(48 + 28, 0, true));
    warned(file, "region table 2");
    openVhdx(file, { random: new Prng(2) }).close();
    expect(file.closed).toBe(true);
    file.reopen();
    expect(checkVhdx(file)).toEqual([]);
  });

  test("regions and items that are unknown but not required, kept as they are", () => {
    const file = sound.clone();
    file.truncate(8 * MIB);
    regions(file, (view) => region(view, newGuid, 7 * MIB, MIB, 0));
    item(file, newGuid, [70000, 100, 0]);
    poke(file, 7 * MIB, [0x5a]);
    expect(checkVhdx(file)).toEqual([]);
    const disk = openVhdx(file, { random: new Prng(2) });
    for (let block = 0; block < 9; block++)
      disk.write(block * MIB, new Uint8Array(512).fill(0xee), 0, 512);
    disk.close();
    file.reopen();
    expect(file.bytes(7 * MIB, 1)[0]).toBe(0x5a);
    expect(checkVhdx(file)).toEqual([]);
  });

  test("regions without the required bit, as some programs write them", () => {
    const file = sound.clone();
    regions(file, (view) => {
      view.setUint32(16 + 28, 0, true);
      view.setUint32(48 + 28, 0, true);
    });
    expect(checkVhdx(file)).toEqual([]);
    expect(first(file, 2)).toBe(3);
  });

  test.each([
    ["undefined", 1, 0n],
    ["zero", 2, 0n],
    ["unmapped", 3, 0n],
    ["undefined, with its place kept", 1, 6n],
    ["unmapped, with its place kept", 3, 6n],
  ])("a block that is %s reads as zeros", (_name, state, mib) => {
    const file = sound.clone();
    bat(file, 5, state, mib);
    expect(checkVhdx(file)).toEqual([]);
    expect(first(file, 5)).toBe(0);
    const disk = openVhdx(file, { random: new Prng(2) });
    disk.write(5 * MIB + 512, new Uint8Array(512).fill(9), 0, 512);
    disk.close();
    file.reopen();
    // The rest of the old block must not come back.
    expect(first(file, 5)).toBe(0);
    expect(checkVhdx(file)).toEqual([]);
    // Its own space is used again where it was kept; otherwise the free MiB at 6 is.
    expect(file.sizeBytes).toBe(7 * MIB);
  });

  test.each([
    ["another block's", 5n],
    ["the log's", 1n],
    ["outside the file", 700n],
    ["outside all files", (1n << 44n) - 1n],
  ])("the place that an unmapped block claims is %s: it is not believed", (_name, mib) => {
    const file = sound.clone();
    bat(file, 1, 3, mib);
    warned(file, "BAT entry 1");
    const disk = openVhdx(file, { random: new Prng(2) });
    disk.write(MIB, new Uint8Array(512).fill(9), 0, 512);
    disk.close();
    file.reopen();
    expect(checkVhdx(file)).toEqual([]);
    expect(first(file, 2)).toBe(3);
    expect(first(file, 1)).toBe(9);
  });

  test("a block of zeros that has a place in the file", () => {
    const file = sound.clone();
    bat(file, 5, 2, 6n);
    warned(file, "BAT entry 5");
    expect(first(file, 5)).toBe(0);
  });

  test("a partly present block outside a differencing image is a whole one", () => {
    const file = sound.clone();
    bat(file, 5, 7, 6n);
    expect(first(file, 5)).toBe(6);
  });

  test("the unmapped state of the format's draft, for reading only", () => {
    const file = sound.clone();
    bat(file, 5, 5, 6n);
    warned(file, "BAT entry 5");
    expect(first(file, 5, true)).toBe(0);
    expect(() => openVhdx(file, { random: new Prng(2) })).toThrow(
      expect.objectContaining({ code: "ERR_IMAGE_UNSUPPORTED", structure: "BAT" }),
    );
  });

  test("a last block that sticks out past the end of the file, which a writer extends", () => {
    const file = sound.clone();
    // The disk uses 512 bytes of block 8; other programs end the file right behind them.
    file.truncate(7 * MIB + 512);
    poke(file, 7 * MIB, new Uint8Array(512).fill(0x77));
    bat(file, 8, 6, 7n);
    expect(checkVhdx(file)).toEqual([]);
    expect(first(file, 8)).toBe(0x77);
    expect(file.sizeBytes).toBe(7 * MIB + 512);
    const disk = openVhdx(file, { random: new Prng(2) });
    disk.write(MIB, new Uint8Array(512).fill(9), 0, 512);
    expect(file.sizeBytes).toBeGreaterThanOrEqual(9 * MIB);
    disk.close();
    file.reopen();
    expect(file.sizeBytes % MIB).toBe(0);
    expect(first(file, 8)).toBe(0x77);
    expect(first(file, 1)).toBe(9);
    expect(checkVhdx(file)).toEqual([]);
  });

  test("a fixed image whose blocks were never given a place", () => {
    const file = sound.clone();
    u32(file, ITEMS + 4, 1);
    for (let block = 0; block < 9; block++) bat(file, block, 2, 0n);
    expect(describeVhdx(file)).toMatchObject({ format: "vhdx-fixed", allocatedBlocks: 0 });
    const before = file.sizeBytes;
    const disk = openVhdx(file, { random: new Prng(2) });
    disk.write(8 * MIB, new Uint8Array(512).fill(9), 0, 512);
    disk.close();
    file.reopen();
    expect(file.sizeBytes).toBe(before);
    expect(first(file, 8)).toBe(9);
    expect(checkVhdx(file)).toEqual([]);
  });

  test("a differencing image can be checked and described, though not opened", () => {
    const file = sound.clone();
    u32(file, ITEMS + 4, 2);
    item(file, MetadataId.ParentLocator, [70000, 20, 4]);
    bat(file, 5, 7, 6n);
    // The bitmap block of the only chunk: 4096 blocks of 1 MiB.
    bat(file, 4096, 6, 7n);
    file.truncate(8 * MIB);
    expect(checkVhdx(file)).toEqual([]);
    expect(describeVhdx(file)).toMatchObject({ format: "vhdx-differencing", allocatedBlocks: 3 });
    bat(file, 4096, 6, 6n);
    expect(checkVhdx(file)).toEqual([
      expect.objectContaining({ structure: "BAT entry 4096", offset: BAT + 4096 * 8 }),
    ]);
  });
});
