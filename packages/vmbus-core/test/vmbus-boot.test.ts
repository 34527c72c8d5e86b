import { describe, expect, test } from "vitest";
import type { SubChannel, VmbusDevice } from "@hyperv-is/vmbus-core";
import {
  DeviceClass,
  Feature,
  MSR_ENABLE,
  MessageType,
  Msr,
  OpenChannel,
  ProtocolVersion,
  formatVersion,
  versionHas,
} from "@hyperv-is/vmbus-core/protocol";
import { VP_INDEX } from "./fake-hypervisor.js";
import { RINGS, connect, during, guest, open, send, type Guest } from "./vmbus-guest.js";
import { offerOf } from "./vmbus-host.js";

const { v0_13, v1_1, v2_4, v4_0, v4_1, v5_3, v6_0 } = ProtocolVersion;
const NETWORK_INSTANCE = "11111111-1111-1111-1111-111111111111";

describe.each(
  [v0_13, v1_1, v2_4, v4_0, v5_3, v6_0].map(
    (version) => [formatVersion(version), version] as const,
  ),
)("a host that speaks %s only", (_name, version) => {
  const offers = [
    offerOf(14),
    offerOf(3, {
      classId: DeviceClass.network.classId,
      instanceId: NETWORK_INSTANCE,
      monitorAllocated: true,
      monitorId: 69,
    }),
  ];
  const features = Feature.guestSignalParameters | Feature.clientId | Feature.pauseResume;

  test("the guest boots, moves packets, takes sub-channels, closes and leaves without a trace", async () => {
    const made = guest({ versions: [version], offers, features });
    const { machine, host, bus } = made;
    const free = machine.allocator.freePages;
    expect(await during(made, bus.connect())).toBe(version);
    // One contact per version, newest first; those that connection 4 does not take never get there.
    const contacts = host.log.length;
    expect(new Set(host.log)).toEqual(new Set(["INITIATE_CONTACT"]));
    expect(bus.inspect()).toMatchObject({ state: "connected", version: formatVersion(version) });
    expect(bus.inspect().features).toBe(version === v6_0 ? Feature.guestSignalParameters : 0);

    const devices: VmbusDevice[] = [];
    bus.onDevice((device) => devices.push(device));
    await during(made, bus.requestOffers());
    expect(devices.map(({ relid }) => relid)).toEqual([14, 3]);
    expect(bus.devices).toEqual(devices);
    const [disk, network] = devices as [VmbusDevice, VmbusDevice];
    expect(disk).toMatchObject({
      classId: DeviceClass.scsi.classId,
      instanceId: offers[0]!.instanceId,
      busVersion: version,
    });
    expect([...disk.userDefined]).toEqual(new Array(120).fill(14));

    const open1 = await open(made, disk);
    const open2 = await open(made, network);
    expect(host.channels.get(14)).toMatchObject({ state: "open", targetVp: VP_INDEX });
    for (const id of [1, 2, 3]) send(open1.channel, id);
    send(open2.channel, 9);
    await host.settle();
    expect(open1.queue.completed).toEqual([1, 2, 3]);
    expect(open2.queue.completed).toEqual([9]);

    const subChannels: SubChannel[] = [];
    disk.onSubChannel((channel) => subChannels.push(channel));
    if (versionHas(version, "subChannels")) {
      host.offer(offerOf(21, { subChannelIndex: 1 }));
      await host.settle();
      expect(subChannels.map(({ relid, index }) => [relid, index])).toEqual([[21, 1]]);
      const open3 = await open(made, subChannels[0]!);
      send(open3.channel, 4);
      await host.settle();
      expect(open3.queue.completed).toEqual([4]);
      machine.cpu.unbindChannel(open3.description);
      await during(made, subChannels[0]!.closeChannel(open3.description));
    }

    machine.cpu.unbindChannel(open1.description);
    expect(open1.queue.reason).toBe("closed");
    await during(made, disk.closeChannel(open1.description));
    expect(host.channels.get(14)!.state).toBe("closed");
    if (versionHas(version, "subChannels")) {
      // What a host does when the primary closes.
      host.rescind(21);
      await during(made, subChannels[0]!.rescinded);
      expect(host.channels.has(21)).toBe(false);
    }

    // The channel is still offered and opens again, with new rings.
    const again = await open(made, disk);
    send(again.channel, 5);
    await host.settle();
    expect(again.queue.completed).toEqual([5]);
    machine.cpu.unbindChannel(again.description);
    await during(made, disk.closeChannel(again.description));
    machine.cpu.unbindChannel(open2.description);
    await during(made, network.closeChannel(open2.description));
    expect(host.gpadls.size).toBe(0);

    await during(made, bus.unload());
    expect(host.log.at(-1)).toBe("UNLOAD");
    expect(host.violations).toEqual([]);
    expect(bus.inspect().state).toBe("disconnected");
    expect(machine.hypervisor.readMsr(Msr.hypercall) & MSR_ENABLE).toBe(0n);
    expect(machine.timers.pending).toBe(0);
    // 0.13 has no UNLOAD_RESPONSE: what the connection named stays with the host for ever.
    const leaked = version === v0_13 ? 3 : 0;
    expect(bus.inspect().counters).toMatchObject({
      unmatched: 0,
      malformed: 0,
      leakedPages: leaked,
    });
    expect(machine.allocator.leakedPages).toBe(leaked);
    expect(machine.allocator.freePages).toBe(free - leaked);
    expect(contacts).toBeGreaterThan(0);
  });
});

describe("negotiation", () => {
  const contacts = ({ host }: Guest): string[] =>
    host.received
      .filter(({ type }) => type === MessageType.initiateContact)
      .map(({ bytes, connectionId }) => {
        const version = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
        return `${formatVersion(version)} on ${connectionId}`;
      });

  test("goes from the newest version down, contact by contact", async () => {
    const made = guest({ versions: [v4_0, v5_3] });
    expect(await during(made, made.bus.connect())).toBe(v5_3);
    expect(contacts(made)).toEqual(["6.0 on 4", "5.3 on 4"]);
  });

  test("an old host does not know connection 4: versions from 5.0 on are passed over at once", async () => {
    const made = guest({ versions: [v2_4] });
    expect(await during(made, made.bus.connect())).toBe(v2_4);
    expect(contacts(made)).toEqual(["4.1 on 1", "4.0 on 1", "3.0 on 1", "2.4 on 1"]);
    expect(made.bus.inspect().postRetries).toBe(0);
  });

  test("keeps to its ceiling and its list, whatever their order", async () => {
    const made = guest(
      { versions: [v0_13] },
      { ceiling: v4_0, versions: [v0_13, v2_4, v4_0, v5_3] },
    );
    await during(made, made.bus.connect());
    expect(contacts(made)).toEqual(["4.0 on 1", "2.4 on 1", "0.13 on 1"]);
  });

  test("says what it is: pages below 5.0, SINT and features above", async () => {
    const made = guest({ versions: [v4_0, v6_0], features: 0xff }, { ceiling: v4_0 });
    await during(made, made.bus.connect());
    const old = made.host.contact!;
    expect(old).toMatchObject({ targetVp: VP_INDEX, sint: 2, features: 0 });
    const pages = [old.interruptPageGpa, old.parentToChildMonitorGpa, old.childToParentMonitorGpa];
    expect(new Set(pages).size).toBe(3);
    for (const page of pages) expect([page % 4096, page > 0]).toEqual([0, true]);

    const clientId = "22222222-3333-4444-5555-666666666666";
    const other = guest({ versions: [v6_0], features: 0xff }, { clientId, monitorPages: false });
    await during(other, other.bus.connect());
    expect(other.host.contact).toMatchObject({
      clientId,
      sint: 2,
      features: Feature.guestSignalParameters | Feature.clientId,
      parentToChildMonitorGpa: 0,
      childToParentMonitorGpa: 0,
      interruptPageGpa: 0,
    });
  });

  test("monitor pages of the host's that lie nowhere are not used", async () => {
    const offers = [offerOf(14, { monitorAllocated: true, monitorId: 1 })];
    const made = await connect(
      { versions: [v6_0], features: 0xff, offers },
      { features: Feature.hostMonitorPages },
    );
    const { signal } = (await open(made, made.bus.devices[0]!)).description;
    expect(signal.monitor).toBeUndefined();
    expect(made.host.violations).toEqual([]);
  });

  test("features that nobody asked for are not granted", async () => {
    const unaskedFeatures = Feature.pauseResume | Feature.confidentialChannels;
    const made = guest({ versions: [v6_0], features: 0xff, unaskedFeatures });
    await during(made, made.bus.connect());
    expect(made.bus.inspect().features).toBe(Feature.guestSignalParameters);
  });

  test.each([
    ["no version", { versions: [] }],
    ["none below the ceiling", { versions: [v5_3], ceiling: v4_0 }],
    ["an unknown feature", { features: Feature.pauseResume }],
  ])("is refused with %s", (_what, options) => {
    expect(() => guest({ versions: [v5_3] }, options)).toThrow(RangeError);
  });

  test("fails with ERR_VERSION when the host knows none, and can be tried again", async () => {
    const made = guest({ versions: [v4_1] }, { versions: [v5_3, v4_0] });
    const free = made.machine.allocator.freePages;
    await expect(during(made, made.bus.connect())).rejects.toMatchObject({ code: "ERR_VERSION" });
    expect(made.machine.allocator.freePages).toBe(free);
    await expect(during(made, made.bus.connect())).rejects.toMatchObject({ code: "ERR_VERSION" });
  });

  test("supported is not connected: the connection state counts", async () => {
    const made = guest({ versions: [v5_3] });
    made.host.connectionState = 1;
    await expect(during(made, made.bus.connect())).rejects.toMatchObject({
      code: "ERR_CONNECT_FAILED",
      status: 1,
    });
  });

  test("a host that does not answer is given up, and its pages with it", async () => {
    const made = guest({ versions: [v5_3] });
    made.host.held.add(MessageType.initiateContact);
    const connecting = made.bus.connect();
    await made.host.settle();
    made.machine.timers.advance(30_000);
    await expect(during(made, connecting)).rejects.toMatchObject({ code: "ERR_TIMEOUT" });
    expect(made.machine.allocator.leakedPages).toBe(3);
    // The late answer is for nobody.
    made.host.answer(MessageType.initiateContact);
    await made.host.settle();
    expect(made.bus.inspect().state).toBe("disconnected");
  });

  test("connecting twice is a mistake of the caller's", async () => {
    const made = await connect({ versions: [v5_3] });
    await expect(made.bus.connect()).rejects.toThrow("connected already");
  });
});

describe("a connected bus", () => {
  test("offers that come later are devices as well", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(1)] });
    const relids: number[] = [];
    made.bus.onDevice(({ relid }) => relids.push(relid));
    made.host.offer(offerOf(2, { instanceId: NETWORK_INSTANCE }));
    await made.host.settle();
    expect(relids).toEqual([1, 2]);
  });

  test("offers are asked for once, and missing them is a time-out", async () => {
    const made = guest({ versions: [v5_3] });
    await expect(during(made, made.bus.requestOffers())).rejects.toMatchObject({
      code: "ERR_UNLOADED",
    });
    await during(made, made.bus.connect());
    made.host.held.add(MessageType.requestOffers);
    const asking = made.bus.requestOffers();
    await expect(made.bus.requestOffers()).rejects.toMatchObject({ code: "ERR_BUSY" });
    await made.host.settle();
    made.machine.timers.advance(30_000);
    await expect(during(made, asking)).rejects.toMatchObject({ code: "ERR_TIMEOUT" });
    await expect(during(made, made.bus.requestOffers())).rejects.toMatchObject({
      code: "ERR_BUSY",
    });
    expect(made.host.violations).toEqual([]);
  });

  test("a large ring takes several messages, and ids count up from 0xe1e10", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    const device = made.bus.devices[0]!;
    const description = await during(
      made,
      device.prepareChannel({ outgoingPages: 40, incomingPages: 43, cpu: 0 }),
    );
    expect(made.host.log.filter((name) => name.startsWith("GPADL"))).toEqual([
      "GPADL_HEADER",
      "GPADL_BODY",
      "GPADL_BODY",
      "GPADL_BODY",
    ]);
    const [id, gpadl] = [...made.host.gpadls][0]!;
    expect(id).toBe(0xe1e10);
    expect(gpadl.pages).toHaveLength(83);
    expect(gpadl.pages![0]).toBe(description.ringAddress);
    const buffer = await during(made, device.createGpadl(2));
    expect(buffer).toMatchObject({ gpadlId: 0xe1e11, pageCount: 2 });
    await during(made, device.tearDownGpadl(buffer));
    await during(made, device.tearDownGpadl(buffer));
    await during(made, device.closeChannel(description));
    await during(made, device.closeChannel(description));
    expect([...made.host.gpadls]).toEqual([]);
    expect(made.host.violations).toEqual([]);
  });

  test("what the driver has to say at the opening reaches the host", async () => {
    const made = await connect({ versions: [v6_0], features: 0xff, offers: [offerOf(14)] });
    const device = made.bus.devices[0]!;
    const description = await during(made, device.prepareChannel(RINGS));
    await during(made, device.openChannel(description, Uint8Array.of(1, 2, 3)));
    const { bytes } = made.host.received.at(-1)!;
    const sent = OpenChannel.parse(bytes, Feature.guestSignalParameters)!;
    expect([...sent.userData.subarray(0, 4)]).toEqual([1, 2, 3, 0]);
    expect(sent).toMatchObject({
      openId: 14,
      downstreamPageOffset: 3,
      signal: { connectionId: 0x200e, eventFlag: 14 },
    });
  });

  test.each([
    ["no memory", { outgoingPages: 150, incomingPages: 150, cpu: 0 }, { code: "ERR_NO_MEMORY" }],
    ["rings without data", { outgoingPages: 1, incomingPages: 2, cpu: 0 }, { name: "RangeError" }],
    [
      "more than a GPADL holds",
      { outgoingPages: 8190, incomingPages: 2, cpu: 0 },
      { name: "RangeError" },
    ],
    [
      "a CPU that is not there",
      { outgoingPages: 2, incomingPages: 2, cpu: 1 },
      { name: "RangeError" },
    ],
  ])("a channel is refused with %s", async (_what, options, error) => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    const device = made.bus.devices[0]!;
    await expect(during(made, device.prepareChannel(options))).rejects.toMatchObject(error);
    // Nothing stays behind: the next attempt is as good as the first.
    await open(made, device);
    expect(made.host.violations).toEqual([]);
  });

  test("calls in the wrong order are the caller's mistake", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    const device = made.bus.devices[0]!;
    const { description } = await open(made, device);
    await expect(device.prepareChannel(RINGS)).rejects.toThrow("prepared already");
    await expect(device.openChannel({ ...description, ringAddress: 0 })).rejects.toThrow(
      "not prepared",
    );
    await expect(device.openChannel(description)).rejects.toMatchObject({ code: "ERR_BUSY" });
    await expect(device.openChannel(description, new Uint8Array(121))).rejects.toThrow(RangeError);
    const closing = device.closeChannel(description);
    await expect(device.openChannel(description)).rejects.toThrow("not prepared");
    await expect(device.moveChannel(description, 0)).rejects.toThrow("not prepared");
    await during(made, closing);
    expect(made.host.violations).toEqual([]);
  });

  test("a host that cannot open says so, and the rings can be taken back", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    const device = made.bus.devices[0]!;
    const free = made.machine.allocator.freePages;
    const description = await during(made, device.prepareChannel(RINGS));
    made.host.openStatus = 0x8000ffff;
    await expect(during(made, device.openChannel(description))).rejects.toMatchObject({
      code: "ERR_OPEN_FAILED",
      status: 0x8000ffff,
    });
    made.host.openStatus = 0;
    await during(made, device.openChannel(description));
    await during(made, device.closeChannel(description));
    expect(made.machine.allocator.freePages).toBe(free);
    expect(made.host.violations).toEqual([]);
  });

  test("a host that refuses memory says so, and the pages are free again", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    const free = made.machine.allocator.freePages;
    made.host.gpadlStatus = 0x8000ffff;
    await expect(during(made, made.bus.devices[0]!.prepareChannel(RINGS))).rejects.toMatchObject({
      code: "ERR_GPADL_REFUSED",
      status: 0x8000ffff,
    });
    expect(made.machine.allocator.freePages).toBe(free);
  });

  test("channels go where the release sends them", async () => {
    const made = await connect(
      { versions: [v5_3], offers: [offerOf(14)] },
      { vpIndexes: [VP_INDEX, 6, 9], bindingEra: "freebsd-10.2" },
    );
    const device = made.bus.devices[0]!;
    const cpu = device.assignCpu();
    expect([cpu, device.assignCpu(), device.assignCpu()]).toEqual([1, 2, 0]);
    const description = await during(made, device.prepareChannel({ ...RINGS, cpu }));
    expect(description.targetVp).toBe(6);
    await during(made, device.openChannel(description));
    expect(made.host.channels.get(14)!.targetVp).toBe(6);
    const moved = await during(made, device.moveChannel(description, 2));
    expect(moved).toEqual({ ...description, targetVp: 9 });
    expect(made.host.channels.get(14)!.targetVp).toBe(9);
    expect(made.host.violations).toEqual([]);
  });

  test("below 2.4 everything is on the first CPU", async () => {
    const made = await connect(
      { versions: [v1_1], offers: [offerOf(14)] },
      { vpIndexes: [VP_INDEX, 6], bindingEra: "freebsd-10.2" },
    );
    const device = made.bus.devices[0]!;
    expect(device.assignCpu()).toBe(0);
    await expect(device.prepareChannel({ ...RINGS, cpu: 1 })).rejects.toThrow(RangeError);
    const description = await during(made, device.prepareChannel(RINGS));
    await expect(device.moveChannel(description, 0)).rejects.toMatchObject({
      code: "ERR_UNSUPPORTED",
    });
  });

  test("lowLatency keeps a channel off the monitor page", async () => {
    const offers = [offerOf(14, { monitorAllocated: true, monitorId: 3 })];
    const made = await connect({ versions: [v5_3], offers });
    const device = made.bus.devices[0]!;
    const slow = await during(made, device.prepareChannel(RINGS));
    expect(slow.signal.monitor).toBeDefined();
    await during(made, device.closeChannel(slow));
    const fast = await during(made, device.prepareChannel({ ...RINGS, lowLatency: true }));
    expect(fast.signal.monitor).toBeUndefined();
  });

  test("inspect tells it all as plain data", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    await open(made, made.bus.devices[0]!);
    const told = made.bus.inspect();
    expect(structuredClone(told)).toEqual(told);
    expect(told.channels).toEqual([
      {
        relid: 14,
        index: 0,
        classId: DeviceClass.scsi.classId,
        instanceId: offerOf(14).instanceId,
        state: "open",
        cpu: 0,
        monitorId: null,
        gpadls: [{ gpadlId: 0xe1e10, pageCount: 5, state: "established" }],
      },
    ]);
  });

  test("a bus that has left can connect again and begins anew", async () => {
    const made = await connect({ versions: [v5_3], offers: [offerOf(14)] });
    await open(made, made.bus.devices[0]!);
    await during(made, made.bus.unload());
    expect(made.bus.devices).toEqual([]);
    expect(made.bus.inspect()).toMatchObject({ version: null, features: 0, channels: [] });
    await during(made, made.bus.connect());
    await during(made, made.bus.requestOffers());
    await during(made, made.bus.devices[0]!.prepareChannel(RINGS));
    expect([...made.host.gpadls.keys()]).toEqual([0xe1e10]);
    expect(made.host.violations).toEqual([]);
  });
});
