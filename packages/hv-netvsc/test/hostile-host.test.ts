import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NetvscError, TransmitOffload, TransmitResult, type ReceivedFrame } from "../src/index.js";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";
import { GpaRanges } from "@hyperv-is/vmbus-core";
import * as protocol from "../src/protocol/index.js";
import { Rig, small } from "./rig.js";
import { packetMessage, type Delivery } from "./scripted-host.js";

const { NvspStatus, NvspType, RndisType } = protocol;

const word = fc.oneof(
  fc.nat(0x80),
  // Ends of slots and of the buffer, and what lies behind them.
  fc.constantFrom(
    0x700,
    0x70e,
    0x70f,
    0x1000,
    0x3_f8f3,
    0x3_ff01,
    0x4_0001,
    0x7fff_ffff,
    0xffff_fff0,
    0xffff_ffff,
  ),
  fc.nat(0xffff_ffff),
);

/** An interface of two channels whose user takes every frame, and lets go of it. */
async function attached(): Promise<{ readonly rig: Rig; readonly frames: () => number }> {
  const rig = new Rig({ cpus: 2 });
  const hn = await rig.attach();
  const { address, lengthBytes } = hn.parameters.receiveBuffer;
  let frames = 0;
  for (const { port } of rig.halves)
    port.user = {
      received: (frame: ReceivedFrame) => {
        frames++;
        for (let run = 0; run < frame.runs; run++) {
          const at = frame.runAddress(run) - address;
          expect(at).toBeGreaterThanOrEqual(0);
          expect(at + frame.runLength(run)).toBeLessThanOrEqual(lengthBytes);
        }
        port.release(frame.ticket);
      },
      batchEnd: () => undefined,
      transmitted: () => undefined,
      transmitReady: () => undefined,
      closed: () => undefined,
    };
  rig.adapter.completions.length = 0;
  return { rig, frames: () => frames };
}

/** Frames still go both ways on a channel. */
function works({ rig, frames }: Awaited<ReturnType<typeof attached>>, index: number): void {
  const { adapter } = rig;
  const host = adapter.channelOf(index);
  const [got, sent, completed] = [frames(), adapter.frames.length, adapter.completions.length];
  host.deliver([{ slot: 20, bytes: packetMessage(new Uint8Array(60)) }], 20);
  host.channel.flush();
  rig.run();
  expect(frames()).toBe(got + 1);
  expect(adapter.completions.length).toBe(completed + 1);
  const { port } = rig.half(index);
  const list = new GpaRanges(rig.memory);
  list.add(rig.arenas[index]!.allocate(1)!, 60);
  expect(port.transmit(list, new TransmitOffload(), 1)).toBe(TransmitResult.copied);
  rig.arenas[index]!.free(list.runAddress(0));
  port.flush();
  rig.run();
  expect(adapter.frames.length).toBe(sent + 1);
  expect(port.outstanding).toBe(0);
}

describe("a hostile host", () => {
  test("damages messages and the packets that bring them: each is completed once, and nothing stops", async () => {
    const target = await attached();
    const { rig, frames } = target;
    const { adapter } = rig;
    const { slotBytes } = adapter.facts;
    const { lengthBytes } = adapter.receiveBuffer!;
    const counters = rig.halves.map(({ port }) => port.counters);
    const counted = (): number =>
      counters.reduce((sum, { malformed, rsc_drop }) => sum + malformed + rsc_drop, 0);
    let id = 100;
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(140), word), { maxLength: 4 }),
        fc.array(fc.tuple(fc.nat(2), word), { maxLength: 3 }),
        fc.integer({ min: 1, max: 3 }),
        fc.nat(1),
        fc.nat(0x3f),
        fc.boolean(),
        (damages, rangeDamages, ranges, index, parts, isControl) => {
          const slots = Array.from({ length: ranges }, (_, at) => 20 + at);
          const bytes = packetMessage(new Uint8Array(200), { parts, checksum: 0x28, packetId: 7 });
          for (const [at, value] of damages) protocol.put32(bytes, at & ~3, value);
          const deliveries: Delivery[] = slots.map((slot, at) => {
            const [, rangeBytes] = rangeDamages.find(([to]) => to === at) ?? [];
            const isOffset = (rangeBytes ?? 0) % 2 === 1;
            return {
              slot,
              bytes,
              ...(rangeBytes !== undefined &&
                (isOffset ? { rangeOffset: rangeBytes } : { rangeBytes })),
            };
          });
          const before = adapter.completions.length;
          const seen = frames() + counted();
          const host = adapter.channelOf(index);
          host.deliver(deliveries, ++id, isControl ? 1 : 0);
          host.channel.flush();
          rig.run();
          // A range that is not in the buffer is what a packet is answered with a failure for.
          const isInside = deliveries.every(({ slot, rangeOffset, rangeBytes }) => {
            const end = (rangeOffset ?? slot * slotBytes) + (rangeBytes ?? bytes.length);
            return end <= lengthBytes;
          });
          const status = isInside ? NvspStatus.success : NvspStatus.failure;
          expect(adapter.completions.slice(before)).toEqual([
            { channel: index, id, status, packetBytes: 8 },
          ]);
          // On a sub-channel nothing is an answer: each range is a frame, a piece of one, or a mistake.
          if (index === 1 && (parts & protocol.FrameInfoPart.packetId) === 0)
            expect(frames() + counted()).toBeGreaterThanOrEqual(seen + ranges);
        },
      ),
      { numRuns: 1000 },
    );
    for (const index of [0, 1]) works(target, index);
  });

  test("sends any packet with any id: it is taken, or counted, or it ends the channel if it is none", async () => {
    let target = await attached();
    const { inBand, completion, gpaDirect, transferPages } = PacketType;
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          { weight: 80, arbitrary: fc.constantFrom(inBand, completion, gpaDirect, transferPages) },
          { weight: 1, arbitrary: fc.constantFrom(0, 5, 12) },
        ),
        fc.array(word, { maxLength: 14 }),
        fc.constantFrom(0, 1, 2, 3, 0x4000_0000, 0x4000_0001, 0x4000_0004, 0xffff_ffff),
        fc.nat(3),
        fc.constantFrom(...Object.values(NvspType)),
        fc.nat(1),
        fc.nat(1),
        async (type, words, idLow, idHigh, message, flags, index) => {
          const payload = new Uint8Array((1 + words.length) * 4 + ((1 + words.length) % 2) * 4);
          protocol.put32(payload, 0, message);
          words.forEach((value, at) => protocol.put32(payload, 4 + at * 4, value));
          const header =
            type === transferPages || type === gpaDirect
              ? payload.slice(0, 8 + (words.length % 3) * 8)
              : new Uint8Array(0);
          const { rig } = target;
          const host = rig.adapter.channelOf(index);
          host.put(type, flags, idLow | 0, idHigh, payload, header);
          host.channel.flush();
          rig.run();
          const { closedReason } = rig.half(index).port;
          if (closedReason === undefined) return;
          // It is the ring that is broken, by a packet of no type.
          expect(closedReason).toBe("corrupt");
          expect([0, 5, 12]).toContain(type);
          target = await attached();
        },
      ),
      { numRuns: 800 },
    );
    for (const index of [0, 1]) works(target, index);
  });

  test("answers an attach with anything: it ends, and everything is given back", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(20),
        fc.array(fc.tuple(fc.nat(40), word), { minLength: 1, maxLength: 4 }),
        fc.option(fc.nat(60)),
        async (victim, damages, lengthBytes) => {
          const rig = new Rig({ cpus: 2 });
          const before = rig.arenas.map(({ freePages }) => freePages);
          let number = 0;
          const { adapter } = rig;
          const damage = (bytes: Uint8Array): Uint8Array => {
            if (number++ !== victim) return bytes;
            const copy = new Uint8Array((Math.min(lengthBytes ?? bytes.length, 2000) + 7) & ~7);
            copy.set(bytes.subarray(0, copy.length));
            for (const [at, value] of damages)
              if ((at & ~3) + 4 <= copy.length) protocol.put32(copy, at & ~3, value);
            return copy;
          };
          const say = adapter.say.bind(adapter);
          adapter.say = (message, channel) => say(damage(message), channel);
          adapter.onMessage = ({ channel }) => {
            const complete = channel.complete.bind(channel);
            channel.complete = (message, packet) => complete(message, damage(packet));
            return "default";
          };
          const options = { ...small, answerTimeoutMs: 500, subChannelTimeoutMs: 50 };
          const hn = await rig.attach(options).catch((error: unknown) => {
            expect(error).toBeInstanceOf(NetvscError);
          });
          if (hn !== undefined) await rig.settle(hn.detach());
          const freed = rig.arenas.map(({ freePages, leakedPages }) => freePages + leakedPages);
          expect(freed).toEqual(before);
          expect(rig.gpadls.size).toBe(0);
        },
      ),
      { numRuns: 40 },
    );
  });
});

test("the types of RNDIS messages that only guests send are no answers", async () => {
  const target = await attached();
  const { rig } = target;
  for (const type of [RndisType.initialize, RndisType.halt, RndisType.query, RndisType.set]) {
    const bytes = new Uint8Array(32);
    protocol.put32(bytes, 0, type);
    protocol.put32(bytes, 4, 28);
    rig.adapter.say(bytes);
    rig.adapter.primary.channel.flush();
    rig.run();
  }
  works(target, 0);
});
