import { describe, expect, test } from "vitest";
import type { Channel } from "@hyperv-is/vmbus-core";
import {
  CloseChannel,
  ControlPage,
  DeviceClass,
  GpadlTeardown,
  MessageType,
  PAGE_SIZE,
  PacketType,
  VMBUS_SINT,
  eventConnectionId,
} from "@hyperv-is/vmbus-core/protocol";
import type { DeviceOffer, HostService, PartitionOptions } from "../src/index.js";
import { standardDevices } from "../src/index.js";
import { EchoChannel, EchoService } from "./echo-service.js";
import { GuestChannel } from "./guest-channel.js";
import { ScriptedGuest } from "./scripted-guest.js";

const { classId } = DeviceClass.scsi;
const first: DeviceOffer = {
  classId,
  instanceId: "aaaaaaaa-0000-0000-0000-000000000001",
  worker: 0,
};
const second: DeviceOffer = { ...first, instanceId: "aaaaaaaa-0000-0000-0000-000000000002" };

function open(guest: ScriptedGuest, relid: number): GuestChannel {
  const rings = guest.createRings(relid, 3, 3);
  const [result] = guest.open(rings);
  if (result?.["status"] !== 0) throw new Error("not opened");
  return new GuestChannel(guest, rings, () =>
    guest.signal(eventConnectionId(relid, VMBUS_SINT, 0)),
  );
}

function connected(
  offers: readonly DeviceOffer[] = [first, second],
  options: Partial<PartitionOptions> = {},
): ScriptedGuest {
  const guest = new ScriptedGuest(options);
  for (const offer of offers) guest.partition.offer(offer);
  guest.connect();
  guest.requestOffers();
  return guest;
}

describe("services", () => {
  test("a device's own goes before that of its class", () => {
    const guest = connected();
    const own = new EchoService();
    const ofClass = new EchoService();
    guest.partition.workers[0]!.serve({ classId }, ofClass);
    guest.partition.workers[0]!.serve({ classId, instanceId: second.instanceId }, own);
    open(guest, 1);
    open(guest, 2);
    expect(own.channels.map(({ opening }) => opening.relid)).toEqual([2]);
    expect(ofClass.channels.map(({ opening }) => opening.relid)).toEqual([1]);
  });

  test("a device that nobody serves can be opened, takes packets, and stays silent", () => {
    const guest = connected();
    const channel = open(guest, 1);
    for (let number = 0; number < 1000; number++) {
      channel.send(new Uint8Array(1000));
      guest.partition.run();
    }
    channel.poll();
    expect(channel.completions.size).toBe(0);
    expect(guest.send(CloseChannel.emit({ relid: 1 }))).toEqual([]);
    expect(guest.partition.stats().channels[0]?.state).toBe("closed");
    expect(guest.brokenRules).toEqual([]);
  });

  test("each device lives on its worker", () => {
    const guest = connected([first, { ...second, worker: 1 }], { workers: 2 });
    const services = guest.partition.workers.map((worker) => {
      const service = new EchoService();
      worker.serve({ classId }, service);
      return service;
    });
    expect([open(guest, 1).echoes(), open(guest, 2).echoes()]).toEqual([true, true]);
    expect(services.map(({ channels }) => channels.map(({ opening }) => opening.relid))).toEqual([
      [1],
      [2],
    ]);
    const stats = guest.partition.stats().workers;
    expect(
      stats.map((channels) => channels.map(({ relid, packetsIn }) => [relid, packetsIn])),
    ).toEqual([[[1, 3]], [[2, 3]]]);
  });

  test("a packet may be sent before the guest has said anything", () => {
    class Greeter extends EchoChannel {
      override opened(channel: Channel): void {
        super.opened(channel);
        channel.begin(PacketType.completion, 0, 16, 24, 7, 0);
        channel.outgoing.putBytes(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 0, 8);
        channel.outgoing.end();
        channel.flush();
      }
    }
    const service: HostService = {
      open: (opening, context) => new Greeter(new EchoService(), opening, context),
    };
    const guest = connected();
    guest.partition.workers[0]!.serve({ classId }, service);
    const channel = open(guest, 1);
    expect(guest.takeFlags()).toEqual([1]);
    channel.poll();
    expect(channel.completions.get(7)).toEqual(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  });

  test("the ring comes up masked, with the host's promise to say when it waits for room", () => {
    const words: number[] = [];
    class Looker extends EchoChannel {
      override opened(): void {
        const { memory } = this.context;
        const [toHost, , , toGuest] = this.opening.ringPages;
        words.push(memory.words[(toHost! >>> 2) + ControlPage.interruptMaskWord]!);
        words.push(memory.words[(toGuest! >>> 2) + ControlPage.featureBitsWord]!);
      }
    }
    const guest = connected();
    const service: HostService = {
      open: (opening, context) => new Looker(new EchoService(), opening, context),
    };
    guest.partition.workers[0]!.serve({ classId }, service);
    open(guest, 1);
    expect(words).toEqual([1, 1]);
  });

  test("a service may have a device rescinded, and brought back", () => {
    const guest = connected();
    const service = new EchoService();
    guest.partition.workers[0]!.serve({ classId }, service);
    open(guest, 1);
    service.channels[0]!.context.rescind(500);
    expect(guest.listen()).toMatchObject([{ type: MessageType.rescindChannelOffer, relid: 1 }]);
    expect(service.channels[0]?.reason).toBe("rescinded");
    guest.timers.advance(499);
    expect(guest.partition.server.offers).toHaveLength(1);
    guest.timers.advance(1);
    expect(guest.partition.server.offers).toHaveLength(2);
  });

  test("what a service says about the guest is recorded with the channel", () => {
    const guest = connected();
    const service = new EchoService();
    guest.partition.workers[0]!.serve({ classId }, service);
    const channel = open(guest, 2);
    service.channels[0]!.context.violation("echo-too-loud", "please");
    service.channels[0]!.channel!.fail("ERR_ECHO_BROKEN", "cannot go on");
    channel.poll();
    guest.listen();
    expect(guest.partition.violations.list).toMatchObject([
      { rule: "echo-too-loud", detail: "please", relid: 2 },
      { rule: "echo-broken", detail: "cannot go on", relid: 2 },
    ]);
    expect(service.channels[0]?.reason).toBe("corrupt");
  });
});

describe("GPADLs on the worker", () => {
  const page = (
    guest: ScriptedGuest,
  ): { byteCount: number; byteOffset: number; pfns: number[] } => ({
    byteCount: PAGE_SIZE,
    byteOffset: 0,
    pfns: [guest.pages(1) / PAGE_SIZE],
  });

  test("can be looked up before and after the opening, and not by another channel", () => {
    const guest = connected();
    const service = new EchoService();
    guest.partition.workers[0]!.serve({ classId }, service);
    const range = page(guest);
    const gpadlId = guest.createGpadl(1, [range]);
    open(guest, 1);
    open(guest, 2);
    const [one, two] = service.channels;
    expect(one!.context.gpadl(gpadlId)).toEqual([range]);
    expect(two!.context.gpadl(gpadlId)).toBeUndefined();
    guest.send(GpadlTeardown.emit({ relid: 1, gpadlId }));
    expect(one!.context.gpadl(gpadlId)).toBeUndefined();
  });

  test("are torn down when their channel has let go of them", () => {
    const guest = connected();
    const waiting: (() => void)[] = [];
    const torn: number[] = [];
    const releases: (() => void)[] = [];
    class Borrower extends EchoChannel {
      gpadlTeardown(gpadlId: number, done: () => void): void {
        torn.push(gpadlId);
        waiting.push(done);
      }
      override release(done: () => void): void {
        releases.push(done);
      }
    }
    const service: HostService = {
      open: (opening, context) => new Borrower(new EchoService(), opening, context),
    };
    guest.partition.workers[0]!.serve({ classId }, service);
    open(guest, 1);
    const gpadlId = guest.createGpadl(1, [page(guest)]);
    expect(guest.send(GpadlTeardown.emit({ relid: 1, gpadlId }))).toEqual([]);
    expect(torn).toEqual([gpadlId]);
    waiting[0]!();
    expect(guest.listen()).toEqual([{ type: MessageType.gpadlTorndown, gpadlId }]);
    // While the channel lets go of everything nobody is asked any more.
    const other = guest.createGpadl(1, [page(guest)]);
    guest.send(CloseChannel.emit({ relid: 1 }));
    expect(guest.send(GpadlTeardown.emit({ relid: 1, gpadlId: other }))).toEqual([]);
    expect(torn).toEqual([gpadlId]);
    releases[0]!();
    expect(guest.listen()).toEqual([{ type: MessageType.gpadlTorndown, gpadlId: other }]);
    expect(guest.brokenRules).toEqual([]);
  });
});

describe("faults of the bus", () => {
  test("a stalled ring is left alone for its time, and loses nothing", () => {
    const guest = connected([first, second], {
      faults: {
        faults: [{ kind: "stalled-ring", durationMs: 100, nth: 2, device: first.instanceId }],
      },
    });
    const service = new EchoService();
    guest.partition.workers[0]!.serve({ classId }, service);
    const stalled = open(guest, 1);
    const other = open(guest, 2);
    expect(stalled.echoes(2)).toBe(true);
    // The second look has stalled it.
    expect(stalled.echoes(1)).toBe(false);
    expect(other.echoes(5)).toBe(true);
    guest.timers.advance(99);
    guest.partition.run();
    stalled.poll();
    expect(stalled.completions.size).toBe(2);
    guest.timers.advance(1);
    guest.partition.run();
    stalled.poll();
    expect(stalled.completions.size).toBe(3);
    expect(stalled.echoes(10)).toBe(true);
    expect(guest.brokenRules).toEqual([]);
  });

  test("a channel that closes while it is stalled stays closed", () => {
    const guest = connected([first], {
      faults: { faults: [{ kind: "stalled-ring", durationMs: 100, count: 1 }] },
    });
    guest.partition.workers[0]!.serve({ classId }, new EchoService());
    open(guest, 1).echoes(1);
    expect(guest.send(CloseChannel.emit({ relid: 1 }))).toEqual([]);
    expect(open(guest, 1).echoes()).toBe(true);
    guest.timers.advance(200);
    guest.partition.run();
    expect(guest.brokenRules).toEqual([]);
  });

  test("a refused version is refused with those above it, as often as the plan says", () => {
    const guest = new ScriptedGuest({
      faults: { faults: [{ kind: "refused-version", version: 0x0005_0000, count: 2 }] },
    });
    expect(guest.contact(0x0005_0003)).toMatchObject([{ supported: false }]);
    expect(guest.contact(0x0004_0001)).toMatchObject([{ supported: true }]);
    expect(guest.contact(0x0005_0000)).toMatchObject([{ supported: false }]);
    expect(guest.contact(0x0005_0003)).toMatchObject([{ supported: true }]);
    expect(guest.partition.stats().faults).toMatchObject([{ happened: 2 }]);
  });

  test("a rescind by time takes every device that it means, and brings it back", () => {
    const guest = connected([first, second, ...standardDevices(0)], {
      faults: {
        faults: [{ kind: "rescind", device: "scsi", afterMs: 1000, reofferAfterMs: 50 }],
      },
    });
    guest.timers.advance(999);
    expect(guest.listen()).toEqual([]);
    guest.timers.advance(1);
    expect(guest.listen().map(({ type }) => type)).toEqual([2, 2]);
    expect(guest.partition.server.offers).toHaveLength(13);
    expect(guest.partition.stats().faults).toEqual([
      { kind: "rescind", device: "scsi", happened: 1 },
    ]);
    guest.timers.advance(50);
    expect(guest.partition.server.offers).toHaveLength(15);
  });
});

test("faults can be replaced while the machine runs, and what was to come does not", () => {
  const guest = connected([first], {
    faults: { faults: [{ kind: "rescind", device: "scsi", afterMs: 1000 }] },
  });
  guest.timers.advance(999);
  const later = { kind: "rescind", device: "scsi", afterMs: 500, reofferAfterMs: 1 } as const;
  guest.partition.setFaults({ faults: [later] });
  expect(guest.partition.faults).toEqual({ faults: [later] });
  guest.timers.advance(499);
  expect(guest.listen()).toEqual([]);
  guest.timers.advance(1);
  expect(guest.listen().map(({ type }) => type)).toEqual([2]);
  expect(guest.partition.stats().faults).toMatchObject([{ kind: "rescind", happened: 1 }]);
});

describe("the devices of a virtual machine", () => {
  test("are thirteen beside disks and networks, with fixed identities", () => {
    const devices = standardDevices(3);
    expect(devices).toHaveLength(13);
    expect(new Set(devices.map(({ instanceId }) => instanceId)).size).toBe(13);
    expect(devices.every(({ worker }) => worker === 3)).toBe(true);
    const keyboardless = standardDevices(0, [DeviceClass.keyboard, DeviceClass.video]);
    expect(keyboardless).toHaveLength(11);
  });

  test("V12: the offer of the shutdown component, but for its relid", () => {
    const fresh = new ScriptedGuest();
    fresh.partition.offer(standardDevices(0).find(isShutdown)!);
    fresh.connect();
    fresh.post(Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0));
    fresh.partition.run();
    fresh.takeMessages();
    const [offer] = fresh.received;
    const expected = new Uint8Array(196);
    expected.set(
      hex("010000000000000031600b0e13523449818b38d90ced39dbf70f65b6bc3340488048e0676786f393"),
    );
    expected.set(hex("1100000004000000"), 56);
    expected.set(hex("01000000ff00010001200000"), 184);
    expect(offer?.bytes).toEqual(expected);
  });

  const isShutdown = (device: DeviceOffer): boolean =>
    device.classId === DeviceClass.shutdown.classId;

  function hex(text: string): Uint8Array {
    return Uint8Array.from(text.match(/../g)!, (byte) => Number.parseInt(byte, 16));
  }
});
