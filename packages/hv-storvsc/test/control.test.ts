import { describe, expect, test } from "vitest";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import { attachOverChannel, type DiskChange } from "../src/index.js";
import {
  ideInstanceId,
  Opcode,
  parseVstorHeader,
  PeripheralType,
  StorageClassId,
  VstorOperation,
} from "../src/protocol/index.js";
import { RamDisk, RamTarget } from "./ram-target.js";
import { codeOf, Rig } from "./rig.js";
import { reply } from "./scripted-host.js";

function rigWithDisk(options?: ConstructorParameters<typeof Rig>[0]): Rig {
  const rig = new Rig(options);
  rig.target.disks.set("0:0", new RamDisk(2048, "disk"));
  return rig;
}

/** The end of a controller that was let go of: unbound, closed, and every page back. */
function expectReleased(rig: Rig, freePages: number): void {
  expect(rig.calls.filter((call) => call.startsWith("unbind"))).toHaveLength(1);
  expect(rig.calls.filter((call) => call === "close")).toHaveLength(1);
  expect(rig.allocator.freePages + rig.allocator.leakedPages).toBe(freePages);
}

const steps = [
  ["BEGIN", VstorOperation.beginInitialization],
  ["QUERY_PROPERTIES", VstorOperation.queryProperties],
  ["END", VstorOperation.endInitialization],
] as const;

describe("attach", () => {
  test("rings as FreeBSD's, bound before they are opened, with 24 zero bytes for the host", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    expect(rig.calls).toEqual(["prepare 64+64 on 0", "start on 0", "bind", "open"]);
    expect(rig.openUserData).toEqual(new Uint8Array(24));
    expect(controller.parameters.version).toBe(0x0600);
    expect(await controller.inspect()).toMatchObject({ kind: "scsi", scans: 1 });
  });

  test("the initialisation is BEGIN, versions newest first, properties, END, then the scan", async () => {
    const rig = rigWithDisk();
    await rig.attach();
    const operations = rig.host.requests.map((request) => request.operation);
    expect(operations.slice(0, 6)).toEqual([7, 9, 9, 10, 8, VstorOperation.executeSrb]);
    expect(rig.host.requests[0]!.packet).toHaveLength(48);
  });

  test.each(steps)(
    "a host that refuses %s: no half initialised controller",
    async (_, operation) => {
      const rig = rigWithDisk();
      const free = rig.allocator.freePages;
      const { script } = rig.host;
      rig.host.script = (request, host) =>
        request.operation === operation
          ? reply(request.packet.byteLength, 0xc000_0184)
          : script(request, host);
      expect(await codeOf(rig.attach())).toBe("ERR_STORVSC_REFUSED");
      expectReleased(rig, free);
      expect(rig.host.scsi).toEqual([]);
    },
  );

  test.each([...steps, ["QUERY_VERSION", VstorOperation.queryProtocolVersion] as const])(
    "a host that does not answer %s",
    async (_, operation) => {
      const rig = rigWithDisk();
      const free = rig.allocator.freePages;
      const { script } = rig.host;
      rig.host.script = (request, host) =>
        request.operation === operation ? undefined : script(request, host);
      expect(await codeOf(rig.attach({ stepTimeoutMs: 5000 }))).toBe("ERR_STORVSC_TIMEOUT");
      expect(rig.timers.now()).toBe(5000);
      expectReleased(rig, free);
    },
  );

  test.each([...steps, ["QUERY_VERSION", VstorOperation.queryProtocolVersion] as const])(
    "a rescind instead of an answer to %s",
    async (_, operation) => {
      const rig = rigWithDisk();
      const free = rig.allocator.freePages;
      const { script } = rig.host;
      rig.host.script = (request, host) => {
        if (request.operation !== operation) return script(request, host);
        rig.rescind();
        return undefined;
      };
      expect(await codeOf(rig.attach())).toBe("ERR_RESCINDED");
      expect(rig.timers.now()).toBe(0);
      expectReleased(rig, free);
    },
  );

  test("a rescind in the middle of the scan", async () => {
    const rig = rigWithDisk();
    const free = rig.allocator.freePages;
    rig.target.intercept = ({ scsi }) => {
      if (scsi!.cdb[0] !== Opcode.modeSense6) return undefined;
      rig.rescind();
      return "hold";
    };
    expect(await codeOf(rig.attach())).toBe("ERR_RESCINDED");
    await rig.rest();
    expectReleased(rig, free);
  });

  test("a ring that is corrupt from the start", async () => {
    const rig = rigWithDisk();
    const { script } = rig.host;
    rig.host.script = (request, host) => {
      // No such packet flag.
      host.send(PacketType.inBand, 0x80, 0, 0, new Uint8Array(64));
      return script(request, host);
    };
    expect(await codeOf(rig.attach())).toBe("ERR_CLOSED");
    expect(rig.calls.at(-1)).toBe("close");
  });

  test("a host that does not open the channel", async () => {
    const rig = rigWithDisk();
    const free = rig.allocator.freePages;
    rig.openError = Object.assign(new Error("refused"), { code: "ERR_OPEN_FAILED" });
    expect(await codeOf(rig.attach())).toBe("ERR_OPEN_FAILED");
    expectReleased(rig, free);
  });

  test("an arena without room for a buffer", async () => {
    const rig = rigWithDisk({ memoryPages: 40 });
    expect(await codeOf(rig.attach())).toBe("ERR_STORVSC_MEMORY");
    expect(rig.calls.at(-1)).toBe("close");
    expect(rig.allocator.freePages).toBe(6);
  });

  test("an arena with room for one buffer only: the second is missing", async () => {
    const rig = rigWithDisk({ memoryPages: 34 + 70 });
    expect(await codeOf(rig.attach())).toBe("ERR_STORVSC_MEMORY");
    expect(rig.allocator.freePages).toBe(70);
  });

  test("protocol 2.0 and 4.2 work from end to end in packets of 48 bytes", async () => {
    for (const version of [0x0200, 0x0402]) {
      const rig = rigWithDisk({ target: new RamTarget({ versions: [version] }) });
      const controller = await rig.attach();
      const data = Uint8Array.from({ length: 1024 }, (_, index) => index);
      await rig.settle(controller.disks[0]!.write(7, data));
      const back = new Uint8Array(1024);
      await rig.settle(controller.disks[0]!.read(7, back));
      expect(back).toEqual(data);
      expect(controller.disks[0]!.unmapLimits).toBeUndefined();
      expect(new Set(rig.host.requests.map(({ packet }) => packet.byteLength))).toEqual(
        new Set([48]),
      );
    }
  });

  test("a disk of the IDE controller is at the address in its name, and nothing is scanned", async () => {
    const rig = new Rig({ classId: StorageClassId.ide, instanceId: ideInstanceId(1, 1) });
    rig.target.disks.set("1:0", new RamDisk(64, "ide"));
    const controller = await rig.attach();
    expect(controller.kind).toBe("ide");
    expect(controller.disks).toHaveLength(1);
    expect(
      new Set(rig.host.scsi.map(({ pathId, targetId, lun }) => `${pathId} ${targetId} ${lun}`)),
    ).toEqual(new Set(["1 1 0"]));
    expect(rig.host.opcodes).not.toContain(Opcode.reportLuns);
  });

  test("sub-channels that the host has or offers are left alone", async () => {
    const rig = rigWithDisk({ target: new RamTarget({ subChannels: 4 }) });
    const controller = await rig.attach();
    expect(controller.parameters.subChannelCountMax).toBe(4);
    rig.offerSubChannel({} as Parameters<typeof rig.offerSubChannel>[0]);
    expect(controller.channels).toHaveLength(1);
    expect(await controller.inspect()).toMatchObject({ subChannelsOffered: 1 });
    expect(rig.host.requests.map(({ operation }) => operation)).not.toContain(
      VstorOperation.createSubChannels,
    );
  });
});

describe("detach", () => {
  test("with nothing in flight", async () => {
    const rig = rigWithDisk();
    const free = rig.allocator.freePages;
    const controller = await rig.attach();
    const changes: string[] = [];
    controller.onChange(({ kind }) => changes.push(kind));
    const disk = controller.disks[0]!;
    await rig.settle(controller.detach(), 0);
    expect(rig.timers.now()).toBe(0);
    expect(changes).toEqual(["removed"]);
    expect(await codeOf(disk.read(0, new Uint8Array(512)))).toBe("ERR_CLOSED");
    expect(rig.allocator.leakedPages).toBe(0);
    expectReleased(rig, free);
  });

  test("with reads in flight: they finish first", async () => {
    const rig = rigWithDisk();
    const free = rig.allocator.freePages;
    const controller = await rig.attach();
    const held: Parameters<typeof rig.host.answer>[0][] = [];
    rig.target.intercept = (request) => {
      held.push(request);
      return "hold";
    };
    const reads = [0, 1, 2].map((lba) => controller.disks[0]!.read(lba, new Uint8Array(512)));
    await rig.rest();
    const detached = controller.detach();
    await rig.rest();
    expect(held).toHaveLength(3);
    expect(rig.calls).not.toContain("close");
    rig.target.intercept = undefined;
    for (const request of held) rig.host.answer(request, rig.target.answer(request, rig.host));
    await rig.settle(Promise.all(reads), 0);
    await rig.settle(detached, 0);
    expect(rig.allocator.leakedPages).toBe(0);
    expectReleased(rig, free);
  });

  test("with a read that never ends: after a while, and its memory is leaked", async () => {
    const rig = rigWithDisk();
    const free = rig.allocator.freePages;
    const controller = await rig.attach({ drainTimeoutMs: 7000 });
    rig.target.intercept = () => "hold";
    const read = controller.disks[0]!.read(0, new Uint8Array(512));
    const code = codeOf(read);
    await rig.rest();
    await rig.settle(controller.detach());
    expect(rig.timers.now()).toBe(7000);
    expect(await code).toBe("ERR_CLOSED");
    expect(rig.allocator.leakedPages).toBe(64);
    expectReleased(rig, free);
  });

  test("twice is once", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    await rig.settle(Promise.all([controller.detach(), controller.detach()]));
    await rig.settle(controller.detach());
    expect(rig.calls.filter((call) => call === "close")).toHaveLength(1);
  });
});

describe("the host goes away", () => {
  test("a rescind ends everything, and what was finished before counts", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    const changes: DiskChange["kind"][] = [];
    controller.onChange(({ kind }) => changes.push(kind));
    const disk = controller.disks[0]!;
    let first = true;
    rig.target.intercept = () => {
      if (!first) return "hold";
      first = false;
      return undefined;
    };
    // One poll of the host: one answered, one not. The guest has looked at neither.
    const answered = disk.read(0, new Uint8Array(512));
    const open = disk.read(1, new Uint8Array(512));
    await Promise.resolve();
    rig.connected!.right.poll(10);
    rig.rescind();
    expect(await codeOf(open)).toBe("ERR_RESCINDED");
    await answered;
    await rig.rest();
    expect(changes).toEqual(["removed"]);
    expect(rig.calls.slice(-2)).toEqual(["unbind rescinded", "close"]);
    expect(await codeOf(disk.flush())).toBe("ERR_RESCINDED");
    expect(await codeOf(controller.rescan())).toBe("ERR_RESCINDED");
  });

  test("a rescind wakes those who wait to send again", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    rig.target.intercept = () => ({ srbStatus: 0x05, scsiStatus: 0 });
    const code = codeOf(controller.disks[0]!.read(0, new Uint8Array(512)));
    await rig.rest();
    rig.rescind();
    expect(await code).toBe("ERR_RESCINDED");
    await rig.rest();
    expect(rig.timers.now()).toBe(0);
    expect(rig.timers.nextMs).toBe(Infinity);
  });

  test("a corrupt ring ends everything, and is logged", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    const disk = controller.disks[0]!;
    rig.target.intercept = () => {
      rig.memory.words[(17 * 4096) / 4] = 5;
      return "hold";
    };
    const code = codeOf(disk.read(0, new Uint8Array(512)));
    rig.host.requests.length = 0;
    await rig.rest();
    rig.connected!.left.poll(10);
    expect(await code).toBe("ERR_CLOSED");
    await rig.rest();
    expect(rig.log.join()).toContain("broke the protocol");
    expect(rig.calls.at(-1)).toBe("close");
  });
});

describe("the bus changes", () => {
  const enumerate = (rig: Rig, operation: number = VstorOperation.enumerateBus): void => {
    const packet = new Uint8Array(64);
    packet[0] = operation;
    expect(parseVstorHeader(packet)!.operation).toBe(operation);
    rig.host.send(PacketType.inBand, 0, 0, 0, packet);
    rig.host.channel!.flush();
  };

  test.each([VstorOperation.enumerateBus, VstorOperation.removeDevice])(
    "operation %i: disks come and go",
    async (operation) => {
      const rig = rigWithDisk();
      const controller = await rig.attach();
      const changes: string[] = [];
      controller.onChange(({ kind, disk }) => changes.push(`${kind} ${disk.lun}`));
      rig.target.disks.set("0:3", new RamDisk(64, "new"));
      enumerate(rig, operation);
      await rig.rest();
      expect(changes).toEqual(["added 3"]);
      rig.target.disks.delete("0:0");
      enumerate(rig, operation);
      await rig.rest();
      expect(changes).toEqual(["added 3", "removed 0"]);
      expect(controller.disks.map(({ lun }) => lun)).toEqual([3]);
    },
  );

  test("a hundred events make a handful of scans", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    for (let count = 0; count < 100; count++) enumerate(rig);
    await rig.rest();
    await rig.settle(controller.rescan());
    expect((await controller.inspect())["scans"]).toBeLessThanOrEqual(5);
  });

  test("another disk at the same place is another disk, though the LUN was never seen absent", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    const before = controller.disks[0]!;
    const changes: string[] = [];
    controller.onChange(({ kind, disk }) =>
      changes.push(`${kind} ${String(disk.identity.serial)}`),
    );
    rig.target.disks.set("0:0", new RamDisk(2048, "other"));
    enumerate(rig);
    await rig.rest();
    expect(changes).toEqual(["removed disk", "added other"]);
    expect(await codeOf(before.read(0, new Uint8Array(512)))).toBe("ERR_SCSI_DISK_CHANGED");
    const now = controller.disks[0]!;
    await rig.settle(now.read(0, new Uint8Array(512)));
  });

  test("a disk that does not say whether it is there stays; one that is not attached is tried again", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    rig.target.disks.set("0:1", new RamDisk(64, "late"));
    rig.target.intercept = ({ scsi }) => {
      if (scsi!.lun === 0 && scsi!.cdb[0] === Opcode.inquiry)
        return { srbStatus: 0x04, scsiStatus: 0 };
      if (scsi!.lun === 1 && scsi!.cdb[0] === Opcode.serviceActionIn16)
        return { srbStatus: 0x04, scsiStatus: 0 };
      return undefined;
    };
    await rig.settle(controller.rescan());
    expect(controller.disks.map(({ lun }) => lun)).toEqual([0]);
    expect(rig.log.join()).toContain("lun 1: not attached");
    rig.target.intercept = undefined;
    await rig.settle(controller.rescan());
    expect(controller.disks.map(({ lun }) => lun)).toEqual([0, 1]);
  });

  test("a disk whose identity is never the same does not keep the scans going", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    let asked = 0;
    rig.target.intercept = ({ scsi }) => {
      if (scsi!.cdb[0] === Opcode.inquiry && scsi!.cdb[2] === 0x83)
        rig.target.disks.get("0:0")!.serial = `serial ${++asked}`;
      return undefined;
    };
    await rig.settle(controller.rescan());
    await rig.rest();
    expect((await controller.inspect())["scans"]).toBe(2);
    expect(controller.disks).toHaveLength(1);
  });

  test("a DVD drive in the place of a disk is no disk", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    const disk = controller.disks[0]!;
    rig.target.disks.get("0:0")!.type = PeripheralType.cdDvd;
    await rig.settle(controller.rescan());
    expect([disk.gone, controller.disks.length, controller.units.length]).toEqual([true, 0, 1]);
  });

  test("listeners can stop listening", async () => {
    const rig = rigWithDisk();
    const controller = await rig.attach();
    let changes = 0;
    const stop = controller.onChange(() => changes++);
    stop();
    rig.target.disks.set("0:3", new RamDisk(64, "new"));
    await rig.settle(controller.rescan());
    expect(changes).toBe(0);
  });
});

test("a channel of one's own, without a bus", async () => {
  const rig = rigWithDisk();
  let closes = 0;
  const controller = await rig.settle(
    attachOverChannel({
      memory: rig.memory,
      allocator: rig.allocator,
      timers: rig.timers,
      connect: (handler) => rig.queueContext.bindChannel(rig.description, handler),
      close: () => closes++,
    }),
  );
  const disk = controller.disks[0]!;
  await rig.settle(disk.write(1, new Uint8Array(512).fill(9)));
  expect(rig.target.disks.get("0:0")!.data[512]).toBe(9);
  await rig.settle(controller.detach());
  expect(closes).toBe(1);
  expect(rig.connected!.left.closedReason).toBe("closed");
});
