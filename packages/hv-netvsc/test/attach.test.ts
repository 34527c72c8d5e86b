import { describe, expect, test } from "vitest";
import { ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import { attachNetvsc } from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import { codeOf, Rig, small } from "./rig.js";
import { fullOffload, packetMessage } from "./scripted-host.js";

const { NvspType, Oid, RndisType } = protocol;

/** Free pages of all CPUs: what a rig has again when nothing is left. */
function freePages(rig: Rig): number[] {
  return rig.arenas.map((arena) => arena.freePages);
}

function leakedPages(rig: Rig): number[] {
  return rig.arenas.map((arena) => arena.leakedPages);
}

describe("an attach", () => {
  test("says everything in FreeBSD's order", async () => {
    const rig = new Rig({ cpus: 4 });
    const hn = await rig.attach();
    expect(rig.adapter.types.filter((type) => type !== NvspType.sendRndisPacket)).toEqual([
      NvspType.init,
      NvspType.sendNdisConfig,
      NvspType.sendNdisVersion,
      NvspType.sendReceiveBuffer,
      NvspType.sendSendBuffer,
      NvspType.subChannel,
    ]);
    expect(rig.adapter.controls.map(({ type, oid }) => (type === 2 ? "initialize" : oid))).toEqual([
      "initialize",
      Oid.tcpOffloadHardwareCapabilities,
      Oid.tcpOffloadParameters,
      Oid.genReceiveScaleCapabilities,
      Oid.genReceiveScaleParameters,
      Oid.genCurrentPacketFilter,
      Oid.ethPermanentAddress,
      Oid.genMaximumFrameSize,
      Oid.genLinkSpeed,
      Oid.genMediaConnectStatus,
    ]);
    expect(hn.parameters).toMatchObject({ version: 0x6_0001, ndisMinor: 30, mtu: 1500 });
    expect([...hn.address]).toEqual([0, 0x15, 0x5d, 0x0a, 1, 1]);
    expect(hn.link).toEqual({ up: true, speed: 10_000_000_000 });
    expect(hn.channels.map(({ index, cpu }) => [index, cpu])).toEqual([
      [0, 0],
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    expect(rig.timers.now()).toBe(200); // the settling after the filter
  });

  test.each([
    [0x6_0001, 1514, 0xa8, 30],
    [0x6_0000, 1514, 0x28, 30],
    [0x5_0000, 1514, 0x28, 30],
    [0x4_0000, 1514, 0x08, 1],
    [0x3_0002, 1514, 0x08, 1],
    [0x0_0002, undefined, undefined, 1],
  ])("of a host of version %i announces what that has", async (version, mtu, caps, minor) => {
    const rig = new Rig({ cpus: 2, facts: { versions: [version] } });
    const hn = await rig.attach();
    const asked = rig.adapter.messages.filter(({ type }) => type === NvspType.init);
    expect(asked.map(({ packet }) => protocol.get32(packet, 4)).at(-1)).toBe(version);
    expect(
      asked.every(({ packet }) => protocol.get32(packet, 4) === protocol.get32(packet, 8)),
    ).toBe(true);
    const config = rig.adapter.messages.find(({ type }) => type === NvspType.sendNdisConfig);
    expect(config && protocol.NvspSendNdisConfig.parse(config.packet)).toEqual(
      mtu === undefined ? undefined : { mtu, capabilities: caps, capabilitiesHigh: 0 },
    );
    const ndis = rig.adapter.messages.find(({ type }) => type === NvspType.sendNdisVersion)!;
    expect(protocol.NvspSendNdisVersion.parse(ndis.packet)).toEqual({ major: 6, minor });
    expect(hn.channels).toHaveLength(version >= 0x5_0000 ? 2 : 1);
    const { packetBytes } = protocol.findNvspVersion(version)!;
    for (const { packet, type } of rig.adapter.messages)
      if (type !== NvspType.init && type !== NvspType.sendRndisPacket)
        expect(packet.byteLength).toBe(packetBytes);
  });

  test("tells the host MTU and Ethernet header together", async () => {
    const rig = new Rig();
    const hn = await rig.attach({ mtu: 9000 });
    expect(rig.adapter.mtu).toBe(9014);
    expect(hn.mtu).toBe(9000);
  });

  test("takes less from a host that has less", async () => {
    const rig = new Rig({ facts: { frameBytesMax: 1500 } });
    expect((await rig.attach({ mtu: 9000 })).mtu).toBe(1500);
  });

  test.each([
    ["refuses the send buffer", NvspType.sendSendBuffer, 2],
    ["wants no sections", NvspType.sendSendBuffer, 1],
  ])("goes on with a host that %s", async (_, type, status) => {
    const rig = new Rig();
    rig.adapter.onMessage = (message) => {
      if (message.type !== type) return "default";
      const answer = { status, sectionSize: 0 };
      message.channel.complete(message, protocol.NvspSendSendBufferComplete.packet(answer, 40));
      return "handled";
    };
    const hn = await rig.attach();
    expect(hn.parameters.sendBuffer).toBeUndefined();
    const free = rig.gpadls.size;
    await rig.settle(hn.detach());
    expect(free).toBe(2);
    expect(rig.gpadls.size).toBe(0);
  });

  test("does without sub-channels that a host refuses", async () => {
    const rig = new Rig({ cpus: 4 });
    rig.adapter.onMessage = (message) => {
      if (message.type !== NvspType.subChannel) return "default";
      const answer = { status: 2, subChannels: 0 };
      message.channel.complete(message, protocol.NvspSubChannelComplete.packet(answer, 40));
      return "handled";
    };
    const hn = await rig.attach();
    expect(hn.channels).toHaveLength(1);
    expect(rig.adapter.controls.map(({ oid }) => oid)).not.toContain(Oid.genReceiveScaleParameters);
  });

  test("spreads reception over the channels that came", async () => {
    const rig = new Rig({ cpus: 4 });
    rig.adapter.onSubChannels = () => {
      rig.offer(3);
      rig.offer(1);
    };
    const hn = await rig.attach();
    expect(hn.channels.map(({ index }) => index)).toEqual([0, 1, 3]);
    const set = rig.adapter.controls.find(({ oid }) => oid === Oid.genReceiveScaleParameters)!;
    const { table, hashInfo } = protocol.parseRssParameters(set.information)!;
    expect(table).toHaveLength(128);
    expect(table.slice(0, 4)).toEqual([0, 1, 3, 0]);
    expect(hashInfo).toBe(0x1701);
    expect(rig.log).toEqual(["2 of 3 sub-channels came"]);
    // One that comes later has no share in it, and is left alone.
    rig.calls.length = 0;
    rig.offer(2);
    await rig.rest();
    expect(rig.calls).toEqual([]);
    expect(hn.channels).toHaveLength(3);
  });

  test.each([
    ["a refused receive buffer", NvspType.sendReceiveBuffer, "ERR_NETVSC_REFUSED"],
    ["a version that is not answered", NvspType.init, "ERR_NETVSC_TIMEOUT"],
    ["a control message that is not taken", NvspType.sendRndisPacket, "ERR_NETVSC_REFUSED"],
  ])("fails by %s, and leaves nothing", async (_, type, code) => {
    const rig = new Rig();
    const before = freePages(rig);
    rig.adapter.onMessage = (message) => {
      if (message.type !== type) return "default";
      if (type === NvspType.sendReceiveBuffer)
        message.channel.complete(
          message,
          protocol.NvspSendReceiveBufferComplete.packet({ status: 2, sectionCount: 0 }, 40),
        );
      if (type === NvspType.sendRndisPacket)
        rig.adapter.completeSend(message, protocol.NvspStatus.failure);
      return "handled";
    };
    expect(await codeOf(rig.attach())).toBe(code);
    expect(rig.gpadls.size).toBe(0);
    expect(rig.calls.at(-1)).toMatch(/^teardown|^close/u);
    expect(freePages(rig)).toEqual(before);
  });

  test("to a host that completes nothing that it answers comes to its end", async () => {
    const rig = new Rig();
    rig.adapter.holdControls = true;
    const hn = await rig.attach();
    rig.adapter.holdControls = false;
    const late = rig.adapter.heldControls;
    expect(late.length).toBeGreaterThan(4);
    for (const message of late) rig.adapter.completeSend(message);
    rig.adapter.completeSend(late[0]!);
    rig.adapter.primary.channel.flush();
    rig.run();
    // Only the one that comes twice is of nothing.
    expect(hn.port.counters.unknownIds).toBe(1);
    await rig.settle(hn.detach());
    expect(leakedPages(rig)).toEqual([0]);
  });

  test("by frames that come too early completes and drops them", async () => {
    const rig = new Rig();
    rig.adapter.onControl = (control) => {
      rig.adapter.answer(control);
      if (control.type !== RndisType.initialize) return "handled";
      const frame = new Uint8Array(60).fill(1);
      const message = new Uint8Array(1806);
      protocol.writePacketHeader(message, 0, new protocol.FrameInfo(), 256, 60, 1806);
      message.set(frame, 256);
      rig.adapter.primary.deliver([{ slot: 20, bytes: message }], 20);
      return "handled";
    };
    const hn = await rig.attach();
    expect(rig.adapter.completions).toContainEqual({
      channel: 0,
      id: 20,
      status: 1,
      packetBytes: 8,
    });
    expect((await hn.counters()).rxDropped).toBe(1);
  });
});

describe("a detach", () => {
  test("is FreeBSD's, from Server 2016 on with the buffers after the channel", async () => {
    const rig = new Rig({ cpus: 2 });
    const before = freePages(rig);
    const hn = await rig.attach();
    await rig.settle(hn.setFilter(protocol.PacketFilter.directed));
    rig.calls.length = 0;
    rig.adapter.messages.length = 0;
    rig.adapter.controls.length = 0;
    const start = rig.timers.now();
    await rig.settle(hn.detach());
    expect(rig.adapter.filter).toBe(0);
    expect(rig.adapter.controls.map(({ type }) => type)).toEqual([RndisType.set, RndisType.halt]);
    expect(rig.adapter.types.filter((type) => type !== NvspType.sendRndisPacket)).toEqual([
      NvspType.revokeReceiveBuffer,
      NvspType.revokeSendBuffer,
    ]);
    expect(rig.timers.now() - start).toBe(600);
    expect(rig.calls).toEqual([
      "unbind 15 closed",
      "close 15",
      "unbind 14 closed",
      "close 14",
      "teardown 925200",
      "teardown 925201",
    ]);
    expect(freePages(rig)).toEqual(before);
    expect(leakedPages(rig)).toEqual([0, 0]);
  });

  test("from an older host takes the buffers back before the channel is closed", async () => {
    const rig = new Rig({ busVersion: ProtocolVersion.v3_0 });
    const hn = await rig.attach();
    rig.calls.length = 0;
    await rig.settle(hn.detach());
    expect(rig.calls).toEqual([
      "teardown 925200",
      "teardown 925201",
      "unbind 14 closed",
      "close 14",
    ]);
  });

  test("looks for what the host has read as time passes, though it leaves it no time", async () => {
    const rig = new Rig();
    const hn = await rig.attach({ settleMs: 0 });
    const { right } = rig.pair(0);
    rig.adapter.onMessage = (message) => {
      if (message.type === NvspType.revokeReceiveBuffer) {
        right.pause();
        rig.timers.after(3, () => {
          right.resume();
          right.poll(10);
        });
      }
      return "default";
    };
    const start = rig.timers.now();
    await rig.settle(hn.detach());
    expect(rig.adapter.types.at(-1)).toBe(NvspType.revokeSendBuffer);
    expect(rig.timers.now() - start).toBe(3);
  });

  test("ends though the host says nothing any more", async () => {
    const rig = new Rig({ cpus: 2 });
    const hn = await rig.attach();
    rig.rescindsSubChannels = false;
    rig.adapter.onMessage = () => "handled";
    await rig.settle(hn.detach());
    expect(rig.gpadls.size).toBe(0);
  });

  test("after which the host takes its sub-channels back, is waited for", async () => {
    const rig = new Rig({ cpus: 2 });
    const hn = await rig.attach();
    rig.rescindsSubChannels = false;
    const start = rig.timers.now();
    const detached = hn.detach();
    rig.timers.after(1_000, () => rig.offers[0]!.rescind());
    await rig.settle(detached);
    expect(rig.timers.now() - start).toBe(1_000);
  });
});

describe("a rescind", () => {
  test("ends each wait of an attach, and leaves nothing", async () => {
    // One attach after the other, rescinded after one more message of the guest.
    for (let messages = 0; messages < 20; messages++) {
      const rig = new Rig({ cpus: 2 });
      const before = freePages(rig);
      let left = messages;
      rig.adapter.onMessage = () => {
        if (left-- > 0) return "default";
        rig.rescind();
        return "handled";
      };
      const code = await codeOf(rig.attach());
      if (code === "resolved") {
        expect(messages).toBeGreaterThan(15);
        return;
      }
      expect(code).toBe("ERR_RESCINDED");
      await rig.rest();
      expect(rig.gpadls.size).toBe(0);
      const leaked = leakedPages(rig).reduce((sum, pages) => sum + pages, 0);
      // Of a message that the host had when it went: its buffers are not used again.
      const after = freePages(rig).map((pages, cpu) => pages + leakedPages(rig)[cpu]!);
      const { type } = rig.adapter.messages.at(-1)!;
      expect(leaked).toBe(type === NvspType.sendRndisPacket ? 4 : 0);
      expect(after).toEqual(before);
      expect(rig.timers.now()).toBeLessThan(1_000);
    }
    throw new Error("an attach takes fewer messages");
  });

  test("while memory is being shared takes that back, too", async () => {
    const rig = new Rig();
    const { device } = rig.context;
    let share: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (share = resolve));
    const createGpadl = device.createGpadl.bind(device);
    Object.assign(device, {
      createGpadl: (pages: number) => held.then(() => createGpadl(pages)),
    });
    const attached = attachNetvsc(rig.context, small);
    await rig.rest();
    rig.rescind();
    await rig.rest();
    share();
    expect(await codeOf(rig.settle(attached))).toBe("ERR_RESCINDED");
    expect(rig.gpadls.size).toBe(0);
    expect(rig.calls.filter((call) => call.startsWith("share"))).toHaveLength(1);
  });

  test("ends each wait of a detach", async () => {
    for (let messages = 0; messages < 5; messages++) {
      const rig = new Rig({ cpus: 2 });
      const hn = await rig.attach();
      let left = messages;
      rig.adapter.onMessage = () => {
        if (left-- > 0) return "default";
        rig.rescind();
        return "handled";
      };
      const start = rig.timers.now();
      await rig.settle(hn.detach());
      expect(rig.timers.now() - start).toBeLessThanOrEqual(600);
      expect(rig.gpadls.size).toBe(0);
    }
  });

  test("of a running interface is told, and everything is let go of", async () => {
    const rig = new Rig({ cpus: 2 });
    const hn = await rig.attach();
    const errors: string[] = [];
    hn.on({ gone: ({ code }) => errors.push(code) });
    rig.rescind();
    await rig.rest();
    expect(errors).toEqual(["ERR_RESCINDED"]);
    expect(hn.error?.code).toBe("ERR_RESCINDED");
    expect(hn.link.up).toBe(false);
    expect(rig.gpadls.size).toBe(0);
    expect(await codeOf(hn.setFilter(1))).toBe("ERR_RESCINDED");
    expect(await codeOf(hn.setMtu(9000))).toBe("ERR_CLOSED");
  });
});

describe("an MTU change", () => {
  test("attaches again with the same version, and leaves nothing of the first", async () => {
    const rig = new Rig({ cpus: 2, facts: { versions: [0x5_0000] } });
    const hn = await rig.attach();
    await rig.settle(hn.setFilter(protocol.PacketFilter.directed));
    await rig.settle(hn.setMtu(9000));
    const first = freePages(rig);
    for (const mtu of [1500, 9000]) expect(await rig.settle(hn.setMtu(mtu))).toBe(mtu);
    expect(freePages(rig)).toEqual(first);
    expect(leakedPages(rig)).toEqual([0, 0]);
    expect(rig.gpadls.size).toBe(2);
    expect(rig.adapter.mtu).toBe(9014);
    expect(rig.adapter.filter).toBe(protocol.PacketFilter.directed);
    expect(hn.channels).toHaveLength(2);
    const versions = rig.adapter.messages
      .filter(({ type }) => type === NvspType.init)
      .map(({ packet }) => protocol.get32(packet, 4));
    expect(versions).toEqual([0x6_0001, 0x6_0000, 0x5_0000, 0x5_0000, 0x5_0000, 0x5_0000]);
  });

  test("goes on counting", async () => {
    const rig = new Rig({ cpus: 2 });
    const hn = await rig.attach();
    const receive = (index = 0): void => {
      const host = rig.adapter.channelOf(index);
      host.deliver([{ slot: 20, bytes: packetMessage(new Uint8Array(60)) }], 20);
      host.channel.flush();
      rig.run();
    };
    receive();
    receive(1);
    // Whoever looks while it is attached again sees no less, and no more.
    const seen: Promise<number>[] = [];
    rig.adapter.onMessage = () => {
      seen.push(hn.counters().then(({ rxDropped }) => rxDropped));
      return "default";
    };
    for (const mtu of [9000, 1500]) {
      const changing = hn.setMtu(mtu);
      const meanwhile = hn.counters();
      expect(await rig.settle(changing)).toBe(mtu);
      expect((await meanwhile).rxDropped).toBeGreaterThan(0);
      receive();
    }
    expect(await hn.counters()).toMatchObject({ rxDropped: 4 });
    expect(new Set(await Promise.all(seen))).toEqual(new Set([2, 3]));
    const dropped = [...(await hn.channelCounters())].map(([index, { rxDropped }]) => [
      index,
      rxDropped,
    ]);
    expect(dropped).toEqual([
      [0, 3],
      [1, 1],
    ]);
  });

  test("keeps how frames are spread and whether they are coalesced", async () => {
    const rig = new Rig({ cpus: 3 });
    const hn = await rig.attach();
    const told = (oid: protocol.Oid): Uint8Array =>
      rig.adapter.controls.findLast((control) => control.oid === oid)!.information;
    const spread = () => protocol.parseRssParameters(told(Oid.genReceiveScaleParameters))!;
    const rsc = (): number[] => {
      const { rscIpv4, rscIpv6 } = protocol.NdisOffloadParameters.parse(
        told(Oid.tcpOffloadParameters),
      )!;
      return [rscIpv4, rscIpv6];
    };
    const { on, off } = protocol.LargeSendParameter;
    expect([hn.scaling.table.slice(0, 4), hn.scaling.key, rsc()]).toEqual([
      [0, 1, 2, 0],
      protocol.DEFAULT_RSS_KEY,
      [on, on],
    ]);
    const key = new Uint8Array(40).fill(7);
    await rig.settle(hn.setScaling({ key }));
    // There is no channel 9.
    await rig.settle(hn.setScaling({ table: [2, 2, 9, 0] }));
    await rig.settle(hn.setCoalescing(false));
    const expected = [[2, 2, 2, 0, 1, 2], key, [off, off]];
    const now = () => [spread().table.slice(0, 6), spread().key, rsc()];
    expect(now()).toEqual(expected);
    rig.adapter.controls.length = 0;
    await rig.settle(hn.setMtu(9000));
    expect(now()).toEqual(expected);
    expect([hn.scaling.table.slice(0, 6), hn.scaling.key]).toEqual(expected.slice(0, 2));
    expect(hn.parameters.offloads).toMatchObject({ coalescing4: false, coalescing6: false });
    await rig.settle(hn.setCoalescing(true));
    expect([rsc(), hn.parameters.offloads.coalescing4]).toEqual([[on, on], true]);
    // It holds for the channels that are left, too.
    await rig.settle(hn.setScaling({ table: [1, 0, 2, 0] }));
    rig.offers.at(-1)!.rescind();
    await rig.rest();
    expect(spread().table.slice(0, 5)).toEqual([1, 0, 0, 0, 0]);
  });

  test("that the host does not go along with keeps the MTU from before", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    let refusals = 1;
    rig.adapter.onMessage = (message) => {
      if (message.type !== NvspType.init || refusals-- <= 0) return "default";
      const answer = { deprecatedVersion: 0, maxMdlChainLength: 0, status: 0 };
      message.channel.complete(message, protocol.NvspInitComplete.packet(answer, 40));
      return "handled";
    };
    expect(await codeOf(rig.settle(hn.setMtu(9000)))).toBe("ERR_NETVSC_VERSION");
    expect(hn.mtu).toBe(1500);
    expect(hn.error).toBeUndefined();
    expect(await rig.settle(hn.setMtu(9000))).toBe(9000);
  });

  test("after which the host has another adapter ends the interface", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    const errors: string[] = [];
    hn.on({ gone: ({ code }) => errors.push(code) });
    rig.adapter.facts = { ...rig.adapter.facts, address: [0, 0x15, 0x5d, 9, 9, 9] };
    expect(await codeOf(rig.settle(hn.setMtu(9000)))).toBe("ERR_NETVSC_CHANGED");
    expect(errors).toEqual(["ERR_NETVSC_CHANGED"]);
    expect(rig.gpadls.size).toBe(0);
  });
});

describe("a sub-channel that is lost", () => {
  test.each([
    ["by a rescind", (rig: Rig) => rig.offers[1]!.rescind()],
    ["by its CPU", (rig: Rig) => rig.loseCpu(2)],
    ["by a corrupt ring", (rig: Rig) => rig.pair(2).left.fail("ERR_RING_CORRUPT", "broken")],
  ])("%s is left out of reception", async (_, lose) => {
    const rig = new Rig({ cpus: 4 });
    const hn = await rig.attach();
    rig.adapter.controls.length = 0;
    lose(rig);
    await rig.rest();
    expect(hn.channels.map(({ index }) => index)).toEqual([0, 1, 3]);
    const sets = rig.adapter.controls.filter(({ oid }) => oid === Oid.genReceiveScaleParameters);
    expect(sets).toHaveLength(1);
    expect(protocol.parseRssParameters(sets[0]!.information)!.table.slice(0, 4)).toEqual([
      0, 1, 3, 0,
    ]);
    expect(hn.error).toBeUndefined();
    await rig.settle(hn.detach());
  });
});

describe("what the host says unasked", () => {
  test("of the link is asked for, and the last state counts", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    const seen: boolean[] = [];
    hn.on({ linkChanged: ({ up }) => seen.push(up) });
    const { mediaConnect, mediaDisconnect } = protocol.RndisStatus;
    rig.adapter.linkUp = false;
    rig.adapter.indicate(mediaDisconnect);
    await rig.rest();
    expect(seen).toEqual([false]);
    // Twice within a second: what comes while the answer is under way is not missed.
    rig.adapter.linkUp = true;
    rig.adapter.indicate(mediaConnect);
    rig.run();
    rig.adapter.linkUp = false;
    rig.adapter.indicate(mediaDisconnect);
    rig.adapter.linkUp = true;
    rig.adapter.indicate(mediaConnect);
    await rig.rest();
    expect(seen).toEqual([false, true]);
    expect(hn.link.up).toBe(true);
  });

  test("of another network takes the link down for five seconds", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    const seen: boolean[] = [];
    hn.on({ linkChanged: ({ up }) => seen.push(up) });
    rig.adapter.indicate(protocol.RndisStatus.networkChange, Uint8Array.of(1, 0, 0, 0));
    await rig.rest();
    expect(seen).toEqual([false]);
    rig.timers.advance(4_999);
    await rig.rest();
    expect(seen).toEqual([false]);
    rig.timers.advance(1);
    await rig.rest();
    expect(seen).toEqual([false, true]);
  });

  test("of its speed changes what the link says", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    rig.adapter.linkSpeed = 40_000_000_000;
    rig.adapter.indicate(protocol.RndisStatus.linkSpeedChange);
    await rig.rest();
    expect(hn.link).toEqual({ up: true, speed: 40_000_000_000 });
  });

  test("to see whether the guest lives is answered", async () => {
    const rig = new Rig();
    await rig.attach();
    rig.adapter.say(protocol.RndisKeepalive.emit({ requestId: 77 }));
    rig.adapter.primary.channel.flush();
    await rig.rest();
    expect(rig.adapter.controls.at(-1)).toMatchObject({
      type: RndisType.keepaliveComplete,
      requestId: 77,
    });
  });

  test("by an indirection table is kept, and other messages are counted", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    const table = Array.from({ length: 16 }, (_, index) => index % 3);
    const host = rig.adapter.primary;
    host.put(6, 0, 0, 0, protocol.emitSendTable(table));
    host.put(
      6,
      1,
      500,
      0x8000_0000 | 0,
      protocol.NvspSendVfAssociation.packet({ allocated: 1, serial: 7 }, 12),
    );
    host.put(6, 0, 0, 0, protocol.emitSendTable([1, 2]));
    host.channel.flush();
    await rig.rest();
    expect(hn.sendTable).toEqual(table);
    expect((await hn.inspect())["notices"]).toEqual({
      sendTables: 1,
      vfAssociations: 1,
      others: 1,
    });
    // The one that asked for it is told that it was read.
    expect(rig.adapter.completions.filter(({ id }) => id === 500)).toHaveLength(1);
  });

  test("that makes no sense is counted, and nothing stops", async () => {
    const rig = new Rig();
    const hn = await rig.attach();
    rig.adapter.say(Uint8Array.of(1, 2, 3));
    rig.adapter.say(protocol.RndisReset.emit({}));
    rig.adapter.say(protocol.RndisSetComplete.emit({ requestId: 0x10000, status: 0 }));
    const late = protocol.RndisIndicateStatus.emit({
      status: protocol.RndisStatus.mediaConnect,
      bufferLength: 4,
      bufferOffset: 12,
    });
    rig.adapter.say(late);
    rig.adapter.primary.channel.flush();
    await rig.rest();
    expect((await hn.inspect())["conversation"]).toMatchObject({ malformed: 3, unexpected: 1 });
    await rig.settle(hn.setFilter(9));
    expect(rig.adapter.filter).toBe(9);
  });
});

test("coalescing that a host does not have cannot be switched on", async () => {
  const rig = new Rig({ facts: { offload: { ...fullOffload, rscIpv4: 0, rscIpv6: 0 } } });
  const hn = await rig.attach();
  expect(await codeOf(rig.settle(hn.setCoalescing(true)))).toBe("ERR_NETVSC_REFUSED");
  expect(await codeOf(rig.settle(hn.setCoalescing(false)))).toBe("resolved");
  // With one channel there is nothing to spread; what is chosen is kept.
  const key = new Uint8Array(40).fill(7);
  await rig.settle(hn.setScaling({ key }));
  expect(hn.scaling).toEqual({ key, table: [] });
});

test("a host that takes its time is waited for", async () => {
  const rig = new Rig({ cpus: 2 });
  rig.adapter.onControl = (control) => {
    rig.timers.after(59_000, () => {
      rig.adapter.answer(control);
      rig.adapter.primary.channel.flush();
    });
    return "handled";
  };
  const hn = await rig.attach();
  expect(hn.channels).toHaveLength(2);
  expect(rig.timers.now()).toBe(10 * 59_000 + 200);
});

test("attaching and detaching again and again leaves nothing", async () => {
  const rig = new Rig({ cpus: 3 });
  const before = freePages(rig);
  for (let round = 0; round < 10; round++) {
    const hn = await rig.attach();
    expect(hn.channels).toHaveLength(3);
    await rig.settle(hn.detach());
    expect(freePages(rig)).toEqual(before);
    expect(rig.gpadls.size).toBe(0);
  }
});

test("a silent host is noticed when keepalives are asked for", async () => {
  const rig = new Rig();
  await rig.attach({ keepaliveIntervalMs: 1_000, answerTimeoutMs: 5_000 });
  rig.timers.advance(1_000);
  await rig.rest();
  expect(rig.adapter.controls.at(-1)!.type).toBe(RndisType.keepalive);
  expect(rig.log).toEqual([]);
  rig.adapter.onControl = () => "handled";
  rig.timers.advance(1_000);
  await rig.rest();
  rig.timers.advance(5_000);
  await rig.rest();
  expect(rig.log).toEqual(["keepalive: the host did not answer: keepalive"]);
});

test("a guest with no memory for buffers says so", async () => {
  const rig = new Rig();
  expect(await codeOf(rig.attach({ receiveBufferBytes: 31 << 20 }))).toContain("no memory");
  expect(await codeOf(rig.attach({ descriptors: 1 << 14 }))).toBe("ERR_NETVSC_MEMORY");
  expect(rig.gpadls.size).toBe(0);
  expect((await rig.attach({ sendBufferBytes: 31 << 20 })).parameters.sendBuffer).toBeUndefined();
  expect(small.receiveBufferBytes).toBe(0x40000);
});
