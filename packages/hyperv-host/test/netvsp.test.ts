import { describe, expect, test } from "vitest";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import {
  FrameInfoPart,
  NdisOffload,
  NdisOffloadParameters,
  NdisRssCapabilities,
  NvspInit,
  NvspOidQueryEx,
  NvspRevokeReceiveBuffer,
  NvspRevokeSendBuffer,
  NvspSendNdisConfig,
  NvspSendReceiveBuffer,
  NvspSendReceiveBufferComplete,
  NvspSendRndisPacket,
  NvspSendSendBuffer,
  NvspReceiveBufferSection,
  NvspStatus,
  NvspSubChannelComplete,
  NvspSubChannelRequest,
  NvspSwitchDataPath,
  Oid,
  PacketFilter,
  ReceiveChecksum,
  RndisHalt,
  RndisInitialize,
  RndisKeepalive,
  RndisReset,
  RndisStatus,
  RndisType,
  RssHash,
  TransmitChecksum,
  DEFAULT_RSS_KEY,
  emitRssParameters,
  emitRndisQuery,
  emitRndisSet,
  get32,
  largeSend,
  nvspVersions,
  packetIdFlags,
  SECTION_INDEX_NONE,
  parseSendTable,
  put32,
  transmitChecksum,
  vlanInfoOfTag,
} from "@hyperv-is/hv-netvsc/protocol";
import type { VlanMode } from "@hyperv-is/hyperv-host";
import type { Frame } from "../src/switch/frame.js";
import {
  build,
  expectBytes,
  expectFrames,
  frameOf,
  segments,
  transportAt,
  type Packet,
} from "./frame-model.js";
import { NicRig, UNALIGNED_GPADL, infoOf, words, type SendWay } from "./nic-rig.js";
import { TestEnd, all, allOffloads, macOf, plainFrame } from "./switch-rig.js";

const own = macOf(1);
const peer = macOf(2);

/** A rig whose guest is attached, and an end at another port of its switch. */
function attached(...options: ConstructorParameters<typeof NicRig>): { rig: NicRig; end: TestEnd } {
  const rig = new NicRig(...options);
  rig.attach();
  return { rig, end: connect(rig) };
}

function connect(rig: NicRig, vlan?: VlanMode): TestEnd {
  const end = new TestEnd();
  rig.network.connect(end, {
    name: "peer",
    kind: "guest",
    mac: peer,
    allowMacSpoofing: true,
    ...(vlan && { vlan }),
  });
  return end;
}

/** Has the peer send a frame. */
function arrive(
  rig: NicRig,
  bytes: Uint8Array,
  prepare?: (frame: ReturnType<typeof frameOf>) => void,
): void {
  const frame = frameOf(bytes);
  prepare?.(frame);
  rig.network.ports.find(({ name }) => name === "peer")!.send(frame);
  rig.network.flush();
  rig.run();
}

const tcp: Packet = {
  ipVersion: 4,
  protocol: 6,
  ipOptions: 0,
  tcpOptions: 3,
  flags: 0x10,
  sequence: 77,
  identification: 5,
  payload: Array.from({ length: 700 }, (_, index) => (index * 3) & 0xff),
};

describe("attaching", () => {
  test.each(nvspVersions.map(({ name, value }) => [name, value] as const))(
    "by version %s: frames go both ways",
    (_name, version) => {
      const rig = new NicRig();
      const end = connect(rig);
      rig.attach(version);
      const frame = plainFrame(peer, own);
      expect(rig.transmit(rig.message(frame))).toBe(NvspStatus.success);
      expectFrames(
        end.frames.map(({ bytes }) => bytes),
        [frame],
      );
      const back = plainFrame(own, peer);
      arrive(rig, back);
      expectFrames(
        rig.frames.map(({ bytes }) => bytes),
        [back],
      );
      expect([rig.violations, rig.closedCode]).toEqual([[], undefined]);
      expect(rig.adapter.stats()).toMatchObject({ receiveSlots: 145, receiveSlotsBusy: 0 });
    },
  );

  test("refuses a version that it does not have, and takes the next", () => {
    const rig = new NicRig({ versions: [0x0003_0002] });
    const answer = rig.ask(
      NvspInit.packet({ version: 0x0005_0000, versionAgain: 0x0005_0000 }, 32),
    );
    expect([...answer]).toEqual([
      ...words(2, 0xffff_ffff, 34, NvspStatus.none),
      ...new Uint8Array(16),
    ]);
    rig.attach(0x0003_0002);
    expect(rig.adapter.stats().version).toBe("2");
    expect(() => new NicRig({ versions: [3] })).toThrow(RangeError);
  });

  test("divides the receive buffer by the MTU", () => {
    for (const [mtu, size, told] of [
      [1514, 1806, 1500],
      [9014, 9306, 9000],
      [1500, 1806, 1500],
      [9217, 1806, 1500],
    ] as const) {
      const rig = new NicRig();
      rig.attach(0x0005_0000, { mtu });
      const answer = rig.completions.find(({ bytes }) => get32(bytes, 0) === 102)!.bytes;
      const section = NvspReceiveBufferSection.parse(
        answer.subarray(NvspSendReceiveBufferComplete.SIZE),
      )!;
      const count = Math.floor((64 * 4096) / size);
      expect(section).toEqual({
        offset: 0,
        subAllocationSize: size,
        subAllocationCount: count,
        endOffset: size * count,
      });
      expect(get32(rig.query(Oid.genMaximumFrameSize).value, 0)).toBe(told);
    }
  });

  test("works without a send buffer, and with pages that are scattered", () => {
    const rig = new NicRig({ scattered: true });
    const end = connect(rig);
    rig.attach(undefined, { sendBuffer: false });
    const frame = build(tcp);
    expect(rig.transmit(rig.message(frame), "pages")).toBe(NvspStatus.success);
    expectBytes(end.frames[0]!.bytes, frame);
    for (let number = 0; number < 5; number++) {
      const back = plainFrame(own, peer, undefined, 1514 - number);
      back.fill(number + 1, 14);
      arrive(rig, back);
      expectBytes(rig.frames[number]!.bytes, back);
    }
  });

  test("starts anew when the channel is opened again", () => {
    const { rig } = attached();
    rig.pairs[0]!.right.close();
    expect(rig.adapter.stats()).toMatchObject({ version: null, channels: 0, receiveSlots: 0 });
    arrive(rig, plainFrame(own, peer));
    expect(rig.adapter.counters.receiveNotReady).toBe(1);
    rig.open(0);
    rig.attach(0x0004_0000);
    arrive(rig, plainFrame(own, peer));
    expect(rig.frames.length).toBe(1);
  });
});

describe("what the guest sends", () => {
  const ways: SendWay[] = ["section", "pages", "mixed"];

  test.each(ways)("comes out at the other port: %s", (way) => {
    const { rig, end } = attached();
    const frames = [60, 61, 100, 1514].map((bytes) => plainFrame(peer, own, undefined, bytes));
    for (const frame of frames) {
      frame.fill(frame.length, 20);
      expect(rig.transmit(rig.message(frame), way)).toBe(NvspStatus.success);
    }
    expectFrames(
      end.frames.map(({ bytes }) => bytes),
      frames,
    );
    expect(rig.violations).toEqual([]);
  });

  test("may be several frames at once, with one completion", () => {
    const { rig, end } = attached();
    const frames = [60, 75, 200].map((bytes) => plainFrame(peer, own, undefined, bytes));
    const messages = frames.map((frame, index) => rig.message(frame, undefined, index < 2 ? 8 : 1));
    const before = rig.completions.length;
    expect(rig.transmit(Uint8Array.from(messages.flatMap((message) => [...message])))).toBe(1);
    expect(rig.completions.length).toBe(before + 1);
    expectFrames(
      end.frames.map(({ bytes }) => bytes),
      frames,
    );
  });

  test("is sent whole or not at all: a malformed message spoils those before it", () => {
    const { rig, end } = attached();
    const good = rig.message(plainFrame(peer, own), undefined, 8);
    const bad = rig.message(plainFrame(peer, own), undefined, 8);
    put32(bad, 0, RndisType.keepalive);
    expect(rig.transmit(Uint8Array.of(...good, ...bad))).toBe(NvspStatus.failure);
    expect(end.frames).toEqual([]);
    expect(rig.violations).toEqual(["netvsp-rndis-packet"]);
  });

  test.each(ways)("has its checksums filled in and its segments cut: %s", (way) => {
    for (const ipVersion of [4, 6] as const) {
      const { rig, end } = attached();
      const packet = { ...tcp, ipVersion };
      const is4 = ipVersion === 4;
      const bits = (is4 ? TransmitChecksum.ipv4 : TransmitChecksum.ipv6) | TransmitChecksum.tcp;
      const checksum = transmitChecksum(bits, transportAt(packet));
      const info = infoOf({ parts: FrameInfoPart.checksum, checksum });
      expect(rig.transmit(rig.message(build(packet, "partial"), info), way)).toBe(1);
      const value = largeSend(300, transportAt(packet), !is4);
      const large = infoOf({ parts: FrameInfoPart.largeSend, largeSend: value });
      expect(rig.transmit(rig.message(build(packet, "lso"), large), way)).toBe(1);
      expectFrames(
        end.frames.map(({ bytes }) => bytes),
        [build(packet), ...segments(packet, 300)],
      );
      end.offloads = allOffloads;
      end.frames.length = 0;
      expect(rig.transmit(rig.message(build(packet, "lso"), large), way)).toBe(1);
      expect(end.frames).toHaveLength(1);
      expect(end.frames[0]).toMatchObject({
        segmentBytes: 300,
        checksumStart: transportAt(packet),
      });
    }
  });

  test.each([
    ["zero stands for headers without options", 0, 1],
    ["where it is", 34, 1],
    ["in the IP header", 33, 2],
    ["in the Ethernet header", 13, 2],
    ["at the end", 1023, 2],
  ])("a checksum offset: %s", (_name, offset, status) => {
    const { rig, end } = attached();
    const bits = TransmitChecksum.ipv4 | TransmitChecksum.tcp | TransmitChecksum.ipHeader;
    const frame = build(tcp, "partial");
    frame.set([0, 0], 24);
    const info = infoOf({
      parts: FrameInfoPart.checksum,
      checksum: transmitChecksum(bits, offset),
    });
    expect(rig.transmit(rig.message(frame, info))).toBe(status);
    if (status === 1) expectBytes(end.frames[0]!.bytes, build(tcp));
    expect(rig.closedCode).toBeUndefined();
  });

  test.each([
    ["large sends of fewer segments than the minimum are done", 34, 5000, 1],
    ["an offset that points into nothing", 900, 300, 2],
    ["no size", 34, 0, 2],
  ])("large send: %s", (_name, offset, mss, status) => {
    const { rig } = attached();
    const value = largeSend(mss, offset, false);
    const info = infoOf({ parts: FrameInfoPart.largeSend, largeSend: value });
    expect(rig.transmit(rig.message(build(tcp, "lso"), info))).toBe(status);
    expect(rig.closedCode).toBeUndefined();
  });

  test("carries its VLAN beside it, id and priority", () => {
    const rig = new NicRig({ vlan: { mode: "trunk", nativeId: 0, allowedIds: [100] } });
    rig.attach();
    const end = connect(rig, { mode: "trunk", nativeId: 0 });
    const frame = plainFrame(peer, own);
    const info = infoOf({ parts: FrameInfoPart.vlan, vlan: 0x0645 });
    expect(rig.transmit(rig.message(frame, info))).toBe(1);
    expectBytes(end.frames[0]!.bytes, plainFrame(peer, own, 0xa064, 64));
    end.offloads = allOffloads;
    rig.transmit(rig.message(frame, info));
    expect(end.frames[1]).toMatchObject({ vlanTag: 0xa064 });
    arrive(rig, plainFrame(own, peer, 0xa064, 64));
    expectBytes(rig.frames[0]!.bytes, plainFrame(own, peer));
    expect(rig.frames[0]!.info.vlan).toBe(vlanInfoOfTag(0xa064));
    expect(rig.frames[0]!.info.vlan).toBe(0x0645);
  });

  test("is refused if malformed, message after message, and the channel lives", () => {
    const { rig, end } = attached();
    const fields: [number, number][] = [
      [4, 43],
      [4, 5000],
      [8, 0xffff_fff8],
      [12, 0],
      [12, 5000],
      [16, 8],
      [20, 1],
      [24, 1],
      [28, 0xffff_fff0],
      [32, 15],
      [36, 1],
      [44, 0],
      [44, 13],
      [44, 8],
      [44, 0x1_0000],
      [52, 17],
    ];
    for (const [at, value] of fields) {
      const info = infoOf({ parts: FrameInfoPart.checksum });
      const message = rig.message(plainFrame(peer, own), info);
      put32(message, at, value);
      expect([at, value, rig.transmit(message)]).toEqual([at, value, NvspStatus.failure]);
    }
    expect(rig.transmit(new Uint8Array(4))).toBe(NvspStatus.failure);
    expect(rig.sendRndis(undefined)).toBe(NvspStatus.failure);
    expect(rig.sendRndis([[2 ** 30, 100]])).toBe(NvspStatus.failure);
    expect(rig.transmit(rig.message(plainFrame(peer, own)))).toBe(NvspStatus.success);
    expect(end.frames).toHaveLength(1);
    expect(rig.closedCode).toBeUndefined();
    expect(rig.adapter.counters.transmitErrors).toBe(fields.length + 3);
    expect(new Set(rig.violations)).toEqual(
      new Set(["netvsp-rndis-packet", "netvsp-range-outside-memory"]),
    );
  });

  test("may have much information, but not more than 1024 bytes of it", () => {
    const { rig, end } = attached();
    const frame = plainFrame(peer, own);
    const send = (pieces: number): number => {
      const message = new Uint8Array(44 + pieces * 16 + frame.length);
      const fields = [1, message.length, 36 + pieces * 16, frame.length, 0, 0, 0, 36, pieces * 16];
      fields.forEach((value, index) => put32(message, index * 4, value));
      for (let piece = 0; piece < pieces; piece++)
        [16, 7, 12, 0].forEach((value, index) =>
          put32(message, 44 + piece * 16 + index * 4, value),
        );
      message.set(frame, 44 + pieces * 16);
      return rig.transmit(message, "pages");
    };
    expect([send(3), send(20), send(61), send(62)]).toEqual([1, 1, 1, 2]);
    expectFrames(
      end.frames.map(({ bytes }) => bytes),
      [frame, frame, frame],
    );
  });

  test("may have a header in more ranges than one", () => {
    const { rig, end } = attached();
    const frame = plainFrame(peer, own);
    const message = rig.message(frame);
    const [a, b] = [300 * 4096 + 4080, 310 * 4096];
    rig.memory.bytes.set(message.subarray(0, 16), a);
    rig.memory.bytes.set(message.subarray(16), b);
    expect(
      rig.sendRndis([
        [a, 16],
        [b, message.length - 16],
      ]),
    ).toBe(1);
    expectBytes(end.frames[0]!.bytes, frame);
  });

  test("lasts until the switch is flushed: only then the guest hears that it is done", () => {
    const rig = new NicRig();
    rig.attach();
    const guest = rig.pairs[0]!.left;
    const lasting: boolean[] = [];
    const completedAtFlush: number[] = [];
    class Keeper extends TestEnd {
      override deliver(frame: Frame): boolean {
        lasting.push(frame.isLasting);
        return super.deliver(frame);
      }
      override flush(): void {
        completedAtFlush.push(guest.incoming.inspect().readAvailable);
      }
    }
    rig.network.connect(new Keeper(), { name: "peer", kind: "guest", mac: peer });
    const message = rig.message(plainFrame(peer, own));
    const address = 300 * 4096;
    rig.memory.bytes.set(message, address);
    for (let number = 0; number < 3; number++) rig.queueSend([[address, message.byteLength]]);
    rig.pairs[0]!.right.poll(1000);
    expect(lasting).toEqual([true, true, true]);
    expect(completedAtFlush).toEqual([0]);
    expect(guest.incoming.inspect().readAvailable).toBeGreaterThan(0);

    // A channel that is closed in the middle keeps nobody waiting.
    rig.queueSend([[address, message.byteLength]]);
    rig.send(new Uint8Array(0), { isQueued: true });
    rig.pairs[0]!.right.poll(1000);
    expect(rig.closedCode).toBe("ERR_NETVSP_MESSAGE_SHORT");
    expect(completedAtFlush).toHaveLength(2);
  });

  test("is only what comes from its address", () => {
    const { rig, end } = attached();
    expect(rig.transmit(rig.message(plainFrame(all, macOf(9))))).toBe(NvspStatus.success);
    expect(end.frames).toEqual([]);
    expect(rig.adapter.stats().port.droppedSpoofed).toBe(1);
    rig.adapter.port.allowMacSpoofing = true;
    rig.transmit(rig.message(plainFrame(all, macOf(9))));
    expect(end.frames).toHaveLength(1);
  });
});

describe("what the guest gets", () => {
  test("comes in batches, and every slot comes back", () => {
    const { rig } = attached();
    rig.completesReceived = false;
    const port = rig.network.ports.find(({ name }) => name === "peer")!;
    for (let number = 0; number < 200; number++)
      port.send(frameOf(plainFrame(own, peer, undefined, 100 + number)));
    rig.network.flush();
    rig.run();
    // 145 slots, 16 of them for control messages.
    expect(rig.frames).toHaveLength(129);
    expect(rig.batches).toEqual([129]);
    expect(rig.adapter.stats()).toMatchObject({ receiveSlotsBusy: 129, receiveNoSlot: 71 });
    rig.completeHeld();
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
    for (let round = 0; round < 10; round++) {
      port.send(frameOf(plainFrame(own, peer, undefined, 100 + round)));
      rig.network.flush();
      rig.run();
      rig.completeHeld();
    }
    expect(rig.frames).toHaveLength(139);
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
  });

  test("loses no slot when the ring is full", () => {
    const { rig } = attached();
    const port = rig.network.ports.find(({ name }) => name === "peer")!;
    for (let number = 0; number < 400; number++) {
      port.send(frameOf(plainFrame(own, peer)));
      rig.network.flush();
    }
    const { receiveRingFull } = rig.adapter.counters;
    expect(rig.adapter.counters.receiveNoSlot + receiveRingFull).toBeGreaterThan(0);
    for (let round = 0; round < 20; round++) {
      rig.run();
      rig.completeHeld();
    }
    const { receiveSlotsBusy, receiveFrames } = rig.adapter.stats();
    expect([receiveSlotsBusy, receiveFrames]).toEqual([0, rig.frames.length]);
  });

  test("loses no slot when a small ring is full, and completions go first", () => {
    const { rig } = attached({ ringPages: 2 });
    rig.completesReceived = false;
    const port = rig.network.ports.find(({ name }) => name === "peer")!;
    for (let number = 0; number < 100; number++) {
      port.send(frameOf(plainFrame(own, peer)));
      rig.network.flush();
    }
    const { receiveRingFull } = rig.adapter.counters;
    expect(receiveRingFull).toBeGreaterThan(40);
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(100 - receiveRingFull);
    // A completion that finds no room waits, and what comes later does not overtake it.
    const [host, guest] = [rig.pairs[0]!.right, rig.pairs[0]!.left];
    const address = 300 * 4096;
    const message = rig.message(plainFrame(peer, own));
    rig.memory.bytes.set(message, address);
    rig.queueSend([[address, message.length]]);
    host.poll(10);
    expect(rig.adapter.counters.completionsDelayed).toBe(1);
    guest.poll(1000);
    const before = rig.adapter.counters.receiveRingFull;
    port.send(frameOf(plainFrame(own, peer)));
    rig.network.flush();
    expect(rig.adapter.counters.receiveRingFull).toBe(before + 1);
    for (let round = 0; round < 5; round++) {
      rig.timers.advance(5);
      rig.run();
      rig.completeHeld();
    }
    expect(rig.completions.at(-1)!.bytes).toHaveLength(40);
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
    expect(rig.adapter.counters.receiveFrames).toBe(rig.frames.length);
  });

  test("comes in packets of at most 375 ranges, the pieces of a frame in one", () => {
    const { rig } = attached({ receivePages: 256 });
    rig.set(Oid.tcpOffloadParameters, parameters({ rscIpv4: 2 }));
    const port = rig.network.ports.find(({ name }) => name === "peer")!;
    for (let number = 0; number < 374; number++) port.send(frameOf(plainFrame(own, peer)));
    const packet = { ...tcp, payload: Array.from({ length: 4000 }, (_, index) => index & 0xff) };
    arrive(rig, swapped(build(packet, "partial")), (frame) => {
      frame.checksumStart = 34;
      frame.checksumOffset = 16;
      frame.segmentBytes = 1000;
    });
    expect(rig.batches).toEqual([374, 3]);
    expect([rig.frames.length, rig.malformed]).toEqual([377, []]);
  });

  test("is what its packet filter lets through", () => {
    const { rig } = attached({ allowMacSpoofing: true });
    const group = Uint8Array.of(1, 0, 0x5e, 0, 0, 18);
    const other = Uint8Array.of(1, 0, 0x5e, 0, 0, 19);
    const got = (filter: number): boolean[] => {
      expect(rig.set(Oid.genCurrentPacketFilter, words(filter))).toBe(0);
      return [own, macOf(77), all, group, other].map((destination) => {
        const before = rig.frames.length;
        arrive(rig, plainFrame(destination, peer));
        return rig.frames.length > before;
      });
    };
    expect(got(PacketFilter.none)).toEqual([false, false, false, false, false]);
    expect(got(PacketFilter.directed)).toEqual([true, false, false, false, false]);
    expect(got(PacketFilter.broadcast)).toEqual([false, false, true, false, false]);
    expect(got(PacketFilter.allMulticast)).toEqual([false, false, false, true, true]);
    expect(got(PacketFilter.multicast)).toEqual([false, false, false, false, false]);
    expect(rig.set(Oid.ethMulticastList, Uint8Array.from(group))).toBe(0);
    expect(got(PacketFilter.multicast)).toEqual([false, false, false, true, false]);
    expect(got(PacketFilter.promiscuous)).toEqual([true, true, true, true, true]);
  });

  test.each([
    ["TCP over IPv4", tcp, ReceiveChecksum.ipOk | ReceiveChecksum.tcpOk],
    ["TCP over IPv6", { ...tcp, ipVersion: 6 }, ReceiveChecksum.tcpOk],
    ["UDP over IPv4", { ...tcp, protocol: 17 }, ReceiveChecksum.ipOk | ReceiveChecksum.udpOk],
    ["UDP over IPv6", { ...tcp, protocol: 17, ipVersion: 6 }, ReceiveChecksum.udpOk],
  ] as [string, Packet, number][])("says what its checksums are: %s", (_name, packet, good) => {
    const { rig } = attached();
    const frame = swapped(build(packet));
    arrive(rig, frame);
    expect(rig.frames[0]!.info.checksum).toBe(good);
    frame[frame.length - 1]! ^= 1;
    arrive(rig, frame);
    const bad =
      packet.protocol === 6
        ? (good & ~ReceiveChecksum.tcpOk) | ReceiveChecksum.tcpFailed
        : (good & ~ReceiveChecksum.udpOk) | ReceiveChecksum.udpFailed;
    expect(rig.frames[1]!.info.checksum).toBe(bad);
    rig.adapter.port.setLink(true);
    arrive(rig, frame, (arriving) => (arriving.invertsVerdict = true));
    const inverted = packet.ipVersion === 4 ? ReceiveChecksum.ipFailed : 0;
    const ok = packet.protocol === 6 ? ReceiveChecksum.tcpOk : ReceiveChecksum.udpOk;
    expect(rig.frames[2]!.info.checksum).toBe(inverted | ok);
  });

  test("may have a checksum that nobody computed, unless it is told otherwise", () => {
    for (const partialChecksums of [true, false]) {
      const { rig } = attached({ partialChecksums });
      arrive(rig, swapped(build(tcp, "partial")), (frame) => {
        frame.checksumStart = 34;
        frame.checksumOffset = 16;
      });
      const ok = ReceiveChecksum.ipOk | ReceiveChecksum.tcpOk;
      const [frame] = rig.frames;
      expect(frame!.info.checksum).toBe(
        ok | (partialChecksums ? ReceiveChecksum.tcpValueInvalid : 0),
      );
      expectBytes(frame!.bytes, swapped(build(tcp, partialChecksums ? "partial" : "full")));
    }
  });

  test("is cut for it, or comes in pieces of one packet when it coalesces", () => {
    for (const coalesce of [false, true]) {
      const { rig } = attached();
      if (coalesce) expect(rig.set(Oid.tcpOffloadParameters, parameters({ rscIpv4: 2 }))).toBe(0);
      const packet = { ...tcp, payload: Array.from({ length: 4000 }, (_, index) => index & 0xff) };
      arrive(rig, swapped(build(packet, "partial")), (frame) => {
        frame.checksumStart = 34;
        frame.checksumOffset = 16;
        frame.segmentBytes = 1000;
      });
      if (!coalesce) {
        expect(rig.frames).toHaveLength(4);
        expect(rig.batches).toEqual([4]);
        continue;
      }
      expect(rig.batches).toEqual([3]);
      const whole = rig.frames.flatMap(({ bytes }) => [...bytes]);
      expectBytes(Uint8Array.from(whole), swapped(build(packet, "partial")));
      expect(rig.frames.map(({ info }) => packetIdFlags(info.packetId))).toEqual([3, 1, 5]);
      expect(rig.frames.map(({ info }) => (info.parts & FrameInfoPart.checksum) !== 0)).toEqual([
        true,
        false,
        false,
      ]);
    }
  });

  test("is never larger than its MTU", () => {
    const { rig } = attached();
    arrive(rig, plainFrame(own, peer, undefined, 1514));
    arrive(rig, plainFrame(own, peer, undefined, 1515));
    expect(rig.frames).toHaveLength(1);
    expect(rig.adapter.counters.receiveTooLong).toBe(1);
  });
});

/** The model's frames go from the first address to the second; these go back. */
function swapped(bytes: Uint8Array): Uint8Array {
  const frame = bytes.slice();
  frame.set(own, 0);
  frame.set(peer, 6);
  return frame;
}

function parameters(values: Partial<NdisOffloadParameters>): Uint8Array<ArrayBuffer> {
  return NdisOffloadParameters.emit({
    revision: 3,
    ipv4Checksum: 0,
    tcp4Checksum: 0,
    udp4Checksum: 0,
    tcp6Checksum: 0,
    udp6Checksum: 0,
    lsoV1: 0,
    ipsecV1: 0,
    lsoV2Ipv4: 0,
    lsoV2Ipv6: 0,
    tcp4Connection: 0,
    tcp6Connection: 0,
    flags: 0,
    ipsecV2: 0,
    ipsecV2Ipv4: 0,
    rscIpv4: 0,
    rscIpv6: 0,
    encapsulation: 0,
    encapsulationTypes: 0,
    ...values,
  });
}

describe("objects", () => {
  test("have the values of the reference", () => {
    const { rig } = attached();
    const value = (oid: number): number[] => {
      const { status, value: bytes } = rig.query(oid);
      expect(status).toBe(0);
      return [...bytes];
    };
    expect(value(Oid.ethPermanentAddress)).toEqual([...own]);
    expect(value(Oid.ethCurrentAddress)).toEqual([...own]);
    expect(value(Oid.genMacOptions)).toEqual([...words(0x24d)]);
    expect(value(Oid.genLinkSpeed)).toEqual([...words(100_000_000)]);
    expect(value(Oid.genMediaConnectStatus)).toEqual([...words(0)]);
    expect(value(Oid.genMaximumTotalSize)).toEqual([...words(1514)]);
    expect(value(Oid.genVendorId)).toEqual([...words(0x155d)]);
    expect(value(Oid.genDriverVersion)).toEqual([0, 1]);
    expect(String.fromCharCode(...value(Oid.genVendorDescription))).toBe("Microsoft Corporation");
    expect(value(Oid.genFriendlyName)).toHaveLength(512);
    expect(value(Oid.genLinkState)).toHaveLength(40);
    expect(value(Oid.offloadEncapsulation)).toHaveLength(28);
    expect(value(Oid.genSupportedList)).toHaveLength(4 * 43);
    for (const input of [undefined, new Uint8Array(156), new Uint8Array(168)]) {
      const { value: bytes } = rig.query(Oid.tcpOffloadHardwareCapabilities, input);
      expect(bytes).toHaveLength(156);
      expect(NdisOffload.parse(bytes)).toMatchObject({
        ipv4TxChecksum: 0x155,
        ipv6RxChecksum: 0x55,
        lsoV2Ipv4MaxBytes: 62_780,
        lsoV2Ipv6Options: 5,
        rscIpv4: 1,
      });
    }
    for (const oid of [Oid.genProtocolOptions, Oid.genLinkParameters, Oid.genBytesRcv, 0x1234])
      expect(rig.query(oid).status).toBe(RndisStatus.notSupported);
    expect(rig.violations).toEqual([]);
  });

  test("are listed by what the guest announced", () => {
    const list = (ndisMinor: number): number => {
      const rig = new NicRig();
      rig.attach(undefined, { ndisMinor });
      return rig.query(Oid.genSupportedList).value.length / 4;
    };
    expect([list(1), list(30)]).toEqual([41, 43]);
  });

  test("may be asked for with an offset of 0 as well", () => {
    const { rig } = attached();
    const query = emitRndisQuery(0x9_0000, Oid.genVendorId);
    put32(query, 20, 0);
    rig.control(query);
    expect(get32(rig.answers.at(-1)!, 12)).toBe(0);
  });

  test("of offloads: what is set is what is told, in an indication, too", () => {
    const { rig } = attached();
    const value = parameters({ tcp4Checksum: 2, udp6Checksum: 1, ipv4Checksum: 3, lsoV2Ipv6: 1 });
    for (const bytes of [value, value.slice(0, 20)]) {
      if (bytes.length === 20) bytes.set([0x80, 1, 20, 0]);
      expect(rig.set(Oid.tcpOffloadParameters, bytes)).toBe(0);
      const indication = rig.answers.at(-1)!;
      expect([get32(indication, 0), get32(indication, 8)]).toEqual([
        RndisType.indicateStatus,
        RndisStatus.taskOffloadCurrentConfig,
      ]);
      const current = rig.query(Oid.tcpOffloadCurrentConfig).value;
      expectBytes(indication.slice(20), current);
      expect(NdisOffload.parse(current)).toMatchObject({
        ipv4TxChecksum: 0x054,
        ipv4RxChecksum: 0x141,
        ipv6TxChecksum: 0x015,
        lsoV2Ipv4MaxBytes: 62_780,
        lsoV2Ipv6MaxBytes: 0,
      });
    }
    expect(rig.set(Oid.tcpOffloadParameters, parameters({ lsoV1: 2 }))).toBe(
      RndisStatus.notSupported,
    );
    const wrong = parameters({});
    wrong[0] = 0x81;
    expect(rig.set(Oid.tcpOffloadParameters, wrong)).toBe(RndisStatus.invalidData);
    expect(rig.set(Oid.tcpOffloadParameters, value.slice(0, 19))).toBe(RndisStatus.invalidData);
    expect(rig.set(Oid.genCurrentPacketFilter, new Uint8Array(3))).toBe(RndisStatus.failure);
    expect(rig.set(Oid.genNetworkLayerAddresses, new Uint8Array(3))).toBe(0);
    expect(rig.set(0x1234, new Uint8Array(3))).toBe(RndisStatus.notSupported);
  });

  test("of offloads: no coalescing for a guest that did not announce it, or is too old", () => {
    for (const [version, capabilities, expected] of [
      [0x0006_0001, 0xff, 1],
      [0x0006_0001, 0x7f, 0],
      [0x0006_0000, 0xff, 0],
    ] as const) {
      const rig = new NicRig();
      rig.attach(version, { capabilities });
      const told = (oid: number): number => NdisOffload.parse(rig.query(oid).value)!.rscIpv4;
      expect(told(Oid.tcpOffloadCurrentConfig)).toBe(0);
      expect(rig.set(Oid.tcpOffloadParameters, parameters({ rscIpv4: 2 }))).toBe(0);
      expect(told(Oid.tcpOffloadCurrentConfig)).toBe(expected);
      expect(told(Oid.tcpOffloadHardwareCapabilities)).toBe(expected);
    }
  });

  test("whose header says more than there is are refused", () => {
    const { rig } = attached();
    const value = parameters({});
    value[2] = 29;
    expect(rig.set(Oid.tcpOffloadParameters, value)).toBe(RndisStatus.invalidData);
  });

  test("of offloads: a guest that takes no checksums gets them filled in, and hears nothing", () => {
    const { rig } = attached();
    rig.set(Oid.tcpOffloadParameters, parameters({ ipv4Checksum: 1, tcp4Checksum: 1 }));
    arrive(rig, swapped(build(tcp, "partial")), (frame) => {
      frame.checksumStart = 34;
      frame.checksumOffset = 16;
    });
    // Linux complains of a message without any information.
    expect(rig.frames[0]!.info).toMatchObject({ parts: FrameInfoPart.checksum, checksum: 0 });
    expectBytes(rig.frames[0]!.bytes, swapped(build(tcp)));
  });
});

describe("several channels", () => {
  const requested = (wanted: number, subChannelsMax = 3): NicRig => {
    const rig = new NicRig({ subChannelsMax });
    rig.attach();
    const request = NvspSubChannelRequest.packet({ operation: 1, subChannels: wanted }, 40);
    const answer = NvspSubChannelComplete.parse(rig.ask(request))!;
    const isGranted = wanted <= subChannelsMax;
    expect(answer).toMatchObject(
      isGranted
        ? { status: NvspStatus.success, subChannels: wanted }
        : { status: NvspStatus.failure, subChannels: 0 },
    );
    return rig;
  };

  test("are offered when they are asked for, and refused beyond the maximum", () => {
    expect(requested(3).offered).toBe(3);
    const rig = requested(4);
    expect(rig.offered).toBe(0);
    expect(() => rig.open(1)).toThrow("refused");
    expect(
      NdisRssCapabilities.parse(rig.query(Oid.genReceiveScaleCapabilities).value),
    ).toMatchObject({ flags: 0x301, receiveQueues: 4, indirectionEntries: 128 });
  });

  const opened = (): { rig: NicRig; end: TestEnd } => {
    const rig = requested(3);
    for (const index of [1, 2, 3]) {
      expect(rig.notifications).toEqual([]);
      rig.open(index);
    }
    return { rig, end: connect(rig) };
  };

  test("have a send table once all are open", () => {
    const { rig } = opened();
    expect(rig.notifications).toHaveLength(1);
    expect(rig.notifications[0]).toHaveLength(80);
    expect(parseSendTable(rig.notifications[0]!, 0x0006_0001)).toEqual(
      Array.from({ length: 16 }, (_, index) => index % 4),
    );
  });

  test("carry frames both ways, and complete where they were sent", () => {
    const { rig, end } = opened();
    for (const channel of [1, 2, 3]) {
      expect(rig.transmit(rig.message(plainFrame(peer, own)), "pages", channel)).toBe(1);
      expect(rig.completions.at(-1)!.channel).toBe(channel);
    }
    expect(end.frames).toHaveLength(3);
    const table = [3, 2, 1];
    const key = DEFAULT_RSS_KEY;
    const hashInfo = RssHash.toeplitz | RssHash.ipv4 | RssHash.tcp4;
    expect(
      rig.set(Oid.genReceiveScaleParameters, emitRssParameters({ flags: 0, hashInfo, table, key })),
    ).toBe(0);
    for (let port = 0; port < 40; port++) arrive(rig, flow(port));
    const channels = new Set(rig.frames.map(({ channel }) => channel));
    expect([...channels].sort()).toEqual([1, 2, 3]);
    for (const { info, channel } of rig.frames) {
      expect(info.hashInfo).toBe(RssHash.toeplitz | RssHash.tcp4);
      expect(channel).toBe(table[(info.hashValue & 127) % 3]);
    }
    arrive(rig, plainFrame(own, peer));
    expect(rig.frames.at(-1)).toMatchObject({
      channel: 0,
      info: { parts: FrameInfoPart.checksum },
    });
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
    expect(rig.violations).toEqual([]);
  });

  test("hash as Microsoft's suite says", () => {
    const { rig } = opened();
    const hashInfo = RssHash.toeplitz | RssHash.ipv4 | RssHash.tcp4;
    const value = emitRssParameters({ flags: 0, hashInfo, table: [0], key: DEFAULT_RSS_KEY });
    rig.set(Oid.genReceiveScaleParameters, value);
    const frame = swapped(build({ ...tcp, tcpOptions: 0 }));
    frame.set([66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6], 26);
    arrive(rig, frame);
    expect(rig.frames[0]!.info.hashValue >>> 0).toBe(0x51cc_c178);
    frame.set([0x20, 0], 20);
    arrive(rig, frame);
    expect(rig.frames[1]!.info.hashValue >>> 0).toBe(0x323e_8fc2);
    expect(rig.frames[1]!.info.hashInfo).toBe(RssHash.toeplitz | RssHash.ipv4);
  });

  test.each([
    ["a short key", { key: new Uint8Array(39) }, RndisStatus.invalidData],
    ["no table", { table: [] }, RndisStatus.invalidData],
    ["a channel that there is not", { table: [0, 4] }, RndisStatus.invalidData],
    ["no hash function: off", { hashInfo: 0x200, table: [9] }, 0],
    ["off", { flags: 0x10, table: [9] }, 0],
    ["all channels", { table: [0, 1, 2, 3] }, 0],
  ])("RSS parameters with %s", (_name, change, status) => {
    const { rig } = opened();
    const usual = { flags: 0, hashInfo: 0x201, table: [0, 1], key: DEFAULT_RSS_KEY };
    const value = emitRssParameters({ ...usual, ...change });
    expect(rig.set(Oid.genReceiveScaleParameters, value)).toBe(status);
    expect(rig.set(Oid.genReceiveScaleParameters, value.slice(0, 27))).toBe(
      RndisStatus.invalidData,
    );
  });

  test("sends that are under way outlive a change of the scaling", () => {
    const { rig, end } = opened();
    const message = rig.message(plainFrame(peer, own));
    const address = 300 * 4096;
    rig.memory.bytes.set(message, address);
    const fields = { channelType: 0, sectionIndex: SECTION_INDEX_NONE, sectionBytes: 0 };
    const packet = NvspSendRndisPacket.packet(fields, 40);
    const ranges = [[address, message.byteLength]] as const;
    const ids = [0, 1, 2, 3, 2, 1].map((channel) =>
      rig.send(packet, { channel, ranges, isQueued: true }),
    );
    for (const table of [[3, 2, 1, 0], [1]]) {
      const value = { flags: 0, hashInfo: 0x201, table, key: DEFAULT_RSS_KEY };
      expect(rig.set(Oid.genReceiveScaleParameters, emitRssParameters(value))).toBe(0);
      // The host looks by itself for what comes next on this channel.
      rig.timers.advance(1);
    }
    for (const { right } of rig.pairs) right.poll(1000);
    rig.run();
    expect(ids.map((id) => rig.statusOf(id))).toEqual(ids.map(() => NvspStatus.success));
    expect(end.frames).toHaveLength(ids.length);
  });

  test("a channel that goes away leaves no frame in a slot, and is not told of anew", () => {
    const { rig } = opened();
    const value = { flags: 0, hashInfo: 0x201, table: [2], key: DEFAULT_RSS_KEY };
    rig.set(Oid.genReceiveScaleParameters, emitRssParameters(value));
    // Delivered, but its batch has not ended.
    rig.network.ports.find(({ name }) => name === "peer")!.send(frameOf(flow(1)));
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(1);
    rig.pairs[2]!.right.close("rescinded");
    // It was in no packet: the guest does not know of it.
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
    rig.network.flush();
    rig.open(2);
    expect(rig.notifications).toHaveLength(1);
    arrive(rig, flow(1));
    expect(rig.frames.at(-1)!.channel).toBe(2);
  });

  test("are granted as long as each has a slot", () => {
    // 18 slots, 16 of them for control messages.
    const rig = new NicRig({ receivePages: 8, subChannelsMax: 5 });
    rig.attach();
    const ask = (subChannels: number): number =>
      NvspSubChannelComplete.parse(
        rig.ask(NvspSubChannelRequest.packet({ operation: 1, subChannels }, 40)),
      )!.status;
    expect([ask(2), ask(1)]).toEqual([NvspStatus.failure, NvspStatus.success]);
    const none = NvspSubChannelRequest.packet({ operation: 0, subChannels: 1 }, 40);
    expect(NvspSubChannelComplete.parse(rig.ask(none))!.status).toBe(NvspStatus.failure);
  });

  test("a channel that goes away loses no slot, and its frames go to the primary one", () => {
    const { rig } = opened();
    const value = { flags: 0, hashInfo: 0x201, table: [2], key: DEFAULT_RSS_KEY };
    rig.set(Oid.genReceiveScaleParameters, emitRssParameters(value));
    rig.completesReceived = false;
    arrive(rig, flow(1));
    expect(rig.frames.at(-1)!.channel).toBe(2);
    rig.pairs[2]!.right.close();
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
    arrive(rig, flow(1));
    expect(rig.frames.at(-1)!.channel).toBe(0);
  });

  test("the slots of one that is rescinded are not used until the guest has let go of it", () => {
    const { rig } = opened();
    const value = { flags: 0, hashInfo: 0x201, table: [2], key: DEFAULT_RSS_KEY };
    rig.set(Oid.genReceiveScaleParameters, emitRssParameters(value));
    rig.completesReceived = false;
    arrive(rig, flow(1));
    const { id } = rig.frames.at(-1)!;
    rig.pairs[2]!.right.close("rescinded");
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(1);
    rig.completesReceived = true;
    for (let port = 0; port < 200; port++) arrive(rig, flow(port));
    expect(rig.frames.slice(-200).map((frame) => frame.id)).not.toContain(id);
    rig.handlers[2]!.guestReleased!();
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
  });

  function flow(port: number): Uint8Array {
    const frame = swapped(build(tcp));
    frame[34] = port;
    frame[35] = port * 7;
    return frame;
  }
});

describe("link", () => {
  const told = (rig: NicRig): number[] =>
    rig.answers
      .filter((bytes) => get32(bytes, 0) === RndisType.indicateStatus)
      .map((bytes) => get32(bytes, 8));

  test("changes are told after the answer has changed, 5 s apart, and the last state is right", () => {
    const { rig } = attached();
    rig.adapter.port.setLink(false);
    rig.run();
    expect(told(rig)).toEqual([RndisStatus.mediaDisconnect]);
    expect(get32(rig.query(Oid.genMediaConnectStatus).value, 0)).toBe(1);
    rig.adapter.port.setLink(true);
    rig.timers.advance(1000);
    rig.adapter.port.setLink(false);
    rig.adapter.port.setLink(true);
    rig.run();
    expect(told(rig)).toHaveLength(1);
    rig.timers.advance(4000);
    rig.run();
    expect(told(rig)).toEqual([RndisStatus.mediaDisconnect, RndisStatus.mediaConnect]);
    expect(get32(rig.query(Oid.genMediaConnectStatus).value, 0)).toBe(0);
    rig.timers.advance(10_000);
    rig.adapter.indicateNetworkChange();
    rig.run();
    expect(told(rig)).toHaveLength(3);
    expect([...rig.answers.at(-1)!.slice(20)]).toEqual([1, 0, 0, 0]);
  });

  test("that is down is told to a guest that begins", () => {
    const rig = new NicRig();
    rig.adapter.port.setLink(false);
    rig.negotiate();
    rig.control(RndisInitialize.emit({ requestId: 1, major: 1, minor: 0, maxTransferSize: 2048 }));
    expect(told(rig)).toEqual([RndisStatus.mediaDisconnect]);
  });
});

describe("control", () => {
  test("keepalives are answered, a halt is not", () => {
    const { rig } = attached();
    expect(rig.control(RndisKeepalive.emit({ requestId: 7 }))).toBe(1);
    const [type, , id, status] = new Uint32Array(rig.answers.at(-1)!.slice().buffer);
    expect([type, id, status]).toEqual([RndisType.keepaliveComplete, 7, 0]);
    const before = rig.answers.length;
    expect(rig.control(RndisHalt.emit({ requestId: 8 }))).toBe(1);
    expect(rig.answers.length).toBe(before);
    arrive(rig, plainFrame(own, peer));
    expect(rig.frames).toEqual([]);
  });

  test("waits for a slot when all 16 are with the guest, and none is lost", () => {
    const { rig } = attached();
    rig.completesReceived = false;
    for (let id = 1; id <= 40; id++) rig.control(RndisKeepalive.emit({ requestId: id }));
    const ids = (): number[] =>
      rig.answers
        .filter((bytes) => get32(bytes, 0) === RndisType.keepaliveComplete)
        .map((bytes) => get32(bytes, 8));
    expect(ids()).toHaveLength(16);
    for (let round = 0; round < 3; round++) rig.completeHeld();
    expect(ids()).toEqual(Array.from({ length: 40 }, (_, index) => index + 1));
    rig.completeHeld();
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
  });

  test("has an end when there is too much of it", () => {
    const { rig } = attached();
    rig.completesReceived = false;
    const large = emitRndisSet(5, Oid.genNetworkLayerAddresses, new Uint8Array(30_000));
    const statuses = Array.from({ length: 22 }, () => rig.control(large));
    expect(statuses.filter((status) => status === NvspStatus.success)).toHaveLength(16 + 1 + 3);
    expect(new Set(rig.violations)).toEqual(new Set(["netvsp-control-queue"]));
    expect(rig.closedCode).toBeUndefined();
  });

  test("an object query of NVSP is not supported, the data path is switched at once", () => {
    const { rig } = attached();
    const answer = rig.ask(NvspOidQueryEx.packet({ oid: Oid.genVendorId }, 40));
    expect([get32(answer, 0), get32(answer, 4)]).toEqual([132, RndisStatus.notSupported]);
    expect(rig.ask(NvspSwitchDataPath.packet({ activePath: 1 }, 40))).toHaveLength(0);
  });
});

describe("revocation", () => {
  test("of a buffer is the end of its use, not of the ring's", () => {
    const { rig, end } = attached();
    rig.completesReceived = false;
    arrive(rig, plainFrame(own, peer));
    rig.send(NvspRevokeReceiveBuffer.packet({ id: 0xcafe }, 40), { flags: 0 });
    const before = rig.memory.bytes.slice(512 * 4096, 576 * 4096);
    arrive(rig, plainFrame(own, peer));
    expectBytes(rig.memory.bytes.slice(512 * 4096, 576 * 4096), before);
    expect(rig.frames).toHaveLength(1);
    rig.completeHeld();
    expect(rig.transmit(rig.message(plainFrame(peer, own)))).toBe(1);
    expect(end.frames).toHaveLength(1);
    rig.send(NvspRevokeSendBuffer.packet({ id: 0 }, 40), { flags: 0 });
    let released = 0;
    for (const id of [0xe1e10, 0xe1e11]) rig.handlers[0]!.gpadlTeardown?.(id, () => released++);
    expect([released, rig.violations, rig.closedCode]).toEqual([2, [], undefined]);
    expect(rig.transmit(rig.message(plainFrame(peer, own)), "pages")).toBe(1);
  });

  test("forgets what was delivered and not sent", () => {
    const { rig } = attached();
    rig.network.ports.find(({ name }) => name === "peer")!.send(frameOf(plainFrame(own, peer)));
    rig.send(NvspRevokeReceiveBuffer.packet({ id: 0xcafe }, 40), { flags: 0 });
    rig.network.flush();
    rig.run();
    expect(rig.frames).toEqual([]);
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
  });

  test("that is forgotten before the memory is taken back is a violation", () => {
    const { rig } = attached();
    let released = 0;
    rig.handlers[0]!.gpadlTeardown?.(0xe1e10, () => released++);
    expect([released, rig.violations]).toEqual([1, ["netvsp-gpadl-in-use"]]);
    arrive(rig, plainFrame(own, peer));
    expect(rig.frames).toEqual([]);
  });
});

describe("a guest that breaks the protocol has its channel closed", () => {
  const cases: [string, string, (rig: NicRig) => void, boolean?][] = [
    [
      "a type of packet",
      "PACKET_TYPE",
      (rig) =>
        void rig.send(new Uint8Array(40), { type: PacketType.transferPages, ranges: [[0, 8]] }),
    ],
    ["a message without a type", "MESSAGE_SHORT", (rig) => void rig.send(new Uint8Array(0))],
    [
      "a message before INIT",
      "MESSAGE_TYPE",
      (rig) =>
        void rig.send(
          NvspSendNdisConfig.packet({ mtu: 1514, capabilities: 0, capabilitiesHigh: 0 }, 40),
        ),
      false,
    ],
    ["an unknown message", "MESSAGE_TYPE", (rig) => void rig.send(words(135, 0, 0, 0, 0, 0, 0, 0))],
    [
      "a message of a newer version",
      "MESSAGE_TYPE",
      (rig) => {
        rig.negotiate(0x0004_0000);
        rig.send(NvspSubChannelRequest.packet({ operation: 1, subChannels: 1 }, 32));
      },
      false,
    ],
    ["a short INIT", "MESSAGE_SHORT", (rig) => void rig.send(words(1, 0x0005_0000)), false],
    [
      "INIT twice",
      "MESSAGE_STATE",
      (rig) => void rig.send(NvspInit.packet({ version: 2, versionAgain: 2 }, 40)),
    ],
    [
      "NDIS_CONFIG too late",
      "MESSAGE_STATE",
      (rig) =>
        void rig.send(
          NvspSendNdisConfig.packet({ mtu: 1514, capabilities: 0, capabilitiesHigh: 0 }, 40),
        ),
    ],
    [
      "a receive buffer too early",
      "MESSAGE_STATE",
      (rig) => {
        rig.ask(NvspInit.packet({ version: 0x0005_0000, versionAgain: 0 }, 32));
        rig.send(NvspSendReceiveBuffer.packet({ gpadl: 0xe1e10, id: 0xcafe }, 32));
      },
      false,
    ],
    [
      "an unknown receive buffer",
      "RECEIVE_BUFFER",
      (rig) => {
        rig.ask(NvspInit.packet({ version: 2, versionAgain: 2 }, 32));
        rig.send(NvspSendReceiveBuffer.packet({ gpadl: 5, id: 0xcafe }, 32));
      },
      false,
    ],
    [
      "an unknown send buffer",
      "SEND_BUFFER",
      (rig) => {
        rig.ask(NvspInit.packet({ version: 2, versionAgain: 2 }, 32));
        rig.send(NvspSendSendBuffer.packet({ gpadl: 5, id: 0 }, 32));
      },
      false,
    ],
    [
      "RNDIS too early",
      "MESSAGE_STATE",
      (rig) => {
        rig.ask(NvspInit.packet({ version: 2, versionAgain: 2 }, 32));
        rig.send(
          NvspSendRndisPacket.packet(
            { channelType: 1, sectionIndex: 0xffff_ffff, sectionBytes: 0 },
            32,
          ),
        );
      },
      false,
    ],
    [
      "no completion wanted",
      "NO_COMPLETION_REQUESTED",
      (rig) =>
        void rig.send(NvspSubChannelRequest.packet({ operation: 1, subChannels: 1 }, 40), {
          flags: 0,
        }),
    ],
    [
      "a section outside",
      "SECTION",
      (rig) => void rig.sendRndis(undefined, { index: 32, bytes: 1 }),
    ],
    [
      "a section that runs out",
      "SECTION",
      (rig) => void rig.sendRndis(undefined, { index: 31, bytes: 6145 }),
    ],
    [
      "a completion of another type",
      "COMPLETION_TYPE",
      (rig) => void rig.send(words(107, 1), { type: PacketType.completion, flags: 0 }),
    ],
    ["an unknown completion", "COMPLETION_UNKNOWN", (rig) => rig.complete(20)],
    ["a completion of no slot", "COMPLETION_UNKNOWN", (rig) => rig.complete(145)],
    [
      "a completion whose id is too large",
      "COMPLETION_UNKNOWN",
      (rig) => {
        rig.completesReceived = false;
        arrive(rig, plainFrame(own, peer));
        const { id } = rig.held[0]!;
        rig.send(words(108, 1), { type: PacketType.completion, flags: 0, id, idHigh: 1 });
      },
    ],
    [
      "a receive buffer that does not begin at a page",
      "RECEIVE_BUFFER",
      (rig) => {
        rig.ask(NvspInit.packet({ version: 2, versionAgain: 2 }, 32));
        rig.send(NvspSendReceiveBuffer.packet({ gpadl: UNALIGNED_GPADL, id: 0xcafe }, 32));
      },
      false,
    ],
    [
      "a completion twice",
      "COMPLETION_UNKNOWN",
      (rig) => {
        rig.completesReceived = false;
        arrive(rig, plainFrame(own, peer));
        const { id } = rig.held[0]!;
        rig.complete(id);
        expect(rig.closedCode).toBeUndefined();
        rig.complete(id);
      },
    ],
    [
      "INITIALIZE twice",
      "CONTROL_STATE",
      (rig) =>
        void rig.control(
          RndisInitialize.emit({ requestId: 1, major: 1, minor: 0, maxTransferSize: 1 }),
        ),
    ],
    ["RESET", "CONTROL_TYPE", (rig) => void rig.control(RndisReset.emit({}))],
    [
      "an indication",
      "CONTROL_TYPE",
      (rig) => void rig.control(words(RndisType.indicateStatus, 20, 0, 0, 0)),
    ],
    [
      "SET_EX",
      "CONTROL_TYPE",
      (rig) => void rig.control(words(RndisType.setEx, 28, 0, 0, 0, 0, 0)),
    ],
    [
      "a short QUERY",
      "CONTROL_LENGTH",
      (rig) => void rig.control(words(RndisType.query, 20, 1, 2, 3)),
    ],
    [
      "a SET beyond its message",
      "CONTROL_LENGTH",
      (rig) => void rig.control(words(RndisType.set, 28, 1, Oid.genVendorId, 4, 20, 0)),
    ],
    [
      "a message longer than there is",
      "CONTROL_LENGTH",
      (rig) => void rig.control(words(RndisType.keepalive, 16, 1)),
    ],
  ];
  test.each(cases)("%s: %s", (_name, code, act, isAttached = true) => {
    const rig = new NicRig();
    if (isAttached) {
      rig.attach();
      connect(rig);
    }
    act(rig);
    expect(rig.closedCode).toBe(`ERR_NETVSP_${code}`);
    // The adapter and its switch go on.
    rig.completesReceived = true;
    rig.open(0);
    rig.attach();
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
  });

  test("control messages and requests on a sub-channel", () => {
    const rig = new NicRig({ subChannelsMax: 1 });
    rig.attach();
    rig.ask(NvspSubChannelRequest.packet({ operation: 1, subChannels: 1 }, 40));
    rig.open(1);
    expect(rig.control(RndisKeepalive.emit({ requestId: 1 }), 1)).toBe(NvspStatus.failure);
    expect(rig.violations).toEqual(["netvsp-control-channel"]);
    rig.send(NvspSwitchDataPath.packet({ activePath: 0 }, 40), { channel: 1 });
    expect(rig.pairs[1]!.right.error?.code).toBe("ERR_NETVSP_MESSAGE_CHANNEL");
    expect(rig.closedCode).toBeUndefined();
  });
});

describe("faults of an adapter", () => {
  const frame = plainFrame(peer, own);

  test("completions: late, lost, twice, failed, of nothing", () => {
    const ids = (fault: ConstructorParameters<typeof NicRig>[0]): [NicRig, number[]] => {
      const { rig } = attached(fault);
      const before = rig.completions.length;
      rig.transmit(rig.message(frame));
      return [rig, rig.completions.slice(before).map(({ id }) => id)];
    };
    const operation = "transmit" as const;
    // Attaching takes three sends: INITIALIZE, and the filter.
    const nth = 3;
    const [late, none] = ids({
      faults: [{ kind: "late-completion", delayMs: 10, operation, nth }],
    });
    expect(none).toEqual([]);
    late.timers.advance(10);
    late.run();
    expect(late.completions.at(-1)!.bytes).toHaveLength(40);
    expect(ids({ faults: [{ kind: "lost-completion", operation, nth }] })[1]).toEqual([]);
    expect(ids({ faults: [{ kind: "duplicate-completion", operation, nth }] })[1]).toHaveLength(2);
    const [failed] = ids({ faults: [{ kind: "failed-completion", nth }] });
    expect(get32(failed.completions.at(-1)!.bytes, 4)).toBe(NvspStatus.failure);
    const [, stray] = ids({ faults: [{ kind: "stray-completion", nth }] });
    expect(stray).toHaveLength(2);
    expect(stray[0]).not.toBe(stray[1]);
  });

  test("answers to control messages: late, lost, twice", () => {
    const operation = "control" as const;
    const ask = (
      fault: NonNullable<ConstructorParameters<typeof NicRig>[0]>["faults"],
    ): [NicRig, number] => {
      const { rig } = attached({ faults: fault! });
      const before = rig.answers.length;
      rig.control(RndisKeepalive.emit({ requestId: 3 }));
      return [rig, rig.answers.length - before];
    };
    const nth = 3;
    const [late, count] = ask([{ kind: "late-completion", delayMs: 5, operation, nth }]);
    expect(count).toBe(0);
    late.timers.advance(5);
    late.run();
    expect(get32(late.answers.at(-1)!, 8)).toBe(3);
    expect(ask([{ kind: "lost-completion", operation, nth }])[1]).toBe(0);
    expect(ask([{ kind: "duplicate-completion", operation, nth }])[1]).toBe(2);
  });

  test.each([
    "type",
    "length-short",
    "length-long",
    "data-offset",
    "data-length",
    "info-offset",
    "info-length",
    "info-size-zero",
    "info-size-odd",
    "info-size-long",
  ] as const)("a message that is wrong: %s", (damage) => {
    const { rig } = attached({ faults: [{ kind: "malformed-rndis", damage, nth: 2 }] });
    for (let number = 0; number < 3; number++) arrive(rig, plainFrame(own, peer));
    expect([rig.frames.length, rig.malformed.length]).toEqual([2, 1]);
    expect(rig.adapter.stats()).toMatchObject({ receiveSlotsBusy: 0, faults: 1 });
  });

  test.each([
    "set-id",
    "count-zero",
    "count-long",
    "range-outside",
    "range-overflow",
    "range-empty",
  ] as const)("a packet that is wrong: %s", (damage) => {
    const { rig } = attached({ faults: [{ kind: "malformed-transfer", damage, nth: 2 }] });
    for (let number = 0; number < 3; number++) arrive(rig, plainFrame(own, peer));
    expect([rig.frames.length, rig.malformed.length]).toEqual([2, 1]);
    expect(rig.adapter.stats().receiveSlotsBusy).toBe(0);
  });
});
