import { describe, expect, test } from "vitest";
import {
  CloseChannel,
  CloseReservedChannel,
  DeviceClass,
  Feature,
  GpadlTeardown,
  HypercallStatus,
  MessageType,
  ModifyChannel,
  Msr,
  OpenReservedChannel,
  PAGE_SIZE,
  ProtocolVersion,
  RelidReleased,
  Unload,
  VMBUS_SINT,
  emitGpadl,
  eventConnectionId,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import type { DeviceOffer, PartitionOptions } from "../src/index.js";
import { EchoService } from "./echo-service.js";
import { GuestChannel } from "./guest-channel.js";
import { ScriptedGuest, VECTOR, pageList, type Rings } from "./scripted-guest.js";

const disk: DeviceOffer = {
  classId: DeviceClass.scsi.classId,
  instanceId: "aaaaaaaa-0000-0000-0000-000000000001",
  worker: 0,
};
const otherDisk: DeviceOffer = { ...disk, instanceId: "aaaaaaaa-0000-0000-0000-000000000002" };
const keyValue: DeviceOffer = {
  classId: DeviceClass.kvp.classId,
  instanceId: DeviceClass.kvp.instanceIds[0],
  worker: 0,
};
const RELID = 1;
const INTERRUPT_PAGE = 1000 * PAGE_SIZE;
const { rescindChannelOffer, gpadlTorndown, gpadlCreated, openChannelResult, offerChannel } =
  MessageType;

class Machine extends ScriptedGuest {
  readonly service = new EchoService();

  constructor(options: Partial<PartitionOptions> = {}, offers: readonly DeviceOffer[] = [disk]) {
    super(options);
    const { classId } = disk;
    for (const worker of this.partition.workers) worker.serve({ classId }, this.service);
    for (const offer of offers) this.partition.offer(offer);
  }

  /** Connects, takes the offers, and opens the first. */
  openFirst(version: ProtocolVersion = ProtocolVersion.v5_3, fields = {}): GuestChannel {
    this.connect(version, fields);
    this.requestOffers();
    return this.openChannel(RELID);
  }

  openChannel(
    relid: number,
    rings: Rings = this.createRings(relid, 3, 3),
    fields = {},
  ): GuestChannel {
    const result = this.open(rings, fields);
    if (result.length !== 1 || result[0]?.["status"] !== 0)
      throw new Error(`not opened: ${JSON.stringify(result)}`);
    this.rings = rings;
    return new GuestChannel(this, rings, () =>
      this.signal(eventConnectionId(relid, VMBUS_SINT, 0)),
    );
  }

  rings: Rings | undefined;

  states(): Record<string, string> {
    return Object.fromEntries(
      this.partition
        .stats()
        .channels.map(({ instanceId, subChannelIndex, state }) => [
          `${instanceId.slice(-2)}.${subChannelIndex}`,
          state,
        ]),
    );
  }
}

const types = (messages: readonly { readonly type: number }[]): number[] =>
  messages.map(({ type }) => type);

describe("a channel from offer to close", () => {
  test.each([
    ["2.4", ProtocolVersion.v2_4],
    ["3.0", ProtocolVersion.v3_0],
    ["4.0", ProtocolVersion.v4_0],
    ["5.3", ProtocolVersion.v5_3],
    ["6.0", ProtocolVersion.v6_0],
  ])("%s", (_, version) => {
    const guest = new Machine();
    const channel = guest.openFirst(version);
    expect(channel.echoes(100)).toBe(true);
    expect(guest.takeFlags()).toContain(RELID);
    const { gpadlId } = guest.rings!;
    expect(guest.send(CloseChannel.emit({ relid: RELID }))).toEqual([]);
    expect(guest.service.channels[0]?.reason).toBe("closed");
    expect(guest.send(GpadlTeardown.emit({ relid: RELID, gpadlId }))).toEqual([
      { type: gpadlTorndown, gpadlId },
    ]);
    // It is offered still, and can be opened again.
    expect(guest.openChannel(RELID).echoes()).toBe(true);
    guest.send(Unload.emit({}));
    expect(guest.brokenRules).toEqual([]);
  });

  test("an interrupt comes for an empty ring only, and is the vector of SINT 2", () => {
    const guest = new Machine();
    const channel = guest.openFirst();
    const before = guest.interrupts[0]!;
    channel.send(new Uint8Array(8));
    guest.partition.run();
    expect(guest.interrupts[0]).toBe(before + 1);
    channel.send(new Uint8Array(8));
    guest.partition.run();
    expect(guest.interrupts[0]).toBe(before + 1);
    channel.poll();
    expect(channel.completions.size).toBe(2);
  });

  test("rings of scattered pages", () => {
    const guest = new Machine();
    guest.connect();
    guest.requestOffers();
    const pages = pageList(guest.pages(16), 16)
      .filter((_, index) => index % 2 === 0)
      .reverse();
    const channel = guest.openChannel(RELID, guest.createRingsOf(RELID, pages, 5));
    // Packets large enough to cross pages, and enough of them to go round several times.
    expect(channel.echoes(100, 3001)).toBe(true);
    expect(guest.brokenRules).toEqual([]);
  });

  test("rings that were not zeroed are refused", () => {
    const guest = new Machine();
    guest.connect();
    guest.requestOffers();
    const rings = guest.createRings(RELID);
    guest.memory.words[rings.address >>> 2] = 4097;
    guest.memory.words[(rings.address >>> 2) + 1] = 4097;
    expect(guest.open(rings)).toMatchObject([{ type: openChannelResult, status: 0x8000_ffff }]);
    expect(guest.brokenRules).toEqual(["ring-not-initialized"]);
    expect(guest.states()).toEqual({ "01.0": "closed" });
  });

  test("a service that refuses", () => {
    const guest = new Machine();
    guest.service.refusal = 0xc000_0236;
    guest.connect();
    guest.requestOffers();
    const rings = guest.createRings(RELID);
    expect(guest.open(rings)).toMatchObject([{ status: 0xc000_0236 }]);
    guest.service.refusal = undefined;
    expect(guest.openChannel(RELID, rings).echoes()).toBe(true);
  });

  test("what the guest breaks in the ring is recorded, and closes the channel only", () => {
    const guest = new Machine({}, [disk, otherDisk]);
    const channel = guest.openFirst();
    const other = guest.openChannel(2);
    // A write index outside the ring.
    guest.memory.words[channelAddress(guest, 0)] = 0x7fff_fff8;
    guest.signal(eventConnectionId(RELID, VMBUS_SINT, 0));
    guest.partition.run();
    expect(guest.partition.violations.list).toMatchObject([
      { rule: "ring-write-index-range", relid: RELID },
    ]);
    expect(guest.service.channels[0]?.reason).toBe("corrupt");
    expect(other.echoes()).toBe(true);
    // The guest can still close it in good order.
    expect(channel.channel.closedReason).toBeUndefined();
    expect(guest.send(CloseChannel.emit({ relid: RELID }))).toEqual([]);
    expect(guest.states()).toEqual({ "01.0": "closed", "02.0": "open" });
  });

  function channelAddress(guest: Machine, index: number): number {
    return guest.service.channels[index]!.opening.ringPages[0]! >>> 2;
  }

  test("user data, class and version reach the service", () => {
    const guest = new Machine();
    guest.connect(ProtocolVersion.v5_2);
    guest.requestOffers();
    const userData = Uint8Array.from({ length: 120 }, (_, index) => index);
    guest.openChannel(RELID, guest.createRings(RELID), { userData });
    expect(guest.service.channels[0]?.opening).toMatchObject({
      classId: disk.classId,
      instanceId: disk.instanceId,
      subChannelIndex: 0,
      version: ProtocolVersion.v5_2,
      userData,
      interrupt: { vp: 0, sint: VMBUS_SINT, flag: RELID },
    });
  });
});

describe("close", () => {
  test("is over when the device has let go; the ring's GPADL waits for that", () => {
    const guest = new Machine();
    guest.openFirst();
    guest.service.holdsReleases = true;
    const { gpadlId } = guest.rings!;
    guest.send(CloseChannel.emit({ relid: RELID }));
    expect(guest.send(GpadlTeardown.emit({ relid: RELID, gpadlId }))).toEqual([]);
    expect(guest.states()).toEqual({ "01.0": "closing" });
    guest.service.letGo();
    expect(guest.listen()).toEqual([{ type: gpadlTorndown, gpadlId }]);
    expect(guest.states()).toEqual({ "01.0": "closed" });
    expect(guest.brokenRules).toEqual([]);
  });

  test("and a new opening meanwhile is carried out afterwards", () => {
    const guest = new Machine();
    guest.openFirst();
    const rings = guest.createRings(RELID);
    guest.service.holdsReleases = true;
    guest.send(CloseChannel.emit({ relid: RELID }));
    expect(guest.open(rings)).toEqual([]);
    guest.service.letGo();
    expect(guest.listen()).toMatchObject([{ type: openChannelResult, status: 0 }]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("a ring torn down under an open channel is answered only after the close", () => {
    const guest = new Machine();
    const channel = guest.openFirst();
    const { gpadlId } = guest.rings!;
    expect(guest.send(GpadlTeardown.emit({ relid: RELID, gpadlId }))).toEqual([]);
    expect(channel.echoes()).toBe(true);
    expect(guest.send(CloseChannel.emit({ relid: RELID }))).toEqual([
      { type: gpadlTorndown, gpadlId },
    ]);
    expect(guest.brokenRules).toEqual(["gpadl-teardown-open-ring"]);
  });
});

describe("sub-channels", () => {
  function withSubChannels(): { guest: Machine; subRelids: number[] } {
    const guest = new Machine({}, [disk, otherDisk]);
    guest.openFirst();
    guest.service.channels[0]!.context.offerSubChannels(2);
    const offers = guest.listen();
    expect(offers).toMatchObject([
      { type: offerChannel, ...ids, subChannelIndex: 1, relid: 3 },
      { type: offerChannel, ...ids, subChannelIndex: 2, relid: 4 },
    ]);
    return { guest, subRelids: [3, 4] };
  }
  const ids = { classId: disk.classId, instanceId: disk.instanceId };

  test("are offered on demand, once, and carry data", () => {
    const { guest } = withSubChannels();
    expect(guest.openChannel(4).echoes()).toBe(true);
    guest.service.channels[0]!.context.offerSubChannels(2);
    expect(guest.listen()).toEqual([]);
    expect(guest.service.channels.at(-1)?.opening.subChannelIndex).toBe(2);
    expect(guest.brokenRules).toEqual([]);
  });

  test("are rescinded when the primary closes, and come again on demand", () => {
    const { guest } = withSubChannels();
    guest.openChannel(3);
    const messages = guest.send(CloseChannel.emit({ relid: RELID }));
    expect(types(messages)).toEqual([rescindChannelOffer, rescindChannelOffer]);
    expect(messages.map((message) => message["relid"]).sort()).toEqual([3, 4]);
    expect(guest.service.channels[1]?.reason).toBe("rescinded");
    for (const relid of [3, 4]) guest.send(RelidReleased.emit({ relid }));
    guest.openChannel(RELID);
    guest.service.channels.at(-1)!.context.offerSubChannels(1);
    expect(guest.listen()).toMatchObject([{ type: offerChannel, subChannelIndex: 1, relid: 3 }]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("that the guest has not released come again only after that", () => {
    const { guest } = withSubChannels();
    guest.send(CloseChannel.emit({ relid: RELID }));
    guest.openChannel(RELID);
    guest.service.channels.at(-1)!.context.offerSubChannels(2);
    expect(guest.listen()).toEqual([]);
    expect(guest.send(RelidReleased.emit({ relid: 4 }))).toMatchObject([
      { type: offerChannel, subChannelIndex: 2, relid: 4 },
    ]);
  });

  test("go before their primary when the device goes", () => {
    const { guest } = withSubChannels();
    guest.openChannel(3);
    guest.partition.rescind(disk.instanceId);
    const messages = guest.listen();
    expect(messages.map((message) => message["relid"])).toEqual([4, 3, 1]);
    for (const relid of [4, 3, 1]) guest.send(RelidReleased.emit({ relid }));
    expect(guest.states()).toEqual({ "02.0": "closed" });
    expect(guest.brokenRules).toEqual([]);
  });

  test("are unknown below 2.4, and vanish with the connection", () => {
    const old = new Machine();
    old.openFirst(ProtocolVersion.v1_1, { interruptPageGpa: INTERRUPT_PAGE });
    old.service.channels[0]!.context.offerSubChannels(2);
    expect(old.listen()).toEqual([]);
    const { guest } = withSubChannels();
    guest.send(Unload.emit({}));
    guest.connect();
    expect(guest.requestOffers().map((offer) => offer.instanceId)).toEqual([
      disk.instanceId,
      otherDisk.instanceId,
    ]);
  });
});

describe("rescind", () => {
  test("of an open channel: the device lets go first, then the guest is told", () => {
    const guest = new Machine();
    const channel = guest.openFirst();
    guest.service.holdsReleases = true;
    const { gpadlId } = guest.rings!;
    channel.send(new Uint8Array(8));
    guest.partition.rescind(disk.instanceId);
    expect(guest.listen()).toEqual([]);
    // Whatever the guest still says about it is neither answered nor wrong.
    expect(guest.send(CloseChannel.emit({ relid: RELID }))).toEqual([]);
    expect(guest.send(GpadlTeardown.emit({ relid: RELID, gpadlId }))).toEqual([]);
    guest.service.letGo();
    expect(guest.listen()).toEqual([
      { type: gpadlTorndown, gpadlId },
      { type: rescindChannelOffer, relid: RELID },
    ]);
    expect(guest.send(RelidReleased.emit({ relid: RELID }))).toEqual([]);
    expect(guest.partition.stats().channels).toEqual([]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("nothing is written to the rings after it", () => {
    const guest = new Machine();
    const channel = guest.openFirst();
    channel.echoes();
    channel.send(new Uint8Array(8));
    guest.partition.rescind(disk.instanceId);
    guest.listen();
    const start = guest.rings!.address;
    const before = guest.memory.copyOut(start, 6 * PAGE_SIZE);
    guest.signal(eventConnectionId(RELID, VMBUS_SINT, 0));
    guest.partition.run();
    expect(guest.memory.copyOut(start, 6 * PAGE_SIZE)).toEqual(before);
  });

  test("during an opening: there is no result", () => {
    const guest = new Machine();
    guest.connect();
    guest.requestOffers();
    const rings = guest.createRings(RELID);
    guest.post(guest.openMessage(rings));
    guest.partition.runPart("control");
    expect(guest.states()).toEqual({ "01.0": "opening" });
    guest.partition.rescind(disk.instanceId);
    expect(guest.listen()).toEqual([{ type: rescindChannelOffer, relid: RELID }]);
  });

  test("during the creation of a GPADL: it is answered, before the rescind", () => {
    const guest = new Machine();
    guest.connect();
    guest.requestOffers();
    const page = guest.pages(2) / PAGE_SIZE;
    const range = { byteCount: 8192, byteOffset: 0, pfns: [page, page + 1] };
    guest.post(emitGpadl(RELID, 5, [range])[0]!);
    guest.partition.runPart("control");
    guest.partition.rescind(disk.instanceId);
    expect(types(guest.listen())).toEqual([gpadlCreated, rescindChannelOffer]);
  });

  test("a GPADL whose messages come in after it is created, and torn down at once", () => {
    const guest = new Machine();
    guest.connect();
    guest.requestOffers();
    const pages = pageList(guest.pages(40), 40).map((page) => page / PAGE_SIZE);
    guest.partition.rescind(disk.instanceId);
    expect(types(guest.listen())).toEqual([rescindChannelOffer]);
    const range = { byteCount: 40 * PAGE_SIZE, byteOffset: 0, pfns: pages };
    const { id, messages } = guest.tryGpadl(RELID, [range]);
    expect(messages).toMatchObject([{ type: gpadlCreated, status: 0 }]);
    expect(guest.send(GpadlTeardown.emit({ relid: RELID, gpadlId: id }))).toEqual([
      { type: gpadlTorndown, gpadlId: id },
    ]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("a device that comes back before it is released has the same relid, after that", () => {
    const guest = new Machine({}, [disk, otherDisk]);
    guest.openFirst();
    guest.partition.rescind(disk.instanceId);
    guest.listen();
    guest.partition.offer(disk);
    expect(guest.listen()).toEqual([]);
    expect(guest.open(guest.rings!)).toEqual([]);
    expect(guest.send(RelidReleased.emit({ relid: RELID }))).toMatchObject([
      { type: offerChannel, relid: RELID, instanceId: disk.instanceId },
    ]);
    expect(guest.openChannel(RELID).echoes()).toBe(true);
    expect(guest.brokenRules).toEqual([]);
  });

  test("a relid that is released is the next to be given", () => {
    const guest = new Machine({}, [disk, otherDisk]);
    guest.connect();
    guest.requestOffers();
    guest.partition.rescind(disk.instanceId);
    guest.listen();
    guest.partition.offer(keyValue);
    expect(guest.listen()).toMatchObject([{ type: offerChannel, relid: 3 }]);
    guest.send(RelidReleased.emit({ relid: RELID }));
    guest.partition.offer({ ...disk, instanceId: "aaaaaaaa-0000-0000-0000-000000000003" });
    expect(guest.listen()).toMatchObject([{ type: offerChannel, relid: RELID }]);
  });

  test("while closing, and then an unload: it waits for all that the worker has", () => {
    const guest = new Machine();
    guest.openFirst();
    guest.createGpadl(RELID, [{ byteCount: 4096, byteOffset: 0, pfns: [900] }]);
    guest.service.holdsReleases = true;
    guest.send(CloseChannel.emit({ relid: RELID }));
    guest.partition.rescind(disk.instanceId);
    expect(guest.send(Unload.emit({}))).toEqual([]);
    guest.service.letGo();
    expect(types(guest.listen())).toEqual([MessageType.unloadResponse]);
    expect(guest.partition.stats().channels).toEqual([]);
  });

  test("of a device that is not there, or twice", () => {
    const guest = new Machine();
    expect(guest.partition.rescind(otherDisk.instanceId)).toBe(false);
    expect(guest.partition.rescind(disk.instanceId)).toBe(true);
    expect(guest.partition.rescind(disk.instanceId)).toBe(false);
    expect(() => guest.partition.offer(keyValue)).not.toThrow();
    expect(() => guest.partition.offer(keyValue)).toThrow("offered already");
  });
});

describe("the end of a connection", () => {
  test("unload waits for every device, and says nothing else", () => {
    const guest = new Machine({}, [disk, otherDisk]);
    guest.openFirst();
    guest.openChannel(2);
    guest.service.holdsReleases = true;
    expect(guest.send(Unload.emit({}))).toEqual([]);
    guest.service.held.shift()!();
    expect(guest.listen()).toEqual([]);
    guest.service.letGo();
    expect(types(guest.listen())).toEqual([MessageType.unloadResponse]);
    // The signals of channels that are gone have nowhere to go.
    expect(guest.signal(eventConnectionId(RELID, VMBUS_SINT, 0))).toBe(
      HypercallStatus.invalidConnectionId,
    );
    guest.partition.run();
    expect(guest.brokenRules).toEqual(["signal-event-connection"]);
  });

  test("a contact while connected releases all and connects anew, without UNLOAD_RESPONSE", () => {
    const guest = new Machine();
    guest.openFirst();
    guest.service.holdsReleases = true;
    expect(guest.contact(ProtocolVersion.v3_0)).toEqual([]);
    guest.service.letGo();
    expect(guest.listen()).toMatchObject([{ type: MessageType.versionResponse, supported: true }]);
    expect(guest.partition.stats().version).toBe("3.0");
    guest.connectionId = 1;
    expect(guest.requestOffers().map((offer) => offer.relid)).toEqual([RELID]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("relids are the same after a reconnect, whatever came and went", () => {
    const offers: DeviceOffer[] = [5, 3, 1, 4, 2].map((number) => ({
      ...disk,
      instanceId: `aaaaaaaa-0000-0000-0000-00000000000${number}` as Guid,
    }));
    const guest = new Machine({}, [...offers, keyValue]);
    guest.connect();
    const relids = (): [number, string][] =>
      guest.requestOffers().map((offer) => [offer.relid, offer.instanceId.slice(-1)]);
    const first = relids();
    expect(first.map(([relid]) => relid)).toEqual([1, 2, 3, 4, 5, 6]);
    // Class by class, and instances in order.
    expect(first.map(([, instance]) => instance).join("")).toBe("512345");
    for (const relid of [2, 4]) guest.send(RelidReleased.emit({ relid }));
    guest.send(Unload.emit({}));
    guest.connect();
    expect(relids()).toEqual(first);
  });

  test("a device's own order goes before its instance", () => {
    const later = { ...disk, order: 2 };
    const sooner = { ...otherDisk, order: 1 };
    const guest = new Machine({}, [later, sooner]);
    guest.connect();
    expect(guest.requestOffers().map((offer) => offer.instanceId)).toEqual([
      sooner.instanceId,
      later.instanceId,
    ]);
  });

  test("a reserved channel survives it, and is closed without a connection", () => {
    const guest = new Machine();
    guest.connect(ProtocolVersion.v4_0);
    guest.requestOffers();
    const rings = guest.createRings(RELID, 3, 3);
    const { gpadlId: ringGpadlId } = rings;
    const reserve = { relid: RELID, targetVp: 0, sint: 2, ringGpadlId, downstreamPageOffset: 3 };
    expect(guest.send(OpenReservedChannel.emit(reserve))).toMatchObject([
      { type: openChannelResult, status: 0, openId: 0 },
    ]);
    expect(types(guest.send(Unload.emit({})))).toEqual([MessageType.unloadResponse]);
    expect(guest.states()).toEqual({ "01.0": "open" });
    // A crash dumper polls its ring.
    const channel = new GuestChannel(guest, rings, () =>
      guest.signal(eventConnectionId(RELID, VMBUS_SINT, 0)),
    );
    const before = guest.interrupts[0];
    expect(channel.echoes()).toBe(true);
    expect(guest.interrupts[0]).toBe(before);
    expect(guest.takeFlags()).toEqual([]);
    expect(guest.send(CloseReservedChannel.emit({ relid: RELID, targetVp: 0, sint: 2 }))).toEqual([
      { type: MessageType.closeReservedResponse, relid: RELID },
    ]);
    guest.connect();
    expect(guest.requestOffers().map((offer) => offer.relid)).toEqual([RELID]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("a restart of the machine takes everything back and puts the registers back", () => {
    const guest = new Machine();
    guest.openFirst();
    guest.service.holdsReleases = true;
    let isDone = false;
    guest.partition.reset(() => {
      isDone = true;
    });
    guest.partition.run();
    expect(isDone).toBe(false);
    guest.service.letGo();
    guest.partition.run();
    expect(isDone).toBe(true);
    const [processor] = guest.partition.processors;
    expect(processor!.readMsr(Msr.scontrol)).toBe(0n);
    expect(processor!.readMsr(Msr.guestOsId)).toBe(0n);
    expect(guest.states()).toEqual({ "01.0": "client-released" });
    // The next kernel starts from the beginning.
    const next = new NextKernel(guest);
    next.boot();
    expect(guest.openFirst().echoes()).toBe(true);
    expect(guest.brokenRules).toEqual([]);
  });

  class NextKernel {
    readonly #guest: Machine;
    constructor(guest: Machine) {
      this.#guest = guest;
    }
    boot(): void {
      const [processor] = this.#guest.partition.processors;
      processor!.writeMsr(Msr.guestOsId, 1n << 63n);
      processor!.writeMsr(Msr.simp, BigInt(this.#guest.messagePage(0)) | 1n);
      processor!.writeMsr(Msr.siefp, BigInt(this.#guest.flagsPage(0)) | 1n);
      processor!.writeMsr(Msr.sint0 + VMBUS_SINT, BigInt(VECTOR));
      processor!.writeMsr(Msr.scontrol, 1n);
      this.#guest.service.holdsReleases = false;
    }
  }

  test("a guest that masks SINT 2 first loses its answer, and that is recorded", () => {
    const guest = new Machine();
    guest.partition.processors[0]!.writeMsr(Msr.sint0 + VMBUS_SINT, 0x1_00f3n);
    expect(guest.contact(ProtocolVersion.v5_3)).toEqual([]);
    expect(guest.brokenRules).toEqual(["message-to-masked-sint"]);
  });

  test("a guest that reads nothing is not served for ever", () => {
    const guest = new Machine({ queueEntries: 8 });
    guest.connect();
    let accepted = 0;
    for (; accepted < 2000; accepted++) {
      if (guest.post(GpadlTeardown.emit({ relid: 0, gpadlId: 0 })) !== 0) break;
      guest.partition.run();
    }
    // Violations have no answer: they can go on. What is answered cannot.
    expect(accepted).toBe(2000);
    const bad = ModifyChannel.emit({ relid: 99, targetVp: 0 });
    for (accepted = 0; accepted < 10_000; accepted++) {
      if (guest.post(bad) !== HypercallStatus.success) break;
      guest.partition.run();
    }
    expect(accepted).toBeLessThan(5000);
    expect(guest.listen().length).toBe(accepted);
  });
});

describe("ways to signal", () => {
  test("0.13: the interrupt page both ways, and one connection for all", () => {
    const guest = new Machine({}, [disk, otherDisk]);
    guest.connect(ProtocolVersion.v0_13, { interruptPageGpa: INTERRUPT_PAGE });
    guest.requestOffers();
    const send = (relid: number): void => {
      guest.memory.bytes[INTERRUPT_PAGE + 2048 + (relid >>> 3)]! |= 1 << (relid & 7);
      expect(guest.signal(2)).toBe(HypercallStatus.success);
    };
    guest.openChannel(RELID);
    const channel = new GuestChannel(guest, guest.rings!, () => send(RELID));
    guest.openChannel(2);
    guest.takeFlags();
    channel.send(new Uint8Array(8));
    guest.partition.run();
    expect(guest.takeFlags()).toEqual([0]);
    expect(guest.memory.bytes[INTERRUPT_PAGE]).toBe(1 << RELID);
    expect(guest.memory.bytes[INTERRUPT_PAGE + 2048]).toBe(0);
    channel.poll();
    expect(channel.completions.size).toBe(1);
    expect(guest.service.channels.map(({ packets }) => packets)).toEqual([1, 0]);
    expect(guest.brokenRules).toEqual([]);
  });

  test("1.1: a connection per channel to the host, the interrupt page back; vCPU 0 only", () => {
    const guest = new Machine({ vps: 2 });
    guest.connect(ProtocolVersion.v1_1, { interruptPageGpa: INTERRUPT_PAGE });
    guest.requestOffers();
    const channel = guest.openChannel(RELID, undefined, { targetVp: 1 });
    expect(channel.echoes()).toBe(true);
    expect(guest.takeFlags(0)).toEqual([0]);
    expect(guest.takeFlags(1)).toEqual([]);
    expect(guest.memory.bytes[INTERRUPT_PAGE]).toBe(1 << RELID);
    expect(guest.brokenRules).toEqual([]);
  });

  test("0.13 has 255 relids, later versions 2047", () => {
    const offers = Array.from({ length: 300 }, (_, index) => ({
      ...disk,
      instanceId: `aaaaaaaa-0000-0000-0000-${String(index).padStart(12, "0")}` as Guid,
    }));
    const guest = new Machine({}, offers);
    guest.connect(ProtocolVersion.v0_13, { interruptPageGpa: INTERRUPT_PAGE });
    expect(guest.requestOffers()).toHaveLength(255);
    guest.send(Unload.emit({}));
    guest.connect(ProtocolVersion.v2_4);
    expect(guest.requestOffers()).toHaveLength(300);
  });

  test("monitor page and hypercall, for the same channel", () => {
    const monitored = { ...disk, monitored: true };
    const guest = new Machine({}, [monitored, otherDisk]);
    const pages = { parentToChildMonitorGpa: 0x10_0000, childToParentMonitorGpa: 0x10_1000 };
    guest.connect(ProtocolVersion.v5_3, pages);
    const [first, second] = guest.requestOffers();
    expect(first).toMatchObject({ monitorAllocated: true, monitorId: 0 });
    expect(second).toMatchObject({ monitorAllocated: false, monitorId: 0xff });
    guest.openChannel(RELID);
    const byPage = new GuestChannel(guest, guest.rings!, () => {
      guest.memory.words[(0x10_1000 + 8) >>> 2]! |= 1;
    });
    expect(byPage.echoes()).toBe(true);
    expect(guest.memory.words[(0x10_1000 + 8) >>> 2]).toBe(0);
    guest.signal(eventConnectionId(RELID, VMBUS_SINT, 0));
    expect(guest.partition.woken).toEqual(new Set([0]));
    // A bit of a monitor that nobody has is taken and means nothing.
    guest.memory.words[(0x10_1000 + 8 + 8 * 3) >>> 2] = 1 << 31;
    expect(guest.partition.server.pollMonitors()).toBe(false);
    expect(guest.memory.words[(0x10_1000 + 8 + 8 * 3) >>> 2]).toBe(0);
    expect(guest.brokenRules).toEqual([]);
  });

  test("monitor ids end at 128; channels beyond use hypercalls", () => {
    const offers = Array.from({ length: 130 }, (_, index) => ({
      ...disk,
      monitored: true,
      instanceId: `aaaaaaaa-0000-0000-0000-${String(index).padStart(12, "0")}` as Guid,
    }));
    const guest = new Machine({}, offers);
    const pages = { parentToChildMonitorGpa: 0x10_0000, childToParentMonitorGpa: 0x10_1000 };
    guest.connect(ProtocolVersion.v5_3, pages);
    const ids = guest.requestOffers().map((offer) => offer.monitorAllocated && offer.monitorId);
    expect(ids.slice(0, 128)).toEqual(Array.from({ length: 128 }, (_, index) => index));
    expect(ids.slice(128)).toEqual([false, false]);
    // Without pages nobody has one.
    guest.send(Unload.emit({}));
    guest.connect();
    expect(guest.requestOffers().some((offer) => offer.monitorAllocated)).toBe(false);
  });

  test("6.0: connection and event flag of the guest's choice", () => {
    const guest = new Machine({}, [disk, otherDisk]);
    guest.connect(ProtocolVersion.v6_0, { features: Feature.guestSignalParameters });
    guest.requestOffers();
    const rings = guest.createRings(RELID, 3, 3);
    const taken = { connectionId: eventConnectionId(2, VMBUS_SINT, 0), eventFlag: 77 };
    expect(guest.open(rings, { signal: taken })).toMatchObject([{ status: 0x8000_ffff }]);
    expect(guest.open(rings, { signal: { connectionId: 0x99, eventFlag: 2048 } })).toMatchObject([
      { status: 0x8000_ffff },
    ]);
    expect(guest.brokenRules).toEqual(["open-channel-connection", "open-channel-event-flag"]);
    guest.openChannel(RELID, rings, { signal: { connectionId: 0x99, eventFlag: 77 } });
    const channel = new GuestChannel(guest, rings, () => guest.signal(0x99));
    expect(channel.echoes()).toBe(true);
    expect(guest.takeFlags()).toEqual([77]);
    guest.send(CloseChannel.emit({ relid: RELID }));
    expect(guest.signal(0x99)).toBe(HypercallStatus.invalidConnectionId);
  });

  test("MODIFYCHANNEL moves the interrupts, and none goes the old way after the answer", () => {
    const guest = new Machine({ vps: 2 });
    const channel = guest.openFirst();
    channel.echoes();
    expect(guest.takeFlags(0)).toEqual([RELID]);
    expect(guest.send(ModifyChannel.emit({ relid: RELID, targetVp: 1 }))).toEqual([
      { type: MessageType.modifyChannelResponse, relid: RELID, status: 0 },
    ]);
    expect(channel.echoes()).toBe(true);
    expect(guest.takeFlags(0)).toEqual([]);
    expect(guest.takeFlags(1)).toEqual([RELID]);
  });
});
