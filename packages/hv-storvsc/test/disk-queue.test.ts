import { describe, expect, test } from "vitest";
import { GpaRanges } from "@hyperv-is/vmbus-core";
import {
  DiskOperation,
  Outcome,
  type DiskCompletions,
  type DiskQueue,
  type ScsiDisk,
  type StorvscController,
} from "../src/index.js";
import { AdditionalSense, Opcode, SenseKey, transferLba } from "../src/protocol/index.js";
import { failed, RamDisk } from "./ram-target.js";
import { Rig } from "./rig.js";
import type { HostRequest, ScsiAnswer } from "./scripted-host.js";

const { read, write, flush, unmap } = DiskOperation;

class Setup implements DiskCompletions {
  readonly rig: Rig;
  readonly ram: RamDisk;
  readonly controller: StorvscController;
  readonly disk: ScsiDisk;
  readonly queue: DiskQueue;
  readonly endings: (readonly [slot: number, outcome: string, bytes: number])[] = [];
  readonly list: GpaRanges;

  private constructor(rig: Rig, ram: RamDisk, controller: StorvscController) {
    this.rig = rig;
    this.ram = ram;
    this.controller = controller;
    this.disk = controller.disks[0]!;
    this.queue = this.disk.openQueue(8, this);
    this.list = new GpaRanges(rig.memory);
    this.list.add(rig.allocator.allocate(1)!, 4096);
    rig.host.requests.length = 0;
  }

  static async make(): Promise<Setup> {
    const rig = new Rig();
    const ram = new RamDisk(4096, "S");
    rig.target.disks.set("0:0", ram);
    return new Setup(rig, ram, await rig.attach());
  }

  complete(slot: number, outcome: Outcome, transferredBytes: number): void {
    const name = Object.entries(Outcome).find(([, value]) => value === outcome)![0];
    this.endings.push([slot, name, transferredBytes]);
  }

  run(): void {
    this.queue.flush();
    this.rig.run();
  }
}

describe("requests", () => {
  test("read, write, flush and unmap, each in its slot", async () => {
    const setup = await Setup.make();
    const { queue, list, rig, ram } = setup;
    ram.data.fill(3, 80 * 512, 88 * 512);
    expect(queue.submit(read, 80, 8, list, 3)).toBe(true);
    expect(rig.host.requests).toEqual([]);
    setup.run();
    expect(rig.memory.bytes[list.runAddress(0) + 4095]).toBe(3);
    rig.memory.bytes.fill(9, list.runAddress(0), list.runAddress(0) + 4096);
    queue.submit(write, 800, 8, list, 0);
    queue.submit(flush, 0, 0, undefined, 1);
    queue.submit(unmap, 2 ** 40 + 5, 0xfffffff0, undefined, 2);
    queue.submit(unmap, 16, 8, undefined, 7);
    setup.run();
    expect(setup.endings).toEqual([
      [3, "ok", 4096],
      [0, "ok", 4096],
      [1, "ok", 0],
      [2, "ok", 24],
      [7, "ok", 24],
    ]);
    expect(ram.data[800 * 512]).toBe(9);
    expect(ram.unmapped).toEqual([
      { lba: 2 ** 40 + 5, blocks: 0xfffffff0 },
      { lba: 16, blocks: 8 },
    ]);
    expect([...rig.host.scsi[2]!.cdb]).toEqual([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expect(queue.inFlight).toBe(0);
  });

  test("a slot carries one request, and the length has to fit", async () => {
    const { queue, list } = await Setup.make();
    expect(() => queue.submit(read, 0, 7, list, 0)).toThrow("differ in length");
    expect(() => queue.submit(read, 0, 8, undefined, 0)).toThrow("differ in length");
    expect(queue.inFlight).toBe(0);
    queue.submit(read, 0, 8, list, 0);
    expect(() => queue.submit(read, 0, 8, list, 0)).toThrow("busy");
    expect(() => queue.submit(read, 0, 8, list, 8)).toThrow("none such");
    expect(queue.inFlight).toBe(1);
  });

  test("a transfer above the limit is a mistake of the caller's, and costs no slot", async () => {
    const { queue, rig, disk } = await Setup.make();
    const list = new GpaRanges(rig.memory);
    list.add(rig.allocator.allocate(80)!, disk.maxTransferBytes + 4096);
    const blocks = list.lengthBytes / 512;
    expect(() => queue.submit(read, 0, blocks, list, 0)).toThrow("above the largest");
    expect(queue.inFlight).toBe(0);
  });
});

describe("outcomes", () => {
  test.each<[string, ScsiAnswer, string, number]>([
    ["short", { srbStatus: 1, scsiStatus: 0, transferred: 512 }, "overrun", 512],
    ["busy", { srbStatus: 5, scsiStatus: 0 }, "busy", 0],
    ["reset", { srbStatus: 0x0e, scsiStatus: 0 }, "retry", 0],
    ["unreadable", failed(SenseKey.mediumError, 0x1100), "checkCondition", 0],
    [
      "reset, by sense",
      failed(SenseKey.unitAttention, AdditionalSense.busReset),
      "unitAttention",
      0,
    ],
    ["conflict", { srbStatus: 4, scsiStatus: 0x18 }, "conflict", 0],
    ["garbage", { srbStatus: 0, scsiStatus: 0 }, "violation", 0],
  ])("%s", async (_, answer, outcome, bytes) => {
    const setup = await Setup.make();
    setup.rig.target.intercept = () => answer;
    setup.queue.submit(read, 0, 8, setup.list, 5);
    setup.run();
    expect(setup.endings).toEqual([[5, outcome, bytes]]);
    if (answer.sense !== undefined)
      expect(setup.queue.sense(5)).toMatchObject({ key: answer.sense[2] });
    else expect(setup.queue.sense(5)).toBeUndefined();
  });

  test("a unit attention makes the disk look, and the request can be sent again", async () => {
    const setup = await Setup.make();
    const { rig, queue, list, disk, ram } = setup;
    ram.data = new Uint8Array(8192 * 512);
    rig.target.intercept = ({ scsi }) =>
      scsi!.cdb[0] === Opcode.read10
        ? failed(SenseKey.unitAttention, AdditionalSense.capacityDataChanged)
        : undefined;
    queue.submit(read, 0, 8, list, 0);
    setup.run();
    expect(setup.endings).toEqual([[0, "unitAttention", 0]]);
    await rig.rest();
    expect(disk.blocks).toBe(8192);
    rig.target.intercept = undefined;
    queue.submit(read, 8000, 8, list, 0);
    setup.run();
    expect(setup.endings.at(-1)).toEqual([0, "ok", 4096]);
  });

  test("16 in flight when the LUN goes: they complete, the next one finds nothing, and the queue is dead", async () => {
    const setup = await Setup.make();
    const { rig, list } = setup;
    const queue = setup.disk.openQueue(20, setup);
    const held: HostRequest[] = [];
    rig.target.intercept = (request) => {
      held.push(request);
      return "hold";
    };
    for (let slot = 0; slot < 16; slot++) queue.submit(read, slot * 8, 8, list, slot);
    queue.flush();
    rig.run();
    const answers = held.map((request) => rig.target.answer(request, rig.host));
    rig.target.disks.delete("0:0");
    rig.target.intercept = undefined;
    for (const [index, request] of held.entries()) rig.host.answer(request, answers[index]!);
    queue.submit(read, 0, 8, list, 16);
    queue.flush();
    rig.run();
    expect(setup.endings.slice(0, 16).every(([, outcome]) => outcome === "ok")).toBe(true);
    expect(setup.endings[16]).toEqual([16, "notThere", 0]);
    expect(setup.disk.gone).toBe(true);
    expect(queue.submit(read, 0, 8, list, 0)).toBe(false);
    expect(queue.inFlight).toBe(0);
  });
});

describe("the life of a queue", () => {
  test("several queues of several disks share the channel", async () => {
    const rig = new Rig();
    rig.target.disks.set("0:0", new RamDisk(64, "a"));
    rig.target.disks.set("0:1", new RamDisk(64, "b"));
    const controller = await rig.attach({ slots: 64 });
    const [first, second] = controller.disks;
    const seen: string[] = [];
    const open = (disk: ScsiDisk, name: string): DiskQueue =>
      disk.openQueue(4, { complete: (slot, outcome) => seen.push(`${name}${slot}:${outcome}`) });
    const queues = [open(first!, "a"), open(second!, "b"), open(first!, "c")];
    for (const queue of queues) queue.submit(flush, 0, 0, undefined, 2);
    queues[0]!.flush();
    rig.run();
    expect(seen).toEqual(["a2:0", "b2:0", "c2:0"]);
    expect(rig.host.scsi.slice(-3).map(({ lun }) => lun)).toEqual([0, 1, 0]);
  });

  test("slots that are taken come back with close, also those in flight, later", async () => {
    const setup = await Setup.make();
    const { rig, disk, controller, list } = setup;
    const inner = controller.queue;
    const free = inner.freeSlots;
    expect(() => disk.openQueue(free + 1, setup)).toThrow(/slots are free/);
    const pages = rig.allocator.freePages;
    const queue = disk.openQueue(free, setup);
    expect(disk.queueDepthMax).toBe(0);
    expect(() => disk.openQueue(1, setup)).toThrow(
      expect.objectContaining({ code: "ERR_STORVSC_SLOTS" }),
    );
    // Commands go on without a slot of the fast path's.
    await rig.settle(disk.flush());
    rig.target.intercept = () => "hold";
    queue.submit(read, 8, 8, list, 1);
    queue.submit(unmap, 8, 8, undefined, 2);
    queue.flush();
    rig.run();
    const [held, heldUnmap] = rig.host.requests.slice(-2);
    queue.close();
    queue.close();
    expect(() => queue.submit(read, 0, 8, list, 0)).toThrow("closed");
    expect(inner.freeSlots).toBe(free - 2);
    expect(rig.allocator.freePages).toBeLessThan(pages);
    rig.host.answer(held!, { srbStatus: 1, scsiStatus: 0, transferred: 4096 });
    rig.host.answer(heldUnmap!, { srbStatus: 1, scsiStatus: 0, transferred: 24 });
    rig.run();
    expect(inner.freeSlots).toBe(free);
    expect(rig.allocator.freePages).toBe(pages);
    expect(setup.endings).toEqual([]);
    expect(transferLba(held!.scsi!.cdb, 0)).toBe(8);
  });

  test("the end of the channel ends every request once; what the host may still read is leaked", async () => {
    const setup = await Setup.make();
    const { rig, queue, list } = setup;
    rig.target.intercept = () => "hold";
    queue.submit(unmap, 0, 8, undefined, 0);
    queue.submit(read, 0, 8, list, 1);
    setup.run();
    rig.connected!.left.close("rescinded");
    expect(setup.endings).toEqual([
      [0, "closed", 0],
      [1, "closed", 0],
    ]);
    expect(queue.submit(read, 0, 8, list, 1)).toBe(false);
    expect(queue.inFlight).toBe(0);
    const leaked = rig.allocator.leakedPages;
    queue.close();
    expect(rig.allocator.leakedPages).toBe(leaked + 1);
  });

  test("depths that are none", async () => {
    const setup = await Setup.make();
    expect(() => setup.disk.openQueue(0, setup)).toThrow(RangeError);
    expect(() => setup.disk.openQueue(1.5, setup)).toThrow(RangeError);
  });
});
