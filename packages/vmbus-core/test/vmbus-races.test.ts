import { describe, expect, test } from "vitest";
import { EventFlags, type SubChannel, type VmbusDevice } from "@hyperv-is/vmbus-core";
import {
  DeviceClass,
  GpadlCreated,
  GpadlTorndown,
  HypercallStatus,
  MessageType,
  ModifyChannelResponse,
  OfferChannel,
  OpenChannelResult,
  ProtocolVersion,
  RescindChannelOffer,
  UnloadResponse,
} from "@hyperv-is/vmbus-core/protocol";
import { VP_INDEX } from "./fake-hypervisor.js";
import { RINGS, connect, during, open, send, type Guest } from "./vmbus-guest.js";
import { offerOf } from "./vmbus-host.js";

const { v2_4, v4_0, v4_1, v5_3 } = ProtocolVersion;
const TIMEOUT_MS = 30_000;
const RELEASED = "RELID_RELEASED";

/** A connected guest with one SCSI controller on relid 14. */
async function withDisk(version: number = v5_3): Promise<Guest & { readonly disk: VmbusDevice }> {
  const vpIndexes = [VP_INDEX, 6];
  const made = await connect({ versions: [version], offers: [offerOf(14)] }, { vpIndexes });
  return { ...made, disk: made.bus.devices[0]! };
}

/** What became of a promise, without waiting for it. */
function watch(promise: Promise<unknown>): { outcome: string } {
  const watched = { outcome: "waits" };
  promise.then(
    () => (watched.outcome = "done"),
    (error: unknown) => (watched.outcome = (error as { code?: string }).code ?? String(error)),
  );
  return watched;
}

const count = ({ host }: Guest, name: string): number =>
  host.log.filter((logged) => logged === name).length;

const freePages = ({ machine }: Guest): number => machine.allocator.freePages;

describe("rescind while a channel is opened", () => {
  test("wakes the opener at once; the rings come back, then the relid is released", async () => {
    const made = await withDisk();
    const { host, disk } = made;
    const free = freePages(made);
    const description = await during(made, disk.prepareChannel(RINGS));
    host.held.add(MessageType.openChannel);
    const opening = watch(disk.openChannel(description));
    await host.settle();
    expect(opening.outcome).toBe("waits");
    host.rescind(14);
    await host.settle();
    expect(opening.outcome).toBe("ERR_RESCINDED");
    expect(count(made, RELEASED)).toBe(0);
    await during(made, disk.closeChannel(description));
    expect(host.log.slice(-2)).toEqual(["GPADL_TEARDOWN", RELEASED]);
    expect(count(made, "CLOSECHANNEL")).toBe(0);
    expect(freePages(made)).toBe(free);
    expect(host.violations).toEqual([]);
  });

  test("a late result is for nobody", async () => {
    const made = await withDisk();
    const { host, disk, bus } = made;
    const description = await during(made, disk.prepareChannel(RINGS));
    host.held.add(MessageType.openChannel);
    const opening = watch(disk.openChannel(description));
    await host.settle();
    host.rescind(14);
    host.send(OpenChannelResult.emit({ relid: 14, openId: 14, status: 0 }));
    await host.settle();
    expect(opening.outcome).toBe("ERR_RESCINDED");
    expect(bus.inspect()).toMatchObject({ counters: { unmatched: 1 } });
    expect(bus.inspect().channels[0]!.state).toBe("gone");
  });
});

describe("rescind behind its offer", () => {
  test("does not wait for what the driver waits for", async () => {
    const made = await connect({ versions: [v5_3] });
    const { host, bus } = made;
    const log: string[] = [];
    bus.onDevice((device) => {
      // What a driver does: all of it, one step after the other, in the call-back's wake.
      void (async () => {
        const description = await device.prepareChannel(RINGS);
        await device.openChannel(description);
      })().catch((error: unknown) => log.push((error as { code: string }).code));
      void device.rescinded.then(() => log.push("rescinded"));
    });
    host.held.add(MessageType.gpadlHeader);
    host.offer(offerOf(14));
    host.rescind(14);
    await host.settle();
    expect(log.sort()).toEqual(["ERR_RESCINDED", "rescinded"]);
  });

  test("is never handled before it; the relid can be offered again once released", async () => {
    const made = await connect({ versions: [v5_3] });
    const { host, bus } = made;
    const log: string[] = [];
    bus.onDevice(({ relid }) => log.push(`offer ${relid}`));
    bus.onRescind(({ relid }) => log.push(`rescind ${relid}`));
    host.offer(offerOf(14));
    host.rescind(14);
    await host.settle();
    expect(log).toEqual(["offer 14", "rescind 14"]);
    expect([count(made, RELEASED), bus.devices]).toEqual([1, []]);
    host.offer(offerOf(14));
    await host.settle();
    expect(log.at(-1)).toBe("offer 14");
    await open(made, bus.devices[0]!);
    expect(host.violations).toEqual([]);
  });

  test("does not touch a device that got the relid afterwards", async () => {
    const made = await withDisk();
    const { host, disk, bus } = made;
    host.rescind(14);
    await host.settle();
    host.offer(offerOf(14, { classId: DeviceClass.ide.classId }));
    await host.settle();
    await expect(during(made, disk.prepareChannel(RINGS))).rejects.toMatchObject({
      code: "ERR_RESCINDED",
    });
    await open(made, bus.devices[0]!);
    expect(count(made, RELEASED)).toBe(1);
    expect(host.violations).toEqual([]);
  });
});

describe("GPADL teardown on a rescinded channel", () => {
  test("is sent, and its answer frees the memory", async () => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const free = freePages(made);
    const { description, queue } = await open(made, disk);
    host.rescind(14);
    await host.settle();
    machine.cpu.unbindChannel(description, "rescinded");
    expect(queue.reason).toBe("rescinded");
    await during(made, disk.closeChannel(description));
    expect([count(made, "GPADL_TEARDOWN"), count(made, RELEASED)]).toEqual([1, 1]);
    expect(freePages(made)).toBe(free);
    expect(host.violations).toEqual([]);
  });

  test("without an answer the memory is leaked, never reused, and the relid released", async () => {
    const made = await withDisk();
    const { host, disk, machine, bus } = made;
    const free = freePages(made);
    const { description } = await open(made, disk);
    host.held.add(MessageType.gpadlTeardown);
    host.rescind(14);
    await host.settle();
    const closing = watch(disk.closeChannel(description));
    await host.settle();
    expect([closing.outcome, count(made, RELEASED)]).toEqual(["waits", 0]);
    machine.timers.advance(TIMEOUT_MS);
    await host.settle();
    expect([closing.outcome, count(made, RELEASED)]).toEqual(["done", 1]);
    expect([freePages(made), machine.allocator.leakedPages]).toEqual([free - 5, 5]);
    expect(bus.inspect().counters.leakedPages).toBe(5);
    // A late answer is proof too late.
    host.send(GpadlTorndown.emit({ gpadlId: 0xe1e10 }));
    await host.settle();
    expect(machine.allocator.leakedPages).toBe(5);
  });

  test("when it cannot be posted the memory is leaked", async () => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const { description } = await open(made, disk);
    const { posted } = machine.hypervisor;
    machine.hypervisor.posted = () => HypercallStatus.accessDenied;
    await during(made, disk.closeChannel(description));
    expect(machine.allocator.leakedPages).toBe(5);
    machine.hypervisor.posted = posted;
    expect(host.violations).toEqual([]);
  });

  test("a rescind on top of a teardown wakes whoever waits for it", async () => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const { description } = await open(made, disk);
    host.held.add(MessageType.gpadlTeardown);
    const closing = watch(disk.closeChannel(description));
    await host.settle();
    expect(closing.outcome).toBe("waits");
    host.rescind(14);
    await host.settle();
    // The waiter is free, the memory is not, and so the relid is kept.
    expect([closing.outcome, count(made, RELEASED)]).toEqual(["done", 0]);
    host.answer(MessageType.gpadlTeardown);
    await host.settle();
    expect([count(made, RELEASED), machine.allocator.leakedPages]).toEqual([1, 0]);
  });
});

describe("rescind while memory is being shared", () => {
  test.each([
    ["accepted", 0, ["GPADL_TEARDOWN", RELEASED], 0],
    ["refused", 0x8000ffff, [RELEASED], 0],
  ])("and then the host says %s", async (_what, status, log, leaked) => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const free = freePages(made);
    host.held.add(MessageType.gpadlHeader);
    host.gpadlStatus = status;
    const preparing = watch(disk.prepareChannel(RINGS));
    await host.settle();
    host.rescind(14);
    await host.settle();
    expect(preparing.outcome).toBe("ERR_RESCINDED");
    const before = host.log.length;
    host.answer(MessageType.gpadlHeader);
    await host.settle();
    expect(host.log.slice(before)).toEqual(log);
    expect([freePages(made), machine.allocator.leakedPages]).toEqual([free, leaked]);
    expect(host.violations).toEqual([]);
  });

  test("and then the host says nothing: the memory is leaked, then the relid released", async () => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    host.held.add(MessageType.gpadlHeader);
    const sharing = watch(disk.createGpadl(2));
    await host.settle();
    host.rescind(14);
    await host.settle();
    expect([sharing.outcome, count(made, RELEASED)]).toEqual(["ERR_RESCINDED", 0]);
    machine.timers.advance(TIMEOUT_MS);
    await host.settle();
    expect([machine.allocator.leakedPages, count(made, RELEASED)]).toEqual([2, 1]);
  });

  test("memory of the device keeps the relid until it is torn down", async () => {
    const made = await withDisk();
    const { host, disk } = made;
    const buffer = await during(made, disk.createGpadl(2));
    host.rescind(14);
    await host.settle();
    expect(count(made, RELEASED)).toBe(0);
    await during(made, disk.tearDownGpadl(buffer));
    expect(count(made, RELEASED)).toBe(1);
    expect(host.violations).toEqual([]);
  });
});

describe("sub-channels", () => {
  async function withSubChannel(): Promise<Guest & { disk: VmbusDevice; subs: SubChannel[] }> {
    const made = await withDisk();
    const subs: SubChannel[] = [];
    made.disk.onSubChannel((channel) => subs.push(channel));
    return { ...made, subs };
  }

  test("offered after the primary has closed give their relid back", async () => {
    const made = await withSubChannel();
    const { host, disk, subs, bus } = made;
    const { description } = await open(made, disk);
    await during(made, disk.closeChannel(description));
    host.offer(offerOf(21, { subChannelIndex: 1 }));
    await host.settle();
    expect([subs, host.log.at(-1), host.channels.has(21)]).toEqual([[], RELEASED, false]);
    // A rescind that crossed the release is for nothing, and the relid is not released twice.
    host.send(RescindChannelOffer.emit({ relid: 21 }));
    await host.settle();
    expect(count(made, RELEASED)).toBe(1);
    expect(bus.inspect().counters).toMatchObject({ offersRefused: 1, unmatched: 1 });
    expect(host.violations).toEqual([]);
  });

  test("offered after the primary was rescinded give their relid back", async () => {
    const made = await withSubChannel();
    const { host, disk, subs } = made;
    await open(made, disk);
    host.rescind(14);
    host.offer(offerOf(21, { subChannelIndex: 1 }));
    await host.settle();
    expect([subs, host.channels.has(21), host.channels.has(14)]).toEqual([[], false, true]);
  });

  test("that were never opened are closed by doing nothing", async () => {
    const made = await withSubChannel();
    const { host, disk, subs } = made;
    await open(made, disk);
    host.offer(offerOf(21, { subChannelIndex: 1 }));
    await host.settle();
    const description = await during(made, subs[0]!.prepareChannel(RINGS));
    const before = host.log.length;
    await during(made, subs[0]!.closeChannel(description));
    expect(host.log.slice(before)).toEqual(["GPADL_TEARDOWN"]);
    host.rescind(21);
    await host.settle();
    expect(host.log.at(-1)).toBe(RELEASED);
    expect(host.violations).toEqual([]);
  });

  test("a late subscriber hears of those that are there, not of those that are gone", async () => {
    const made = await withSubChannel();
    const { host, disk } = made;
    await open(made, disk);
    host.offer(offerOf(21, { subChannelIndex: 1 }));
    host.offer(offerOf(22, { subChannelIndex: 2 }));
    host.rescind(21);
    await host.settle();
    const late: number[] = [];
    disk.onSubChannel(({ index }) => late.push(index));
    expect(late).toEqual([2]);
  });
});

describe("requests outstanding at the rescind", () => {
  test("waiters wake first, then what lies in the ring is handled, then the channel ends", async () => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const { description, queue, channel } = await open(made, disk);
    for (const id of [1, 2]) send(channel, id);
    // The host has answered, but its signal never gets through.
    const end = host.channels.get(14)!.end!;
    end.poll(100);
    machine.hypervisor.interruptPending = false;
    EventFlags.at(machine.memory, machine.hypervisor.flagsAddress, 256).clear(14);
    const woken = watch(disk.rescinded);
    host.rescind(14);
    await host.settle();
    expect([woken.outcome, queue.completed, queue.reason]).toEqual(["done", [], undefined]);
    machine.cpu.unbindChannel(description, "rescinded");
    expect([queue.completed, queue.reason]).toEqual([[1, 2], "rescinded"]);
    await during(made, disk.closeChannel(description));
    expect(host.violations).toEqual([]);
  });
});

describe("a second rescind", () => {
  test("is ignored", async () => {
    const made = await withDisk();
    const { host, disk, bus } = made;
    const rescinds: number[] = [];
    bus.onRescind(({ relid }) => rescinds.push(relid));
    const description = await during(made, disk.prepareChannel(RINGS));
    host.rescind(14);
    host.send(RescindChannelOffer.emit({ relid: 14 }));
    await host.settle();
    await during(made, disk.closeChannel(description));
    host.send(RescindChannelOffer.emit({ relid: 14 }));
    await host.settle();
    expect([rescinds, count(made, RELEASED)]).toEqual([[14], 1]);
    expect(bus.inspect().counters.unmatched).toBe(2);
  });
});

describe("unload", () => {
  test("is awaited before any memory is used again, and wakes everybody", async () => {
    const made = await withDisk();
    const { host, disk, bus, machine } = made;
    const { description } = await open(made, disk);
    const buffer = await during(made, disk.createGpadl(1));
    host.held.add(MessageType.gpadlHeader);
    host.held.add(MessageType.unload);
    host.held.add(MessageType.modifyChannel);
    const waiting = [watch(disk.createGpadl(1)), watch(disk.moveChannel(description, 1))];
    const rescinded = watch(disk.rescinded);
    await host.settle();
    const free = freePages(made);
    const leaving = watch(bus.unload());
    const again = watch(bus.unload());
    await host.settle();
    expect(waiting.map(({ outcome }) => outcome)).toEqual(["ERR_UNLOADED", "ERR_UNLOADED"]);
    expect([rescinded.outcome, leaving.outcome, again.outcome]).toEqual(["done", "waits", "waits"]);
    // The driver cleans up meanwhile: no message may be sent, no page may be freed.
    machine.cpu.unbindChannel(description);
    const closing = [watch(disk.closeChannel(description)), watch(disk.tearDownGpadl(buffer))];
    await expect(disk.createGpadl(1)).rejects.toMatchObject({ code: "ERR_UNLOADED" });
    await host.settle();
    expect(closing.map(({ outcome }) => outcome)).toEqual(["waits", "waits"]);
    expect([host.log.at(-1), count(made, "UNLOAD"), freePages(made)]).toEqual(["UNLOAD", 1, free]);
    host.answer(MessageType.unload);
    await host.settle();
    expect([leaving.outcome, again.outcome]).toEqual(["done", "done"]);
    expect(closing.map(({ outcome }) => outcome)).toEqual(["done", "done"]);
    expect(machine.allocator.leakedPages).toBe(0);
    // Rings, device buffer, the buffer that was never established; 3 pages and 1 of the connection.
    expect(freePages(made)).toBe(free + 5 + 1 + 1 + 4);
    expect(host.violations).toEqual([]);
  });

  test("leaves memory to a driver that has not let go of it", async () => {
    const made = await withDisk();
    const { disk, bus, machine } = made;
    const { description } = await open(made, disk);
    const free = freePages(made);
    await during(made, bus.unload());
    expect(freePages(made)).toBe(free + 4);
    machine.cpu.unbindChannel(description);
    await during(made, disk.closeChannel(description));
    expect(freePages(made)).toBe(free + 4 + 5);
  });

  test("without an answer everything that the host knows is leaked", async () => {
    const made = await withDisk();
    const { host, disk, bus, machine } = made;
    await open(made, disk);
    host.held.add(MessageType.unload);
    const leaving = watch(bus.unload());
    await host.settle();
    machine.timers.advance(100_000);
    await host.settle();
    expect(leaving.outcome).toBe("ERR_TIMEOUT");
    expect(machine.allocator.leakedPages).toBe(5 + 3);
    expect(bus.inspect()).toMatchObject({ state: "disconnected", counters: { leakedPages: 8 } });
  });

  test("that cannot be posted fails", async () => {
    const made = await withDisk();
    const { bus, machine } = made;
    machine.hypervisor.posted = () => HypercallStatus.accessDenied;
    await expect(during(made, bus.unload())).rejects.toMatchObject({
      code: "ERR_POST_FAILED",
      status: HypercallStatus.accessDenied,
    });
  });

  test("of a bus that is not connected is done at once", async () => {
    const made = await withDisk();
    await during(made, made.bus.unload());
    await during(made, made.bus.unload());
    expect(count(made, "UNLOAD")).toBe(1);
  });

  test("in the middle of the negotiation ends it, by the book", async () => {
    const made = await withDisk();
    const { host, bus } = made;
    await during(made, bus.unload());
    host.held.add(MessageType.initiateContact);
    const connecting = watch(bus.connect());
    await host.settle();
    const leaving = watch(bus.unload());
    await host.settle();
    expect([connecting.outcome, leaving.outcome]).toEqual(["ERR_UNLOADED", "waits"]);
    host.answer(MessageType.initiateContact);
    await host.settle();
    // The first contact was for 6.0, which this host does not have: there is nothing to leave.
    expect([leaving.outcome, bus.inspect().state]).toEqual(["done", "disconnected"]);
    expect(host.violations).toEqual([]);
  });
});

describe("unload of a bus with rescinded devices", () => {
  test("sends no message after UNLOAD, whatever comes to an end", async () => {
    const made = await withDisk();
    const { host, disk, bus } = made;
    const buffer = await during(made, disk.createGpadl(1));
    host.rescind(14);
    host.held.add(MessageType.gpadlTeardown);
    const tearing = watch(disk.tearDownGpadl(buffer));
    await host.settle();
    await during(made, bus.unload());
    expect([tearing.outcome, host.log.at(-1)]).toEqual(["done", "UNLOAD"]);
    expect(host.violations).toEqual([]);
    await expect(disk.createGpadl(1)).rejects.toMatchObject({ code: "ERR_RESCINDED" });
  });

  test("leaves a later connection's channels alone", async () => {
    const made = await withDisk();
    const { host, disk, bus } = made;
    const buffer = await during(made, disk.createGpadl(1));
    host.rescind(14);
    await host.settle();
    await during(made, bus.unload());
    await during(made, bus.connect());
    await during(made, bus.requestOffers());
    await during(made, disk.tearDownGpadl(buffer));
    expect([count(made, RELEASED), bus.devices.length]).toEqual([0, 1]);
    expect(host.violations).toEqual([]);
  });

  test("drops what was waiting to be posted", async () => {
    const made = await withDisk();
    const { host, disk, bus, machine } = made;
    const { posted } = machine.hypervisor;
    machine.hypervisor.posted = () => HypercallStatus.insufficientBuffers;
    const sharing = watch(disk.createGpadl(1));
    await host.settle();
    machine.hypervisor.posted = posted;
    await during(made, bus.unload());
    machine.timers.advance(TIMEOUT_MS);
    await host.settle();
    expect([sharing.outcome, count(made, "GPADL_HEADER")]).toEqual(["ERR_UNLOADED", 0]);
    expect(host.violations).toEqual([]);
  });
});

describe("messages while disconnected", () => {
  test("are dropped", async () => {
    const made = await withDisk();
    const { host, bus, machine } = made;
    host.held.add(MessageType.unload);
    const leaving = watch(bus.unload());
    await host.settle();
    const { unmatched } = bus.inspect().counters;
    host.send(
      RescindChannelOffer.emit({ relid: 14 }),
      OfferChannel.emit(offerOf(15, { classId: DeviceClass.ide.classId })),
      GpadlCreated.emit({ relid: 14, gpadlId: 0xe1e10, status: 0 }),
    );
    await host.settle();
    expect(bus.inspect().counters.unmatched).toBe(unmatched + 3);
    expect(bus.devices).toEqual([]);
    host.answer(MessageType.unload);
    await host.settle();
    expect(leaving.outcome).toBe("done");
    const dropped = machine.cpu.counters.messagesDropped;
    host.send(UnloadResponse.emit({}), RescindChannelOffer.emit({ relid: 14 }));
    await host.settle();
    expect(machine.cpu.counters.messagesDropped).toBe(dropped + 2);
  });
});

describe("MODIFYCHANNEL", () => {
  test("does not exist below 4.1", async () => {
    const made = await withDisk(v4_0);
    const { description } = await open(made, made.disk);
    await expect(made.disk.moveChannel(description, 1)).rejects.toMatchObject({
      code: "ERR_UNSUPPORTED",
    });
    expect(count(made, "MODIFYCHANNEL")).toBe(0);
  });

  test("below 5.3 has no answer", async () => {
    const made = await withDisk(v4_1);
    const { description } = await open(made, made.disk);
    const moved = await during(made, made.disk.moveChannel(description, 1));
    expect([moved.targetVp, made.host.channels.get(14)!.targetVp]).toEqual([6, 6]);
  });

  test("from 5.3 on its answer is awaited, one at a time, and before the channel closes", async () => {
    const made = await withDisk();
    const { host, disk } = made;
    const { description } = await open(made, disk);
    host.held.add(MessageType.modifyChannel);
    const moving = watch(disk.moveChannel(description, 1));
    await host.settle();
    await expect(disk.moveChannel(description, 0)).rejects.toMatchObject({ code: "ERR_BUSY" });
    const closing = watch(disk.closeChannel(description));
    await host.settle();
    expect([moving.outcome, closing.outcome]).toEqual(["waits", "waits"]);
    expect(count(made, "CLOSECHANNEL")).toBe(0);
    host.answer(MessageType.modifyChannel);
    await host.settle();
    expect([moving.outcome, closing.outcome]).toEqual(["done", "done"]);
    expect([count(made, "CLOSECHANNEL"), count(made, "MODIFYCHANNEL")]).toEqual([1, 1]);
    expect(host.violations).toEqual([]);
  });

  test("that the host refuses, or forgets, leaves the channel open where it was", async () => {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const { description } = await open(made, disk);
    host.modifyStatus = 0xc0000001;
    await expect(during(made, disk.moveChannel(description, 1))).rejects.toMatchObject({
      code: "ERR_MODIFY_FAILED",
      status: 0xc0000001,
    });
    host.held.add(MessageType.modifyChannel);
    const moving = watch(disk.moveChannel(description, 1));
    await host.settle();
    machine.timers.advance(TIMEOUT_MS);
    await host.settle();
    expect(moving.outcome).toBe("ERR_TIMEOUT");
    // The host would drop a second one while it owes an answer to the first.
    await expect(disk.moveChannel(description, 1)).rejects.toMatchObject({ code: "ERR_BUSY" });
    host.modifyStatus = 0;
    host.send(ModifyChannelResponse.emit({ relid: 14, status: 5 }));
    await host.settle();
    host.held.clear();
    await during(made, disk.moveChannel(description, 1));
    await during(made, disk.closeChannel(description));
  });
});

describe("an opening that takes too long", () => {
  async function timedOut(): Promise<
    Guest & { disk: VmbusDevice; closing: { outcome: string }; free: number }
  > {
    const made = await withDisk();
    const { host, disk, machine } = made;
    const free = freePages(made);
    const description = await during(made, disk.prepareChannel(RINGS));
    host.held.add(MessageType.openChannel);
    const opening = watch(disk.openChannel(description));
    await host.settle();
    machine.timers.advance(TIMEOUT_MS);
    await host.settle();
    expect(opening.outcome).toBe("ERR_TIMEOUT");
    const closing = watch(disk.closeChannel(description));
    await host.settle();
    expect([closing.outcome, count(made, "CLOSECHANNEL")]).toEqual(["waits", 0]);
    return { ...made, disk, closing, free };
  }

  test("is closed when its result comes after all", async () => {
    const made = await timedOut();
    made.host.answer(MessageType.openChannel);
    await made.host.settle();
    expect([made.closing.outcome, count(made, "CLOSECHANNEL")]).toEqual(["done", 1]);
    expect(freePages(made)).toBe(made.free);
    await open(made, made.disk);
    expect(made.host.violations).toEqual([]);
  });

  test("costs its rings when no result ever comes, and nothing is sent for them", async () => {
    const made = await timedOut();
    made.machine.timers.advance(TIMEOUT_MS);
    await made.host.settle();
    expect(made.closing.outcome).toBe("done");
    expect(count(made, "CLOSECHANNEL") + count(made, "GPADL_TEARDOWN")).toBe(0);
    expect(made.machine.allocator.leakedPages).toBe(5);
    expect(made.host.violations).toEqual([]);
  });

  test("that its driver gives up is closed once the result is there", async () => {
    const made = await withDisk();
    const { host, disk } = made;
    const description = await during(made, disk.prepareChannel(RINGS));
    host.held.add(MessageType.openChannel);
    const opening = watch(disk.openChannel(description));
    await host.settle();
    const closing = [watch(disk.closeChannel(description)), watch(disk.closeChannel(description))];
    await host.settle();
    expect(opening.outcome).toBe("ERR_CLOSED");
    expect(closing.map(({ outcome }) => outcome)).toEqual(["waits", "waits"]);
    host.answer(MessageType.openChannel);
    await host.settle();
    expect(closing.map(({ outcome }) => outcome)).toEqual(["done", "done"]);
    expect(count(made, "GPADL_TEARDOWN")).toBe(1);
    expect(host.violations).toEqual([]);
  });
});

describe("answers that nobody waits for", () => {
  test.each([
    ["an opening of nothing", OpenChannelResult.emit({ relid: 99, openId: 99, status: 0 })],
    ["a closed channel's opening", OpenChannelResult.emit({ relid: 14, openId: 14, status: 0 })],
    ["a memory of nothing", GpadlCreated.emit({ relid: 14, gpadlId: 1, status: 0 })],
    ["a teardown of nothing", GpadlTorndown.emit({ gpadlId: 1 })],
    ["a move of nothing", ModifyChannelResponse.emit({ relid: 99, status: 0 })],
    ["a channel that does not move", ModifyChannelResponse.emit({ relid: 14, status: 0 })],
    ["an unload that was not asked for", UnloadResponse.emit({})],
  ])("%s: counted, no more", async (_what, message) => {
    const made = await withDisk();
    made.host.send(message);
    await made.host.settle();
    expect(made.bus.inspect().counters).toMatchObject({ unmatched: 1, malformed: 0 });
    await open(made, made.disk);
    expect(made.host.violations).toEqual([]);
  });

  test("an answer with the right number of the wrong thing does not count as the answer", async () => {
    const made = await withDisk(v2_4);
    const { host, disk, machine, bus } = made;
    host.held.add(MessageType.gpadlHeader);
    const preparing = watch(disk.prepareChannel(RINGS));
    await host.settle();
    host.send(GpadlCreated.emit({ relid: 15, gpadlId: 0xe1e10, status: 0 }));
    await host.settle();
    expect(preparing.outcome).toBe("waits");
    host.answer(MessageType.gpadlHeader);
    await host.settle();
    const [channel] = bus.inspect().channels;
    expect([preparing.outcome, channel!.gpadls[0]!.state]).toEqual(["done", "established"]);

    // Memory that is in use is not torn down because the host says so.
    const free = freePages(made);
    host.send(GpadlTorndown.emit({ gpadlId: 0xe1e10 }));
    await host.settle();
    expect(freePages(made)).toBe(free);
    expect(machine.allocator.leakedPages).toBe(0);
    expect(bus.inspect().counters.unmatched).toBe(2);
  });

  test("an open result with another open id is not ours", async () => {
    const made = await withDisk();
    const { host, disk } = made;
    const description = await during(made, disk.prepareChannel(RINGS));
    host.held.add(MessageType.openChannel);
    const opening = watch(disk.openChannel(description));
    host.send(OpenChannelResult.emit({ relid: 14, openId: 15, status: 0 }));
    await host.settle();
    expect(opening.outcome).toBe("waits");
  });
});
