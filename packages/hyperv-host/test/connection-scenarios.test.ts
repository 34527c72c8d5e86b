import { describe, expect, test } from "vitest";
import {
  CloseReservedChannel,
  GpadlTeardown,
  HypercallStatus,
  MessageType,
  ModifyChannel,
  Msr,
  OpenReservedChannel,
  ProtocolVersion,
  RelidReleased,
  Unload,
  VMBUS_SINT,
  eventConnectionId,
  type Guid,
} from "@hyperv-is/vmbus-core/protocol";
import type { DeviceOffer } from "../src/index.js";
import { GuestChannel } from "./guest-channel.js";
import { Machine, RELID, disk, keyValue, otherDisk, types } from "./scenario-machine.js";
import { VECTOR } from "./scripted-guest.js";

const { openChannelResult } = MessageType;

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
