import { describe, expect, test } from "vitest";
import {
  CloseChannel,
  GpadlTeardown,
  MessageType,
  PAGE_SIZE,
  RelidReleased,
  Unload,
  VMBUS_SINT,
  emitGpadl,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import { Machine, RELID, disk, keyValue, otherDisk, types } from "./scenario-machine.js";
import { pageList } from "./scripted-guest.js";

const { rescindChannelOffer, gpadlTorndown, gpadlCreated, offerChannel } = MessageType;

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
