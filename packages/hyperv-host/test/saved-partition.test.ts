import { describe, expect, test } from "vitest";
import {
  CloseChannel,
  ConnectionId,
  GpadlTeardown,
  Feature,
  MessageType,
  ModifyChannel,
  PAGE_SIZE,
  Pause,
  ProtocolVersion,
  RelidReleased,
  Resume,
  Unload,
  VMBUS_SINT,
  emitGpadl,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import { SavedPartitionError, type DeviceOffer, type PartitionOptions } from "../src/index.js";
import { GuestChannel } from "./guest-channel.js";
import { INTERRUPT_PAGE, Machine, RELID, disk, keyValue, otherDisk } from "./scenario-machine.js";

const { gpadlTorndown, offerChannel, rescindChannelOffer, unloadResponse } = MessageType;

/** The same machine in another process: everything went through plain data. */
function elsewhere(
  guest: Machine,
  options: Partial<PartitionOptions> = {},
  offers: readonly DeviceOffer[] = [disk],
): Machine {
  const saved = guest.partition.save();
  if (saved === undefined) throw new Error("the partition cannot be saved now");
  const other = new Machine(options, offers);
  other.continueAs(guest);
  other.partition.restore(structuredClone(saved));
  other.rings = guest.rings;
  return other;
}

/** The guest's end of a channel that was open before. */
function reattach(guest: Machine, relid = RELID): GuestChannel {
  return new GuestChannel(guest, guest.rings!, () =>
    guest.signal(eventConnectionId(relid, VMBUS_SINT, 0)),
  );
}

describe("a saved partition goes on", () => {
  test.each([
    [
      "below 2.4, with an interrupt page",
      ProtocolVersion.v1_1,
      { interruptPageGpa: INTERRUPT_PAGE },
    ],
    ["in 4.0", ProtocolVersion.v4_0, {}],
    ["in 5.3", ProtocolVersion.v5_3, {}],
  ])("with an open channel, %s", (_, version, fields) => {
    const before = new Machine();
    const isOld = version < ProtocolVersion.v2_4;
    const channel = before.openFirst(version, fields);
    if (!isOld) expect(channel.echoes(50)).toBe(true);
    const guest = elsewhere(before);
    expect(guest.partition.server.stats()).toEqual(before.partition.server.stats());
    expect(guest.service.channels.map(({ packets }) => packets)).toEqual([isOld ? 0 : 50]);
    expect(guest.service.channels[0]?.opening).toEqual(before.service.channels[0]?.opening);
    if (isOld) return;
    guest.takeFlags();
    expect(reattach(guest).echoes(50)).toBe(true);
    expect(guest.takeFlags()).toContain(RELID);
    expect(guest.brokenRules).toEqual([]);
  });

  test("and ends as if nothing had been: close, teardown, unload, and a new connection", () => {
    const before = new Machine();
    before.openFirst().echoes();
    const guest = elsewhere(before);
    const { gpadlId } = guest.rings!;
    expect(guest.send(CloseChannel.emit({ relid: RELID }))).toEqual([]);
    expect(guest.service.channels[0]?.reason).toBe("closed");
    expect(guest.send(GpadlTeardown.emit({ relid: RELID, gpadlId }))).toEqual([
      { type: gpadlTorndown, gpadlId },
    ]);
    expect(guest.send(Unload.emit({}))).toEqual([{ type: unloadResponse }]);
    expect(guest.openFirst().echoes()).toBe(true);
    expect(guest.brokenRules).toEqual([]);
  });

  test("with a closed channel that still lends memory", () => {
    const before = new Machine();
    before.connect();
    before.requestOffers();
    before.rings = before.createRings(RELID);
    const guest = elsewhere(before);
    expect(guest.openChannel(RELID, before.rings).echoes()).toBe(true);
  });

  test.each([
    [ProtocolVersion.v4_0, ProtocolVersion.v5_3],
    [ProtocolVersion.v5_3, ProtocolVersion.v4_0],
  ])("on a host of other versions, without a connection: from %i to %i", (then, now) => {
    const speaking = (version: ProtocolVersion) => ({ bus: { versions: [version] } });
    const guest = elsewhere(new Machine(speaking(then)), speaking(now));
    expect(guest.openFirst(now).echoes()).toBe(true);
    // Messages are taken where this host takes them, and nowhere else.
    const named = now === ProtocolVersion.v5_3;
    expect(guest.partition.state.isMessageConnection(ConnectionId.multiclientMessage)).toBe(named);
    expect(guest.brokenRules).toEqual([]);
  });

  test("with sub-channels, which go with their device", () => {
    const before = new Machine();
    before.openFirst();
    before.service.channels[0]!.context.offerSubChannels(2);
    const relids = before.listen().map(({ relid }) => relid as number);
    before.openChannel(relids[0]!);
    const guest = elsewhere(before);
    expect(guest.states()).toEqual({ "01.0": "open", "01.1": "open", "01.2": "closed" });
    expect(reattach(guest, relids[0]).echoes()).toBe(true);
    guest.partition.rescind(disk.instanceId);
    const rescinded = guest.listen().map(({ type, relid }) => [type, relid]);
    expect(rescinded).toEqual([
      [rescindChannelOffer, relids[1]],
      [rescindChannelOffer, relids[0]],
      [rescindChannelOffer, RELID],
    ]);
  });

  test("with interrupts where the guest has moved them", () => {
    const before = new Machine({ vps: 2 });
    before.openFirst();
    before.send(ModifyChannel.emit({ relid: RELID, targetVp: 1 }));
    const guest = elsewhere(before, { vps: 2 });
    guest.interrupts.fill(0);
    reattach(guest).send(new Uint8Array(8));
    guest.partition.run();
    expect(guest.interrupts).toEqual([0, 1]);
  });

  test("with a signal that the host had not seen, and packets behind it", () => {
    const before = new Machine();
    const channel = before.openFirst();
    channel.send(new Uint8Array(16));
    // `save` lets the host work first: the packet is handled, and its completion is in the ring.
    const guest = elsewhere(before);
    const { channel: end, completions } = reattach(guest);
    end.poll(10);
    expect(completions.size).toBe(1);
  });

  test("with what was broken before, and its numbers", () => {
    const before = new Machine();
    before.openFirst();
    before.send(CloseChannel.emit({ relid: 77 }));
    const guest = elsewhere(before);
    expect(guest.partition.violations.list).toEqual(before.partition.violations.list);
    guest.send(CloseChannel.emit({ relid: 78 }));
    expect(guest.partition.violations.counts()).toEqual({ "unknown-relid": 2 });
  });

  test("without a guest, which may come then", () => {
    const guest = elsewhere(new Machine());
    expect(guest.openFirst().echoes()).toBe(true);
  });

  test("and offers what was not there before, to a guest that has asked", () => {
    const before = new Machine();
    before.openFirst();
    const guest = elsewhere(before, {}, [disk, otherDisk]);
    const offers = guest.listen();
    expect(offers).toMatchObject([{ type: offerChannel, instanceId: otherDisk.instanceId }]);
    expect(guest.openChannel(offers[0]!["relid"] as number).echoes()).toBe(true);

    const early = new Machine();
    early.connect();
    const later = elsewhere(early, {}, [disk, otherDisk]);
    expect(later.listen()).toEqual([]);
    expect(later.requestOffers()).toHaveLength(2);
  });

  test("only where its devices are, and its sizes", () => {
    const before = new Machine({}, [disk, keyValue]);
    before.openFirst();
    expect(() => elsewhere(before, {}, [keyValue])).toThrow(SavedPartitionError);
    expect(() => elsewhere(before, { vps: 2 }, [disk, keyValue])).toThrow(SavedPartitionError);
  });

  test("not if its device does not take the guest back", () => {
    const before = new Machine();
    before.openFirst();
    const guest = new Machine();
    guest.continueAs(before);
    guest.service.refusal = 0xc000_0001;
    const saved = before.partition.save()!;
    expect(() => guest.partition.restore(saved)).toThrow(SavedPartitionError);
  });
});

describe("a partition cannot be saved", () => {
  const cases: readonly [string, (guest: Machine) => void, (guest: Machine) => void][] = [
    [
      "while a device has something in flight",
      (guest) => (guest.service.isBusy = true),
      (guest) => (guest.service.isBusy = false),
    ],
    [
      "while a channel closes",
      (guest) => {
        guest.service.holdsReleases = true;
        guest.send(CloseChannel.emit({ relid: RELID }));
      },
      (guest) => guest.service.letGo(),
    ],
    [
      "while messages wait for their slot",
      (guest) => {
        guest.send(CloseChannel.emit({ relid: RELID }));
        guest.partition.offer(keyValue);
        guest.partition.offer(otherDisk);
      },
      (guest) => void guest.listen(),
    ],
    [
      "while a GPADL is not complete",
      (guest) => {
        const pfns = Array.from({ length: 60 }, (_, index) => 200 + index);
        const [first] = emitGpadl(RELID, 0x777, [
          { byteCount: 60 * PAGE_SIZE, byteOffset: 0, pfns },
        ]);
        guest.send(first!);
      },
      (guest) => void guest.send(Unload.emit({})),
    ],
    [
      "while a device is to come back",
      (guest) => {
        guest.partition.rescind(disk.instanceId, 100);
        guest.listen();
        guest.send(RelidReleased.emit({ relid: RELID }));
      },
      (guest) => guest.timers.advance(100),
    ],
    [
      "while the guest has not let go of a device that is gone",
      (guest) => {
        guest.partition.rescind(disk.instanceId);
        guest.listen();
      },
      (guest) => void guest.send(RelidReleased.emit({ relid: RELID })),
    ],
  ];
  test.each(cases)("%s", (_, begin, end) => {
    const guest = new Machine();
    guest.openFirst();
    begin(guest);
    expect(guest.partition.save()).toBeUndefined();
    end(guest);
    guest.listen();
    expect(guest.partition.save()).toBeDefined();
  });

  test("while messages are paused", () => {
    const guest = new Machine();
    guest.connect(ProtocolVersion.v6_0, { features: Feature.pauseResume });
    expect(guest.partition.save()).toBeDefined();
    guest.send(Pause.emit({}));
    expect(guest.partition.save()).toBeUndefined();
    guest.send(Resume.emit({}));
    expect(guest.partition.save()).toBeDefined();
  });
});
