import { emitTransferCdb, transferBlocks, transferLba } from "@hyperv-is/hv-storvsc/protocol";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { RamDisk } from "../src/storvsp/ram-disk.js";
import { ScsiDisk } from "../src/storvsp/scsi-disk.js";
import {
  GuestBuffer,
  type Run,
  altered,
  ask,
  cdbOf,
  execute,
  failed,
  fails,
  fromDevice,
  good,
  identity,
  invalid,
  ramDisk,
  send,
  statusOf,
  tell,
  toDevice,
} from "./scsi-rig.js";

const mib = 2 ** 20;
const tib = 2 ** 40;

function pattern(lengthBytes: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let at = 0; at < lengthBytes; at++) bytes[at] = at * 7 + seed * 31 + (at >> 8);
  return bytes;
}

describe("READ and WRITE", () => {
  // 2048 sectors: the last one is 7ff.
  test.each([
    ["READ(6), last block", "08 0007ff 01", 512, good(512)],
    ["READ(6), over the end", "08 0007ff 02", 1024, invalid("5/21/00")],
    ["READ(6), past the end", "08 000800 01", 512, invalid("5/21/00")],
    ["READ(6), count 0 is not 256", "08 000000 00", 131072, invalid("5/21/00")],
    ["READ(6), the old LUN bits are no address", "08 e00000 01", 512, good(512)],
    ["READ(6), an odd address is no relative one", "08 010000 01", 512, invalid("5/21/00")],
    ["READ(10), last block", "28 00 000007ff 00 0001", 512, good(512)],
    ["READ(10), over the end", "28 00 000007ff 00 0002", 1024, invalid("5/21/00")],
    ["READ(10), past the end", "28 00 00000800 00 0001", 512, invalid("5/21/00")],
    ["READ(10), count 0", "28 00 00000000 00 0000", 512, invalid("5/21/00")],
    ["READ(10), more than the buffer", "28 00 00000000 00 0002", 1023, invalid("5/21/00")],
    ["READ(10), less than the buffer", "28 00 00000000 00 0002", 1500, good(1024)],
    ["READ(10), no buffer", "28 00 00000000 00 0001", 0, invalid("5/21/00")],
    ["READ(10), relative address", "28 01 00000000 00 0001", 512, invalid()],
    ["READ(10), DPO and FUA", "28 18 00000000 00 0001", 512, good(512)],
    ["READ(12), last block", "a8 00 000007ff 00000001", 512, good(512)],
    ["READ(12), over the end", "a8 00 000007ff 00000002", 1024, invalid("5/21/00")],
    ["READ(12), relative address", "a8 01 00000000 00000001", 512, invalid()],
    ["READ(12), the most it can say", "a8 00 00000000 ffffffff", 512, invalid("5/21/00")],
    ["READ(16), last block", "88 00 00000000000007ff 00000001", 512, good(512)],
    ["READ(16), over the end", "88 00 00000000000007ff 00000002", 1024, invalid("5/21/00")],
    ["READ(16), flag of another form", "88 01 0000000000000000 00000001", 512, good(512)],
    ["READ(16), block 2^32", "88 00 0000000100000000 00000001", 512, invalid("5/21/00")],
    ["READ(16), block 2^53", "88 00 0020000000000000 00000001", 512, invalid("5/21/00")],
    ["READ(16), block 2^64 - 1", "88 00 ffffffffffffffff 00000001", 512, invalid("5/21/00")],
    ["READ(16), that would wrap", "88 00 ffffffffffffffff 00000002", 1024, invalid("5/21/00")],
  ])("%s", (_, cdb, length, status) => {
    const disk = new ScsiDisk(ramDisk(mib));
    expect(ask(disk, cdb, length).status).toBe(status);
    // The WRITE of the same form lives by the same rules.
    const write = cdbOf(cdb);
    write[0]! += 2;
    const buffer = new GuestBuffer([[0x100, length]], 0x30000);
    const isGood = status.startsWith("01/00");
    expect(send(disk, write, toDevice, buffer).status).toBe(status);
    expect(disk.counters).toMatchObject({
      reads: Number(isGood),
      writes: Number(isGood),
      readBytes: disk.counters.writtenBytes,
      errors: 0,
    });
  });
  test.each([
    [mib, 512],
    [mib, 4096],
    [6 * tib, 512],
    [64 * tib, 4096],
  ])("what is written to the ends of %i bytes in sectors of %i is read back", (size, sector) => {
    const backend = ramDisk(size, sector);
    const disk = new ScsiDisk(backend);
    const sectors = size / sector;
    for (const lba of [0, 1, sectors - 2, sectors - 1]) {
      const data = pattern(sector, lba % 251);
      const cdb = new Uint8Array(16);
      emitTransferCdb(cdb, 0, true, lba, 1, 6);
      const source = new GuestBuffer([[0x800, sector]]);
      source.fill(data);
      expect(send(disk, cdb, toDevice, source).status).toBe(good(sector));
      const direct = new Uint8Array(sector);
      backend.read(lba * sector, direct, 0, sector);
      expect(direct).toEqual(data);
      emitTransferCdb(cdb, 0, false, lba, 1, 10);
      const target = new GuestBuffer([[0x1800, sector]]);
      const { status, data: read } = send(disk, cdb, fromDevice, target);
      expect(status).toBe(good(sector));
      expect(read).toEqual(data);
    }
  });
  test("forced unit access flushes behind a write", () => {
    const calls: string[] = [];
    const memory = ramDisk(512 * mib);
    const disk = new ScsiDisk(
      altered(memory, {
        write: (...args) => {
          calls.push("write");
          memory.write(...args);
        },
        flush: () => calls.push("flush"),
      }),
    );
    tell(disk, "2a 00 00000000 00 0001", pattern(512));
    tell(disk, "2a 08 00000000 00 0001", pattern(512));
    tell(disk, "8a 08 0000000000000000 00000001", pattern(512));
    // Byte 1 of the 6-byte form is part of the address: 0x08 there is block 0x80000.
    expect(tell(disk, "0a 080000 01", pattern(512)).status).toBe(good(512));
    ask(disk, "28 08 00000000 00 0001", 512);
    expect(calls).toEqual(["write", "write", "flush", "write", "flush", "write"]);
    expect(disk.counters.flushes).toBe(2);
  });
  test("a read-only disk is read, not written", () => {
    const disk = new ScsiDisk(new RamDisk({ sizeBytes: mib, identity, readOnly: true }));
    expect(ask(disk, "28 00 00000000 00 0001", 512).status).toBe(good(512));
    const write = (lba: string): string => tell(disk, `2a 00 ${lba} 00 0001`, pattern(512)).status;
    expect(write("00000000")).toBe(failed("7/27/00"));
    expect(write("00000800")).toBe(invalid("5/21/00"));
    expect(tell(disk, "41 00 00000000 00 0001", pattern(512)).status).toBe(failed("7/27/00"));
    expect(disk.counters.errors).toBe(0);
  });
});

describe("a backend that fails", () => {
  test.each([
    ["read", "28 00 00000000 00 0001", "EIO", "3/11/00"],
    ["write", "2a 00 00000000 00 0001", "EIO", "3/03/00"],
    ["write", "41 00 00000000 00 0001", "EIO", "3/03/00"],
    ["write", "2a 00 00000000 00 0001", "ERR_IMAGE_NO_SPACE", "7/27/07"],
    ["write", "41 00 00000000 00 0001", "ERR_IMAGE_NO_SPACE", "7/27/07"],
    ["flush", "35", "ERR_IMAGE_NO_SPACE", "7/27/07"],
    ["write", "2a 00 00000000 00 0001", "ERR_IMAGE_READ_ONLY", "7/27/00"],
    ["flush", "2a 08 00000000 00 0001", "EIO", "3/03/00"],
    ["flush", "41 08 00000000 00 0001", "EIO", "3/03/00"],
    ["flush", "35", "EIO", "3/03/00"],
    ["flush", "1b", "EIO", "3/03/00"],
  ])("in %s of %s with %s", (method, cdb, code, sense) => {
    const disk = new ScsiDisk(altered(ramDisk(mib), { [method]: fails(code) }));
    const buffer = new GuestBuffer([[0x100, 512]]);
    const direction = method === "read" ? fromDevice : toDevice;
    expect(send(disk, cdbOf(cdb), direction, buffer).status).toBe(failed(sense));
    expect(disk.counters).toMatchObject({
      reads: 0,
      writes: 0,
      readBytes: 0,
      writtenBytes: 0,
      flushes: 0,
      errors: 1,
      lastError: { opcode: cdbOf(cdb)[0], code, message: `failed with ${code}` },
    });
    expect(send(disk, cdbOf("00")).status).toBe(good());
  });
  test("after some of the data leaves the rest alone and counts nothing as moved", () => {
    const memory = ramDisk(mib);
    let calls = 0;
    const disk = new ScsiDisk(
      altered(memory, {
        read: (...args) => {
          if (calls++ > 0) throw "not even an Error" as unknown as Error;
          memory.read(...args);
        },
      }),
    );
    const buffer = new GuestBuffer([
      [0x1000, 512],
      [0x3000, 512],
    ]);
    const expected = buffer.bytes.slice().fill(0, 0x1000, 0x1200);
    const result = execute(disk, cdbOf("28 00 00000000 00 0002"), fromDevice, buffer);
    expect(statusOf(result)).toBe(failed("3/11/00"));
    expect(Buffer.compare(buffer.bytes, expected)).toBe(0);
    expect(disk.counters).toMatchObject({ reads: 0, readBytes: 0, errors: 1 });
    expect(disk.counters.lastError).toEqual({
      opcode: 0x28,
      code: undefined,
      message: "not even an Error",
    });
  });
});

describe("WRITE SAME", () => {
  const written = (backend: RamDisk, from: number, to: number): Uint8Array => {
    const bytes = new Uint8Array((to - from) * 512);
    backend.read(from * 512, bytes, 0, bytes.byteLength);
    return bytes;
  };
  test.each([
    ["10", "41 00 00000005 00 0082", 5, 130],
    ["16", "93 00 0000000000000005 00000082", 5, 130],
    ["16, UNMAP bit", "93 08 0000000000000000 00000001", 0, 1],
    ["16, last block", "93 00 00000000000007ff 00000001", 2047, 1],
  ])("%s", (_, cdb, lba, blocks) => {
    const backend = ramDisk(mib);
    const disk = new ScsiDisk(backend);
    const sector = pattern(512, 9);
    expect(tell(disk, cdb, sector).status).toBe(good(blocks * 512));
    const expected = new Uint8Array(Buffer.concat(new Array<Uint8Array>(blocks).fill(sector)));
    expect(Buffer.compare(written(backend, lba, lba + blocks), expected)).toBe(0);
    if (lba > 0) expect(written(backend, lba - 1, lba)).toEqual(new Uint8Array(512));
    if (lba + blocks < 2048)
      expect(written(backend, lba + blocks, lba + blocks + 1)).toEqual(new Uint8Array(512));
    expect(disk.counters).toMatchObject({ writes: 1, writtenBytes: blocks * 512 });
  });
  test.each([
    ["nothing", "41 00 00000000 00 0000", 512, good(0)],
    ["nothing past the end", "41 00 00000800 00 0000", 512, invalid("5/21/00")],
    ["over the end", "41 00 000007ff 00 0002", 512, invalid("5/21/00")],
    ["less than a sector of data", "41 00 00000000 00 0001", 511, invalid()],
    ["more than a sector of data", "41 00 00000000 00 0001", 513, good(512)],
    ["a relative address", "41 01 00000000 00 0001", 512, invalid()],
  ])("%s", (_, cdb, length, status) => {
    expect(tell(new ScsiDisk(ramDisk(mib)), cdb, pattern(length)).status).toBe(status);
  });
  test.each([
    [8 * mib, 0x4000, good(8 * mib)],
    [8 * mib, 0x4001, invalid("5/21/00")],
    [64 * mib, 0x4001, invalid("5/21/00")],
    [mib, 0x800, good(mib)],
    [mib, 0x801, invalid("5/21/00")],
  ])("a transfer limit of %i bytes, %i blocks", (transferBytesMax, blocks, status) => {
    const disk = new ScsiDisk(ramDisk(16 * mib), { transferBytesMax });
    const cdb = `93 00 0000000000000000 ${blocks.toString(16).padStart(8, "0")}`;
    expect(tell(disk, cdb, pattern(512)).status).toBe(status);
  });
});

describe("scattered buffers", () => {
  const sectors = 16;
  /** Runs that do not overlap, in any order, of any length. */
  const scattered = fc
    .array(
      fc.record({
        gap: fc.integer({ min: 0, max: 70 }),
        length: fc.oneof(
          fc.integer({ min: 0, max: 1100 }),
          fc.constantFrom(512, 1024, 4096, 4096 - 100, 100),
        ),
        order: fc.nat(),
      }),
      { minLength: 1, maxLength: 12 },
    )
    .map((pieces) => {
      let at = 0;
      return pieces
        .map(({ gap, length, order }) => {
          const run: Run = [at + gap, length];
          at += gap + length;
          return { run, order };
        })
        .sort((left, right) => left.order - right.order)
        .map(({ run }) => run);
    });
  test("hold what a plain buffer would", () => {
    fc.assert(
      fc.property(
        scattered,
        fc.nat(sectors - 1),
        fc.constantFrom(512, 4096),
        fc.boolean(),
        (runs, lba, sector, write) => {
          const backend = ramDisk(sectors * sector, sector);
          const before = pattern(sectors * sector, 3);
          backend.write(0, before, 0, before.byteLength);
          const disk = new ScsiDisk(backend);
          const buffer = new GuestBuffer(runs, 1 << 16);
          const blocks = Math.min(Math.floor(buffer.lengthBytes / sector), sectors - lba);
          fc.pre(blocks > 0);
          const moved = blocks * sector;
          const cdb = new Uint8Array(16);
          emitTransferCdb(cdb, 0, write, lba, blocks, 6);
          const data = pattern(buffer.lengthBytes, 5);
          if (write) buffer.fill(data);
          const { status, data: read } = send(disk, cdb, write ? toDevice : fromDevice, buffer);
          expect(status).toBe(good(moved));
          const after = new Uint8Array(before.byteLength);
          backend.read(0, after, 0, after.byteLength);
          const model = before.slice();
          if (write) model.set(data.subarray(0, moved), lba * sector);
          expect(Buffer.compare(after, model)).toBe(0);
          if (!write)
            expect(Buffer.compare(read, before.subarray(lba * sector, lba * sector + moved))).toBe(
              0,
            );
        },
      ),
      { numRuns: 500 },
    );
  });
  test("reach the backend in whole runs, and only a torn sector by itself", () => {
    const calls: [position: number, offset: number, length: number][] = [];
    const memory = ramDisk(mib);
    const buffer = new GuestBuffer([
      [0x1000 - 700, 700],
      [0x5000, 4096],
      [0x9000, 3396],
    ]);
    const disk = new ScsiDisk(
      altered(memory, {
        read: (position, target, offset, length) => {
          if (target === buffer.bytes) calls.push([position, offset, length]);
          else calls.push([position, -1, length]);
          memory.read(position, target, offset, length);
        },
      }),
    );
    expect(send(disk, cdbOf("28 00 00000000 00 0010"), fromDevice, buffer).status).toBe(good(8192));
    expect(calls).toEqual([
      [0, 0x1000 - 700, 512],
      [512, -1, 512],
      [1024, 0x5000 + 324, 3584],
      [4608, -1, 512],
      [5120, 0x9000 + 324, 3072],
    ]);
  });
  test("the CDB's numbers are those of the driver", () => {
    const cdb = new Uint8Array(16);
    emitTransferCdb(cdb, 0, false, 2 ** 40 + 5, 77, 6);
    expect([transferLba(cdb, 0), transferBlocks(cdb, 0)]).toEqual([2 ** 40 + 5, 77]);
  });
});
