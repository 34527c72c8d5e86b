import { describe, expect, test } from "vitest";
import {
  ScsiError,
  type ScsiDisk,
  type StorvscController,
  type StorvscOptions,
} from "../src/index.js";
import {
  AdditionalSense,
  emitLbaStatusList,
  LbaStatus,
  Opcode,
  SenseKey,
  transferBlocks,
  transferLba,
  type LbaExtent,
} from "../src/protocol/index.js";
import { failed, good, RamDisk, RamTarget } from "./ram-target.js";
import { codeOf, Rig } from "./rig.js";
import type { HostRequest, ScsiAnswer } from "./scripted-host.js";

interface Setup {
  readonly rig: Rig;
  readonly ram: RamDisk;
  readonly controller: StorvscController;
  readonly disk: ScsiDisk;
}

async function attached(
  options: { ram?: RamDisk; target?: RamTarget; storvsc?: StorvscOptions } = {},
): Promise<Setup> {
  const ram = options.ram ?? new RamDisk(4096, "serial-1");
  const rig = new Rig(options.target === undefined ? {} : { target: options.target });
  rig.target.disks.set("0:0", ram);
  const controller = await rig.attach(options.storvsc);
  rig.host.requests.length = 0;
  return { rig, ram, controller, disk: controller.disks[0]! };
}

const pattern = (bytes: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, index) => (index * 13 + seed) ^ (index >>> 8));

/** A part of guest memory as an array. */
function guestBytes(rig: Rig, lengthBytes: number, offset = 0): Uint8Array {
  const address = rig.allocator.allocate(Math.ceil((lengthBytes + offset) / 4096))! + offset;
  return rig.memory.bytes.subarray(address, address + lengthBytes);
}

/** Answers the first `times` commands with this opcode so, and lets the target answer all others. */
function failing(
  rig: Rig,
  opcode: number,
  times: number,
  answer: ScsiAnswer,
): { seen: HostRequest[] } {
  const seen: HostRequest[] = [];
  let left = times;
  rig.target.intercept = (request) => {
    if (request.scsi!.cdb[0] !== opcode) return undefined;
    seen.push(request);
    return left-- > 0 ? answer : undefined;
  };
  return { seen };
}

describe("what a disk says about itself", () => {
  test("size, blocks, names, flags, limits", async () => {
    const { disk, controller } = await attached();
    expect(disk.inspect()).toEqual({
      target: 0,
      lun: 0,
      vendor: "Msft",
      product: "Virtual Disk",
      revision: "1.0",
      blocks: 4096,
      blockBytes: 512,
      physicalBlockBytes: 4096,
      provisioned: true,
      unmappedReadsZero: false,
      serial: "serial-1",
      name: "naa.606060607365726961 6c2d3160606060".replace(" ", ""),
      writeProtected: false,
      writeCache: true,
      rotationRate: 1,
      unmap: { blocksMax: 0xffff_ffff, rangesMax: 4096, granularity: 8, alignment: 0 },
      maxTransferBytes: 0x40000,
      gone: false,
    });
    expect(disk.sizeBytes).toBe(4096 * 512);
    expect(disk.inquiryData).toHaveLength(104);
    expect(disk.inquiry.version).toBe(5);
    expect(disk.queueDepthMax).toBeGreaterThan(400);
    expect(JSON.parse(JSON.stringify(await controller.inspect()))).toMatchObject({
      disks: [{ lun: 0 }],
    });
  });

  describe("which of its blocks take room", () => {
    /** A disk that answers GET LBA STATUS with these extents, or as told. */
    async function telling(answer: readonly LbaExtent[] | ScsiAnswer) {
      const rig = new Rig();
      rig.target.disks.set("0:0", new RamDisk(4096, "S"));
      const asked: string[] = [];
      rig.target.intercept = (request, host) => {
        const { cdb } = request.scsi!;
        if (cdb[0] !== Opcode.serviceActionIn16 || cdb[1] !== 0x12) return undefined;
        asked.push(Array.from(cdb, (byte) => byte.toString(16).padStart(2, "0")).join(""));
        if (!("length" in answer)) return answer;
        const list = new Uint8Array(8 + answer.length * 16);
        emitLbaStatusList(list, answer);
        return good(host.write(request, list));
      };
      const controller = await rig.attach();
      const ask = (lba: number) => rig.settle(controller.disks[0]!.lbaStatus(lba));
      return { ask, asked };
    }

    test("is what the disk tells, as far as that makes sense", async () => {
      const extents = [
        { lba: 8, blocks: 16, status: LbaStatus.mapped },
        { lba: 24, blocks: 8, status: LbaStatus.deallocated },
        { lba: 40, blocks: 8, status: LbaStatus.mapped },
      ];
      const { ask, asked } = await telling(extents);
      expect(await ask(8)).toEqual(extents.slice(0, 2));
      expect(asked).toEqual(["9e120000000000000008000008080000"]);
      // An answer to another question, or to none.
      expect(await ask(24)).toBeUndefined();
      const { ask: askEmpty } = await telling([]);
      expect(await askEmpty(0)).toBeUndefined();
      const { ask: askEndless } = await telling([{ lba: 0, blocks: 0, status: LbaStatus.mapped }]);
      expect(await askEndless(0)).toBeUndefined();
    });

    test.each([
      ["the command", AdditionalSense.invalidCommandOperationCode],
      ["the action", AdditionalSense.invalidFieldInCdb],
    ])("is not known of a disk without %s, which is not asked again", async (_, additional) => {
      const { ask, asked } = await telling(failed(SenseKey.illegalRequest, additional, 0x86));
      expect(await ask(0)).toBeUndefined();
      expect(await ask(0)).toBeUndefined();
      expect(asked).toHaveLength(1);
    });

    test("is an error where the disk has another one", async () => {
      const outside = failed(SenseKey.illegalRequest, AdditionalSense.lbaOutOfRange, 0x86);
      const { ask } = await telling(outside);
      await expect(ask(9999)).rejects.toMatchObject({
        code: "ERR_SCSI_CHECK_CONDITION",
      });
    });
  });

  test("pages are asked for only when they are listed", async () => {
    const rig = new Rig();
    rig.target.disks.set("0:0", new RamDisk(64, "S"));
    await rig.attach();
    const pages = rig.host.scsi
      .filter(({ cdb }) => cdb[0] === Opcode.inquiry && (cdb[1]! & 1) !== 0)
      .map(({ cdb }) => cdb[2]);
    expect(pages).toEqual([0x00, 0xb2, 0xb0, 0xb1, 0x83, 0x80]);
    const few = new Rig();
    few.target.disks.set("0:0", new RamDisk(64, "S"));
    const asked: number[] = [];
    few.target.intercept = (request, host) => {
      const { cdb } = request.scsi!;
      if (cdb[0] !== Opcode.inquiry || (cdb[1]! & 1) === 0) return undefined;
      asked.push(cdb[2]!);
      return cdb[2] === 0
        ? good(host.write(request, Uint8Array.of(0, 0, 0, 2, 0x00, 0x80)))
        : undefined;
    };
    const controller = await few.attach();
    expect(asked).toEqual([0x00, 0x80]);
    expect(controller.disks[0]!.identity).toEqual({
      serial: "S",
      designators: [],
      name: "serial.S",
    });
    expect(controller.disks[0]!.unmapLimits).toBeUndefined();
  });

  test("read-only, without a cache, 4096-byte blocks", async () => {
    const ram = new RamDisk(64, "S", 4096);
    ram.readOnly = true;
    ram.writeCache = false;
    const { disk } = await attached({ ram });
    expect([
      disk.writeProtected,
      disk.writeCache,
      disk.blockBytes,
      disk.physicalBlockBytes,
    ]).toEqual([true, false, 4096, 4096]);
  });

  test("a disk that refuses MODE SENSE has to be flushed", async () => {
    const rig = new Rig();
    const ram = new RamDisk(64, "S");
    ram.writeCache = false;
    rig.target.disks.set("0:0", ram);
    failing(rig, Opcode.modeSense6, Infinity, failed(SenseKey.illegalRequest, 0x2000, 0x86));
    const controller = await rig.attach();
    const disk = controller.disks[0]!;
    expect([disk.writeProtected, disk.writeCache]).toEqual([false, true]);
    rig.host.requests.length = 0;
    await rig.settle(disk.flush());
    expect(rig.host.opcodes).toEqual([Opcode.synchronizeCache10]);
  });

  test("READ CAPACITY(10) serves when the long form is refused, and not above 2 TiB", async () => {
    const rig = new Rig();
    rig.target.disks.set("0:0", new RamDisk(64, "S"));
    failing(rig, Opcode.serviceActionIn16, Infinity, failed(SenseKey.illegalRequest, 0x2000, 0x86));
    const controller = await rig.attach();
    expect(controller.disks[0]!.blocks).toBe(64);
    expect(controller.disks[0]!.capacity.provisioned).toBe(false);

    const large = new Rig();
    large.target.disks.set("0:0", new RamDisk(64, "S"));
    large.target.intercept = (request, host) =>
      request.scsi!.cdb[0] === Opcode.readCapacity10
        ? good(host.write(request, Uint8Array.of(255, 255, 255, 255, 0, 0, 2, 0)))
        : request.scsi!.cdb[0] === Opcode.serviceActionIn16
          ? failed(SenseKey.illegalRequest, 0x2000, 0x86)
          : undefined;
    expect((await large.attach()).disks).toEqual([]);
    expect(large.log.join()).toContain("invalid command operation code");
  });

  test.each([
    ["no blocks", [0, 0, 0, 63, 0, 0, 0, 0]],
    ["blocks of 520 bytes", [0, 0, 0, 63, 0, 0, 2, 8]],
    ["nothing", []],
  ])("%s is no size", async (_, answer) => {
    const rig = new Rig();
    rig.target.disks.set("0:0", new RamDisk(64, "S"));
    rig.target.intercept = (request, host) =>
      request.scsi!.cdb[0] === Opcode.readCapacity10
        ? good(host.write(request, Uint8Array.from(answer)))
        : request.scsi!.cdb[0] === Opcode.serviceActionIn16
          ? failed(SenseKey.illegalRequest, 0x2000, 0x86)
          : undefined;
    expect((await rig.attach()).disks).toEqual([]);
    expect(rig.log.join()).toContain("not attached");
  });
});

describe("read and write", () => {
  test("any array is copied, guest memory is not", async () => {
    const { rig, ram, disk } = await attached();
    const data = pattern(2048);
    await rig.settle(disk.write(5, data));
    expect(ram.data.slice(5 * 512, 9 * 512)).toEqual(data);
    const back = new Uint8Array(2048);
    await rig.settle(disk.read(5, back));
    expect(back).toEqual(data);
    for (const { runs } of rig.host.requests)
      expect(runs[0]![0] - rig.memory.bytes.byteOffset).not.toBe(data.byteOffset);

    const inGuest = guestBytes(rig, 2048, 100);
    await rig.settle(disk.read(5, inGuest));
    expect(Uint8Array.from(inGuest)).toEqual(data);
    expect(rig.host.requests.at(-1)!.runs[0]![0]).toBe(inGuest.byteOffset);
    inGuest.fill(0x77);
    await rig.settle(disk.write(100, inGuest));
    expect(rig.host.requests.at(-1)!.runs[0]![0]).toBe(inGuest.byteOffset);
    expect(ram.data[100 * 512]).toBe(0x77);
  });

  test("what is larger than the largest transfer is split, and never too much at once", async () => {
    const { rig, ram, disk } = await attached({
      target: new RamTarget({ maxTransferBytes: 8192 }),
    });
    const data = pattern(100 * 512 + 4096);
    await rig.settle(disk.write(11, data));
    expect(Buffer.compare(ram.data.slice(11 * 512, 11 * 512 + data.length), data)).toBe(0);
    const sizes = rig.host.scsi.map(({ dataTransferLength }) => dataTransferLength);
    expect(sizes).toEqual([...Array<number>(6).fill(8192), data.length - 6 * 8192]);
    const back = new Uint8Array(data.length);
    await rig.settle(disk.read(11, back));
    expect(Buffer.compare(back, data)).toBe(0);
    const inGuest = guestBytes(rig, data.length);
    await rig.settle(disk.read(11, inGuest));
    expect(Buffer.compare(inGuest, data)).toBe(0);
  });

  test("nothing at all costs nothing", async () => {
    const { rig, disk } = await attached();
    await disk.read(0, new Uint8Array(0));
    await disk.unmap([]);
    expect(rig.host.requests).toEqual([]);
  });

  test("a failing part fails the whole, and nothing is in flight then", async () => {
    const { rig, disk, controller } = await attached({
      target: new RamTarget({ maxTransferBytes: 4096 }),
    });
    let seen = 0;
    rig.target.intercept = () =>
      ++seen === 3 ? failed(SenseKey.mediumError, AdditionalSense.writeFault) : undefined;
    const code = await codeOf(rig.settle(disk.write(0, pattern(64 * 4096))));
    expect(code).toBe("ERR_SCSI_CHECK_CONDITION");
    expect(controller.queue.outstanding).toBe(0);
    // Eight at a time, and no new one after the failure was seen.
    expect(seen).toBeLessThanOrEqual(3 + 8);
  });

  test.each([
    ["half a block", 0, 100],
    ["block -1", -1, 512],
    ["block 0.5", 0.5, 512],
    ["block 2^53", 2 ** 53, 512],
    ["up to 2^53", 2 ** 53 - 1, 512],
  ])("%s is a mistake of the caller's", async (_, lba, bytes) => {
    const { rig, disk } = await attached();
    await expect(disk.read(lba, new Uint8Array(bytes))).rejects.toThrow(RangeError);
    expect(rig.host.requests).toEqual([]);
  });

  test("blocks beyond the end are the disk's to refuse", async () => {
    const { rig, disk } = await attached();
    const error = await rig.settle(
      disk.read(4095, new Uint8Array(1024)).catch((reason: unknown) => reason as ScsiError),
    );
    expect(error).toBeInstanceOf(ScsiError);
    expect(error).toMatchObject({
      code: "ERR_SCSI_CHECK_CONDITION",
      srbStatus: 0x86,
      scsiStatus: 2,
      sense: { key: 5, additionalSense: 0x2100, deferred: false },
      message:
        "READ of 2 blocks from 4095 on at 0:0: illegal request, logical block address out of range (5/21/00)",
    });
  });

  test("counters say how much went which way", async () => {
    const { rig, disk, controller } = await attached();
    const { counters } = controller.queue;
    const before = { ...counters };
    await rig.settle(disk.read(0, new Uint8Array(512)));
    await rig.settle(disk.flush());
    expect(counters.data_bio_cnt - before.data_bio_cnt).toBe(1);
    expect(counters.data_vaddr_cnt).toBe(before.data_vaddr_cnt);
    expect(counters.send_req - before.send_req).toBe(2);
  });
});

describe("retries", () => {
  const busy: ScsiAnswer = { srbStatus: 0x05, scsiStatus: 0 };
  test.each<[string, ScsiAnswer]>([
    ["busy by srb", busy],
    ["busy by SCSI status", { srbStatus: 0x04, scsiStatus: 0x08 }],
    ["queue full", { srbStatus: 0x04, scsiStatus: 0x28 }],
    ["bus reset", { srbStatus: 0x0e, scsiStatus: 0 }],
    ["flushed", { srbStatus: 0x16, scsiStatus: 0 }],
    ["aborted", { srbStatus: 0x02, scsiStatus: 0 }],
    ["aborted, with the queue frozen", { srbStatus: 0x42, scsiStatus: 0 }],
    ["a path that comes back", { srbStatus: 0x08, scsiStatus: 0 }],
    ["an unreadable block that can be read", failed(SenseKey.mediumError, 0x1100)],
    ["a short transfer", { srbStatus: 0x01, scsiStatus: 0, transferred: 256 }],
    ["an overrun", { srbStatus: 0x12, scsiStatus: 0, transferred: 512 }],
    [
      "a failure without a reason, with the length untouched",
      { srbStatus: 0x04, scsiStatus: 0, transferred: 1024 },
    ],
  ])("%s", async (_, answer) => {
    const { rig, ram, disk } = await attached();
    ram.data.set(pattern(1024), 0);
    const { seen } = failing(rig, Opcode.read10, 3, answer);
    const data = new Uint8Array(1024);
    await rig.settle(disk.read(0, data));
    expect(seen).toHaveLength(4);
    expect(data).toEqual(pattern(1024));
  });

  test.each<[string, ScsiAnswer, string]>([
    ["invalid field", failed(SenseKey.illegalRequest, 0x2400, 0x86), "ERR_SCSI_CHECK_CONDITION"],
    ["write protected", failed(SenseKey.dataProtect, 0x2700), "ERR_SCSI_CHECK_CONDITION"],
    ["no space", failed(SenseKey.dataProtect, 0x2707), "ERR_SCSI_CHECK_CONDITION"],
    ["write fault", failed(SenseKey.mediumError, 0x0300), "ERR_SCSI_CHECK_CONDITION"],
    [
      "reservation conflict",
      { srbStatus: 0x04, scsiStatus: 0x18 },
      "ERR_SCSI_RESERVATION_CONFLICT",
    ],
    ["no such LUN, as OpenVMM says it", { srbStatus: 0x20, scsiStatus: 2 }, "ERR_SCSI_NOT_THERE"],
    ["no such LUN, as Windows says it", { srbStatus: 0x20, scsiStatus: 0 }, "ERR_SCSI_NOT_THERE"],
    ["a status that ends nothing", { srbStatus: 0x00, scsiStatus: 0 }, "ERR_SCSI_PROTOCOL"],
  ])("none for %s", async (_, answer, code) => {
    const { rig, disk } = await attached();
    const { seen } = failing(rig, Opcode.write10, Infinity, answer);
    expect(await codeOf(rig.settle(disk.write(0, new Uint8Array(512))))).toBe(code);
    expect(seen).toHaveLength(1);
  });

  test("busy for ever is an error after a minute", async () => {
    const { rig, disk } = await attached();
    failing(rig, Opcode.read10, Infinity, busy);
    expect(await codeOf(rig.settle(disk.read(0, new Uint8Array(512))))).toBe("ERR_SCSI_BUSY");
    expect(rig.timers.now()).toBeGreaterThanOrEqual(60_000);
    expect(rig.timers.now()).toBeLessThan(62_000);
  });

  test("a disk whose LUN went away is gone, and told as removed", async () => {
    const { rig, disk, controller } = await attached();
    const changes: string[] = [];
    controller.onChange(({ kind }) => changes.push(kind));
    rig.target.disks.delete("0:0");
    expect(await codeOf(rig.settle(disk.read(0, new Uint8Array(512))))).toBe("ERR_SCSI_NOT_THERE");
    await rig.rest();
    expect(changes).toEqual(["removed"]);
    expect([disk.gone, controller.disks.length]).toEqual([true, 0]);
    rig.host.requests.length = 0;
    expect(await codeOf(disk.read(0, new Uint8Array(512)))).toBe("ERR_SCSI_NOT_THERE");
    expect(rig.host.requests).toEqual([]);
  });
});

describe("unit attentions", () => {
  const attention = (code: number): ScsiAnswer => failed(SenseKey.unitAttention, code);

  test("capacity changed: read again, told, and the command sent once more", async () => {
    const { rig, ram, disk, controller } = await attached();
    const changes: string[] = [];
    controller.onChange(({ kind, disk: changed }) => changes.push(`${kind} ${changed.blocks}`));
    const larger = new Uint8Array(8192 * 512);
    larger.set(ram.data);
    larger.set(pattern(512), 5000 * 512);
    ram.data = larger;
    const { seen } = failing(rig, Opcode.read10, 1, attention(AdditionalSense.capacityDataChanged));
    const data = new Uint8Array(512);
    await rig.settle(disk.read(5000, data));
    expect(data).toEqual(pattern(512));
    expect(seen).toHaveLength(2);
    expect(rig.host.opcodes).toEqual([Opcode.read10, Opcode.serviceActionIn16, Opcode.read10]);
    expect(changes).toEqual(["resized 8192"]);
    expect(disk.blocks).toBe(8192);
  });

  test("one of 32 commands gets it, none is lost, and the capacity is read once", async () => {
    const { rig, disk } = await attached();
    failing(rig, Opcode.read10, 1, attention(AdditionalSense.capacityDataChanged));
    const reads = Array.from({ length: 32 }, (_, lba) => disk.read(lba, new Uint8Array(512)));
    await rig.settle(Promise.all(reads));
    expect(rig.host.opcodes.filter((opcode) => opcode === Opcode.serviceActionIn16)).toHaveLength(
      1,
    );
    expect(rig.host.opcodes.filter((opcode) => opcode === Opcode.read10)).toHaveLength(33);
  });

  test("another block size of the image behind it (3F/02), in the middle of I/O: looked at once", async () => {
    const { rig, disk } = await attached();
    failing(rig, Opcode.read10, 8, attention(AdditionalSense.operatingDefinitionChanged));
    const reads = Array.from({ length: 32 }, (_, lba) => disk.read(lba, new Uint8Array(512)));
    await rig.settle(Promise.all(reads));
    const capacities = rig.host.opcodes.filter((opcode) => opcode === Opcode.serviceActionIn16);
    expect(capacities).toHaveLength(1);
    expect(rig.host.opcodes.filter((opcode) => opcode === Opcode.read10)).toHaveLength(40);
  });

  test("reported LUNs changed: the bus is scanned, and the command goes on", async () => {
    const { rig, disk, controller } = await attached();
    rig.target.disks.set("0:7", new RamDisk(64, "new"));
    failing(rig, Opcode.read10, 1, attention(AdditionalSense.reportedLunsChanged));
    await rig.settle(disk.read(0, new Uint8Array(512)));
    await rig.rest();
    expect(controller.disks.map(({ lun }) => lun)).toEqual([0, 7]);
  });

  test("a reset is no reason to look", async () => {
    const { rig, disk } = await attached();
    failing(rig, Opcode.read10, 1, attention(AdditionalSense.busReset));
    await rig.settle(disk.read(0, new Uint8Array(512)));
    expect(rig.host.opcodes).toEqual([Opcode.read10, Opcode.read10]);
  });

  test("a write meant for one disk never reaches another", async () => {
    const { rig, disk, controller } = await attached();
    const other = new RamDisk(4096, "other");
    failing(rig, Opcode.write10, 1, attention(AdditionalSense.inquiryDataChanged));
    rig.target.disks.set("0:0", other);
    expect(await codeOf(rig.settle(disk.write(0, new Uint8Array(512).fill(1))))).toBe(
      "ERR_SCSI_DISK_CHANGED",
    );
    expect(other.data.every((byte) => byte === 0)).toBe(true);
    await rig.rest();
    expect(controller.disks.map(({ identity }) => identity.serial)).toEqual(["other"]);
  });

  test("an attention that never ends is an error", async () => {
    const { rig, disk } = await attached();
    failing(rig, Opcode.read10, Infinity, attention(AdditionalSense.busReset));
    expect(await codeOf(rig.settle(disk.read(0, new Uint8Array(512))))).toBe(
      "ERR_SCSI_CHECK_CONDITION",
    );
  });

  test("an idle disk that grew is noticed by TEST UNIT READY, if asked to poll", async () => {
    const { rig, ram, disk, controller } = await attached({ storvsc: { pollIntervalMs: 5000 } });
    const changes: string[] = [];
    controller.onChange(({ kind }) => changes.push(kind));
    ram.data = new Uint8Array(8192 * 512);
    failing(rig, Opcode.testUnitReady, 1, attention(AdditionalSense.capacityDataChanged));
    rig.timers.advance(4999);
    await rig.rest();
    expect(rig.host.requests).toEqual([]);
    rig.timers.advance(1);
    await rig.rest();
    expect(changes).toEqual(["resized"]);
    expect(disk.blocks).toBe(8192);
    rig.host.requests.length = 0;
    rig.timers.advance(5000);
    await rig.rest();
    expect(rig.host.opcodes).toEqual([Opcode.testUnitReady]);
    await rig.settle(controller.detach());
    rig.timers.advance(50_000);
    await rig.rest();
    expect(rig.timers.nextMs).toBe(Infinity);
    expect(rig.host.opcodes).toEqual([Opcode.testUnitReady]);
  });
});

describe("flush and unmap", () => {
  test("flush is SYNCHRONIZE CACHE for the whole disk", async () => {
    const { rig, disk } = await attached();
    await rig.settle(disk.flush());
    expect([...rig.host.scsi[0]!.cdb]).toEqual([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test("a flush that fails is no flush", async () => {
    const { rig, disk } = await attached();
    failing(rig, Opcode.synchronizeCache10, Infinity, failed(SenseKey.mediumError, 0x0300));
    expect(await codeOf(rig.settle(disk.flush()))).toBe("ERR_SCSI_CHECK_CONDITION");
  });

  test("unmap sends ranges as they are", async () => {
    const { rig, ram, disk } = await attached();
    const ranges = [
      { lba: 8, blocks: 8 },
      { lba: 2 ** 40, blocks: 0xffff_ffff },
    ];
    await rig.settle(disk.unmap(ranges));
    expect(ram.unmapped.slice(0, 1)).toEqual([{ lba: 8, blocks: 8 }]);
    expect(ram.unmapped.reduce((sum, { blocks }) => sum + blocks, 0)).toBe(8 + 0xffff_ffff);
  });

  test("a disk that does not take UNMAP says so", async () => {
    const { rig, disk } = await attached({ target: new RamTarget({ versions: [0x0402] }) });
    expect(await codeOf(disk.unmap([{ lba: 0, blocks: 1 }]))).toBe("ERR_SCSI_UNSUPPORTED");
    expect(rig.host.requests).toEqual([]);
  });

  test("any other command: to the disk, or to any address", async () => {
    const { rig, disk, controller } = await attached();
    await rig.settle(disk.testReady());
    const data = new Uint8Array(8);
    const capacity = {
      name: "RC",
      command: Uint8Array.of(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0),
      direction: 1,
      data,
    };
    const result = await rig.settle(controller.perform(0, 0, capacity));
    expect([result.transferredBytes, ...data]).toEqual([8, 0, 0, 15, 255, 0, 0, 2, 0]);
    expect(await codeOf(rig.settle(controller.perform(0, 9, capacity)))).toBe("ERR_SCSI_NOT_THERE");
    expect(
      transferLba(rig.host.scsi.at(-1)!.cdb, 0) + transferBlocks(rig.host.scsi.at(-1)!.cdb, 0),
    ).toBe(0);
  });
});
