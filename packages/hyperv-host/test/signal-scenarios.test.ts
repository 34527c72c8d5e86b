import { describe, expect, test } from "vitest";
import {
  CloseChannel,
  Feature,
  HypercallStatus,
  MessageType,
  ModifyChannel,
  ProtocolVersion,
  Unload,
  VMBUS_SINT,
  eventConnectionId,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import { GuestChannel } from "./guest-channel.js";
import { INTERRUPT_PAGE, Machine, RELID, disk, otherDisk } from "./scenario-machine.js";

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
