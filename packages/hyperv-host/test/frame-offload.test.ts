import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  ChecksumVerdict,
  completeChecksum,
  fillIpv4HeaderChecksum,
  fillTransportChecksum,
  setPartialChecksum,
  verifyIpHeader,
  verifyTransport,
} from "../src/switch/checksum-offload.js";
import { Frame, NO_VLAN_TAG } from "../src/switch/frame.js";
import { copyFrameBytes, privateMemory } from "../src/switch/frame-memory.js";
import { parseHeaders } from "../src/switch/frame-headers.js";
import { checksumOf, sumBytes } from "../src/switch/internet-checksum.js";
import { TcpSegmenter, setSuperFrame } from "../src/switch/segmentation.js";
import { readVirtioNetHeader, writeVirtioNetHeader } from "../src/switch/virtio-net-header.js";
import { insertVlanTag, stripVlanTag } from "../src/switch/vlan-tag.js";
import {
  Scattered,
  build,
  bytesOf,
  checksum,
  expectBytes,
  expectFrames,
  frameOf,
  hex,
  layouts,
  packets,
  segments,
  transportAt,
  type Packet,
} from "./frame-model.js";

const small = { payload: 3000 };

function segmentsOf(frame: Frame, leavesPartial = false): Uint8Array[] {
  const segmenter = new TcpSegmenter();
  const segment = new Frame();
  const list: Uint8Array[] = [];
  segmenter.begin(frame, leavesPartial);
  while (segmenter.next(segment)) {
    if (leavesPartial) completeChecksum(segment);
    list.push(bytesOf(segment, list.length % 8));
  }
  return list;
}

test("copies between memories, whatever the alignment", () => {
  const memory = privateMemory(1024);
  const target = privateMemory(1024);
  for (let index = 0; index < 1024; index++) memory.bytes[index] = (index * 7) ^ (index >>> 8);
  fc.assert(
    fc.property(fc.nat(40), fc.nat(40), fc.nat(200), fc.boolean(), (to, from, length, inside) => {
      const into = inside ? memory : target;
      const at = inside ? 512 + to : to;
      const expected = into.bytes.slice();
      expected.set(memory.bytes.subarray(from, from + length), at);
      copyFrameBytes(into, at, memory, from, length);
      expectBytes(into.bytes, expected);
    }),
    { numRuns: 1000 },
  );
});

test("sums bytes at any address as the obvious loop does", () => {
  const memory = privateMemory(4096);
  fc.assert(
    fc.property(fc.nat(30), fc.uint8Array({ maxLength: 600 }), (at, bytes) => {
      memory.bytes.fill(0xff);
      memory.bytes.set(bytes, at);
      expect(checksumOf(sumBytes(memory, at, bytes.length)) % 0xffff).toBe(
        checksum([...bytes]) % 0xffff,
      );
    }),
    { numRuns: 1000 },
  );
  memory.bytes.fill(0xff);
  expect(sumBytes(memory, 0, 4096)).toBe(0xffff);
  const large = privateMemory(128 * 1024);
  large.bytes.fill(0xff);
  expect(sumBytes(large, 0, 128 * 1024)).toBe(0xffff);
});

describe("a frame", () => {
  test("is the bytes that it was loaded from, wherever they lie", () =>
    fc.assert(
      fc.property(packets(small), layouts, fc.nat(16), (packet, layout, at) => {
        const bytes = build(packet);
        const frame = frameOf(bytes, layout);
        expectBytes(bytesOf(frame, at), bytes);
        const from = Math.min(at * 21, bytes.length);
        expect(checksumOf(frame.sum(from, bytes.length)) % 0xffff).toBe(
          checksum([...bytes.slice(from)]) % 0xffff,
        );
        const copy = privateMemory(8192);
        frame.copyPart(copy, at, from, bytes.length - from);
        expectBytes(copy.bytes.slice(at, at + bytes.length - from), bytes.slice(from));
      }),
    ));

  test("knows its headers", () =>
    fc.assert(
      fc.property(packets(small), layouts, (packet, layout) => {
        const bytes = build(packet);
        const padded = new Uint8Array(bytes.length + 7).fill(0x55);
        padded.set(bytes);
        const frame = frameOf(padded, layout);
        parseHeaders(frame);
        const { ipVersion, protocol, packetEnd } = frame;
        expect({ ipVersion, protocol, packetEnd, transportAt: frame.transportAt }).toEqual({
          ipVersion: packet.ipVersion,
          protocol: packet.protocol,
          packetEnd: bytes.length,
          transportAt: transportAt(packet),
        });
      }),
    ));

  test("of any bytes is looked at without harm", () =>
    fc.assert(
      fc.property(
        packets({ payload: 60 }),
        fc.array(fc.tuple(fc.nat(120), fc.nat(255)), { maxLength: 6 }),
        fc.nat(200),
        (packet, damages, length) => {
          const bytes = build(packet);
          for (const [at, value] of damages) bytes[at % bytes.length] = value;
          const frame = frameOf(bytes.slice(0, length));
          parseHeaders(frame);
          verifyIpHeader(frame);
          verifyTransport(frame);
          const most = Math.min(length, bytes.length);
          expect(frame.packetEnd).toBeLessThanOrEqual(most);
          expect(frame.transportAt).toBeLessThanOrEqual(frame.packetEnd);
          stripVlanTag(frame);
          insertVlanTag(frame);
          expectBytes(bytesOf(frame), bytes.slice(0, length));
          setPartialChecksum(frame, transportAt(packet), 16);
          completeChecksum(frame);
          setSuperFrame(frame, packet.ipVersion, transportAt(packet), 8);
          if (frame.segmentBytes > 0) segmentsOf(frame);
          expect(frame.lengthBytes).toBe(most);
        },
      ),
      { numRuns: 1000 },
    ));

  test.each([
    ["an IPv4 fragment", 4, 20, 0x2000],
    ["a later IPv4 fragment", 4, 20, 0x0001],
    ["an IPv4 header that is too short", 4, 14, 0x4400],
    ["a length beyond the frame", 4, 16, 0xffff],
    ["another IP version", 6, 14, 0x4500],
    ["yet another", 4, 14, 0x6500],
  ])("has no transport header if it is %s", (_name, ipVersion, at, value) => {
    const bytes = build({ ...sample, ipVersion: ipVersion as 4 | 6 });
    new DataView(bytes.buffer).setUint16(at, value);
    const frame = frameOf(bytes);
    parseHeaders(frame);
    expect(frame.transportAt).toBe(0);
    expect(verifyTransport(frame)).toBe(ChecksumVerdict.none);
  });
});

const sample: Packet = {
  ipVersion: 4,
  protocol: 6,
  ipOptions: 0,
  tcpOptions: 0,
  flags: 0x18,
  sequence: 1,
  identification: 0x1234,
  payload: [1, 2, 3],
};

describe("checksums", () => {
  test("that are partial are completed", () =>
    fc.assert(
      fc.property(packets(small), layouts, (packet, layout) => {
        const frame = frameOf(build(packet, "partial"), layout);
        const offset = packet.protocol === 6 ? 16 : 6;
        expect(setPartialChecksum(frame, transportAt(packet), offset)).toBe(true);
        expect(verifyTransport(frame)).toBe(ChecksumVerdict.good);
        completeChecksum(frame);
        expectBytes(bytesOf(frame), build(packet));
        expect(frame.checksumStart).toBe(0);
      }),
    ));

  test("are computed from nothing, padding left out", () =>
    fc.assert(
      fc.property(packets(small), layouts, fc.nat(20), (packet, layout, padding) => {
        const bytes = build(packet, "partial");
        const padded = new Uint8Array(bytes.length + padding).fill(0x99);
        padded.set(bytes);
        if (packet.ipVersion === 4) padded[packet.tag === undefined ? 24 : 28] = 0x5a;
        const frame = frameOf(padded, layout);
        parseHeaders(frame);
        if (packet.ipVersion === 4) fillIpv4HeaderChecksum(frame, frame.networkAt);
        fillTransportChecksum(frame);
        expectBytes(bytesOf(frame).slice(0, bytes.length), build(packet));
      }),
    ));

  test("are verified; a wrong one is found", () =>
    fc.assert(
      fc.property(packets({ payload: 300 }), layouts, fc.nat(), (packet, layout, at) => {
        const bytes = build(packet);
        const good = frameOf(bytes, layout);
        expect(verifyTransport(good)).toBe(ChecksumVerdict.good);
        expect(verifyIpHeader(good)).toBe(packet.ipVersion === 4 ? ChecksumVerdict.good : 0);
        const transport = transportAt(packet);
        // Not the length in TCP's data offset or UDP's own length: the sum does not cover what it says.
        const victim = transport + (at % (bytes.length - transport));
        bytes[victim] = bytes[victim]! ^ 0x40;
        expect(verifyTransport(frameOf(bytes, layout))).toBe(ChecksumVerdict.bad);
        if (packet.ipVersion === 6) return;
        bytes[transport - 1] = bytes[transport - 1]! ^ 1;
        expect(verifyIpHeader(frameOf(bytes, layout))).toBe(ChecksumVerdict.bad);
      }),
    ));

  test("of UDP may be absent over IPv4, not over IPv6", () => {
    const verdict = (ipVersion: 4 | 6): ChecksumVerdict => {
      const packet: Packet = { ...sample, ipVersion, protocol: 17 };
      const bytes = build(packet);
      bytes.fill(0, transportAt(packet) + 6, transportAt(packet) + 8);
      return verifyTransport(frameOf(bytes));
    };
    expect([verdict(4), verdict(6)]).toEqual([ChecksumVerdict.none, ChecksumVerdict.bad]);
  });

  test("of UDP that would be 0 are all ones, as 0 says that there is none", () => {
    const packet: Packet = { ...sample, protocol: 17, payload: [0, 0] };
    const at = transportAt(packet) + 6;
    const [high = 0, low = 0] = build(packet).slice(at, at + 2);
    const frame = frameOf(build({ ...packet, payload: [high, low] }, "partial"));
    setPartialChecksum(frame, at - 6, 6);
    completeChecksum(frame);
    expect([...bytesOf(frame).slice(at, at + 2)]).toEqual([0xff, 0xff]);
    expect(verifyTransport(frameOf(bytesOf(frame)))).toBe(ChecksumVerdict.good);
  });

  test("whose field would lie outside the frame are refused", () => {
    const at = (start: number, offset: number): boolean =>
      setPartialChecksum(frameOf(build(sample)), start, offset);
    const { length } = build(sample);
    expect([at(34, 16), at(13, 16), at(length - 17, 16), at(length - 18, 16)]).toEqual([
      true,
      false,
      false,
      true,
    ]);
  });
});

describe("segmentation", () => {
  const tcp = packets({ payload: 5000, protocols: [6] });
  const segmentBytes = fc.integer({ min: 100, max: 3000 });

  test("of what a sender of LSOv2 gives is that of the model", () =>
    fc.assert(
      fc.property(tcp, layouts, segmentBytes, fc.boolean(), (packet, layout, mss, partial) => {
        const frame = frameOf(build(packet, "lso"), layout);
        expect(setSuperFrame(frame, packet.ipVersion, transportAt(packet), mss)).toBe(true);
        const expected = segments(packet, mss);
        if (packet.payload.length > mss) expectFrames(segmentsOf(frame, partial), expected);
        else {
          expect(frame.segmentBytes).toBe(0);
          completeChecksum(frame);
          expectBytes(bytesOf(frame), expected[0]!);
        }
      }),
      { numRuns: 150 },
    ));

  test("of what a TAP gives is the same", () =>
    fc.assert(
      fc.property(tcp, layouts, segmentBytes, (packet, layout, mss) => {
        const header = new Uint8Array(10);
        const lso = frameOf(build(packet, "lso"), layout);
        setSuperFrame(lso, packet.ipVersion, transportAt(packet), mss);
        writeVirtioNetHeader(lso, header, 0);
        expectBytes(bytesOf(lso), build(packet, "partial"));
        const frame = frameOf(build(packet, "partial"), layout);
        expect(readVirtioNetHeader(frame, header, 0)).toBe(true);
        if (packet.payload.length > mss) expectFrames(segmentsOf(frame), segments(packet, mss));
      }),
    ));

  test("leaves a packet alone that fills one segment", () => {
    const frame = frameOf(build(sample, "lso"));
    expect(setSuperFrame(frame, 4, 34, sample.payload.length)).toBe(true);
    expect(frame.segmentBytes).toBe(0);
    completeChecksum(frame);
    expectBytes(bytesOf(frame), build(sample));
  });

  test("refuses headers that are not there, or contradict the request", () => {
    const mss = 8;
    const ask = (change: (bytes: Uint8Array) => void, version = 4, tcpAt = 34, size = mss) => {
      const bytes = build({ ...sample, payload: Array<number>(20).fill(1) }, "lso");
      change(bytes);
      return setSuperFrame(frameOf(bytes), version, tcpAt, size);
    };
    const nothing = (): void => undefined;
    expect(ask(nothing)).toBe(true);
    expect(ask(nothing, 6, 54)).toBe(false);
    expect(ask(nothing, 4, 33)).toBe(false);
    expect(ask(nothing, 4, 38)).toBe(false);
    expect(ask(nothing, 4, 70)).toBe(false);
    expect(ask(nothing, 4, 34, 0)).toBe(false);
    expect(ask((bytes) => (bytes[46] = 0x40))).toBe(false);
    expect(ask((bytes) => (bytes[46] = 0xf0))).toBe(false);
    const long = build({ ...sample, payload: Array<number>(65_535 - 40 + 1).fill(1) }, "lso");
    expect(setSuperFrame(frameOf(long), 4, 34, mss)).toBe(false);
    expect(setSuperFrame(frameOf(long.subarray(0, -1)), 4, 34, mss)).toBe(true);
  });
});

describe("the header of a TAP", () => {
  const header = (fields: readonly number[]): Uint8Array => {
    const bytes = new Uint8Array(10);
    bytes.set(fields.slice(0, 2));
    new Uint16Array(bytes.buffer).set(fields.slice(2), 1);
    return bytes;
  };
  const read = (...fields: number[]): boolean =>
    readVirtioNetHeader(
      frameOf(build({ ...sample, payload: Array<number>(20).fill(1) }, "partial")),
      header(fields),
      0,
    );

  test.each([
    ["nothing to do", true, [0, 0, 0, 0, 0, 0]],
    ["checked data", true, [2, 0, 0, 0, 0, 0]],
    ["a checksum", true, [1, 0, 0, 0, 34, 16]],
    ["a checksum outside", false, [1, 0, 0, 0, 34, 60]],
    ["a super-frame", true, [1, 1, 54, 8, 34, 16]],
    ["one with ECN", true, [1, 0x81, 54, 8, 34, 16]],
    ["one of another version", false, [1, 4, 54, 8, 34, 16]],
    ["one without a size", false, [1, 1, 54, 0, 34, 16]],
    ["one without a partial checksum", false, [0, 1, 54, 8, 34, 16]],
    ["one of UDP", false, [1, 5, 42, 8, 34, 6]],
  ])("%s: %s", (_name, expected, fields) => expect(read(...fields)).toBe(expected));

  test("says of checked data that it is valid", () => {
    const frame = frameOf(build(sample));
    frame.isChecksumValid = true;
    const bytes = new Uint8Array(12).fill(0xee);
    writeVirtioNetHeader(frame, bytes, 1);
    expect([...bytes]).toEqual([0xee, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xee]);
  });
});

describe("a VLAN tag", () => {
  test("is taken out and put back, and a checksum moves along", () =>
    fc.assert(
      fc.property(packets({ payload: 300 }), layouts, (packet, layout) => {
        const bytes = build(packet, "partial");
        const frame = frameOf(bytes, layout);
        setPartialChecksum(frame, transportAt(packet), packet.protocol === 6 ? 16 : 6);
        stripVlanTag(frame);
        expect(frame.vlanTag).toBe(packet.tag ?? NO_VLAN_TAG);
        expectBytes(bytesOf(frame), build({ ...packet, tag: undefined }, "partial"));
        insertVlanTag(frame);
        expectBytes(bytesOf(frame), bytes);
        expect(frame.checksumStart).toBe(transportAt(packet));
      }),
    ));

  test("that is out of a super-frame does not move its payload", () => {
    const packet: Packet = {
      ...sample,
      tag: 0x2064,
      payload: Array.from({ length: 400 }, (_, i) => i & 255),
    };
    const frame = frameOf(build(packet, "lso"));
    setSuperFrame(frame, 4, transportAt(packet), 100);
    stripVlanTag(frame);
    expectFrames(segmentsOf(frame), segments({ ...packet, tag: undefined }, 100));
  });
});

describe("vectors", () => {
  const payload = Array.from({ length: 20 }, (_, index) => index);
  const lso4 = hex(
    "00155d0a010200155d0a01010800450000001234400040060000c0000201c0000202c00001bb010203040a0b0c0d5019ffff840a0000000102030405060708090a0b0c0d0e0f10111213",
  );
  const lso6 = hex(
    "00155d0a010200155d0a010186dd60000000000006402001 0db8000000000000000000000001 20010db8000000000000000000000002c00001bb010203040a0b0c0d5019ffff5b7b0000000102030405060708090a0b0c0d0e0f10111213",
  );

  test("large send of 20 bytes in segments of 8, IPv4", () => {
    const frame = frameOf(lso4);
    expect(setSuperFrame(frame, 4, 34, 8)).toBe(true);
    const header = new Uint8Array(10);
    writeVirtioNetHeader(frame, header, 0);
    expect([...header, ...bytesOf(frame)]).toEqual([
      ...hex(
        "0101360008002200100000155d0a010200155d0a010108004500003c123440004006a484c0000201c0000202c00001bb010203040a0b0c0d5019ffff84320000000102030405060708090a0b0c0d0e0f10111213",
      ),
    ]);
    expectFrames(segmentsOf(frame), [
      hex(
        "00155d0a010200155d0a0101080045000030123440004006a490c0000201c0000202c00001bb010203040a0b0c0d5010ffff43df00000001020304050607",
      ),
      hex(
        "00155d0a010200155d0a0101080045000030123540004006a48fc0000201c0000202c00001bb0102030c0a0b0c0d5010ffff23b7000008090a0b0c0d0e0f",
      ),
      hex(
        "00155d0a010200155d0a010108004500002c123640004006a492c0000201c0000202c00001bb010203140a0b0c0d5019ffff2db6000010111213",
      ),
    ]);
  });

  test("the same of IPv6", () => {
    const frame = frameOf(lso6);
    expect(setSuperFrame(frame, 6, 54, 8)).toBe(true);
    const header = new Uint8Array(10);
    writeVirtioNetHeader(frame, header, 0);
    expect([...header]).toEqual([...hex("01044a00080036001000")]);
    expectFrames(segmentsOf(frame), [
      hex(
        "00155d0a010200155d0a010186dd60000000001c064020010db800000000000000000000000120010db8000000000000000000000002c00001bb010203040a0b0c0d5010ffff6c6e00000001020304050607",
      ),
      hex(
        "00155d0a010200155d0a010186dd60000000001c064020010db800000000000000000000000120010db8000000000000000000000002c00001bb0102030c0a0b0c0d5010ffff4c46000008090a0b0c0d0e0f",
      ),
      hex(
        "00155d0a010200155d0a010186dd600000000018064020010db800000000000000000000000120010db8000000000000000000000002c00001bb010203140a0b0c0d5019ffff5645000010111213",
      ),
    ]);
    expect(payload).toHaveLength(20);
  });

  test("a SYN with a partial checksum", () => {
    const frame = frameOf(
      hex(
        "00155d0a010200155d0a0101080045000028123440004006a498c0000201c0000202c00001bb010203040a0b0c0d5002ffff841e0000",
      ),
    );
    expect(setPartialChecksum(frame, 34, 16)).toBe(true);
    completeChecksum(frame);
    expect(bytesOf(frame)).toEqual(
      hex(
        "00155d0a010200155d0a0101080045000028123440004006a498c0000201c0000202c00001bb010203040a0b0c0d5002ffff50050000",
      ),
    );
  });
});

test("a scattered memory is what a frame is loaded from", () => {
  const scattered = new Scattered(Uint8Array.of(1, 2, 3), [{ gap: 2, length: 1 }]);
  expect([scattered.runs, scattered.runAddress(0), scattered.runLength(1)]).toEqual([2, 2, 2]);
});
