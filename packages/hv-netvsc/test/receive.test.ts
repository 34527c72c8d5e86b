import { describe, expect, test } from "vitest";
import { ProtocolVersion } from "@hyperv-is/vmbus-core/protocol";
import {
  ChecksumVerdict,
  ReceiveTrust,
  type EthernetUser,
  type NetvscInterface,
  type NetvscOptions,
  type NetvscQueue,
  type ReceivedFrame,
} from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import layoutFile from "./vectors/network.json" with { type: "json" };
import { Rig, type RigOptions } from "./rig.js";
import { packetMessage, type Delivery } from "./scripted-host.js";

const { FrameInfoPart, NvspStatus, PacketIdFlag, ReceiveChecksum } = protocol;

interface Kept {
  readonly ticket: number;
  readonly bytes: Uint8Array;
  readonly verdict: number;
  readonly vlanTag: number;
  readonly hashInfo: number;
  readonly hashValue: number;
}

/** An interface that receives, and lets go of frames at once, or when it is told to. */
class Receiver implements EthernetUser {
  readonly rig: Rig;
  hn!: NetvscInterface;
  port!: NetvscQueue;
  readonly frames: Kept[] = [];
  hold = false;
  batches = 0;

  constructor(options: RigOptions = {}) {
    this.rig = new Rig(options);
  }

  static async attach(options: NetvscOptions = {}, rig: RigOptions = {}): Promise<Receiver> {
    const receiver = new Receiver(rig);
    receiver.hn = await receiver.rig.attach(options);
    receiver.port = receiver.hn.port;
    receiver.port.user = receiver;
    receiver.rig.adapter.completions.length = 0;
    return receiver;
  }

  received(frame: ReceivedFrame): void {
    const pieces: number[] = [];
    for (let run = 0; run < frame.runs; run++) {
      const at = frame.runAddress(run);
      pieces.push(...this.rig.memory.bytes.subarray(at, at + frame.runLength(run)));
    }
    const { ticket, verdict, vlanTag, hashInfo, hashValue } = frame;
    this.frames.push({
      ticket,
      bytes: Uint8Array.from(pieces),
      verdict,
      vlanTag,
      hashInfo,
      hashValue,
    });
    if (!this.hold) this.port.release(ticket);
  }
  batchEnd(): void {
    this.batches++;
  }
  transmitted(): void {
    throw new Error("nothing is sent here");
  }
  transmitReady(): void {
    throw new Error("nothing is sent here");
  }
  closed(): void {
    // The test sees it elsewhere.
  }

  /** The host delivers; whether there was room. */
  deliver(deliveries: readonly Delivery[], id: number): boolean {
    const delivered = this.rig.adapter.primary.deliver(deliveries, id);
    this.rig.adapter.primary.channel.flush();
    this.rig.run();
    return delivered;
  }

  get completions() {
    return this.rig.adapter.completions;
  }
}

const ok = { channel: 0, status: NvspStatus.success, packetBytes: 8 };

function frame(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 5 + seed) & 0xff);
}

function vector(name: string): Uint8Array {
  return Uint8Array.from(
    (layoutFile.vectors as unknown as Readonly<Record<string, number[]>>)[name]!,
  );
}

describe("a packet of frames", () => {
  test("is delivered in place, and completed once when all are released", async () => {
    const receiver = await Receiver.attach();
    receiver.hold = true;
    const deliveries = [16, 17, 18].map((slot) => ({
      slot,
      bytes: packetMessage(frame(60 + slot, slot)),
    }));
    receiver.deliver(deliveries, 16);
    expect(receiver.frames.map(({ bytes }) => bytes)).toEqual(
      [16, 17, 18].map((slot) => frame(60 + slot, slot)),
    );
    expect(receiver.completions).toEqual([]);
    for (const { ticket } of receiver.frames) receiver.port.release(ticket);
    receiver.port.flush();
    receiver.rig.run();
    expect(receiver.completions).toEqual([{ ...ok, id: 16 }]);
    expect(receiver.port.counters).toMatchObject({ rxPackets: 3, rxBytes: 76 + 77 + 78 });
    expect(() => receiver.port.release(0)).toThrow("released already");
  });

  test("has its data where the message says, whatever the length of the slot", async () => {
    const receiver = await Receiver.attach();
    receiver.deliver([{ slot: 20, bytes: vector("rndisPacketRxCsumOkHash") }], 20);
    const [received] = receiver.frames;
    expect(received!.bytes).toEqual(vector("rndisPacketRxCsumOkHash").slice(92));
    expect(received).toMatchObject({
      verdict: ChecksumVerdict.ipValid | ChecksumVerdict.dataValid,
      hashInfo: 0x201,
      hashValue: 0x51cc_c178,
      vlanTag: -1,
    });
    expect(receiver.port.counters).toMatchObject({
      csum_ip: 1,
      csum_tcp: 1,
      rss_pkts: 1,
      small_pkts: 1,
    });
  });

  test("completes the id that the host chose, the number of slots included", async () => {
    const receiver = await Receiver.attach();
    const { slots } = receiver.hn.parameters.receiveBuffer;
    for (const id of [slots - 1, slots, slots + 1, 0, -1])
      receiver.deliver([{ slot: 20, bytes: packetMessage(frame(60)) }], id);
    expect(receiver.completions.map(({ id }) => id)).toEqual([slots - 1, slots, slots + 1, 0, -1]);
  });

  test("that nobody wants is completed", async () => {
    const receiver = await Receiver.attach();
    receiver.port.user = undefined;
    receiver.deliver([{ slot: 20, bytes: packetMessage(frame(60)) }], 20);
    expect(receiver.completions).toEqual([{ ...ok, id: 20 }]);
    expect(receiver.port.counters.rxDropped).toBe(1);
  });

  test("keeps its tag and its bytes apart", async () => {
    const receiver = await Receiver.attach();
    const info = { parts: FrameInfoPart.vlan, vlan: 0x645 };
    receiver.deliver([{ slot: 20, bytes: packetMessage(frame(60), info) }], 20);
    expect(receiver.frames[0]).toMatchObject({ vlanTag: (5 << 13) | 100, bytes: frame(60) });
    const both = {
      parts: FrameInfoPart.vlan | FrameInfoPart.checksum,
      vlan: 0x645,
      checksum: ReceiveChecksum.tcpOk | ReceiveChecksum.ipOk,
    };
    receiver.deliver([{ slot: 20, bytes: packetMessage(frame(60), both) }], 20);
    expect(receiver.frames[1]).toMatchObject({
      vlanTag: (5 << 13) | 100,
      verdict: ChecksumVerdict.ipValid | ChecksumVerdict.dataValid,
    });
  });
});

describe("checksums", () => {
  const { ipOk, tcpOk, udpOk, ipValueInvalid, tcpValueInvalid, tcpFailed, ipFailed } =
    ReceiveChecksum;
  const { ipValid, dataValid, ipMissing, dataMissing } = ChecksumVerdict;
  test.each([
    ["that are right", tcpOk | ipOk, ipValid | dataValid],
    ["of UDP that are right", udpOk | ipOk, ipValid | dataValid],
    ["of the header only", ipOk, ipValid],
    ["that are wrong", tcpFailed | ipFailed, 0],
    ["of which nothing is known", 0, 0],
    ["that were never filled in", ipOk | tcpValueInvalid, ipValid | dataValid | dataMissing],
    [
      "of a header that was never filled in",
      ipValueInvalid | tcpOk,
      ipValid | dataValid | ipMissing,
    ],
  ])("%s", async (_, checksum, verdict) => {
    const receiver = await Receiver.attach();
    const info = { parts: FrameInfoPart.checksum, checksum };
    receiver.deliver([{ slot: 20, bytes: packetMessage(vector("expectTxTcp4Csum"), info) }], 20);
    expect(receiver.frames[0]!.verdict).toBe(verdict);
  });

  const tcp4 = vector("expectTxTcp4Csum");
  const fragment = tcp4.slice();
  fragment[20] = 0x20;
  const udp4 = tcp4.slice();
  udp4[23] = 17;
  const icmp = tcp4.slice();
  icmp[23] = 1;
  const tcp6 = Uint8Array.from(layoutFile.vectors.expectLso2V6Segments[0]!);
  const tagged = Uint8Array.from([...tcp4.subarray(0, 12), 0x81, 0, 0, 5, ...tcp4.subarray(12)]);
  test.each<[string, Uint8Array, NetvscOptions, number, number]>([
    ["TCP", tcp4, {}, ipValid | dataValid, 1],
    ["TCP behind a tag in the frame", tagged, {}, ipValid | dataValid, 1],
    ["TCP, but that is off", tcp4, { trustTcp: false }, 0, 0],
    ["UDP", udp4, { trustTcp: false, trustIp: false }, ipValid | dataValid, 1],
    ["UDP, but that is off", udp4, { trustUdp: false }, 0, 0],
    ["a fragment", fragment, {}, ipValid, 1],
    ["ICMP", icmp, {}, ipValid, 1],
    ["ICMP, but that is off", icmp, { trustIp: false }, 0, 0],
    ["TCP over IPv6", tcp6, {}, ipValid | dataValid, 1],
    ["ARP", frame(60), {}, 0, 0],
    ["a header that is cut short", tcp4.slice(0, 30), {}, 0, 0],
    ["nothing", tcp4, { trustTcp: false, trustUdp: false, trustIp: false }, 0, 0],
  ])(
    "of which the host says nothing are trusted: %s",
    async (_, bytes, options, verdict, count) => {
      const receiver = await Receiver.attach(options);
      receiver.deliver([{ slot: 20, bytes: packetMessage(bytes) }], 20);
      expect(receiver.frames[0]!.verdict).toBe(verdict);
      expect(receiver.port.counters.csum_trusted).toBe(count);
    },
  );
});

test("what is trusted can be changed on all channels", async () => {
  const receiver = await Receiver.attach();
  const { ipValid, dataValid } = ChecksumVerdict;
  const { tcp, udp, ip } = ReceiveTrust;
  for (const [index, [trust, verdict]] of [
    [tcp | udp | ip, ipValid | dataValid],
    [udp | ip, 0],
    [tcp, ipValid | dataValid],
  ].entries()) {
    await receiver.rig.settle(receiver.hn.tune({ trust: trust! }));
    receiver.deliver([{ slot: 20, bytes: packetMessage(vector("expectTxTcp4Csum")) }], 20);
    expect(receiver.frames[index]!.verdict).toBe(verdict);
  }
  expect(receiver.hn.tuning.trust).toBe(tcp);
});

describe("a coalesced frame", () => {
  const { first, multi, last } = PacketIdFlag;
  const piece = (
    slot: number,
    flags: number,
    seed: number,
    more: Partial<protocol.FrameInfo> = {},
  ) => ({
    slot,
    bytes: packetMessage(frame(100, seed), {
      ...more,
      parts: FrameInfoPart.packetId | (more.parts ?? 0),
      packetId: protocol.packetId(flags, 1),
    }),
  });
  test("is put together of its pieces, and what the first says counts", async () => {
    const receiver = await Receiver.attach();
    const checksum = { parts: FrameInfoPart.checksum, checksum: 0x28 };
    receiver.deliver(
      [
        piece(16, first | multi, 1, checksum),
        piece(17, multi, 2),
        piece(18, last | multi, 3),
        { slot: 19, bytes: packetMessage(frame(60, 9)) },
      ],
      16,
    );
    expect(receiver.frames.map(({ bytes }) => bytes)).toEqual([
      Uint8Array.from([...frame(100, 1), ...frame(100, 2), ...frame(100, 3)]),
      frame(60, 9),
    ]);
    expect(receiver.frames[0]!.verdict).toBe(ChecksumVerdict.ipValid | ChecksumVerdict.dataValid);
    expect(receiver.completions).toEqual([{ ...ok, id: 16 }]);
    expect(receiver.port.counters).toMatchObject({ rsc_pkts: 1, rsc_drop: 0, rxPackets: 2 });
  });
  test.each([
    ["without a first piece", [piece(16, multi, 1), piece(17, last | multi, 2)], 0, 2],
    ["without a last piece", [piece(16, first | multi, 1), piece(17, multi, 2)], 0, 1],
    [
      "with two first pieces",
      [piece(16, first | multi, 1), piece(17, first | multi, 2), piece(18, last | multi, 3)],
      1,
      1,
    ],
    [
      "with another frame in between",
      [
        piece(16, first | multi, 1),
        { slot: 17, bytes: packetMessage(frame(60)) },
        piece(18, last | multi, 3),
      ],
      1,
      2,
    ],
  ])("%s is dropped", async (_, deliveries, delivered, dropped) => {
    const receiver = await Receiver.attach();
    receiver.deliver(deliveries, 16);
    expect(receiver.frames).toHaveLength(delivered);
    expect(receiver.port.counters.rsc_drop).toBe(dropped);
    expect(receiver.completions).toEqual([{ ...ok, id: 16 }]);
  });
  test("is not put together over two packets", async () => {
    const receiver = await Receiver.attach();
    receiver.deliver([piece(16, first | multi, 1)], 16);
    receiver.deliver([piece(17, last | multi, 2)], 17);
    expect(receiver.frames).toEqual([]);
    expect(receiver.port.counters.rsc_drop).toBe(2);
  });
  test("of more pieces than a packet can have is dropped", async () => {
    const receiver = await Receiver.attach({ receiveBufferBytes: 256 * 4096 }, { ringPages: 33 });
    const deliveries = Array.from({ length: 564 }, (_, index) =>
      piece(16 + index, index === 0 ? first | multi : index === 563 ? last | multi : multi, index),
    );
    receiver.deliver(deliveries, 16);
    expect(receiver.frames).toEqual([]);
    expect(receiver.port.counters.rsc_drop).toBe(2);
  });
});

describe("a packet that breaks the protocol", () => {
  const good = { slot: 20, bytes: packetMessage(frame(60)) };
  const failed = { ...ok, status: NvspStatus.failure };
  const bufferBytes = 64 * 4096;
  test.each<[string, Partial<Delivery>]>([
    ["behind the buffer", { rangeOffset: bufferBytes + 1 }],
    ["over its end", { rangeOffset: bufferBytes - 1805 }],
    ["that wraps around", { rangeOffset: 0xffff_f000, rangeBytes: 0x2000 }],
    ["longer than the buffer", { rangeOffset: 0, rangeBytes: bufferBytes + 1 }],
    ["of every length", { rangeOffset: 16, rangeBytes: 0xffff_ffff }],
  ])("by a range %s is completed with a failure, and other ranges count", async (_, bad) => {
    const receiver = await Receiver.attach();
    receiver.deliver([good, { slot: 30, bytes: packetMessage(frame(70)), ...bad }, good], 5);
    expect(receiver.frames.map(({ bytes }) => bytes.byteLength)).toEqual([60, 60]);
    expect(receiver.completions).toEqual([{ ...failed, id: 5 }]);
    expect(receiver.port.counters.malformed).toBe(1);
  });

  test("by a range up to the last byte does not", async () => {
    const receiver = await Receiver.attach();
    const { adapter } = receiver.rig;
    const at = bufferBytes - 1806;
    adapter.memory.bytes.set(packetMessage(frame(60)), adapter.receiveBuffer!.address + at);
    receiver.deliver([{ slot: 0, bytes: new Uint8Array(0), rangeOffset: at, rangeBytes: 1806 }], 5);
    expect(receiver.completions).toEqual([{ ...ok, id: 5 }]);
    expect(receiver.frames).toHaveLength(1);
  });

  test("by another set id, a short message, another message, or too many ranges", async () => {
    const receiver = await Receiver.attach();
    const host = receiver.rig.adapter.primary;
    host.deliver([good], 1, 0, 0xcaff);
    const header = Uint8Array.of(0xfe, 0xca, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0);
    const message = protocol.NvspSendRndisPacket.packet(
      { channelType: 0, sectionIndex: protocol.SECTION_INDEX_NONE, sectionBytes: 0 },
      32,
    );
    host.put(7, 1, 2, 0, new Uint8Array(0), header);
    host.put(7, 1, 3, 0, message.fill(1, 0, 1), header);
    const many = header.slice();
    many[4] = 2;
    host.put(7, 1, 4, 0, message.fill(107, 0, 1), many);
    protocol.put32(many, 4, 0xffff_ffff);
    host.put(7, 1, 5, 0, message, many);
    host.channel.flush();
    receiver.rig.run();
    expect(receiver.completions).toEqual([1, 2, 3, 4, 5].map((id) => ({ ...failed, id })));
    expect(receiver.frames).toEqual([]);
    expect(receiver.port.counters.malformed).toBe(5);
    receiver.deliver([good], 6);
    expect(receiver.frames).toHaveLength(1);
  });

  test("by per-packet information is dropped, and completed", async () => {
    const receiver = await Receiver.attach();
    for (const size of [0, 8, 13, 2000]) {
      const bytes = packetMessage(frame(60), { parts: FrameInfoPart.vlan });
      protocol.put32(bytes, 44, size);
      receiver.deliver([{ slot: 20, bytes }], 20);
    }
    expect(receiver.frames).toEqual([]);
    expect(receiver.completions).toHaveLength(4);
    expect(receiver.port.counters.malformed).toBe(4);
  });

  test("without wanting a completion gets none", async () => {
    const receiver = await Receiver.attach();
    const host = receiver.rig.adapter.primary;
    const header = Uint8Array.of(0xfe, 0xca, 0, 0, 0, 0, 0, 0);
    host.put(7, 0, 9, 0, Uint8Array.of(107, 0, 0, 0, 0, 0, 0, 0), header);
    host.channel.flush();
    receiver.rig.run();
    expect(receiver.completions).toEqual([]);
    expect((await receiver.hn.inspect())["channels"]).toMatchObject([{ receivePacketsHeld: 0 }]);
  });

  test("of a type that hosts do not send is counted", async () => {
    const receiver = await Receiver.attach();
    receiver.rig.adapter.primary.put(9, 0, 0, 0, new Uint8Array(8), new Uint8Array(8));
    receiver.rig.adapter.primary.channel.flush();
    receiver.rig.run();
    expect(receiver.port.counters.malformed).toBe(1);
  });

  test("by control messages on a sub-channel is counted there", async () => {
    const receiver = await Receiver.attach({}, { cpus: 2 });
    const { adapter } = receiver.rig;
    adapter.say(protocol.RndisKeepalive.emit({ requestId: 1 }), adapter.channelOf(1));
    adapter.channelOf(1).channel.flush();
    receiver.rig.run();
    expect(receiver.rig.half(1).port.counters.malformed).toBe(1);
    expect(adapter.completions.at(-1)).toMatchObject({ channel: 1, status: NvspStatus.success });
  });
});

describe("receive completions", () => {
  test("that find no room wait, and none is ever lost", async () => {
    const receiver = await Receiver.attach({ receiveBufferBytes: 64 * 4096 }, { ringPages: 3 });
    const { adapter } = receiver.rig;
    const host = adapter.primary.channel;
    const guest = receiver.rig.pair(0).left;
    const { slots } = receiver.hn.parameters.receiveBuffer;
    let free = Array.from({ length: slots - 16 }, (_, index) => index + 16);
    let delivered = 0;
    let taken = 0;
    // The host writes as long as it has slots, and reads completions only now and then.
    while (delivered < 10_000) {
      const slot = free[0];
      if (
        slot !== undefined &&
        adapter.primary.deliver([{ slot, bytes: packetMessage(frame(60)) }], slot)
      ) {
        free = free.slice(1);
        delivered++;
      } else {
        host.flush();
        guest.interrupt();
        guest.poll(1000);
        if (delivered % 3 === 0 || free.length === 0) {
          host.interrupt();
          host.poll(200);
          guest.poll(1000);
        }
        for (; taken < adapter.completions.length; taken++)
          free.push(adapter.completions[taken]!.id);
      }
    }
    host.flush();
    receiver.rig.run();
    expect(receiver.frames).toHaveLength(10_000);
    expect(adapter.completions).toHaveLength(10_000);
    expect(new Set(adapter.completions.map(({ status }) => status))).toEqual(new Set([1]));
  });

  test("wait while the host reads nothing at all", async () => {
    const receiver = await Receiver.attach({ receiveBufferBytes: 256 * 4096 }, { ringPages: 5 });
    const { adapter } = receiver.rig;
    const { left: guest, right: host } = receiver.rig.pair(0);
    const { slots } = receiver.hn.parameters.receiveBuffer;
    // A ring of 16 KiB has room for fewer completions than that, of 32 bytes each.
    const bytes = packetMessage(frame(60));
    for (let index = 0; index < 560; index++) {
      expect(adapter.primary.deliver([{ slot: 16 + (index % (slots - 16)), bytes }], index)).toBe(
        true,
      );
      host.flush();
      guest.interrupt();
      guest.poll(10);
    }
    expect(receiver.port.counters.rx_ack_failed).toBeGreaterThan(0);
    expect((await receiver.hn.inspect())["channels"]).toMatchObject([{ completionsWaiting: 49 }]);
    receiver.rig.run();
    expect(adapter.completions.map(({ id }) => id)).toEqual(
      Array.from({ length: 560 }, (_, index) => index),
    );
    expect((await receiver.hn.inspect())["channels"]).toMatchObject([
      { completionsWaiting: 0, receivePacketsHeld: 0 },
    ]);
  });

  test("go back on the channel that the frames came on", async () => {
    const receiver = await Receiver.attach({}, { cpus: 3 });
    const { adapter } = receiver.rig;
    for (const index of [1, 2]) {
      const user = new Receiver();
      user.port = receiver.rig.half(index).port;
      user.port.user = user;
      adapter.channelOf(index).deliver([{ slot: 20, bytes: packetMessage(frame(60)) }], 20 + index);
      adapter.channelOf(index).channel.flush();
    }
    receiver.rig.run();
    expect(receiver.completions.map(({ channel, id }) => [channel, id])).toEqual([
      [1, 21],
      [2, 22],
    ]);
  });

  test("of a host that has more under way than it has slots are waited for", async () => {
    const receiver = await Receiver.attach({ receiveBufferBytes: 16 * 4096 });
    const { slots } = receiver.hn.parameters.receiveBuffer;
    receiver.hold = true;
    const bytes = packetMessage(frame(60));
    for (let id = 0; id < slots + 5; id++) receiver.deliver([{ slot: 17, bytes }], id);
    expect(receiver.frames).toHaveLength(slots + 1);
    receiver.hold = false;
    for (const { ticket } of receiver.frames.slice()) receiver.port.release(ticket);
    receiver.port.flush();
    receiver.rig.timers.advance(0);
    receiver.rig.run();
    expect(receiver.frames).toHaveLength(slots + 5);
    expect(receiver.completions).toHaveLength(slots + 5);
  });
});

test("frames that are held when an older host gets its buffer back first are gone by then", async () => {
  const receiver = await Receiver.attach({}, { cpus: 2, busVersion: ProtocolVersion.v3_0 });
  const { rig } = receiver;
  receiver.hold = true;
  receiver.closed = () => void rig.calls.push("closed");
  rig.half(1).port.user = receiver;
  rig.adapter.channelOf(1).deliver([{ slot: 17, bytes: packetMessage(frame(60)) }], 17);
  rig.adapter.channelOf(1).channel.flush();
  receiver.deliver([{ slot: 16, bytes: packetMessage(frame(60)) }], 16);
  rig.run();
  expect(receiver.frames).toHaveLength(2);
  rig.calls.length = 0;
  await rig.settle(receiver.hn.detach());
  expect(rig.calls.slice(0, 3)).toEqual(["closed", "closed", "teardown 925200"]);
  expect(rig.calls.filter((call) => call === "closed")).toHaveLength(2);
});

test("what arrives before a rescind is delivered, and releasing it later is harmless", async () => {
  const receiver = await Receiver.attach();
  receiver.hold = true;
  receiver.rig.adapter.primary.deliver([{ slot: 20, bytes: packetMessage(frame(60)) }], 20);
  receiver.rig.adapter.primary.channel.flush();
  receiver.rig.rescind();
  await new Promise((resolve) => setImmediate(resolve));
  await receiver.rig.rest();
  expect(receiver.frames).toHaveLength(1);
  receiver.port.release(receiver.frames[0]!.ticket);
  receiver.port.flush();
});
