import { describe, expect, test } from "vitest";
import { PacketType, ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { DiskOperation, Outcome, type StorvscController } from "../src/index.js";
import { AdditionalSense, Opcode, SenseKey, VstorOperation } from "../src/protocol/index.js";
import { wantedSubChannels, type SubChannelRule } from "../src/sub-channel-rule.js";
import { RamDisk, failed } from "./ram-target.js";
import { codeOf } from "./rig.js";
import { SmpRig, type SmpRigOptions } from "./smp-rig.js";

function rigWithDisk(options: SmpRigOptions): SmpRig {
  const rig = new SmpRig(options);
  rig.target.disks.set("0:0", new RamDisk(2048, "disk"));
  return rig;
}

/** Each open channel as `relid@cpu`. */
const placesOf = ({ channels }: StorvscController): string[] =>
  channels.map((channel) => `${channel.relid}@${channel.cpu}`);

/** What happened to one sub-channel, in order. */
const callsOf = (rig: SmpRig, relid: number): string[] =>
  rig.calls.filter((call) => call.includes(` ${relid}`)).map((call) => call.split(" ")[0]!);

describe("the number of sub-channels", () => {
  const table: [SubChannelRule, number, number, number, number][] = [
    // rule, host's maximum, CPUs, limit of channels, wanted
    ["one-per-cpu", 0, 4, 0, 0],
    ["one-per-cpu", 1, 4, 0, 1],
    ["one-per-cpu", 8, 4, 0, 3],
    ["one-per-cpu", 8, 1, 0, 0],
    ["one-per-cpu", 8, 4, 2, 1],
    ["one-per-cpu", 8, 4, 1, 0],
    ["freebsd-10.2", 0, 4, 0, 0],
    ["freebsd-10.2", 8, 4, 0, 4],
    ["freebsd-10.2", 3, 4, 0, 3],
    ["freebsd-10.2", 8, 1, 0, 1],
    ["freebsd-10.2", 8, 4, 3, 2],
  ];
  test.each(table)("%s, %i allowed, %i CPUs, limit %i: %i", (rule, most, cpus, limit, wanted) => {
    expect(wantedSubChannels({ rule, cpus, channelLimit: limit }, most)).toBe(wanted);
  });

  test("one CPU asks for none, whatever the host has: it would be asked for 0", async () => {
    const rig = rigWithDisk({ cpus: 1, subChannels: 4 });
    const controller = await rig.attach();
    expect(rig.created).toEqual([]);
    expect(rig.host.requests.map(({ operation }) => operation)).not.toContain(
      VstorOperation.createSubChannels,
    );
    expect(placesOf(controller)).toEqual(["14@0"]);
  });

  test("a bus that has none is asked for none", async () => {
    const rig = rigWithDisk({ cpus: 4, subChannels: 4, busVersion: ProtocolVersion.v1_1 });
    expect(placesOf(await rig.attach())).toEqual(["14@0"]);
    expect(rig.created).toEqual([]);
  });

  test("the rule of 10.2 makes one more channel than there are CPUs", async () => {
    const rig = rigWithDisk({ cpus: 3, subChannels: 8 });
    const controller = await rig.attach({ subChannelRule: "freebsd-10.2" });
    expect(rig.created).toEqual([3]);
    expect(controller.channels.map(({ cpu }) => cpu).sort()).toEqual([0, 0, 1, 2]);
  });
});

describe("sub-channels", () => {
  test("are asked for once, and each is started on its CPU before it is opened", async () => {
    const rig = rigWithDisk({ cpus: 4, subChannels: 8 });
    const controller = await rig.attach();
    expect(rig.created).toEqual([3]);
    expect(placesOf(controller)).toEqual(["14@0", "20@1", "21@2", "22@3"]);
    for (const relid of [20, 21, 22])
      expect(callsOf(rig, relid)).toEqual(["prepare", "bind", "open"]);
    expect(rig.log).toEqual([]);
    expect(rig.timers.now()).toBe(0);
  });

  test("may come in any order, before and after the answer", async () => {
    const rig = rigWithDisk({
      cpus: 4,
      subChannels: 3,
      onCreate: (self) => {
        self.offer(3);
        self.timers.after(100, () => self.offer(1));
        self.timers.after(200, () => self.offer(2));
      },
    });
    const controller = await rig.attach();
    expect(rig.timers.now()).toBe(200);
    expect(controller.channels.map(({ cpu }) => cpu).sort()).toEqual([0, 1, 2, 3]);
  });

  test("that do not come are waited for a while, and used when they come after all", async () => {
    const rig = rigWithDisk({
      cpus: 4,
      subChannels: 3,
      onCreate: (self) => void self.offer(1),
    });
    const controller = await rig.attach({ subChannelTimeoutMs: 700 });
    expect(rig.timers.now()).toBe(700);
    expect(rig.log).toEqual(["1 of 3 sub-channels came"]);
    expect(placesOf(controller)).toEqual(["14@0", "20@1"]);
    rig.offer(2);
    await rig.rest();
    expect(placesOf(controller)).toEqual(["14@0", "20@1", "21@2"]);
    await rig.settle(rig.cpus[1]!.disk().read(0, new Uint8Array(512)));
  });

  test("that nobody asked for stay unopened", async () => {
    const rig = rigWithDisk({
      cpus: 2,
      subChannels: 1,
      onCreate: (self) => [1, 2, 3].forEach((index) => self.offer(index)),
    });
    const controller = await rig.attach();
    expect(placesOf(controller)).toEqual(["14@0", "20@1"]);
    expect(callsOf(rig, 21)).toEqual([]);
    expect(await rig.settle(controller.inspect())).toMatchObject({ subChannelsOffered: 3 });
  });

  test("that the host refuses are done without", async () => {
    const rig = rigWithDisk({
      cpus: 2,
      subChannels: 1,
      onCreate: () => undefined,
      createStatus: 0xc000_000d,
    });
    const controller = await rig.attach();
    expect(rig.timers.now()).toBe(0);
    expect(rig.log).toEqual(["the host refuses sub-channels (status 0xc000000d)"]);
    expect(placesOf(controller)).toEqual(["14@0"]);
    await rig.settle(controller.disks[0]!.read(0, new Uint8Array(512)));
  });

  test.each([
    ["cannot be opened", (rig: SmpRig) => (rig.subChannelOpenError = new Error("refused"))],
    [
      "have no room on their CPU",
      (rig: SmpRig) => (rig.cpus[0]!.startError = new Error("refused")),
    ],
  ])("that %s are taken back, and done without", async (_, spoil) => {
    const rig = rigWithDisk({ cpus: 2, subChannels: 1 });
    spoil(rig);
    const controller = await rig.attach();
    expect(rig.log).toEqual(["sub-channel 1 on cpu1: refused"]);
    expect(rig.calls.at(-1)).toBe("close 20");
    expect(rig.cpus[0]!.bound.size).toBe(0);
    expect(placesOf(controller)).toEqual(["14@0"]);
  });

  test("whose CPU has no room for the faces of the disks are closed", async () => {
    const rig = rigWithDisk({ cpus: 2, subChannels: 1 });
    const { allocator } = rig.cpus[0]!;
    // Room for the queue's buffer, and for nothing else.
    allocator.allocate(allocator.freePages - 64);
    const controller = await rig.attach();
    await rig.rest();
    expect(rig.log).toEqual(["chan20 on cpu1: no room for a buffer of 262144 bytes"]);
    expect(placesOf(controller)).toEqual(["14@0"]);
    expect(rig.calls.at(-1)).toBe("close 20");
    expect(allocator.freePages).toBe(64);
  });
});

describe("the disks on another CPU", () => {
  const attached = async (
    options: Partial<SmpRigOptions> = {},
  ): Promise<{ rig: SmpRig; controller: StorvscController }> => {
    const rig = rigWithDisk({ cpus: 3, subChannels: 2, ...options });
    const controller = await rig.attach();
    await rig.rest();
    return { rig, controller };
  };

  test("are those of the controller, and need no command to be known", async () => {
    const { rig } = await attached();
    expect(rig.offers.map(({ host }) => host.requests.length)).toEqual([0, 0]);
    const here = rig.cpus[0]!.disk();
    expect(here.inspect()).toEqual(rig.cpus[1]!.disk().inspect());
    expect(here).toMatchObject({ vendor: "Msft", blocks: 2048, blockBytes: 512 });
  });

  test("send on the CPU's own channel, and complete there", async () => {
    const { rig } = await attached();
    const before = rig.host.requests.length;
    const data = Uint8Array.from({ length: 1024 }, (_, index) => index);
    await rig.settle(rig.cpus[0]!.disk().write(5, data));
    const back = new Uint8Array(1024);
    await rig.settle(rig.cpus[1]!.disk().read(5, back));
    expect(back).toEqual(data);
    expect(rig.offers.map(({ host }) => host.opcodes)).toEqual([[Opcode.write10], [Opcode.read10]]);
    expect(rig.host.requests).toHaveLength(before);
  });

  test("have a fast path there", async () => {
    const { rig } = await attached();
    const { halves, allocator } = rig.cpus[0]!;
    const ended: [number, Outcome, number][] = [];
    const queue = rig.cpus[0]!.disk().openQueue(4, {
      complete: (slot, outcome, bytes) => void ended.push([slot, outcome, bytes]),
    });
    const address = allocator.allocate(1)!;
    const run = { runs: 1, lengthBytes: 4096, runAddress: () => address, runLength: () => 4096 };
    expect(queue.submit(DiskOperation.read, 8, 8, run, 2)).toBe(true);
    queue.flush();
    await rig.rest();
    expect(ended).toEqual([[2, Outcome.ok, 4096]]);
    expect(halves[0]!.queue.counters.send_req).toBe(1);
    queue.close();
  });

  test("come and go with those of the controller", async () => {
    const { rig, controller } = await attached();
    const [gone] = rig.cpus[0]!.halves[0]!.disks;
    rig.target.disks.set("0:4", new RamDisk(64, "new"));
    rig.target.disks.delete("0:0");
    await rig.settle(controller.rescan());
    await rig.rest();
    expect(rig.cpus[0]!.halves[0]!.disks.map(({ lun }) => lun)).toEqual([4]);
    expect(await codeOf(gone!.read(0, new Uint8Array(512)))).toBe("ERR_SCSI_NOT_THERE");
  });

  test("another disk at the same place is another disk there too", async () => {
    const { rig, controller } = await attached();
    const [before] = rig.cpus[0]!.halves[0]!.disks;
    rig.target.disks.set("0:0", new RamDisk(2048, "other"));
    await rig.settle(controller.rescan());
    await rig.rest();
    expect(await codeOf(before!.read(0, new Uint8Array(512)))).toBe("ERR_SCSI_NOT_THERE");
    expect(rig.cpus[0]!.disk().identity.serial).toBe("other");
  });

  test("a new size that one CPU is told of is known to all", async () => {
    const { rig, controller } = await attached();
    const changes: string[] = [];
    controller.onChange(({ kind }) => changes.push(kind));
    rig.target.disks.get("0:0")!.data = new Uint8Array(4096 * 512);
    let told = false;
    rig.target.intercept = ({ scsi }, host) => {
      if (told || scsi!.cdb[0] !== Opcode.read10 || host !== rig.offers[0]!.host) return undefined;
      told = true;
      return failed(SenseKey.unitAttention, AdditionalSense.capacityDataChanged);
    };
    await rig.settle(rig.cpus[0]!.disk().read(0, new Uint8Array(512)));
    await rig.rest();
    expect(told).toBe(true);
    expect(changes).toEqual(["resized"]);
    expect(
      [controller.disks[0]!, ...rig.cpus.map((cpu) => cpu.disk())].map(({ blocks }) => blocks),
    ).toEqual([4096, 4096, 4096]);
  });

  test("new LUNs that one CPU is told of are found", async () => {
    const { rig, controller } = await attached();
    rig.target.disks.set("0:1", new RamDisk(64, "new"));
    let told = false;
    rig.target.intercept = ({ scsi }) => {
      if (told || scsi!.cdb[0] !== Opcode.read10) return undefined;
      told = true;
      return failed(SenseKey.unitAttention, AdditionalSense.reportedLunsChanged);
    };
    await rig.settle(rig.cpus[0]!.disk().read(0, new Uint8Array(512)));
    await rig.rest();
    expect(controller.disks.map(({ lun }) => lun)).toEqual([0, 1]);
    expect(rig.cpus[1]!.disk(1).identity.serial).toBe("new");
  });

  test("a disk that one CPU finds gone is gone for all", async () => {
    const { rig, controller } = await attached();
    rig.target.disks.delete("0:0");
    expect(await codeOf(rig.settle(rig.cpus[0]!.disk().read(0, new Uint8Array(512))))).toBe(
      "ERR_SCSI_NOT_THERE",
    );
    await rig.rest();
    expect(controller.disks).toEqual([]);
    expect(rig.cpus[1]!.halves[0]!.disks).toEqual([]);
  });

  test("a disk that one CPU took for gone comes back there if it is not", async () => {
    const { rig, controller } = await attached();
    let lies = 1;
    rig.target.intercept = ({ scsi }) =>
      scsi!.cdb[0] === Opcode.read10 && lies-- > 0 ? { srbStatus: 0x20, scsiStatus: 0 } : undefined;
    await codeOf(rig.settle(rig.cpus[0]!.disk().read(0, new Uint8Array(512))));
    await rig.rest();
    expect(controller.disks).toHaveLength(1);
    await rig.settle(rig.cpus[0]!.disk().read(0, new Uint8Array(512)));
  });
});

describe("a sub-channel goes away", () => {
  const loaded = async (): Promise<{
    rig: SmpRig;
    controller: StorvscController;
    codes: Promise<string>[];
  }> => {
    const rig = rigWithDisk({ cpus: 3, subChannels: 2 });
    const controller = await rig.attach();
    await rig.rest();
    let answers = 2;
    rig.target.intercept = (_, host) =>
      host === rig.offers[0]!.host && answers-- <= 0 ? "hold" : undefined;
    const disk = rig.cpus[0]!.disk();
    const codes = [0, 1, 2, 3].map((lba) => codeOf(disk.read(lba, new Uint8Array(512))));
    await Promise.resolve();
    // The host has seen all four, the guest none of the two answers.
    rig.cpus[0]!.bound.get(20)!.right.poll(10);
    return { rig, controller, codes };
  };

  test("by a rescind: what was answered counts, the rest fails, the others go on", async () => {
    const { rig, controller, codes } = await loaded();
    const gone = rig.cpus[0]!.disk();
    rig.offers[0]!.rescind();
    await rig.rest();
    expect(await Promise.all(codes)).toEqual([
      "resolved",
      "resolved",
      "ERR_RESCINDED",
      "ERR_RESCINDED",
    ]);
    expect(callsOf(rig, 20)).toEqual(["prepare", "bind", "open", "unbind", "close"]);
    expect(rig.log).toEqual(["chan20 on cpu1: revoked"]);
    expect(placesOf(controller)).toEqual(["14@0", "21@2"]);
    expect(await codeOf(gone.read(0, new Uint8Array(512)))).toBe("ERR_RESCINDED");
    rig.target.intercept = undefined;
    await rig.settle(controller.disks[0]!.read(0, new Uint8Array(512)));
    await rig.settle(rig.cpus[1]!.disk().read(0, new Uint8Array(512)));
  });

  test("and another takes its place, on the CPU that has none", async () => {
    const { rig, controller } = await loaded();
    rig.offers[0]!.rescind();
    await rig.rest();
    rig.target.intercept = undefined;
    rig.offer(1);
    await rig.rest();
    expect(placesOf(controller)).toEqual(["14@0", "21@2", "22@1"]);
    await rig.settle(rig.cpus[0]!.disk().read(0, new Uint8Array(512)));
  });

  test("with its CPU: nothing waits for that, and no other channel is put there", async () => {
    const { rig, controller } = await loaded();
    rig.cpus[0]!.lose();
    await rig.rest();
    expect(rig.log).toEqual(["chan20 on cpu1: cpu1 is gone"]);
    expect(rig.calls.at(-1)).toBe("close 20");
    expect(placesOf(controller)).toEqual(["14@0", "21@2"]);
    rig.offer(1);
    await rig.rest();
    expect(placesOf(controller)).toEqual(["14@0", "21@2", "22@0"]);
    await rig.settle(controller.detach(), 0);
    expect(rig.calls.slice(-1)).toEqual(["close"]);
  });

  test("because its ring is corrupt: it alone", async () => {
    const { rig, controller, codes } = await loaded();
    const { host } = rig.offers[0]!;
    host.send(PacketType.inBand, 0x80, 0, 0, new Uint8Array(64));
    host.channel!.flush();
    await rig.rest();
    expect((await Promise.all(codes)).slice(2)).toEqual(["ERR_CLOSED", "ERR_CLOSED"]);
    expect(rig.log).toEqual(["chan20 on cpu1: the host broke the protocol, channel closed"]);
    expect(placesOf(controller)).toEqual(["14@0", "21@2"]);
  });

  test("while it is being opened", async () => {
    const rig = rigWithDisk({ cpus: 2, subChannels: 1 });
    rig.subChannelOpenError = Object.assign(new Error("taken away"), { code: "ERR_RESCINDED" });
    const controller = await rig.attach();
    expect(rig.log).toEqual(["sub-channel 1 on cpu1: taken away"]);
    rig.subChannelOpenError = undefined;
    rig.offer(1);
    await rig.rest();
    expect(placesOf(controller)).toEqual(["14@0", "21@1"]);
  });
});

describe("detach", () => {
  test("lets requests on every channel finish, then closes sub-channels before the primary", async () => {
    const rig = rigWithDisk({ cpus: 3, subChannels: 2 });
    const controller = await rig.attach();
    await rig.rest();
    const free = rig.cpus.map(({ allocator }) => allocator.freePages);
    expect(free[0]).toBeLessThan(512);
    const held: Parameters<typeof rig.host.answer>[0][] = [];
    rig.target.intercept = (request) => {
      held.push(request);
      return "hold";
    };
    const disk = rig.cpus[1]!.disk();
    const reading = disk.read(3, new Uint8Array(512));
    await rig.rest();
    const detached = controller.detach();
    await rig.rest();
    expect(rig.calls.join()).not.toContain("close");
    expect(await codeOf(disk.read(4, new Uint8Array(512)))).toBe("ERR_CLOSED");
    rig.target.intercept = undefined;
    const { host } = rig.offers[1]!;
    host.answer(held[0]!, rig.target.answer(held[0]!, host));
    await rig.settle(reading, 0);
    await rig.settle(detached, 0);
    const closes = rig.calls.filter((call) => call.startsWith("close"));
    expect(closes).toEqual(["close 20", "close 21", "close"]);
    for (const { allocator } of rig.cpus)
      expect([allocator.freePages, allocator.leakedPages]).toEqual([512, 0]);
  });

  test("does not wait for ever for another CPU's requests", async () => {
    const rig = rigWithDisk({ cpus: 2, subChannels: 1 });
    const controller = await rig.attach({ drainTimeoutMs: 900 });
    await rig.rest();
    rig.target.intercept = () => "hold";
    const code = codeOf(rig.cpus[0]!.disk().read(3, new Uint8Array(512)));
    await rig.rest();
    await rig.settle(controller.detach());
    expect(rig.timers.now()).toBe(900);
    expect(await code).toBe("ERR_CLOSED");
    const { allocator } = rig.cpus[0]!;
    expect(allocator.freePages + allocator.leakedPages).toBe(512);
    expect(allocator.leakedPages).toBe(64);
  });

  test("while sub-channels are being opened closes them too", async () => {
    const rig = rigWithDisk({ cpus: 2, subChannels: 1, onCreate: () => undefined });
    const attaching = rig.attach({ subChannelTimeoutMs: 0 });
    const controller = await attaching;
    rig.offer(1);
    await rig.settle(controller.detach());
    expect(callsOf(rig, 20).at(-1)).toBe("close");
    expect(rig.calls.at(-1)).toBe("close");
    expect(rig.cpus[0]!.bound.size).toBe(0);
    rig.offer(2);
    await rig.rest();
    expect(callsOf(rig, 21)).toEqual([]);
  });

  test("by a rescind of the controller ends a wait for sub-channels", async () => {
    const rig = rigWithDisk({ cpus: 2, subChannels: 1, onCreate: (self) => self.rescind() });
    expect(await codeOf(rig.attach())).toBe("ERR_RESCINDED");
    expect(rig.timers.now()).toBe(0);
  });
});

test("every channel can be looked into, but for those whose CPU is gone", async () => {
  const rig = rigWithDisk({ cpus: 3, subChannels: 2 });
  const controller = await rig.attach();
  await rig.rest();
  await rig.settle(rig.cpus[1]!.disk().read(3, new Uint8Array(512)));
  const inspected = await rig.settle(controller.inspect());
  expect(inspected["channels"]).toMatchObject([
    { relid: 14, cpu: 0 },
    { relid: 20, cpu: 1, counters: { send_req: 0 } },
    { relid: 21, cpu: 2, counters: { send_req: 1 } },
  ]);
});
