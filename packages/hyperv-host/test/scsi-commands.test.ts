import { describe, expect, test } from "vitest";
import { RamDisk } from "../src/storvsp/ram-disk.js";
import { ScsiDisk } from "../src/storvsp/scsi-disk.js";
import {
  GuestBuffer,
  altered,
  ask,
  cdbOf,
  failed,
  fails,
  fromDevice,
  good,
  hex,
  identity,
  invalid,
  none,
  overrun,
  ramDisk,
  send,
  tell,
  toDevice,
  vectorHex,
} from "./scsi-rig.js";

const mib = 2 ** 20;
const gib = 2 ** 30;
const tib = 2 ** 40;

function smallDisk(characteristics: ConstructorParameters<typeof ScsiDisk>[1] = {}): ScsiDisk {
  return new ScsiDisk(ramDisk(mib), characteristics);
}

describe("INQUIRY", () => {
  const serialNumber = new TextEncoder().encode("ABC123");
  test.each([
    ["standard data", "12 00 00 0068 00", "data-inquiry-disk-104", {}],
    ["serial number", "12 01 80 00ff 00", "data-vpd80-serial-ABC123", { serialNumber }],
    ["names", "12 01 83 00ff 00", "data-vpd83-id-10..1f", {}],
    ["block limits", "12 01 b0 00ff 00", "data-vpdb0", {}],
    ["device characteristics", "12 01 b1 00ff 00", "data-vpdb1", {}],
    ["provisioning", "12 01 b2 00ff 00", "data-vpdb2", {}],
    ["paging extent", "12 01 ce 00ff 00", "data-vpdce", {}],
    ["virtual device", "12 01 cf 00ff 00", "data-vpdcf", {}],
    ["pages", "12 01 00 00ff 00", "data-vpd00", {}],
  ])("%s", (_, cdb, vector, characteristics) => {
    const { status, data } = ask(smallDisk(characteristics), cdb, 255);
    expect(hex(data)).toBe(vectorHex(vector));
    expect(status).toBe(good(data.byteLength));
  });
  test.each([
    ["all", {}, "00 83 b0 b1 b2 ce cf"],
    ["a serial number", { serialNumber }, "00 80 83 b0 b1 b2 ce cf"],
    ["no unmap", { unmap: false }, "00 83 ce cf"],
  ])("page 00 lists what is there, and the rest is refused: %s", (_, characteristics, list) => {
    const disk = smallDisk(characteristics);
    const pages = list.split(" ");
    expect(hex(ask(disk, "12 01 00 00ff 00", 255).data.subarray(4))).toBe(pages.join(""));
    for (let page = 0; page < 0x100; page++) {
      const code = page.toString(16).padStart(2, "0");
      const { status, data } = ask(disk, `12 01 ${code} 00ff 00`, 255);
      if (pages.includes(code)) expect(hex(data.subarray(0, 2))).toBe(`00${code}`);
      else expect(status, `page ${code}`).toBe(invalid());
    }
  });
  test.each([
    [0, invalid(), invalid()],
    [4, invalid(), good(4)],
    [5, good(5), good(5)],
    [36, good(36), good(36)],
    [96, good(96), good(52)],
    [104, good(104), good(52)],
    [255, good(104), good(52)],
    [65535, good(104), good(52)],
  ])("allocation length %i", (allocation, standard, names) => {
    const disk = smallDisk();
    const length = allocation.toString(16).padStart(4, "0");
    const whole = ask(disk, "12 00 00 00ff 00", 255).data;
    const part = ask(disk, `12 00 00 ${length} 00`, allocation);
    expect(part.status).toBe(standard);
    expect(part.data).toEqual(whole.subarray(0, part.data.byteLength));
    expect(ask(disk, `12 01 83 ${length} 00`, allocation).status).toBe(names);
    if (allocation > 0)
      expect(ask(disk, `12 00 00 ${length} 00`, allocation - 1).status).toBe(invalid());
    // More room than the allocation length says stays as it was; the rig looks at that.
    expect(ask(disk, `12 00 00 ${length} 00`, allocation + 9).status).toBe(standard);
  });
  test.each([
    ["a page code without EVPD", "12 00 80 0024 00"],
    ["CmdDt", "12 02 00 0024 00"],
    ["CmdDt and EVPD", "12 03 00 0024 00"],
  ])("%s is refused", (_, cdb) => {
    expect(ask(smallDisk(), cdb, 0x24).status).toBe(invalid());
  });
  test("characteristics show in their pages", () => {
    const disk = new ScsiDisk(ramDisk(mib, 4096), {
      unmapGranularityBlocks: 512,
      rotationRate: 7200,
      transferBytesMax: mib,
    });
    const limits = ask(disk, "12 01 b0 00ff 00", 255).data;
    expect(hex(limits.subarray(28, 44))).toBe("00000200800000000000000000000100");
    expect(hex(ask(disk, "12 01 b1 00ff 00", 255).data.subarray(4, 6))).toBe("1c20");
  });
  test("a serial number fills its page, and not more", () => {
    const disk = smallDisk({ serialNumber: new Uint8Array(252).fill(0x41) });
    expect(ask(disk, "12 01 80 0200 00", 512).status).toBe(good(256));
    expect(() => smallDisk({ serialNumber: new Uint8Array(253) })).toThrow(RangeError);
  });
  test("a granularity of 0 is told as 1", () => {
    const limits = ask(smallDisk({ unmapGranularityBlocks: 0 }), "12 01 b0 00ff 00", 255).data;
    expect(hex(limits.subarray(28, 32))).toBe("00000001");
  });
  test.each([
    [2 * tib, 1],
    [4 * tib, 1],
    [6 * tib, 2],
    [8 * tib, 2],
    [10 * tib, 3],
  ])("the threshold exponent of %i bytes", (size, exponent) => {
    const { data } = ask(new ScsiDisk(ramDisk(size)), "12 01 b2 00ff 00", 255);
    expect(data[4]).toBe(exponent);
  });
});

describe("capacity", () => {
  test.each([
    ["127 GiB", 127 * gib, vectorHex("data-read-capacity10-127gib")],
    ["2 TiB less one sector", 2 * tib - 512, "fffffffe00000200"],
    ["2 TiB", 2 * tib, vectorHex("data-read-capacity10-over-2tib")],
    ["2 TiB and one sector", 2 * tib + 512, vectorHex("data-read-capacity10-over-2tib")],
    ["64 TiB", 64 * tib, vectorHex("data-read-capacity10-over-2tib")],
  ])("READ CAPACITY(10) of %s", (_, size, answer) => {
    const { status, data } = ask(new ScsiDisk(ramDisk(size)), "25", 8);
    expect(status).toBe(good(8));
    expect(hex(data)).toBe(answer);
  });
  test.each([
    ["127 GiB", 127 * gib, vectorHex("data-read-capacity16-127gib-lbpme-4kphys")],
    ["2 TiB", 2 * tib, `00000000ffffffff0000020000038000${"00".repeat(16)}`],
    ["2 TiB and one sector", 2 * tib + 512, `00000001000000000000020000038000${"00".repeat(16)}`],
    ["64 TiB", 64 * tib, `0000001fffffffff0000020000038000${"00".repeat(16)}`],
  ])("READ CAPACITY(16) of %s", (_, size, answer) => {
    const { status, data } = ask(new ScsiDisk(ramDisk(size)), "9e 10", 32);
    expect(status).toBe(good(32));
    expect(hex(data)).toBe(answer);
  });
  test("sectors of 4096 bytes, without unmap", () => {
    const disk = new ScsiDisk(ramDisk(mib, 4096), { unmap: false });
    expect(hex(ask(disk, "25", 8).data)).toBe("000000ff00001000");
    expect(hex(ask(disk, "9e 10", 16).data)).toBe("00000000000000ff0000100000000000");
  });
  test.each([
    ["25", 0, overrun],
    ["25", 7, overrun],
    ["25", 8, good(8)],
    ["25", 255, good(8)],
    ["9e 10", 0, overrun],
    ["9e 10", 11, overrun],
    ["9e 10", 12, good(12)],
    ["9e 10", 31, good(31)],
    ["9e 10", 65535, good(32)],
    // The allocation length of the CDB does not cut the answer: the buffer does.
    ["9e 10 0000000000000000 0000000c", 32, good(32)],
    ["9e 12", 32, invalid("5/20/00")],
    ["9e 11", 32, invalid()],
    ["9e 00", 32, invalid()],
  ])("%s into %i bytes", (cdb, length, status) => {
    expect(ask(smallDisk(), cdb, length).status).toBe(status);
  });
});

describe("GET LBA STATUS, where it is on", () => {
  const disk = new ScsiDisk(ramDisk(4 * tib), { lbaStatus: true });
  const extents = (count: number): string => (count * 16 + 4).toString(16).padStart(8, "0");
  test("tells that everything is mapped", () => {
    const { status, data } = ask(disk, "9e 12 0000000100000000 00000018", 24);
    expect(status).toBe(good(24));
    expect(hex(data)).toBe(`${extents(1)}000000000000000100000000ffffffff00000000`);
  });
  test("tells in pieces what one descriptor cannot count", () => {
    const pieces = [
      "0000000000000000ffffffff00000000",
      "00000000ffffffffffffffff00000000",
      "00000001fffffffe0000000200000000",
    ];
    const { data } = ask(disk, "9e 12 0000000000000000 00000100", 256);
    expect(hex(data)).toBe(`${extents(3)}00000000${pieces.join("")}`);
    const cut = ask(disk, "9e 12 0000000000000000 00000037", 55).data;
    expect(hex(cut)).toBe(`${extents(2)}00000000${pieces.slice(0, 2).join("")}`);
  });
  test("tells what takes room, where the disk is to tell that and its backend knows", () => {
    const backend = new RamDisk({ sizeBytes: 4 * tib, identity });
    for (const at of [8192, 12_288, 3 * tib]) backend.write(at, new Uint8Array(512), 0, 512);
    const telling = new ScsiDisk(backend, { lbaStatus: true, tellsHoles: true });
    const { data } = ask(telling, "9e 12 0000000000000000 00000100", 256);
    expect(hex(data)).toBe(
      `${extents(6)}00000000` +
        "0000000000000000" +
        "00000010" +
        "01000000" +
        "0000000000000010" +
        "00000010" +
        "00000000" +
        // As much of a hole as a descriptor can count, and the rest.
        "0000000000000020" +
        "ffffffff" +
        "01000000" +
        "000000010000001f" +
        "7fffffe1" +
        "01000000" +
        "0000000180000000" +
        "00000008" +
        "00000000" +
        "0000000180000008" +
        "7ffffff8" +
        "01000000",
    );
    const inside = ask(telling, "9e 12 0000000000000018 00000018", 24).data;
    expect(hex(inside)).toBe(`${extents(1)}00000000` + "00000000000000180000000800000000");
    // LBPME and LBPRZ.
    expect(hex(ask(telling, "9e 10", 32).data).slice(28, 30)).toBe("c0");
    const mute = Object.assign(new RamDisk({ sizeBytes: tib, identity }), {
      nextData: undefined,
      nextHole: undefined,
    });
    const all = ask(
      new ScsiDisk(mute, { lbaStatus: true, tellsHoles: true }),
      "9e 12 0000000000000000 00000018",
      24,
    );
    expect(hex(all.data)).toBe(`${extents(1)}00000000` + "00000000000000008000000000000000");
  });
  test.each([
    ["9e 12 0000000000000000 00000000", 0, good(0)],
    ["9e 12 0000000000000000 00000017", 23, invalid()],
    ["9e 12 0000000000000000 00000018", 25, invalid()],
    ["9e 12 00000001ffffffff 00000018", 24, good(24)],
    ["9e 12 0000000200000000 00000018", 24, invalid("5/21/00")],
    ["9e 12 ffffffffffffffff 00000018", 24, invalid("5/21/00")],
  ])("%s into %i bytes", (cdb, length, status) => {
    expect(ask(disk, cdb, length).status).toBe(status);
  });
});

describe("MODE SENSE", () => {
  const readOnly = new ScsiDisk(new RamDisk({ sizeBytes: mib, identity, readOnly: true }), {
    forceUnitAccess: false,
    writeCache: false,
  });
  test.each([
    ["6, caching", "1a 00 08 00 ff", vectorHex("data-mode-sense6-caching-wce-fua")],
    ["6, all", "1a 00 3f 00 ff", vectorHex("data-mode-sense6-caching-wce-fua")],
    ["6, default", "1a 08 88 00 ff", vectorHex("data-mode-sense6-caching-wce-fua")],
    ["6, changeable", "1a 00 48 00 ff", "0f001000080a00000000000000000000"],
    ["10, caching", "5a 00 08 00000000 00ff", vectorHex("data-mode-sense10-caching-wce-fua")],
    ["10, all", "5a 00 3f 00000000 00ff", vectorHex("data-mode-sense10-caching-wce-fua")],
    ["10, changeable", "5a 00 7f 00000000 00ff", "0012001000000000080a00000000000000000000"],
  ])("%s", (_, cdb, answer) => {
    const { status, data } = ask(smallDisk(), cdb, 255);
    expect(hex(data)).toBe(answer);
    expect(status).toBe(good(answer.length / 2));
  });
  test("of a read-only disk without FUA and write cache", () => {
    expect(hex(ask(readOnly, "1a 00 08 00 ff", 255).data)).toBe("0f008000080a00000000000000000000");
  });
  test.each([
    ["1a 00 08 00 00", 255, good(0)],
    ["1a 00 08 00 ff", 0, good(0)],
    ["1a 00 08 00 03", 255, invalid()],
    ["1a 00 08 00 04", 255, good(4)],
    ["1a 00 08 00 ff", 254, invalid()],
    ["1a 00 c8 00 ff", 255, invalid()],
    ["1a 00 ff 00 ff", 255, invalid()],
    ["1a 00 0a 00 ff", 255, invalid()],
    ["1a 00 00 00 ff", 255, invalid()],
    ["5a 00 08 00000000 0000", 255, good(0)],
    ["5a 00 08 00000000 0007", 255, invalid()],
    ["5a 00 08 00000000 0008", 255, good(8)],
    ["5a 00 08 00000000 ffff", 65535, good(20)],
    ["5a 00 08 00000000 ffff", 65534, invalid()],
    ["5a 00 c8 00000000 00ff", 255, invalid()],
  ])("%s into %i bytes", (cdb, length, status) => {
    expect(ask(smallDisk(), cdb, length).status).toBe(status);
  });
});

describe("MODE SELECT", () => {
  const page = (flags: string): string => `080c${flags}000000000000000000`;
  test.each([
    ["6, cache stays on", "15 10 00 00 10", `00000000${page("04")}`, good(16)],
    [
      "6, behind a descriptor",
      "15 10 00 00 18",
      `00000008${"11".repeat(8)}${page("04")}`,
      good(24),
    ],
    ["6, cache off", "15 10 00 00 10", `00000000${page("00")}`, invalid("5/26/00")],
    [
      "6, the page as sensed",
      "15 10 00 00 10",
      `00000000080a04${"00".repeat(9)}`,
      invalid("5/26/00"),
    ],
    ["6, another page", "15 10 00 00 10", `000000000a0c04${"00".repeat(9)}`, invalid("5/26/00")],
    ["6, saved", "15 11 00 00 10", `00000000${page("04")}`, invalid()],
    ["6, nothing", "15 10 00 00 00", "", good(0)],
    ["6, nothing but a buffer", "15 10 00 00 00", page("04"), good(0)],
    ["6, short", "15 10 00 00 0f", "00".repeat(15), invalid("5/1a/00")],
    ["6, other than the buffer", "15 10 00 00 10", "00".repeat(17), invalid("5/1a/00")],
    ["6, descriptor past the end", "15 10 00 00 10", `000000ff${page("04")}`, invalid("5/1a/00")],
    ["10, cache stays on", "55 10 00 00000000 0014", `${"00".repeat(8)}${page("04")}`, good(20)],
    [
      "10, behind a descriptor",
      "55 10 00 00000000 001c",
      `${"00".repeat(7)}08${"11".repeat(8)}${page("04")}`,
      good(28),
    ],
    [
      "10, cache off",
      "55 10 00 00000000 0014",
      `${"00".repeat(8)}${page("00")}`,
      invalid("5/26/00"),
    ],
    ["10, saved", "55 11 00 00000000 0014", `${"00".repeat(8)}${page("04")}`, invalid()],
    ["10, short", "55 10 00 00000000 0013", "00".repeat(19), invalid("5/1a/00")],
    [
      "10, descriptor past the end",
      "55 10 00 00000000 0014",
      `${"00".repeat(6)}ffff${page("04")}`,
      invalid("5/1a/00"),
    ],
  ])("%s", (_, cdb, data, status) => {
    expect(tell(smallDisk(), cdb, Buffer.from(data, "hex")).status).toBe(status);
  });
  test("of a disk without a write cache keeps it off", () => {
    const disk = smallDisk({ writeCache: false });
    const list = (flags: string): Uint8Array => Buffer.from(`00000000${page(flags)}`, "hex");
    expect(tell(disk, "15 10 00 00 10", list("00")).status).toBe(good(16));
    expect(tell(disk, "15 10 00 00 10", list("04")).status).toBe(invalid("5/26/00"));
  });
});

describe("REQUEST SENSE", () => {
  const nothing = "70000000000000 0a 0000000000000000 0000".replaceAll(" ", "");
  const badOpcode = "70000500000000 0a 00000000 2000 0000 0000".replaceAll(" ", "");
  test("returns the sense of the last command, once", () => {
    const disk = smallDisk();
    expect(send(disk, cdbOf("ff")).status).toBe(invalid("5/20/00"));
    expect(hex(ask(disk, "03 00 00 00 fc", 252).data)).toBe(badOpcode);
    expect(hex(ask(disk, "03 00 00 00 fc", 252).data)).toBe(nothing);
  });
  test("forgets what a good command came after", () => {
    const disk = smallDisk();
    send(disk, cdbOf("ff"));
    expect(send(disk, cdbOf("00")).status).toBe(good());
    expect(hex(ask(disk, "03 00 00 00 12", 18).data)).toBe(nothing);
  });
  test.each([
    [0, 0, invalid()],
    [7, 7, invalid()],
    [8, 8, good(8)],
    [18, 18, good(18)],
    [20, 20, good(18)],
    [255, 255, good(18)],
    [255, 254, invalid()],
  ])("allocation length %i into %i bytes", (allocation, length, status) => {
    const cdb = `03 00 00 00 ${allocation.toString(16).padStart(2, "0")}`;
    expect(ask(smallDisk(), cdb, length).status).toBe(status);
  });
});

describe("commands without data", () => {
  test.each([
    ["TEST UNIT READY", "00", good()],
    ["FORMAT UNIT", "04", good()],
    ["RESERVE(6)", "16", good()],
    ["RELEASE(6)", "17", good()],
    ["PREVENT ALLOW", "1e 00 00 00 01", good()],
    ["START STOP UNIT, start", "1b 00 00 00 01", good()],
    ["START STOP UNIT, stop", "1b 00 00 00 00", good()],
    ["START STOP UNIT, immediate", "1b 01 00 00 01", invalid()],
    ["SEND DIAGNOSTIC", "1d", good()],
    ["SEND DIAGNOSTIC, default self-test", "1d 04", good()],
    ["SEND DIAGNOSTIC, a self-test", "1d 20", invalid()],
    ["SEND DIAGNOSTIC, page format", "1d 10", invalid()],
    ["SEND DIAGNOSTIC, parameters", "1d 00 00 0001", invalid()],
    ["SYNCHRONIZE CACHE(10)", "35", good()],
    ["SYNCHRONIZE CACHE(10), past the end", "35 00 ffffffff 00 ffff", good()],
    ["SYNCHRONIZE CACHE(16)", "91", good()],
    ["REPORT LUNS, which is the controller's", "a0", invalid("5/20/00")],
    ["SET WINDOW", "24", invalid("5/20/00")],
    ["MAINTENANCE IN", "a3 0c", invalid("5/20/00")],
    ["ATA PASS-THROUGH(16)", "85", invalid("5/20/00")],
    ["an unknown command", "ff", invalid("5/20/00")],
    ["VERIFY(10) of the last block", "2f 00 000007ff 00 0001", good()],
    ["VERIFY(10) of nothing", "2f 00 000007ff 00 0000", good()],
    ["VERIFY(10) of nothing past the end", "2f 00 00000800 00 0000", invalid("5/21/00")],
    ["VERIFY(10) over the end", "2f 00 000007ff 00 0002", invalid("5/21/00")],
    ["VERIFY(10) with a relative address", "2f 01 00000000 00 0001", invalid()],
    ["VERIFY(12) of everything", "af 00 00000000 00000800", good()],
    ["VERIFY(12) with a relative address", "af 01 00000000 00000800", invalid()],
    ["VERIFY(16) of everything", "8f 00 0000000000000000 00000800", good()],
    ["VERIFY(16), flag of another form", "8f 01 0000000000000000 00000001", good()],
    ["VERIFY(16) at the end of addresses", "8f 00 ffffffffffffffff 00000001", invalid("5/21/00")],
    ["WRITE AND VERIFY(10)", "2e 00 00000000 00 0001", good()],
    ["WRITE AND VERIFY(12) over the end", "ae 00 000007ff 00000002", invalid("5/21/00")],
    ["WRITE AND VERIFY(16)", "8e 00 0000000000000000 00000001", good()],
    ["PERSISTENT RESERVE IN, keys", "5e 00", invalid("5/20/00")],
    ["PERSISTENT RESERVE IN, capabilities", "5e 02", invalid("5/20/00")],
    ["PERSISTENT RESERVE IN, more than the buffer", "5e 02 00000000 000001", invalid()],
    ["PERSISTENT RESERVE OUT, reserve", "5f 01 01", invalid("5/20/00")],
    ["PERSISTENT RESERVE OUT, reserve an element", "5f 01 21", invalid()],
    ["PERSISTENT RESERVE OUT, register with a scope", "5f 00 21", invalid("5/20/00")],
    ["PERSISTENT RESERVE OUT, preempt with a scope", "5f 04 21", invalid()],
  ])("%s", (_, cdb, status) => {
    expect(send(smallDisk(), cdbOf(cdb)).status).toBe(status);
  });
  test("a stop and both SYNCHRONIZE CACHE flush, a start does not", () => {
    const disk = smallDisk();
    for (const cdb of ["35", "91", "1b", "1b 00 00 00 01"]) send(disk, cdbOf(cdb));
    expect(disk.counters.flushes).toBe(3);
  });
});

describe("data that would move the other way", () => {
  test.each([
    ["INQUIRY", "12 00 00 0024 00", toDevice, 36],
    ["READ CAPACITY(10)", "25", toDevice, 8],
    ["READ CAPACITY(16)", "9e 10", toDevice, 32],
    ["MODE SENSE(6)", "1a 00 08 00 ff", toDevice, 255],
    ["REQUEST SENSE", "03 00 00 00 12", toDevice, 18],
    ["READ(10)", "28 00 00000000 00 0001", toDevice, 512],
    ["WRITE(10)", "2a 00 00000000 00 0001", fromDevice, 512],
    ["WRITE SAME(10)", "41 00 00000000 00 0001", fromDevice, 512],
    ["MODE SELECT(6)", "15 10 00 00 10", fromDevice, 16],
    ["UNMAP", "42 00 00000000 00 0018", fromDevice, 24],
  ])("%s is refused", (_, cdb, direction, length) => {
    const backend = ramDisk(mib);
    const buffer = new GuestBuffer([[0x1000, length]]);
    const disk = new ScsiDisk(backend);
    expect(send(disk, cdbOf(cdb), direction, buffer).status).toBe(invalid());
    expect(backend.allocatedBytes).toBe(0);
  });
  test("a direction that is not known allows both", () => {
    const disk = smallDisk();
    const buffer = new GuestBuffer([[0x1000, 512]]);
    expect(send(disk, cdbOf("2a 00 00000000 00 0001"), none, buffer).status).toBe(good(512));
    expect(send(disk, cdbOf("28 00 00000000 00 0001"), none, buffer).status).toBe(good(512));
  });
});

describe("a disk that changes its size", () => {
  const attention = failed("6/2a/09");
  const sizeOf = (disk: ScsiDisk): string => hex(ask(disk, "25", 8).data);
  test.each([
    ["grows", 2 * mib, "00000fff00000200"],
    ["shrinks", mib / 2, "000003ff00000200"],
  ])("tells once that it %s", (_, size, capacity) => {
    const backend = ramDisk(mib);
    const disk = new ScsiDisk(backend);
    backend.resize(size);
    expect(send(disk, cdbOf("00")).status).toBe(attention);
    expect(send(disk, cdbOf("00")).status).toBe(good());
    expect(sizeOf(disk)).toBe(capacity);
  });
  test("does not tell in INQUIRY, which knows the new size already", () => {
    const backend = ramDisk(2 * tib);
    const disk = new ScsiDisk(backend);
    backend.resize(10 * tib);
    for (let times = 0; times < 3; times++)
      expect(ask(disk, "12 01 b2 00ff 00", 255).data[4]).toBe(3);
    expect(ask(disk, "28 00 00000000 00 0001", 512).status).toBe(attention);
    expect(ask(disk, "28 00 00000000 00 0001", 512).status).toBe(good(512));
  });
  test("tells in the data of REQUEST SENSE, and then no more", () => {
    const backend = ramDisk(mib);
    const disk = new ScsiDisk(backend);
    backend.resize(2 * mib);
    const { status, data } = ask(disk, "03 00 00 00 12", 18);
    expect(status).toBe(good(18));
    expect(hex(data)).toBe(vectorHex("data-sense-ua-2a09"));
    expect(send(disk, cdbOf("00")).status).toBe(good());
  });
  test("does not do the command that it fails", () => {
    const backend = ramDisk(mib);
    const disk = new ScsiDisk(backend);
    backend.resize(2 * mib);
    expect(tell(disk, "2a 00 00000000 00 0001", new Uint8Array(512)).status).toBe(attention);
    expect(backend.allocatedBytes).toBe(0);
    expect(disk.counters.writes).toBe(0);
  });
  test("tells every change, and one that was undone never happened", () => {
    const backend = ramDisk(mib);
    const disk = new ScsiDisk(backend);
    backend.resize(2 * mib);
    backend.resize(mib);
    expect(send(disk, cdbOf("00")).status).toBe(good());
    for (const size of [2 * mib, 3 * mib, mib]) {
      backend.resize(size);
      const statuses = [0, 1, 2].map(() => send(disk, cdbOf("00")).status);
      expect(statuses).toEqual([attention, good(), good()]);
    }
  });
});

describe("UNMAP", () => {
  const list = (...descriptors: readonly string[]): string => {
    const length = descriptors.length * 16;
    const field = (value: number): string => value.toString(16).padStart(4, "0");
    return `${field(length + 6)}${field(length)}00000000${descriptors.join("")}`;
  };
  const range = (lba: string, blocks: string): string => `${lba}${blocks}00000000`;
  const sendList = (disk: ScsiDisk, text: string, length = text.length / 2): string => {
    const cdb = `42 00 00000000 00 ${length.toString(16).padStart(4, "0")}`;
    return tell(disk, cdb, Buffer.from(text, "hex")).status;
  };
  const written = (): { readonly backend: RamDisk; readonly disk: ScsiDisk } => {
    const backend = ramDisk(mib);
    const disk = new ScsiDisk(backend);
    for (const lba of ["0000", "0008", "0010", "07f8"])
      tell(disk, `2a 00 0000${lba} 00 0008`, new Uint8Array(4096).fill(7));
    expect(backend.allocatedBytes).toBe(4 * 4096);
    return { backend, disk };
  };
  const first = range("0000000000000000", "00000008");
  const last = range("00000000000007f8", "00000008");
  const outside = range("00000000000007f8", "00000009");
  test.each([
    ["two ranges", list(first, last), 2, 2, good()],
    ["no range", list(), 4, 0, good()],
    ["an empty range", list(range("0000000000000000", "00000000")), 4, 0, good()],
    ["the whole disk", list(range("0000000000000000", "00000800")), 0, 1, good()],
    [
      "an empty range at the end",
      list(range("0000000000000800", "00000000")),
      4,
      0,
      invalid("5/21/00"),
    ],
    ["a range over the end", list(outside), 4, 0, invalid("5/21/00")],
    ["a range far away", list(range("ffffffffffffffff", "00000001")), 4, 0, invalid("5/21/00")],
    [
      "a good and a bad range: the good one is done",
      list(first, outside, last),
      3,
      1,
      invalid("5/21/00"),
    ],
    ["half a descriptor", `0016001000000000${first.slice(0, 16)}`, 4, 0, invalid()],
    ["a data length that is too small", `0014001000000000${first}`, 4, 0, invalid()],
    ["a descriptor length that is too small", `0016000000000000${first}`, 4, 0, invalid("5/00/00")],
    ["a descriptor length that is too large", `0016002000000000${first}`, 4, 0, invalid("5/00/00")],
    ["a list of 7 bytes", "00050000000000", 4, 0, invalid()],
  ])("%s", (_, text, pagesLeft, unmaps, status) => {
    const { backend, disk } = written();
    expect(sendList(disk, text)).toBe(status);
    expect(backend.allocatedBytes).toBe(pagesLeft * 4096);
    expect(disk.counters.unmaps).toBe(unmaps);
  });
  test("the list that the guest's driver sends", () => {
    const disk = new ScsiDisk(ramDisk(4 * tib));
    expect(sendList(disk, vectorHex("data-unmap-2-ranges"))).toBe(good());
    expect(disk.counters.unmaps).toBe(2);
  });
  test("a bit of a descriptor after the last whole one is ignored", () => {
    const { disk } = written();
    expect(sendList(disk, `001a001400000000${first}01020304`)).toBe(good());
    expect(disk.counters.unmaps).toBe(1);
  });
  test("a length that is not the buffer's, or no list at all", () => {
    const { disk } = written();
    expect(sendList(disk, list(first), 23)).toBe(invalid());
    expect(sendList(disk, list(first), 25)).toBe(invalid());
    expect(sendList(disk, `${list(first)}00`, 24)).toBe(invalid());
    expect(sendList(disk, "", 0)).toBe(invalid());
  });
  test("as many ranges as a list can have", () => {
    const { disk } = written();
    const ranges = new Array<string>(4095).fill(first);
    expect(sendList(disk, list(...ranges))).toBe(good());
    expect(disk.counters.unmaps).toBe(4095);
  });
  test("where it is off it is an invalid field", () => {
    expect(sendList(smallDisk({ unmap: false }), list(first))).toBe(invalid());
  });
  test("what the backend cannot do is counted and not told", () => {
    const backend = altered(ramDisk(mib), { unmap: fails("ERR_IMAGE_POISONED") });
    const disk = new ScsiDisk(backend);
    expect(sendList(disk, list(first, last))).toBe(good());
    expect(disk.counters.errors).toBe(2);
    expect(disk.counters.lastError).toEqual({
      opcode: 0x42,
      code: "ERR_IMAGE_POISONED",
      message: "failed with ERR_IMAGE_POISONED",
    });
  });
  test("a read-only disk keeps everything", () => {
    const backend = altered(ramDisk(mib), { readOnly: true, unmap: fails("never called") });
    const disk = new ScsiDisk(backend);
    expect(sendList(disk, list(first))).toBe(good());
    expect(disk.counters.errors).toBe(0);
  });
});
