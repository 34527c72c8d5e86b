import fc from "fast-check";
import { expect } from "vitest";
import type { GuestMemory } from "@hyperv-is/vmbus-core";
import {
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { memoryFor, ringKinds } from "./ring-ends.js";

const RING_PAGES_MAX = 5;
/** Where payloads come from and go to, behind the ring. */
const SOURCE = RING_PAGES_MAX * PAGE_SIZE;
const TARGET = SOURCE + 5 * PAGE_SIZE;
const MEMORY_PAGES = 16;
/** Offset of bytes to copy from, or to. */
const PLACE_MAX = PAGE_SIZE;
const LENGTH_MAX = 4 * PAGE_SIZE;

const payload = Uint8Array.from(
  { length: PLACE_MAX + LENGTH_MAX },
  (_, offset) => offset * 7 + (offset >>> 8) * 13 + 1,
);

/** A packet as a writer would put it. */
interface PacketToPut {
  readonly type: number;
  readonly flags: number;
  readonly headerBytes: number;
  readonly idLow: number;
  readonly idHigh: number;
  readonly place: number;
  readonly lengthBytes: number;
}

/** Something that either end, or a peer of it that keeps no rule, does. */
type Act = Readonly<
  | ["put packet" | "put in pieces", PacketToPut]
  | ["publish" | "commit" | "mask" | "unmask" | "drained" | "inspect"]
  | ["wait for space" | "space arrived", number]
  | ["take", { place: number; capacityBytes: number; count: number }]
  | ["read in pieces", { place: number; count: number }]
  | ["control word", { word: number; value: number }]
  | ["write index ahead", number]
  | ["descriptor byte", { offset: number; value: number }]
  | ["ring bytes", { offset: number; bytes: Uint8Array }]
>;

const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const place = fc.integer({ min: 0, max: PLACE_MAX });
const short = fc.integer({ min: 0, max: 200 });
const length = fc.oneof(
  { weight: 4, arbitrary: short },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: LENGTH_MAX }) },
  // Around what a ring of one page of data can hold.
  { weight: 1, arbitrary: fc.integer({ min: PAGE_SIZE - 64, max: PAGE_SIZE }) },
);
const packet = fc.record<PacketToPut>({
  type: fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(PacketType.inBand, PacketType.completion) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(PacketType.gpaDirect, PacketType.transferPages, 0, 8, 0xffff),
    },
  ),
  flags: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 1 }) }, fc.nat(0xffff)),
  headerBytes: fc.oneof(
    { weight: 3, arbitrary: fc.constant(16) },
    fc.constantFrom(24, 32, 4096, 4104),
  ),
  idLow: int32,
  idHigh: int32,
  place,
  lengthBytes: length,
});
const count = fc.integer({ min: 1, max: 40 });
/** Indices that a ring of some size takes for possible, and any others. */
const index = fc.oneof(
  fc.integer({ min: 0, max: (RING_PAGES_MAX * PAGE_SIZE) / 8 }).map((units) => units * 8),
  int32,
);
const act: fc.Arbitrary<Act> = fc.oneof(
  { weight: 12, arbitrary: fc.tuple(fc.constant("put packet" as const), packet) },
  { weight: 3, arbitrary: fc.tuple(fc.constant("put in pieces" as const), packet) },
  { weight: 4, arbitrary: fc.constant<Act>(["publish"]) },
  {
    weight: 4,
    arbitrary: fc.tuple(
      fc.constant("take" as const),
      fc.record({ place, capacityBytes: length, count }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.constant("read in pieces" as const), fc.record({ place, count })),
  },
  { weight: 4, arbitrary: fc.constant<Act>(["commit"]) },
  fc.constantFrom<Act>(["mask"], ["unmask"], ["drained"], ["inspect"]),
  fc.tuple(fc.constantFrom("wait for space" as const, "space arrived" as const), length),
);
const hostileAct: fc.Arbitrary<Act> = fc.oneof(
  { weight: 20, arbitrary: act },
  fc.tuple(
    fc.constant("control word" as const),
    fc.record({ word: fc.integer({ min: 0, max: 3 }), value: index }),
  ),
  // Just behind what the reader has given back, and there.
  fc.tuple(
    fc.constant("write index ahead" as const),
    fc.nat(20).map((units) => units * 8),
  ),
  fc.tuple(
    fc.constant("descriptor byte" as const),
    fc.record({ offset: fc.nat(7), value: fc.nat(16) }),
  ),
  fc.tuple(
    fc.constant("ring bytes" as const),
    fc.record({
      offset: fc.nat((RING_PAGES_MAX - 1) * PAGE_SIZE - 1),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }),
    }),
  ),
);

/** Both ends of a ring, and what they do, as something that can be compared. */
class Ring {
  readonly #memory: GuestMemory;
  readonly #pages: number;
  readonly #out: OutgoingRing;
  readonly #incoming: IncomingRing;

  constructor(memory: GuestMemory, pages: number, start: number) {
    this.#memory = memory;
    this.#pages = pages;
    memory.clear(0, memory.sizeBytes);
    memory.bytes.set(payload, SOURCE);
    memory.words[0] = memory.words[1] = start;
    const area = RingArea.at(memory, 0, pages);
    this.#out = new OutgoingRing(area);
    this.#incoming = new IncomingRing(area);
  }

  get bytes(): Uint8Array {
    return this.#memory.bytes;
  }

  do([kind, what]: Act): unknown {
    const [out, incoming] = [this.#out, this.#incoming];
    switch (kind) {
      case "put packet": {
        const { type, flags, idLow, idHigh, lengthBytes } = what;
        return out.putPacket(type, flags, idLow, idHigh, SOURCE + what.place, lengthBytes);
      }
      case "put in pieces":
        return this.#putInPieces(what);
      case "publish":
        return out.publish();
      case "commit":
        return [incoming.releasedBytes, incoming.commit()];
      case "mask": {
        incoming.mask();
        return;
      }
      case "unmask":
        return incoming.unmask();
      case "drained":
        return [out.isDrained(), out.waiting];
      case "inspect":
        return [out.inspect(), incoming.inspect()];
      case "wait for space":
        return out.requestSpace(what);
      case "space arrived":
        return out.spaceArrived(what);
      case "take":
        return this.#receive(what.count, () =>
          incoming.take(TARGET + what.place, what.capacityBytes),
        );
      case "read in pieces":
        return this.#receive(what.count, () => this.#readInPieces(what.place));
      case "control word":
        return (this.#memory.words[what.word] = what.value);
      case "write index ahead":
        return (this.#memory.words[0] = this.#ahead(what));
      case "descriptor byte":
        return (this.#memory.bytes[PAGE_SIZE + this.#ahead(what.offset)] = what.value);
      case "ring bytes": {
        const offset = what.offset % ((this.#pages - 1) * PAGE_SIZE - what.bytes.length);
        this.#memory.bytes.set(what.bytes, PAGE_SIZE + offset);
        return;
      }
    }
  }

  /** Offset in the ring, so far from the published read index. */
  #ahead(bytes: number): number {
    return ((this.#memory.words[1]! >>> 0) + bytes) % ((this.#pages - 1) * PAGE_SIZE);
  }

  #putInPieces(what: PacketToPut): SendResult {
    const { type, flags, headerBytes, idLow, idHigh, lengthBytes } = what;
    const out = this.#out;
    const result = out.begin(type, flags, headerBytes, headerBytes + lengthBytes, idLow, idHigh);
    if (result !== SendResult.Ready) return result;
    for (let at = 16; at < headerBytes; at += 4) out.putU32(at);
    const half = lengthBytes >>> 1;
    out.putMemory(SOURCE + what.place, half);
    out.putMemory(SOURCE + what.place + half, lengthBytes - half);
    out.end();
    return result;
  }

  /** @returns What each look at the ring gave. */
  #receive(count: number, look: () => ReceiveResult): unknown[] {
    const incoming = this.#incoming;
    const seen: unknown[] = [];
    for (let looks = 0; looks < count; looks++) {
      const result = look();
      const { type, flags, headerBytes, packetBytes, payloadBytes, idLow, idHigh, corruption } =
        incoming;
      seen.push([result, type, flags, headerBytes, packetBytes, payloadBytes, idLow, idHigh]);
      seen.push([corruption, incoming.completionRequested, incoming.releasedBytes]);
      if (result !== ReceiveResult.Packet) break;
      // What was taken can be read until it is given back.
      seen.push(incoming.u32(packetBytes - 4));
    }
    return seen;
  }

  #readInPieces(at: number): ReceiveResult {
    const incoming = this.#incoming;
    const result = incoming.next();
    if (result !== ReceiveResult.Packet) return result;
    const { headerBytes, payloadBytes } = incoming;
    const half = Math.min(payloadBytes, LENGTH_MAX) >>> 1;
    incoming.copyToMemory(headerBytes, TARGET + at, half);
    incoming.copyToMemory(headerBytes + half, TARGET + at + half, half);
    incoming.release();
    return result;
  }
}

/** What an act gave, or how it failed. */
function outcome(ring: Ring, step: Act): string {
  try {
    return JSON.stringify(ring.do(step));
  } catch (error) {
    return String(error);
  }
}

/**
 * Lets rings of every kind do the same, and compares what they answer and every byte of memory after each act.
 *
 * A failure names its seed, which `seed` replays.
 */
export function compareRings(runs: number, seed?: number): void {
  const memories = ringKinds.map((kind) => memoryFor(kind, MEMORY_PAGES));
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: RING_PAGES_MAX }),
      fc.integer({ min: 0, max: PAGE_SIZE / 8 - 1 }),
      fc.oneof(
        fc.array(act, { maxLength: 120, size: "max" }),
        fc.array(hostileAct, { maxLength: 60, size: "max" }),
      ),
      (pages, start8, acts) => {
        const [oracle, ...others] = memories.map((memory) => new Ring(memory, pages, start8 * 8));
        for (const step of acts) {
          const expected = outcome(oracle!, step);
          for (const ring of others) {
            const actual = outcome(ring, step);
            // Asking costs less than expecting, for so many.
            if (actual !== expected) expect(actual).toBe(expected);
            if (Buffer.compare(ring.bytes, oracle!.bytes) !== 0)
              expect([...ring.bytes]).toEqual([...oracle!.bytes]);
          }
        }
      },
    ),
    { numRuns: runs, ...(seed !== undefined && { seed }) },
  );
}
