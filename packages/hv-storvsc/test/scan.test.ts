import { describe, expect, test } from "vitest";
import { patchInquiry } from "../src/inquiry-patches.js";
import { emitReportLuns, Opcode, PeripheralType } from "../src/protocol/index.js";
import { good, RamDisk, RamTarget, type AbsentStyle } from "./ram-target.js";
import { Rig } from "./rig.js";

const styles: readonly AbsentStyle[] = ["openvmm", "windows"];

/** A rig with small disks at these places. */
function rigWith(places: readonly string[], target = new RamTarget()): Rig {
  const rig = new Rig({ target });
  for (const place of places) target.disks.set(place, new RamDisk(64, place));
  return rig;
}

const places = (disks: readonly { target: number; lun: number }[]): string[] =>
  disks.map(({ target, lun }) => `${target}:${lun}`);

/** INQUIRY of standard data: how a scan probes. */
const probes = (rig: Rig): number =>
  rig.host.scsi.filter(({ cdb }) => cdb[0] === Opcode.inquiry && (cdb[1]! & 1) === 0).length;

describe.each(styles)("what is there, on a host like %s", (absent) => {
  test.each([
    ["nothing", []],
    ["one disk", ["0:0"]],
    ["no LUN 0", ["0:5"]],
    ["holes", ["0:0", "0:9", "0:63"]],
    ["the other target", ["1:0", "1:3"]],
    ["both targets", ["0:1", "1:2"]],
    ["64 LUNs", Array.from({ length: 64 }, (_, lun) => `0:${lun}`)],
  ] as const)("%s", async (_, there) => {
    const rig = rigWith(there, new RamTarget({ absent }));
    const controller = await rig.attach();
    expect(places(controller.disks)).toEqual([...there].sort(byPlace));
    // Two targets; per unit INQUIRY twice at most, and no address that nobody named.
    expect(probes(rig)).toBeLessThanOrEqual(2 + 2 * there.length);
    expect(
      rig.host.opcodes.filter((opcode) => opcode === Opcode.reportLuns).length,
    ).toBeLessThanOrEqual(4);
  });

  test("a host that does not report LUNs: one after another, up to LUN 7", async () => {
    const there = ["0:0", "0:1", "0:2", "0:9"];
    const rig = rigWith(there, new RamTarget({ absent, reportsLuns: false }));
    const controller = await rig.attach();
    expect(places(controller.disks)).toEqual(["0:0", "0:1", "0:2"]);
    expect(probes(rig)).toBeLessThanOrEqual(12);
  });

  test("such a host with more than eight in a row: FreeBSD stops at LUN 7 as well", async () => {
    const there = Array.from({ length: 12 }, (_, lun) => `0:${lun}`);
    const rig = rigWith(there, new RamTarget({ absent, reportsLuns: false }));
    const controller = await rig.attach();
    expect(places(controller.disks)).toEqual(there.slice(0, 8));
  });
});

function byPlace(left: string, right: string): number {
  const [leftTarget = 0, leftLun = 0] = left.split(":").map(Number);
  const [rightTarget = 0, rightLun = 0] = right.split(":").map(Number);
  return leftTarget - rightTarget || leftLun - rightLun;
}

describe("no phantoms", () => {
  test("a failed INQUIRY is no answer, whatever its buffer holds", async () => {
    const rig = rigWith(["0:0"]);
    // REPORT LUNS lists 64 LUNs, but only one is there: the others end with srb 20 and zeroes.
    rig.target.intercept = (request, host) => {
      const { cdb, lun } = request.scsi!;
      if (cdb[0] === Opcode.reportLuns) {
        const data = new Uint8Array(request.scsi!.dataTransferLength);
        emitReportLuns(
          data,
          Array.from({ length: 64 }, (_, index) => index),
        );
        return good(host.write(request, data));
      }
      return lun === 0 ? undefined : { srbStatus: 0x20, scsiStatus: 0, transferred: 36 };
    };
    const controller = await rig.attach();
    expect(places(controller.disks)).toEqual(["0:0"]);
    expect(controller.units).toHaveLength(1);
    // Those of target 1 too: it reports the same list.
    expect(probes(rig)).toBeLessThanOrEqual(2 * 65);
  });

  test("a DVD drive alone is a unit, but no disk", async () => {
    const rig = rigWith(["0:0"]);
    rig.target.disks.get("0:0")!.type = PeripheralType.cdDvd;
    const controller = await rig.attach();
    expect(controller.disks).toEqual([]);
    expect(
      controller.units.map(({ target, lun, inquiry }) => [target, lun, inquiry.peripheralType]),
    ).toEqual([[0, 0, PeripheralType.cdDvd]]);
    expect(rig.host.requests.length).toBeLessThan(15);
  });

  test("a list of LUNs that cannot be is bounded", async () => {
    const rig = rigWith(["0:0"]);
    rig.target.intercept = (request, host) => {
      if (request.scsi!.cdb[0] !== Opcode.reportLuns) return undefined;
      const data = new Uint8Array(request.scsi!.dataTransferLength).fill(0x2a);
      // As many bytes as a u32 can say.
      data.fill(0xff, 0, 4);
      return good(host.write(request, data));
    };
    const controller = await rig.attach();
    expect(places(controller.disks)).toEqual(["0:0"]);
    expect(rig.host.requests.length).toBeLessThan(40);
  });

  test("a LUN that is listed twice is there once", async () => {
    const rig = rigWith(["0:0", "0:4"]);
    rig.target.intercept = (request, host) => {
      const { cdb, targetId, dataTransferLength } = request.scsi!;
      if (cdb[0] !== Opcode.reportLuns || targetId !== 0) return undefined;
      const data = new Uint8Array(dataTransferLength);
      emitReportLuns(data, [4, 0, 4, 4]);
      return good(host.write(request, data));
    };
    const controller = await rig.attach();
    expect(places(controller.disks)).toEqual(["0:0", "0:4"]);
    expect(controller.units).toHaveLength(2);
  });

  test("a success without data is no answer", async () => {
    const rig = rigWith(["0:0"]);
    rig.target.intercept = ({ scsi }) => (scsi!.cdb[0] === Opcode.inquiry ? good(0) : undefined);
    const controller = await rig.attach();
    expect(controller.units).toEqual([]);
  });

  test.each([0x20, 0x60])("qualifier in byte 0: %i", async (peripheral) => {
    const rig = rigWith(["0:0"]);
    rig.target.intercept = (request, host) => {
      if (request.scsi!.cdb[0] !== Opcode.inquiry) return undefined;
      const data = new Uint8Array(36);
      data[0] = peripheral;
      data[4] = 31;
      return good(host.write(request, data));
    };
    expect((await rig.attach()).units).toEqual([]);
  });
});

describe("a path that does not answer", () => {
  test.each([0x07, 0x08, 0x21])(
    "srb %i is an answer to a scan, without waiting",
    async (srbStatus) => {
      const rig = rigWith(["0:0"]);
      rig.target.intercept = ({ scsi }) =>
        scsi!.targetId === 1 ? { srbStatus, scsiStatus: 0 } : undefined;
      const controller = await rig.attach();
      expect(places(controller.disks)).toEqual(["0:0"]);
      expect(rig.timers.now()).toBe(0);
    },
  );
});

describe("corrections of INQUIRY data", () => {
  const data = (type: number, version: number, vendor: string, length = 36): Uint8Array => {
    const bytes = new Uint8Array(length);
    bytes[0] = type;
    bytes[2] = version;
    bytes[4] = 31;
    new TextEncoder().encode(vendor).forEach((byte, index) => (bytes[8 + index] = byte));
    return bytes;
  };

  test.each([
    ["a Microsoft disk at SPC-2, 6.0", data(0, 4, "Msft"), 0x0600, 5],
    ["a Microsoft disk at SPC-2, 5.1", data(0, 4, "Msft    "), 0x0501, 5],
    ["a Microsoft disk at SPC-2, 6.2: it means it", data(0, 4, "Msft"), 0x0602, 4],
    ["a Microsoft disk at SPC-2, 4.2: it means it", data(0, 4, "Msft"), 0x0402, 4],
    ["another vendor's", data(0, 4, "MSFT"), 0x0600, 4],
    ["SPC-3 stays", data(0, 5, "Msft"), 0x0600, 5],
    ["SCSI-2 stays", data(0, 2, "Msft"), 0x0600, 2],
    ["a DVD drive without a version, 6.2", data(5, 0, ""), 0x0602, 5],
    ["a DVD drive without a version, 4.2", data(5, 0, ""), 0x0402, 0],
    ["a DVD drive with one", data(5, 2, ""), 0x0600, 2],
    ["bytes that did not come", data(0, 4, "Msf", 11), 0x0600, 4],
  ])("%s", (_, bytes, version, expected) => {
    patchInquiry(bytes, version);
    expect(bytes[2]).toBe(expected);
  });

  test("bytes that the data's own length does not cover", () => {
    const bytes = data(0, 4, "Msft");
    bytes[4] = 6;
    patchInquiry(bytes, 0x0600);
    expect(bytes[2]).toBe(4);
    patchInquiry(new Uint8Array(3), 0x0600);
  });
});
