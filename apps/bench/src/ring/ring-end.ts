import { parentPort, workerData } from "node:worker_threads";
import { GuestMemory, IncomingRing, OutgoingRing, ReceiveResult, RingArea, SendResult } from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";

/** What a thread of the ring benchmark is told. */
export interface RingEndData {
  readonly role: "producer" | "consumer";
  readonly buffer: SharedArrayBuffer;
  readonly ringPages: number;
}

/** One round: how many packets of what size, published how many at a time. */
export interface RingRound {
  readonly payloadBytes: number;
  readonly batch: number;
  readonly packets: number;
}

const { role, buffer, ringPages } = workerData as RingEndData;
const memory = new GuestMemory(buffer);
const ringBytes = ringPages * PAGE_SIZE;
/** Word behind the ring: both ends count themselves ready there, so that a round starts together. */
const gate = ringBytes >>> 2;
const source = ringBytes + PAGE_SIZE;
const target = source + 128 * 1024;

function produce(ring: OutgoingRing, { payloadBytes, batch, packets }: RingRound): void {
  const packetBytes = 16 + payloadBytes;
  for (let id = 0; id < packets; ) {
    for (let put = 0; put < batch && id < packets; put++) {
      const result = ring.begin(PacketType.inBand, 0, 16, packetBytes, id + 1, 0);
      if (result === SendResult.Corrupt) throw new Error("read index");
      if (result === SendResult.Full) break;
      ring.putMemory(source, payloadBytes);
      ring.end();
      id++;
    }
    if (ring.publish()) throw new Error("a polling reader was signalled");
  }
}

function consume(ring: IncomingRing, { batch, packets }: RingRound): void {
  for (let id = 0; id < packets; ) {
    for (let taken = 0; taken < batch && id < packets; taken++) {
      const result = ring.next();
      if (result === ReceiveResult.Corrupt) throw new Error(ring.corruption);
      if (result === ReceiveResult.Empty) break;
      if (ring.idLow !== id + 1) throw new Error("transaction id");
      ring.copyToMemory(ring.headerBytes, target, ring.payloadBytes);
      ring.release();
      id++;
    }
    ring.commit();
  }
}

function meet(ends: number): void {
  Atomics.add(memory.words, gate, 1);
  while (Atomics.load(memory.words, gate) < ends);
}

parentPort?.on("message", (round: RingRound) => {
  const area = RingArea.at(memory, 0, ringPages);
  const end = role === "producer" ? new OutgoingRing(area) : new IncomingRing(area);
  if (end instanceof IncomingRing) end.mask();
  meet(2);
  const from = performance.now();
  if (end instanceof OutgoingRing) produce(end, round);
  else consume(end, round);
  parentPort?.postMessage((performance.now() - from) / 1000);
});
