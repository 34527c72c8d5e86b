import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { memoryFor, pairOfEnds, putInBand, ringKinds, takeAll } from "./ring-ends.js";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe.each(ringKinds)("%s", (kind) => {
  const memory = memoryFor(kind, 16);
  const ends = (pages: number, start = 0): ReturnType<typeof pairOfEnds> => {
    memory.clear(0, memory.sizeBytes);
    return pairOfEnds(pages, start, memory);
  };

  describe("ring memory", () => {
    test("the writer sets its feature bit and nothing else in the control page", () => {
      ends(2);
      const page = memory.copyOut(0, PAGE_SIZE);
      expect(page[64]).toBe(1);
      page[64] = 0;
      expect(page.every((byte) => byte === 0)).toBe(true);
    });

    test("a packet that wraps lies as FreeBSD's ring code lays it", () => {
      const { out, incoming, words } = ends(2, 4080);
      expect(out.begin(PacketType.completion, 0, 16, 24, 7, 0)).toBe(SendResult.Ready);
      out.putBytes(new TextEncoder().encode("ABCDEFGH"), 0, 8);
      out.end();
      expect(out.publish()).toBe(true);
      expect(hex(memory.copyOut(PAGE_SIZE + 4080, 16))).toBe("0b000200030000000700000000000000");
      expect(hex(memory.copyOut(PAGE_SIZE, 16))).toBe("414243444546474800000000f00f0000");
      expect(words[0]).toBe(16);
      expect(incoming.next()).toBe(ReceiveResult.Packet);
      expect(hex(incoming.copyOut(16, 8))).toBe("4142434445464748");
    });

    test("15 packets of 256 bytes fit into 4096, a 16th does not", () => {
      const { out } = ends(2);
      for (let count = 0; count < 15; count++) putInBand(out, count, 256 - 24);
      expect(out.begin(PacketType.inBand, 0, 16, 248, 0, 0)).toBe(SendResult.Full);
    });

    test("the largest portable packet fits an empty ring, one more byte is a programmer error", () => {
      const { out } = ends(2);
      expect(out.maxPacketBytes).toBe(4096 - 16 - 8);
      expect(() => out.begin(PacketType.inBand, 0, 16, out.maxPacketBytes + 1, 0, 0)).toThrow();
      putInBand(out, 1, out.maxPacketBytes - 16);
    });

    test("a look shows what was published meanwhile, the current packet included", () => {
      const { out, incoming } = ends(2, 4080);
      expect(incoming.look()).toBe(0);
      putInBand(out, 1, 8);
      out.publish();
      expect(incoming.next()).toBe(ReceiveResult.Packet);
      putInBand(out, 2, 8);
      expect(incoming.look()).toBe(32);
      out.publish();
      expect(incoming.look()).toBe(64);
      incoming.release();
      expect(incoming.look()).toBe(32);
    });

    test("a look at an impossible index shows nothing, and the next packet is refused", () => {
      const { out, incoming, words } = ends(2);
      putInBand(out, 1, 8);
      out.publish();
      expect(incoming.next()).toBe(ReceiveResult.Packet);
      words[0] = 4;
      expect(incoming.look()).toBe(0);
      incoming.release();
      expect(incoming.next()).toBe(ReceiveResult.Corrupt);
    });

    test("says how full it is", () => {
      const { out, incoming } = ends(2, 4080);
      putInBand(out, 1, 64 - 24);
      out.publish();
      const state = { readIndex: 4080, writeIndex: 48, interruptMask: 0 };
      expect(out.inspect()).toEqual({ ...state, readAvailable: 64, writeAvailable: 4032 });
      incoming.mask();
      expect(incoming.inspect()).toEqual({ ...out.inspect(), interruptMask: 1 });
    });

    test("a packet must fill its announced length", () => {
      const { out } = ends(2);
      out.begin(PacketType.inBand, 0, 16, 32, 1, 0);
      expect(() => out.end()).toThrow("announced length");
    });
  });

  describe("whole packets", () => {
    const [source, target] = [8 * PAGE_SIZE, 10 * PAGE_SIZE];
    const { inBand, completion, gpaDirect } = PacketType;

    test("lie in the ring as those that are put in pieces, wherever they begin", () => {
      for (let start = 0; start < 4096; start += 8) {
        const [whole, pieces] = [true, false].map((isWhole) => {
          const { out } = ends(2, start);
          for (let at = 0; at < 100; at++) memory.bytes[source + at] = at + 1;
          // What is left of earlier packets must not show in the padding.
          memory.bytes.fill(0xee, PAGE_SIZE, 2 * PAGE_SIZE);
          if (isWhole) {
            expect(out.putPacket(completion, 1, start, ~start, source, 77)).toBe(SendResult.Ready);
          } else {
            out.begin(completion, 1, 16, 16 + 77, start, ~start);
            out.putMemory(source, 77);
            out.end();
          }
          expect(out.publish()).toBe(true);
          return hex(memory.copyOut(0, 2 * PAGE_SIZE));
        });
        expect(whole).toBe(pieces);
        const incoming = new IncomingRing(RingArea.at(memory, 0, 2));
        expect(incoming.take(target, 100)).toBe(ReceiveResult.Packet);
        expect([incoming.type, incoming.flags, incoming.payloadBytes]).toEqual([completion, 1, 80]);
        expect([incoming.idLow, incoming.idHigh]).toEqual([start, ~start]);
        expect(memory.copyOut(target, 81)).toEqual(
          Uint8Array.from({ length: 81 }, (_, at) => (at < 77 ? at + 1 : 0)),
        );
        expect(incoming.releasedBytes).toBe(16 + 80 + 8);
        expect(incoming.take(target, 100)).toBe(ReceiveResult.Empty);
      }
    });

    test("are cut to what there is room for, and say how long they were", () => {
      const { out, incoming } = ends(2);
      memory.bytes.fill(7, source, source + 200);
      for (const capacity of [0, 1, 15, 31, 40, 64, 65, 199, 300]) {
        memory.clear(target, 400);
        out.putPacket(inBand, 0, 1, 0, source, 200);
        out.publish();
        expect(incoming.take(target, capacity)).toBe(ReceiveResult.Packet);
        expect(incoming.payloadBytes).toBe(200);
        expect(memory.copyOut(target, 400).lastIndexOf(7) + 1).toBe(Math.min(capacity, 200));
        incoming.commit();
      }
    });

    test("of other kinds are taken, too", () => {
      const { out, incoming } = ends(2);
      out.begin(gpaDirect, 1, 32, 40, 5, 6);
      for (const word of [1, 2, 3, 4, 5, 6]) out.putU32(word);
      out.end();
      out.publish();
      expect(incoming.take(target, 8)).toBe(ReceiveResult.Packet);
      expect([incoming.type, incoming.headerBytes, incoming.idHigh]).toEqual([gpaDirect, 32, 6]);
      expect([...memory.words.subarray(target >>> 2, (target >>> 2) + 3)]).toEqual([5, 6, 0]);
    });

    test("wait for room, and may not be larger than the ring", () => {
      const { out, incoming } = ends(2);
      expect(() => out.putPacket(inBand, 0, 1, 0, source, out.maxPacketBytes)).toThrow(RangeError);
      expect(out.putPacket(inBand, 0, 1, 0, source, out.maxPacketBytes - 16)).toBe(
        SendResult.Ready,
      );
      out.publish();
      expect(out.putPacket(inBand, 0, 2, 0, source, 0)).toBe(SendResult.Full);
      expect(incoming.take(target, PAGE_SIZE)).toBe(ReceiveResult.Packet);
      incoming.commit();
      expect(out.putPacket(inBand, 0, 2, 0, source, 0)).toBe(SendResult.Ready);
    });

    test("of a peer that breaks the protocol are refused", () => {
      const { out, incoming, words } = ends(2);
      out.putPacket(inBand, 0, 1, 0, source, 64);
      out.publish();
      words[PAGE_SIZE / 4] = 8 | (2 << 16);
      expect(incoming.take(target, 64)).toBe(ReceiveResult.Corrupt);
      expect(incoming.corruption).toBe("packet-type");
      words[1] = 4;
      expect(out.putPacket(inBand, 0, 2, 0, source, 4000)).toBe(SendResult.Corrupt);
    });
  });

  describe("who signals whom", () => {
    test("only the first packet into an empty ring signals, and none into a masked one", () => {
      const { out, incoming } = ends(2);
      putInBand(out, 1, 8);
      expect(out.publish()).toBe(true);
      putInBand(out, 2, 8);
      expect(out.publish()).toBe(false);
      takeAll(incoming);
      incoming.commit();
      incoming.mask();
      putInBand(out, 3, 8);
      expect(out.publish()).toBe(false);
      expect(incoming.unmask()).toBe(false);
    });

    test("a batch compares with the index before the batch", () => {
      const { out } = ends(2);
      putInBand(out, 1, 8);
      putInBand(out, 2, 8);
      putInBand(out, 3, 8);
      expect(out.publish()).toBe(true);
      expect(out.publish()).toBe(false);
    });

    test("a reader signals exactly when it crosses the pending size", () => {
      const { out, incoming, words } = ends(2);
      for (let count = 0; count < 15; count++) putInBand(out, count, 256 - 24);
      out.publish();
      words[3] = 512;
      const signals: boolean[] = [];
      for (let count = 0; count < 4; count++) {
        expect(incoming.next()).toBe(ReceiveResult.Packet);
        incoming.release();
        signals.push(incoming.commit());
      }
      expect(signals).toEqual([false, true, false, false]);
    });

    test("a writer that waits asks for a quarter of the ring at least and withdraws when room came", () => {
      const { out, incoming, words } = ends(2);
      for (let count = 0; count < 15; count++) putInBand(out, count, 256 - 24);
      out.publish();
      expect(out.requestSpace(248)).toBe(false);
      expect([out.waiting, words[3]]).toEqual([true, 1024]);
      let signals = 0;
      while (signals === 0) {
        expect(incoming.next()).toBe(ReceiveResult.Packet);
        incoming.release();
        if (incoming.commit()) signals++;
      }
      expect(out.spaceArrived(248)).toBe(true);
      expect([out.waiting, words[3]]).toEqual([false, 0]);
    });
  });

  describe("a peer that breaks the protocol", () => {
    const cases: readonly [string, (words: Int32Array, data: Uint8Array) => void][] = [
      ["write-index-range", (words) => (words[0] = 4096)],
      ["write-index-range", (words) => (words[0] = -8)],
      ["write-index-range", (words) => (words[0] = 4)],
      ["packet-truncated", (words) => (words[0] = 16)],
      ["packet-header-length", (_words, data) => (data[2] = 1)],
      ["packet-header-length", (_words, data) => (data[2] = 5)],
      ["packet-header-length", (_words, data) => (data[4] = 1)],
      ["packet-length", (_words, data) => (data[4] = 5)],
      ["packet-length", (words) => (words[0] = 32)],
      ["packet-length", (_words, data) => (data[5] = 255)],
      ["packet-flags", (_words, data) => (data[6] = 2)],
      ["packet-type", (_words, data) => (data[0] = 8)],
      ["packet-header-length", (_words, data) => (data[0] = 9)],
    ];
    test.each(cases)("%s", (reason, damage) => {
      const { out, incoming, words } = ends(2);
      putInBand(out, 1, 16);
      out.publish();
      damage(words, memory.bytes.subarray(PAGE_SIZE));
      const another = new IncomingRing(RingArea.at(memory, 0, 2));
      expect(incoming.next()).toBe(ReceiveResult.Corrupt);
      expect(incoming.corruption).toBe(reason);
      expect(another.take(8 * PAGE_SIZE, PAGE_SIZE)).toBe(ReceiveResult.Corrupt);
      expect(another.corruption).toBe(reason);
    });

    test("a write index that moves back is seen", () => {
      const { out, incoming, words } = ends(2);
      putInBand(out, 1, 64);
      putInBand(out, 2, 64);
      out.publish();
      takeAll(incoming);
      words[0] = 8;
      expect(incoming.next()).toBe(ReceiveResult.Corrupt);
      expect(incoming.corruption).toBe("write-index-moved-back");
    });

    test.each([4, 8, 4096, -8])("a read index of %i stops the writer", (index) => {
      const { out, words } = ends(2);
      for (let count = 0; count < 15; count++) putInBand(out, count, 256 - 24);
      words[1] = index;
      expect(out.begin(PacketType.inBand, 0, 16, 256, 0, 0)).toBe(SendResult.Corrupt);
    });

    test("arbitrary ring bytes are never read past their end, and never throw", () => {
      fc.assert(
        fc.property(
          fc.uint8Array({ minLength: 4096, maxLength: 4096 }),
          fc.integer(),
          fc.integer({ min: 0, max: 511 }),
          (data, write, read8) => {
            const { words } = ends(2);
            memory.bytes.set(data, PAGE_SIZE);
            words[0] = write;
            words[1] = read8 * 8;
            const incoming = new IncomingRing(RingArea.at(memory, 0, 2));
            for (let count = 0; incoming.next() === ReceiveResult.Packet; count++) {
              expect(count).toBeLessThan(4096 / 24);
              expect(incoming.packetBytes).toBeLessThanOrEqual(4096 - 8);
              expect(incoming.headerBytes).toBeLessThanOrEqual(incoming.packetBytes);
              incoming.release();
            }
          },
        ),
      );
    });
  });

  describe("properties", () => {
    // Contiguous pages, and pages that lie in memory in the opposite order.
    test.each([
      [
        "contiguous",
        (pages: number) => Array.from({ length: pages }, (_, index) => index * PAGE_SIZE),
      ],
      [
        "scattered",
        (pages: number) =>
          Array.from({ length: pages }, (_, index) => (pages - 1 - index) * PAGE_SIZE),
      ],
    ])(
      "a ring of %s pages is a queue, whatever the sizes and the order of calls",
      (_name, layout) => {
        const actions = fc.array(
          fc.oneof(
            { weight: 3, arbitrary: fc.record({ put: fc.integer({ min: 0, max: 3000 }) }) },
            { weight: 1, arbitrary: fc.constant({ publish: true }) },
            { weight: 1, arbitrary: fc.record({ take: fc.integer({ min: 1, max: 5 }) }) },
          ),
          { maxLength: 200 },
        );
        fc.assert(
          fc.property(fc.integer({ min: 2, max: 4 }), actions, (pages, steps) => {
            memory.clear(0, memory.sizeBytes);
            const area = new RingArea(memory, layout(pages));
            const out = new OutgoingRing(area);
            const incoming = new IncomingRing(area);
            const scratch = pages * PAGE_SIZE;
            const sent: number[] = [];
            let published = 0;
            let taken = 0;
            let id = 0;
            for (const step of steps) {
              if ("put" in step) {
                const result = out.begin(PacketType.inBand, 0, 16, 16 + step.put, ++id, ~id);
                if (result === SendResult.Full) continue;
                expect(result).toBe(SendResult.Ready);
                memory.bytes.fill(id, scratch, scratch + step.put);
                out.putMemory(scratch, step.put);
                out.end();
                sent.push(step.put, id);
              } else if ("publish" in step) {
                out.publish();
                published = sent.length / 2;
              } else {
                for (let count = 0; count < step.take; count++) {
                  const result = incoming.next();
                  if (taken === published) {
                    expect(result).toBe(ReceiveResult.Empty);
                    break;
                  }
                  expect(result).toBe(ReceiveResult.Packet);
                  const length = sent[taken * 2]!;
                  const expected = sent[taken * 2 + 1]!;
                  expect([incoming.idLow, incoming.idHigh]).toEqual([expected, ~expected]);
                  expect(incoming.payloadBytes).toBe((length + 7) & ~7);
                  const payload = incoming.copyOut(16, incoming.payloadBytes);
                  expect(
                    payload.subarray(0, length).every((byte) => byte === (expected & 255)),
                  ).toBe(true);
                  expect(payload.subarray(length).every((byte) => byte === 0)).toBe(true);
                  incoming.release();
                  taken++;
                }
                incoming.commit();
              }
            }
          }),
        );
      },
    );
  });
});
