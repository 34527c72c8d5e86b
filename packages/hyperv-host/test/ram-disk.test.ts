import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { RamDisk } from "../src/storvsp/ram-disk.js";
import { identity } from "./scsi-rig.js";

const sector = 512;
const tib = 2 ** 40;

describe("RAM disk", () => {
  test("costs what was written, however large it is", () => {
    const disk = new RamDisk({ sizeBytes: 64 * tib, identity });
    expect(disk.allocatedBytes).toBe(0);
    const last = new Uint8Array(sector).fill(9);
    disk.write(64 * tib - sector, last, 0, sector);
    expect(disk.allocatedBytes).toBe(4096);
    const read = new Uint8Array(3 * sector).fill(1);
    disk.read(64 * tib - 2 * sector, read, sector, 2 * sector);
    expect([read[0], read[sector], read[2 * sector], read[3 * sector - 1]]).toEqual([1, 0, 9, 9]);
    disk.unmap(0, 64 * tib);
    expect(disk.allocatedBytes).toBe(0);
  });
  test("keeps its own copy of the identity and of the data", () => {
    const name = identity.slice();
    const disk = new RamDisk({ sizeBytes: 4096, identity: name });
    name.fill(0);
    expect(disk.identity).toEqual(identity);
    const data = new Uint8Array(4096).fill(3);
    disk.write(0, data, 0, 4096);
    data.fill(4);
    const read = new Uint8Array(4096);
    disk.read(0, read, 0, 4096);
    expect(read[4095]).toBe(3);
  });
  test("behaves as an array that grows and shrinks", () => {
    const sectors = fc.integer({ min: 0, max: 40 });
    const action = fc.oneof(
      fc.record({
        kind: fc.constant("write" as const),
        at: sectors,
        count: sectors,
        value: fc.nat(255),
      }),
      fc.record({ kind: fc.constant("unmap" as const), at: sectors, count: sectors }),
      fc.record({ kind: fc.constant("resize" as const), count: fc.integer({ min: 1, max: 40 }) }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 30 }), (actions) => {
        const disk = new RamDisk({ sizeBytes: 40 * sector, identity });
        let model = new Uint8Array(40 * sector);
        for (const step of actions) {
          if (step.kind === "resize") {
            const resized = new Uint8Array(step.count * sector);
            resized.set(model.subarray(0, resized.byteLength));
            model = resized;
            disk.resize(resized.byteLength);
            continue;
          }
          const from = Math.min(step.at * sector, model.byteLength);
          const to = Math.min(from + step.count * sector, model.byteLength);
          if (step.kind === "write") {
            const data = new Uint8Array(to - from + 7).fill(step.value);
            model.fill(step.value, from, to);
            disk.write(from, data, 7, to - from);
          } else {
            model.fill(
              0,
              Math.min(Math.ceil(from / 4096) * 4096, to),
              Math.floor(to / 4096) * 4096,
            );
            disk.unmap(from, to - from);
          }
        }
        const read = new Uint8Array(model.byteLength + 14).fill(0xa5);
        disk.read(0, read, 7, model.byteLength);
        expect(disk.sizeBytes).toBe(model.byteLength);
        expect(Buffer.compare(read.subarray(7, -7), model)).toBe(0);
        expect([...read.subarray(0, 7), ...read.subarray(-7)]).toEqual(new Array(14).fill(0xa5));
      }),
      { numRuns: 500 },
    );
  });
  test.each([
    ["a size of nothing", { sizeBytes: 0 }],
    ["half a sector", { sizeBytes: 256 }],
    ["a size past 2^53", { sizeBytes: 2 ** 60 }],
    ["a sector of 1024", { sizeBytes: 4096, logicalSectorBytes: 1024 }],
    [
      "small physical sectors",
      { sizeBytes: 4096, logicalSectorBytes: 4096, physicalSectorBytes: 512 },
    ],
    ["a short identity", { sizeBytes: 4096, identity: new Uint8Array(15) }],
  ])("cannot be made with %s", (_, options) => {
    expect(() => new RamDisk({ identity, ...options })).toThrow(RangeError);
  });
  test.each([
    ["over the end", 3584, 0, 1024],
    ["before the start", -512, 0, 512],
    ["not at a sector", 1, 0, 512],
    ["not a sector", 0, 0, 511],
    ["over the end of the array", 0, 3585, 512],
    ["before the array", 0, -1, 512],
    ["a negative length", 512, 0, -512],
    ["no number", NaN, 0, 512],
  ])("asserts on a transfer %s", (_, position, offset, length) => {
    const disk = new RamDisk({ sizeBytes: 4096, identity });
    const bytes = new Uint8Array(4096);
    expect(() => disk.read(position, bytes, offset, length)).toThrow(RangeError);
    expect(() => disk.write(position, bytes, offset, length)).toThrow(RangeError);
  });
  test.each([
    ["few pages on a large disk", 2 ** 42, [0, 3, 4, 2 ** 29]],
    ["many pages on a small disk", 2 ** 15 - 512, [0, 3, 4, 7]],
  ])("tells data and holes, in %s", (_, sizeBytes, pages) => {
    const disk = new RamDisk({ sizeBytes, identity });
    const sector = new Uint8Array(512).fill(1);
    for (const page of pages) disk.write(page * 4096, sector, 0, 512);
    const last = pages[3]! * 4096;
    const end = Math.min(last + 4096, sizeBytes);
    const told = [0, 512, 4096, 8192, 3 * 4096, 4 * 4096 + 512, 5 * 4096, last];
    expect(told.map((at) => [disk.nextData(at), disk.nextHole(at)])).toEqual([
      [0, 4096],
      [512, 4096],
      [3 * 4096, 4096],
      [3 * 4096, 8192],
      [3 * 4096, 5 * 4096],
      [4 * 4096 + 512, 5 * 4096],
      [last, 5 * 4096],
      [last, end],
    ]);
    if (end < sizeBytes) expect([disk.nextData(end), disk.nextHole(end)]).toEqual([sizeBytes, end]);
    disk.unmap(0, sizeBytes - (sizeBytes % 4096));
    disk.unmap(last, end - last);
    expect(disk.nextData(0)).toBe(end < sizeBytes ? sizeBytes : last);
  });
  test("refuses writing when it is read-only", () => {
    const disk = new RamDisk({ sizeBytes: 4096, identity, readOnly: true });
    const code = expect.objectContaining({ code: "ERR_IMAGE_READ_ONLY" }) as Error;
    expect(() => disk.write(0, new Uint8Array(512), 0, 512)).toThrow(code);
    expect(() => disk.unmap(0, 4096)).toThrow(code);
    expect(() => disk.flush()).not.toThrow();
  });
});
