import { expect, test } from "vitest";
import { type GuestMemory, IncomingRing, OutgoingRing, RingArea } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";
import { memoryFor } from "./ring-ends.js";
import { leastGarbage } from "../../../tools/garbage.js";

const RING_PAGES = 2;
const SOURCE = 0;
const TARGET = 2048;
const PACKETS = 20_000;

/** A ring, with what it carries in front of it. */
class Lane {
  readonly out: OutgoingRing;
  readonly incoming: IncomingRing;
  readonly #words = new Int32Array(16);

  constructor(memory: GuestMemory) {
    const area = RingArea.at(memory, PAGE_SIZE, RING_PAGES);
    this.out = new OutgoingRing(area);
    this.incoming = new IncomingRing(area);
  }

  carry(id: number): void {
    const { out, incoming } = this;
    // Lengths that make packets wrap.
    out.putPacket(PacketType.inBand, 1, id, -id, SOURCE, id & 127);
    out.begin(PacketType.completion, 0, 16, 80, id, -id);
    out.putWords(this.#words, 0, 8);
    out.putMemory(SOURCE, 32);
    out.end();
    out.publish();
    if (incoming.take(TARGET, 127) !== 1 || incoming.idHigh !== -id)
      throw new Error("not what was put");
    if (incoming.next() !== 1 || incoming.idLow !== id) throw new Error("not what was put");
    incoming.readWords(16, this.#words, 0, 8);
    incoming.copyToMemory(48, TARGET, 32);
    incoming.release();
    incoming.commit();
  }
}

test.each<[string, () => GuestMemory[]]>([
  ["in TypeScript", () => [memoryFor("TypeScript", 16)]],
  ["in WebAssembly", () => [memoryFor("WebAssembly", 16)]],
  // Calls of functions that differ.
  ["of two memories", () => [memoryFor("WebAssembly", 16), memoryFor("WebAssembly", 16)]],
])("packets through rings %s leave nothing on the heap", (_name, memories) => {
  const lanes = memories().map((memory) => new Lane(memory));
  const least = leastGarbage(PACKETS, () => {
    for (let id = 1; id <= PACKETS; id++) for (const lane of lanes) lane.carry(id);
  });
  expect(least).toBeLessThan(1);
});
