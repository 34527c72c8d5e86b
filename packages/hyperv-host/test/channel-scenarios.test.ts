import { describe, expect, test } from "vitest";
import {
  CloseChannel,
  GpadlTeardown,
  MessageType,
  ProtocolVersion,
  RelidReleased,
  Unload,
  VMBUS_SINT,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import type { Fault } from "../src/index.js";
import { INTERRUPT_PAGE, Machine, RELID, disk, otherDisk, types } from "./scenario-machine.js";
import { pageList } from "./scripted-guest.js";

const { rescindChannelOffer, gpadlTorndown, openChannelResult, offerChannel } = MessageType;

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

  test("are offered late, fewer, or twice, as the fault plan has it", () => {
    const plan = (fault: Fault): Machine => {
      const guest = new Machine({ faults: { faults: [fault] } }, [disk]);
      guest.openFirst();
      guest.service.channels[0]!.context.offerSubChannels(2);
      return guest;
    };
    const offered = (guest: Machine): unknown[] =>
      guest.listen().map((message) => message["subChannelIndex"]);
    const late = plan({ kind: "late-sub-channels", delayMs: 50 });
    expect(offered(late)).toEqual([]);
    late.timers.advance(50);
    expect(offered(late)).toEqual([1, 2]);
    expect(offered(plan({ kind: "fewer-sub-channels", offered: 1 }))).toEqual([1]);
    expect(offered(plan({ kind: "fewer-sub-channels", offered: 0 }))).toEqual([]);
    expect(offered(plan({ kind: "repeated-sub-channels" }))).toEqual([1, 1, 2, 2]);
  });

  test("are taken away by a packet on them, and come back", () => {
    const fault: Fault = { kind: "rescind-sub-channel", nth: 2, reofferAfterMs: 10 };
    const guest = new Machine({ faults: { faults: [fault] } }, [disk]);
    guest.openFirst();
    guest.service.channels[0]!.context.offerSubChannels(1);
    const relid = guest.listen()[0]!["relid"] as number;
    const sub = guest.openChannel(relid);
    expect(sub.echoes(1)).toBe(true);
    sub.echoes(1);
    expect(guest.listen()).toMatchObject([{ type: rescindChannelOffer, relid }]);
    guest.send(RelidReleased.emit({ relid }));
    guest.timers.advance(10);
    expect(guest.listen()).toMatchObject([{ type: offerChannel, subChannelIndex: 1 }]);
    // The primary and its packets are not meant.
    expect(guest.states()).toMatchObject({ "01.0": "open", "01.1": "closed" });
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
