import { GpaRanges, type GpaRuns } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  TransmitOffload,
  TransmitResult,
  type EthernetUser,
  type NetvscInterface,
  type NetvscOptions,
  type RunTuning,
} from "../src/index.js";
import * as protocol from "../src/protocol/index.js";
import layoutFile from "./vectors/network.json" with { type: "json" };
import { Rig, type RigOptions } from "./rig.js";

const { TransmitChecksum, FrameInfoPart } = protocol;
const vectors: Readonly<Record<string, unknown>> = layoutFile.vectors;

function vector(name: string): Uint8Array {
  return Uint8Array.from(vectors[name] as number[]);
}

/** The frame of a PACKET message of the vectors. */
function frameOf(name: string): Uint8Array {
  const message = vector(name);
  const view = new protocol.PacketView();
  protocol.readPacket(message, 0, message.byteLength, view, new protocol.FrameInfo());
  return message.slice(view.dataAt, view.dataAt + view.dataBytes);
}

const ARENA_PAGES = 800;

/** An interface that sends, and notes how that ends. */
class Sender implements EthernetUser {
  readonly rig: Rig;
  hn!: NetvscInterface;
  readonly offload = new TransmitOffload();
  readonly returned: (readonly [tag: number, released: boolean])[] = [];
  ready = 0;
  readonly #arena: { readonly at: number };
  #used = 0;

  constructor(options: RigOptions = {}) {
    this.rig = new Rig(options);
    this.#arena = { at: this.rig.arenas[0]!.allocate(ARENA_PAGES)! };
  }

  static async attach(options: NetvscOptions = {}, rig: RigOptions = {}): Promise<Sender> {
    const sender = new Sender(rig);
    sender.hn = await sender.rig.attach(options);
    sender.hn.port.user = sender;
    sender.rig.adapter.messages.length = 0;
    return sender;
  }

  received(): void {
    throw new Error("nothing is received here");
  }
  batchEnd(): void {
    // Nothing is put together here.
  }
  transmitted(tag: number, released: boolean): void {
    this.returned.push([tag, released]);
  }
  transmitReady(): void {
    this.ready++;
  }
  closed(): void {
    // The test sees it at the returned frames.
  }

  /** Guest memory with these bytes, in pieces of `pieceBytes` that do not touch, each `offset` into a page. */
  memory(bytes: Uint8Array, pieceBytes = bytes.byteLength, offset = 0): GpaRanges {
    const list = new GpaRanges(this.rig.memory);
    for (let at = 0; at < bytes.byteLength; at += pieceBytes) {
      const piece = bytes.subarray(at, at + pieceBytes);
      const address = this.#arena.at + this.#used + offset;
      const pages = Math.ceil((offset + piece.byteLength) / PAGE_SIZE) + 1;
      this.#used += pages * PAGE_SIZE;
      if (this.#used > ARENA_PAGES * PAGE_SIZE) throw new Error("the test needs more memory");
      this.rig.memory.bytes.set(piece, address);
      list.add(address, piece.byteLength);
    }
    return list;
  }

  /** All memory may be used again. */
  reuseMemory(): void {
    this.#used = 0;
  }

  send(frame: GpaRuns, tag = 1): TransmitResult {
    return this.hn.port.transmit(frame, this.offload, tag);
  }

  /** Publishes, and lets the host answer. */
  flush(): void {
    this.hn.port.flush();
    this.rig.run();
  }

  get frames() {
    return this.rig.adapter.frames;
  }
}

function bytes(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + seed) & 0xff);
}

describe("a small frame", () => {
  test("is copied into a section, and its memory is free at once", async () => {
    const sender = await Sender.attach();
    const frame = sender.memory(bytes(60));
    expect(sender.send(frame)).toBe(TransmitResult.copied);
    sender.rig.memory.bytes.fill(0, frame.runAddress(0), frame.runAddress(0) + 60);
    sender.flush();
    expect(sender.frames).toHaveLength(1);
    expect(sender.frames[0]!.bytes).toEqual(bytes(60));
    expect(sender.frames[0]!.message.packetType).toBe(6);
    expect(sender.returned).toEqual([]);
    expect(sender.hn.port.counters).toMatchObject({
      txPackets: 1,
      txBytes: 60,
      sends: 1,
      tx_chimney: 1,
      tx_chimney_tried: 1,
    });
  });

  test("shares its section with others, as many as the host allows, each aligned", async () => {
    const sender = await Sender.attach({ mtu: 9000 });
    // What was in the sections before.
    for (let index = 0; index < 3; index++)
      sender.send(sender.memory(new Uint8Array(6000).fill(0xff)));
    sender.flush();
    expect(sender.hn.port.inspect()).toMatchObject({ freeSections: 32, freeDescriptors: 32 });
    sender.frames.length = 0;
    sender.rig.adapter.messages.length = 0;
    for (let index = 0; index < 20; index++)
      expect(sender.send(sender.memory(bytes(61, index)))).toBe(TransmitResult.copied);
    sender.flush();
    expect(sender.frames.map(({ bytes: sent }) => sent)).toEqual(
      Array.from({ length: 20 }, (_, index) => bytes(61, index)),
    );
    const sends = sender.rig.adapter.messages;
    expect(sends.map(({ rndis }) => rndis.byteLength)).toEqual([
      7 * 112 + 105,
      7 * 112 + 105,
      3 * 112 + 105,
    ]);
    // The padding is nobody's old bytes.
    expect([...sends[0]!.rndis.subarray(105, 112)]).toEqual([0, 0, 0, 0, 0, 0, 0]);
    expect(sender.hn.port.counters.sends).toBe(6);
  });

  test.each([
    ["by bytes", { aggregationBytes: 300 }, [2, 2, 1]],
    ["by messages", { aggregationPackets: 3 }, [3, 2]],
    ["to one", { aggregationPackets: 0 }, [1, 1, 1, 1, 1]],
    ["to one, for want of bytes", { aggregationBytes: 100 }, [1, 1, 1, 1, 1]],
  ])("shares its section less if tuned %s", async (_, options, expected) => {
    const sender = await Sender.attach(options);
    for (let index = 0; index < 5; index++) sender.send(sender.memory(bytes(60, index)));
    sender.flush();
    const counts = sender.rig.adapter.messages.map(
      (message) => sender.frames.filter((frame) => frame.message === message).length,
    );
    expect(counts).toEqual(expected);
  });

  test("goes by other limits as soon as they are tuned, in the section that is open too", async () => {
    const sender = await Sender.attach({}, { cpus: 2 });
    const { rig, hn } = sender;
    const { messages } = rig.adapter;
    const lengths = async (change: Partial<RunTuning>): Promise<number[]> => {
      messages.length = 0;
      for (let index = 0; index < 2; index++) sender.send(sender.memory(bytes(60, index)));
      await rig.settle(hn.tune(change));
      for (let index = 2; index < 5; index++) sender.send(sender.memory(bytes(60, index)));
      sender.flush();
      await rig.rest();
      return messages.map(
        (message) => sender.frames.filter((frame) => frame.message === message).length,
      );
    };
    expect(hn.aggregation).toEqual({ bytesMax: 6144, messagesMax: 8 });
    expect(await lengths({ aggregationPackets: 0 })).toEqual([2, 1, 1, 1]);
    expect(hn.aggregation).toEqual({ bytesMax: 0, messagesMax: 0 });
    expect(await lengths({ aggregationPackets: 3 })).toEqual([1, 3, 1]);
    expect(await lengths({ aggregationBytes: 300 })).toEqual([2, 2, 1]);
    expect(hn.aggregation).toEqual({ bytesMax: 300, messagesMax: 3 });
    expect(await lengths({ aggregationBytes: -1, aggregationPackets: -1 })).toEqual([5]);
    // Too long to be copied, it is lent.
    await rig.settle(hn.tune({ copyBytesMax: 103 }));
    expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.lent);
    expect(sender.send(sender.memory(bytes(59)))).toBe(TransmitResult.copied);
    sender.flush();
    const other = (): TransmitResult =>
      rig.half(1).port.transmit(sender.memory(bytes(60)), sender.offload, 1);
    expect(other()).toBe(TransmitResult.lent);
    // It stays so when all queues are new.
    await rig.settle(hn.setMtu(4000));
    expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.lent);
    expect(other()).toBe(TransmitResult.lent);
    expect(hn.tuning).toMatchObject({ copyBytesMax: 103, aggregationBytes: -1 });
  });

  test("has a section of its own where the host takes one message", async () => {
    const sender = await Sender.attach({}, { facts: { maxPackets: 1 } });
    for (let index = 0; index < 3; index++) sender.send(sender.memory(bytes(60, index)));
    sender.flush();
    expect(sender.rig.adapter.messages).toHaveLength(3);
  });

  test("lends its memory where there is no section", async () => {
    const sender = await Sender.attach({ sendBufferBytes: 0 });
    expect(sender.send(sender.memory(bytes(60)), 5)).toBe(TransmitResult.lent);
    sender.flush();
    expect(sender.returned).toEqual([[5, true]]);
    expect(sender.frames[0]!.bytes).toEqual(bytes(60));
  });
});

describe("a large frame", () => {
  test("is lent by one range for each page, behind its header", async () => {
    const sender = await Sender.attach({ mtu: 9000 });
    const frame = sender.memory(bytes(9000), 9000, 100);
    expect(sender.send(frame, 42)).toBe(TransmitResult.lent);
    sender.flush();
    expect(sender.frames[0]!.bytes).toEqual(bytes(9000));
    expect(sender.frames[0]!.message.rangeBytes).toEqual([44, 3996, 4096, 908]);
    expect(sender.returned).toEqual([[42, true]]);
  });

  test("leaves after the small ones before it", async () => {
    const sender = await Sender.attach({ mtu: 9000 });
    sender.send(sender.memory(bytes(60)));
    sender.send(sender.memory(bytes(9000)));
    sender.send(sender.memory(bytes(70)));
    sender.flush();
    expect(sender.frames.map(({ bytes: sent }) => sent.byteLength)).toEqual([60, 9000, 70]);
  });

  test("in too many pieces is copied if a section holds it, else refused", async () => {
    const sender = await Sender.attach({ mtu: 9000, copyBytesMax: 256 });
    expect(sender.send(sender.memory(bytes(4000), 100))).toBe(TransmitResult.copied);
    expect(sender.send(sender.memory(bytes(9000), 200))).toBe(TransmitResult.refused);
    sender.flush();
    expect(sender.frames[0]!.bytes).toEqual(bytes(4000));
    expect(sender.hn.port.counters).toMatchObject({ tx_collapsed: 1, txdma_failed: 1 });
  });
});

test("frames of any shape arrive as they were sent", async () => {
  const sender = await Sender.attach({ mtu: 9000 });
  fc.assert(
    fc.property(
      fc.array(
        fc.tuple(
          fc.integer({ min: 14, max: 9014 }),
          fc.integer({ min: 300, max: 9014 }),
          fc.integer({ min: 0, max: 4095 }),
        ),
        { minLength: 1, maxLength: 8 },
      ),
      (shapes) => {
        sender.frames.length = 0;
        sender.reuseMemory();
        const sent: Uint8Array[] = [];
        shapes.forEach(([length, piece, offset], index) => {
          const data = bytes(length, index);
          const result = sender.send(sender.memory(data, piece, offset), index);
          if (result === TransmitResult.copied || result === TransmitResult.lent) sent.push(data);
        });
        sender.flush();
        expect(sender.frames).toHaveLength(sent.length);
        sender.frames.forEach(({ bytes: arrived }, index) => {
          expect(Buffer.compare(arrived, sent[index]!)).toBe(0);
        });
      },
    ),
    { numRuns: 100 },
  );
  expect(sender.hn.port.outstanding).toBe(0);
});

describe("offloads", () => {
  test("of a checksum travel beside the frame, which stays as it is", async () => {
    const sender = await Sender.attach();
    const frame = frameOf("rndisPacketTxTcp4Csum");
    sender.offload.checksum = TransmitChecksum.ipv4 | TransmitChecksum.tcp;
    sender.offload.headerOffset = 34;
    sender.send(sender.memory(frame));
    sender.flush();
    expect(sender.rig.adapter.messages[0]!.rndis).toEqual(vector("rndisPacketTxTcp4Csum"));
  });

  test.each([
    ["rndisPacketTxLso2V4Mss8", "vnetHdrForLso2V4", TransmitChecksum.ipv4, 34, {}],
    ["rndisPacketTxLso2V6Mss8", "vnetHdrForLso2V6", TransmitChecksum.ipv6, 54, {}],
    [
      "rndisPacketTxLso2V4Mss8",
      "vnetHdrForLso2V4",
      TransmitChecksum.ipv4,
      34,
      { sendBufferBytes: 0 },
    ],
    [
      "rndisPacketTxLso2V6Mss8",
      "vnetHdrForLso2V6",
      TransmitChecksum.ipv6,
      54,
      { sendBufferBytes: 0 },
    ],
  ])(
    "of segmentation make %s of the frame that a kernel makes",
    async (expected, kernel, family, headerOffset, options) => {
      const sender = await Sender.attach(options);
      const original = vector(kernel).slice(protocol.VirtioNetHeader.SIZE);
      sender.offload.checksum = family | TransmitChecksum.tcp;
      sender.offload.headerOffset = headerOffset;
      sender.offload.segmentBytes = 8;
      const frame = sender.memory(original);
      sender.send(frame);
      sender.flush();
      expect(sender.rig.adapter.messages[0]!.rndis).toEqual(vector(expected));
      // The caller's bytes may be sent again: they are not touched.
      const at = frame.runAddress(0);
      expect(sender.rig.memory.bytes.slice(at, at + original.byteLength)).toEqual(original);
    },
  );

  test("of segmentation cross a 62 KB frame", async () => {
    const sender = await Sender.attach();
    const original = new Uint8Array(62_780);
    original.set(vector("vnetHdrForLso2V4").subarray(10, 64));
    sender.offload.checksum = TransmitChecksum.ipv4 | TransmitChecksum.tcp;
    sender.offload.headerOffset = 34;
    sender.offload.segmentBytes = 1448;
    expect(sender.send(sender.memory(original, 62_780, 2000))).toBe(TransmitResult.lent);
    sender.flush();
    const { bytes: sent, info } = sender.frames[0]!;
    expect(sent.byteLength).toBe(62_780);
    expect(sent.subarray(16, 18)).toEqual(Uint8Array.of(0, 0));
    expect(info.parts).toBe(FrameInfoPart.largeSend);
    expect(info.largeSend).toBe(protocol.largeSend(1448, 34, false));
  });

  test("of a tag and a hash value travel beside the frame", async () => {
    const sender = await Sender.attach();
    sender.offload.vlanTag = (5 << 13) | 100;
    sender.offload.hasHash = true;
    sender.offload.hashValue = -3;
    sender.send(sender.memory(bytes(60)));
    sender.flush();
    expect(sender.frames[0]!.info).toMatchObject({
      parts: FrameInfoPart.vlan | FrameInfoPart.hashValue,
      vlan: 0x645,
      hashValue: -3,
    });
  });

  test("of a hash value are left out for a host below version 5", async () => {
    const sender = await Sender.attach({}, { facts: { versions: [0x4_0000] } });
    sender.offload.hasHash = true;
    sender.send(sender.memory(bytes(60)));
    sender.flush();
    expect(sender.frames[0]!.info.parts).toBe(0);
  });

  test("with segmentation leave no room for a checksum beside it", async () => {
    const sender = await Sender.attach();
    sender.offload.checksum =
      TransmitChecksum.ipv4 | TransmitChecksum.tcp | TransmitChecksum.ipHeader;
    sender.offload.headerOffset = 34;
    sender.offload.segmentBytes = 8;
    sender.offload.vlanTag = 7;
    sender.send(sender.memory(vector("vnetHdrForLso2V4").slice(10)));
    sender.flush();
    expect(sender.frames[0]!.info.parts).toBe(FrameInfoPart.largeSend | FrameInfoPart.vlan);
  });

  test.each<[string, Partial<TransmitOffload>, number]>([
    ["a frame that is too long", {}, 1519],
    ["a frame without a header", {}, 13],
    ["an offset behind the frame", { checksum: 5, headerOffset: 60 }, 60],
    ["an offset that no message can say", { checksum: 5, headerOffset: 1024 }, 1500],
    ["segmentation of what is no TCP", { checksum: 5, headerOffset: 34, segmentBytes: 8 }, 200],
    [
      "segmentation beyond the host's limit",
      { checksum: 5, headerOffset: 34, segmentBytes: 1448 },
      62_781,
    ],
  ])("are refused: %s", async (_, offload, length) => {
    const sender = await Sender.attach();
    Object.assign(sender.offload, offload);
    expect(sender.send(sender.memory(bytes(length)))).toBe(TransmitResult.refused);
    expect(sender.hn.port.counters.txRefused).toBe(1);
    sender.offload.clear();
    expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.copied);
    sender.flush();
    expect(sender.frames).toHaveLength(1);
  });

  test("that the host does not have are refused", async () => {
    const { fullOffload } = await import("./scripted-host.js");
    const none = { ipv4TxChecksum: 0x10, lsoV2Ipv4Encapsulation: 0, lsoV2Ipv6Options: 1 };
    const sender = await Sender.attach({}, { facts: { offload: { ...fullOffload, ...none } } });
    const { transmitChecksums, largeSend4BytesMax, largeSend6BytesMax } =
      sender.hn.parameters.offloads;
    expect([largeSend4BytesMax, largeSend6BytesMax]).toEqual([0, 0]);
    expect(transmitChecksums).toBe(0x18); // TCP and UDP over IPv6
    sender.offload.checksum = TransmitChecksum.ipv4 | TransmitChecksum.tcp;
    sender.offload.headerOffset = 34;
    expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.refused);
    sender.offload.checksum = TransmitChecksum.ipv6 | TransmitChecksum.tcp;
    sender.offload.headerOffset = 54;
    expect(sender.send(sender.memory(bytes(90)))).toBe(TransmitResult.copied);
  });

  test("a frame outside guest memory is a mistake", async () => {
    const sender = await Sender.attach();
    const list = new GpaRanges(sender.rig.memory);
    list.add(sender.rig.memory.sizeBytes - 10, 60);
    expect(() => sender.send(list)).toThrow("outside guest memory");
  });
});

describe("the UDP checksum of a packet that the host might fragment", () => {
  /** An IPv4 packet of that length with UDP; the checksum field has the sum of the pseudo header. */
  function datagram(packetBytes: number, dontFragment: boolean, fill: number): Uint8Array {
    const frame = new Uint8Array(14 + packetBytes).fill(fill);
    frame.set(vector("expectTxTcp4Csum").subarray(0, 34));
    frame[16] = packetBytes >>> 8;
    frame[17] = packetBytes;
    frame[20] = dontFragment ? 0x40 : 0;
    frame[23] = 17;
    const udpBytes = packetBytes - 20;
    frame.set([0x10, 0x20, 0x30, 0x40, udpBytes >>> 8, udpBytes & 0xff, 0, 0], 34);
    const pseudo = fold(sum(frame.subarray(26, 34)) + 17 + udpBytes);
    frame[40] = pseudo >>> 8;
    frame[41] = pseudo;
    return frame;
  }
  function sum(data: Uint8Array): number {
    return data.reduce((total, byte, index) => total + (index % 2 === 0 ? byte << 8 : byte), 0);
  }
  function fold(value: number): number {
    while (value > 0xffff) value = (value & 0xffff) + (value >>> 16);
    return value;
  }
  /** True if the sum over pseudo header and datagram comes out as it must. */
  function isRight(frame: Uint8Array): boolean {
    const udp = frame.subarray(34);
    return fold(sum(frame.subarray(26, 34)) + 17 + udp.byteLength + sum(udp)) === 0xffff;
  }
  async function sendDatagram(frame: Uint8Array, options: NetvscOptions, pieces: number) {
    const sender = await Sender.attach(options);
    sender.offload.checksum = TransmitChecksum.ipv4 | TransmitChecksum.udp;
    sender.offload.headerOffset = 34;
    sender.send(sender.memory(frame, pieces));
    sender.flush();
    return { sent: sender.frames[0]!, counters: sender.hn.port.counters };
  }

  test.each<[number, boolean, NetvscOptions, boolean]>([
    [1420, false, {}, false],
    [1421, false, {}, true],
    [1421, true, {}, false],
    [1500, false, { sendBufferBytes: 0 }, true],
    [1421, false, { udpChecksumBytesMax: 65_537 }, false],
    [600, false, { udpChecksumBytesMax: 599 }, true],
  ])(
    "of %i bytes (don't fragment: %s), tuned %o: software %s",
    async (length, df, options, software) => {
      for (const pieces of [2000, 333, 401]) {
        const frame = datagram(length, df, 0x55);
        const { sent, counters } = await sendDatagram(frame, options, pieces);
        expect(counters.udpcs_fixup).toBe(software ? 1 : 0);
        expect((sent.info.parts & FrameInfoPart.checksum) === 0).toBe(software);
        expect(isRight(sent.bytes)).toBe(software);
        expect(sent.bytes.subarray(42)).toEqual(frame.subarray(42));
      }
    },
  );

  test("is never 0, which would mean none", async () => {
    // Over what payload the sum is 0xffff depends on all the rest: it is made so.
    const frame = datagram(1500, false, 0);
    frame[50] = 0;
    frame[51] = 0;
    const missing = 0xffff - fold(sum(frame.subarray(34)));
    frame[50] = missing >>> 8;
    frame[51] = missing;
    const { sent } = await sendDatagram(frame, {}, 2000);
    expect([...sent.bytes.subarray(40, 42)]).toEqual([0xff, 0xff]);
  });
});

describe("sends that the host does not answer", () => {
  test("use the descriptors up; what comes later waits until some are answered", async () => {
    const sender = await Sender.attach({ descriptors: 8, aggregationPackets: 1, mtu: 9000 });
    sender.rig.adapter.holdSends = true;
    const results = Array.from({ length: 9 }, (_, index) =>
      sender.send(sender.memory(bytes(60 + index))),
    );
    sender.flush();
    expect(results.filter((result) => result === TransmitResult.full)).toHaveLength(1);
    expect(sender.hn.port.counters).toMatchObject({ no_txdescs: 1, oactive: 1 });
    expect(sender.ready).toBe(0);
    sender.rig.adapter.releaseSends();
    sender.rig.run();
    expect(sender.ready).toBe(1);
    expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.copied);
    expect(sender.hn.port.inspect()).toMatchObject({ freeDescriptors: 7 });
  });

  test("wait in line for room in the ring, and all leave in order", async () => {
    const sender = await Sender.attach(
      { descriptors: 512, aggregationPackets: 1, sendBufferBytes: 512 * 4096 },
      { ringPages: 3 },
    );
    // 8 KiB of ring: less than 512 sends take.
    const count = 300;
    for (let index = 0; index < count; index++) {
      const frame = bytes(60);
      frame[0] = index;
      frame[1] = index >>> 8;
      expect(sender.send(sender.memory(frame))).not.toBe(TransmitResult.full);
    }
    expect(sender.hn.port.counters.agg_flush_failed).toBeGreaterThan(0);
    sender.flush();
    expect(sender.frames.map(({ bytes: [low, high] }) => low! + high! * 256)).toEqual(
      Array.from({ length: count }, (_, index) => index),
    );
    expect(sender.hn.port.outstanding).toBe(0);
  });

  test("are failures if the host says so, and their memory is free", async () => {
    const sender = await Sender.attach({ mtu: 9000 });
    sender.rig.adapter.holdSends = true;
    sender.send(sender.memory(bytes(60)));
    sender.send(sender.memory(bytes(9000)), 3);
    sender.flush();
    sender.rig.adapter.releaseSends(protocol.NvspStatus.failure);
    sender.rig.run();
    expect(sender.hn.port.counters.send_failed).toBe(2);
    expect(sender.returned).toEqual([[3, true]]);
  });

  test("that it answers twice, or with another id, end once", async () => {
    const sender = await Sender.attach({ mtu: 9000 });
    sender.rig.adapter.holdSends = true;
    sender.send(sender.memory(bytes(9000)), 3);
    sender.flush();
    const [message] = sender.rig.adapter.heldSends;
    sender.rig.adapter.completeSend(message!);
    sender.rig.adapter.completeSend(message!);
    sender.rig.adapter.completeSend({ ...message!, idLow: 10_000 });
    sender.rig.adapter.completeSend({ ...message!, idLow: -1 });
    sender.rig.adapter.completeSend({ ...message!, idLow: 8 });
    sender.rig.adapter.primary.channel.flush();
    sender.rig.run();
    expect(sender.returned).toEqual([[3, true]]);
    expect(sender.hn.port.counters.unknownIds).toBe(4);
    expect(sender.hn.port.outstanding).toBe(0);
    // The same descriptor again: what ended its last send is too late for this one.
    sender.send(sender.memory(bytes(9000)), 4);
    sender.flush();
    expect(sender.rig.adapter.heldSends[1]!.idLow).toBe(message!.idLow);
    sender.rig.adapter.completeSend(message!);
    sender.rig.adapter.primary.channel.flush();
    sender.rig.run();
    expect(sender.returned).toHaveLength(1);
    sender.rig.adapter.heldSends.shift();
    sender.rig.adapter.releaseSends();
    sender.rig.run();
    expect(sender.returned).toEqual([
      [3, true],
      [4, true],
    ]);
  });

  test("are waited for by a detach, and no new ones are taken meanwhile", async () => {
    const sender = await Sender.attach({ mtu: 9000 });
    sender.rig.adapter.holdSends = true;
    sender.send(sender.memory(bytes(60)));
    sender.send(sender.memory(bytes(9000)), 3);
    const detached = sender.hn.detach();
    const start = sender.rig.timers.now();
    sender.rig.timers.after(5_000, () => {
      expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.closed);
      sender.rig.adapter.releaseSends();
    });
    await sender.rig.settle(detached);
    expect(sender.returned).toEqual([[3, true]]);
    expect(sender.frames.map(({ bytes: sent }) => sent.byteLength)).toEqual([60, 9000]);
    expect(sender.rig.timers.now() - start).toBe(5_400);
    expect(sender.rig.arenas[0]!.leakedPages).toBe(0);
  });

  test("come back when the channel closes: what the host has is not released", async () => {
    const sender = await Sender.attach({ mtu: 9000, drainTimeoutMs: 1_000 });
    const [arena] = sender.rig.arenas;
    sender.rig.adapter.holdSends = true;
    sender.send(sender.memory(bytes(9000)), 3);
    sender.flush();
    sender.send(sender.memory(bytes(9000)), 4);
    await sender.rig.settle(sender.hn.detach());
    expect(sender.returned).toEqual([
      [3, false],
      [4, false],
    ]);
    // Their headers' memory goes with them.
    expect(arena!.leakedPages).toBe(4);
    expect(sender.send(sender.memory(bytes(60)))).toBe(TransmitResult.closed);
  });
});

test("sends that are under way outlive a change of receive scaling", async () => {
  const sender = await Sender.attach({ mtu: 9000 }, { cpus: 3 });
  sender.rig.adapter.holdSends = true;
  sender.send(sender.memory(bytes(60)));
  sender.send(sender.memory(bytes(9000)), 3);
  sender.flush();
  sender.rig.offers[0]!.rescind();
  await sender.rig.rest();
  expect(sender.hn.channels).toHaveLength(2);
  expect(sender.hn.port.outstanding).toBe(2);
  sender.rig.adapter.releaseSends();
  sender.rig.run();
  expect(sender.hn.port.outstanding).toBe(0);
  expect(sender.returned).toEqual([[3, true]]);
});

test("segmentation of what is one segment anyway is asked for all the same", async () => {
  const sender = await Sender.attach();
  sender.offload.checksum = TransmitChecksum.ipv4 | TransmitChecksum.tcp;
  sender.offload.headerOffset = 34;
  sender.offload.segmentBytes = 1448;
  sender.send(sender.memory(vector("vnetHdrForLso2V4").slice(10)));
  sender.flush();
  expect(sender.frames[0]!.info.largeSend).toBe(protocol.largeSend(1448, 34, false));
});

test("each channel has sections of its own", async () => {
  const rig = new Rig({ cpus: 3 });
  const hn = await rig.attach();
  expect(hn.parameters.sendBuffer!.sections).toBe(32);
  const used = new Set<number>();
  rig.adapter.holdSends = true;
  for (const cpu of [0, 1, 2]) {
    const { port } = rig.half(cpu);
    const list = new GpaRanges(rig.memory);
    list.add(rig.arenas[cpu]!.allocate(1)!, 60);
    const offload = new TransmitOffload();
    for (let index = 0; index < 10 * 8; index++)
      expect(port.transmit(list, offload, 0)).toBe(TransmitResult.copied);
    port.flush();
    expect(port.transmit(list, offload, 0)).toBe(TransmitResult.lent);
  }
  rig.run();
  for (const { packet, packetType } of rig.adapter.heldSends) {
    if (packetType !== 6) continue;
    const { sectionIndex } = protocol.NvspSendRndisPacket.parse(packet)!;
    expect(used.has(sectionIndex)).toBe(false);
    used.add(sectionIndex);
  }
  expect(used.size).toBe(30);
  expect(rig.adapter.frames.map(({ channel }) => channel)).toContain(2);
  rig.adapter.releaseSends();
  rig.run();
  expect((await hn.counters()).txPackets).toBe(243);
});
