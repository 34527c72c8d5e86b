// Entry of a thread of the ring benchmark: one end of the ring, as fast as it goes.
import { parentPort, workerData } from "node:worker_threads";
import { attachGuestMemory, type WasmMemory } from "@hyperv-is/platform-node";
import {
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";

/** Where things lie in the memory that the two threads share, in bytes. */
export interface RingLayout {
  readonly ring: number;
  /** Control page included. */
  readonly ringPages: number;
  /** A word that counts the ends that are ready. */
  readonly gate: number;
  /** What is sent, and where it is copied to. */
  readonly source: number;
  readonly target: number;
  readonly targetBytes: number;
}

/** What does the work of a ring. */
export type RingLanguage = "wasm" | "typescript";

/** What a thread of the ring benchmark is told when it starts. */
export interface RingEndData {
  readonly role: "producer" | "consumer";
  readonly language: RingLanguage;
  readonly memory: WasmMemory;
  readonly layout: RingLayout;
}

/** One round: how many packets of what size, published how many at a time. */
export interface RingRound {
  readonly payloadBytes: number;
  readonly batch: number;
  readonly packets: number;
}

const { role, language, memory: shared, layout } = workerData as RingEndData;
const memory = language === "wasm" ? attachGuestMemory(shared) : attachGuestMemory(shared.buffer);
if ((memory.ringCore !== undefined) !== (language === "wasm"))
  throw new Error("WebAssembly does not run rings here, or is switched off by HYPERV_IS_RING_CORE");

function produce(ring: OutgoingRing, { payloadBytes, batch, packets }: RingRound): void {
  const { source } = layout;
  for (let id = 0; id < packets;) {
    for (let put = 0; put < batch && id < packets; put++) {
      const result = ring.putPacket(PacketType.inBand, 0, id + 1, 0, source, payloadBytes);
      if (result !== SendResult.Ready) {
        if (result === SendResult.Corrupt) throw new Error("the read index is impossible");
        break;
      }
      id++;
    }
    if (ring.publish()) throw new Error("a reader that polls was to be signalled");
  }
}

function consume(ring: IncomingRing, { payloadBytes, batch, packets }: RingRound): void {
  const { target } = layout;
  for (let id = 0; id < packets;) {
    for (let taken = 0; taken < batch && id < packets; taken++) {
      const result = ring.take(target, layout.targetBytes);
      if (result !== ReceiveResult.Packet) {
        if (result === ReceiveResult.Corrupt) throw new Error(String(ring.corruption));
        break;
      }
      if (ring.idLow !== id + 1 || ring.idHigh !== 0) throw new Error("wrong transaction id");
      id++;
    }
    if (ring.commit()) throw new Error(`a writer that polls was to be signalled, ${payloadBytes}`);
  }
}

/** Waits for the other end, so that neither counts the other's start. */
function meet(): void {
  Atomics.add(memory.words, layout.gate >>> 2, 1);
  while (Atomics.load(memory.words, layout.gate >>> 2) < 2);
}

parentPort?.on("message", (round: RingRound) => {
  const area = RingArea.at(memory, layout.ring, layout.ringPages);
  let from: number;
  if (role === "producer") {
    const ring = new OutgoingRing(area);
    meet();
    from = performance.now();
    produce(ring, round);
  } else {
    const ring = new IncomingRing(area);
    ring.mask();
    meet();
    from = performance.now();
    consume(ring, round);
  }
  parentPort?.postMessage((performance.now() - from) / 1e3);
});
