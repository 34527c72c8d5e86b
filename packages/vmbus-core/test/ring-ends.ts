import {
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  ringCore,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";

/** What does the work of a ring, by the memory that it lies in. */
export type RingKind = "TypeScript" | "WebAssembly";

export const ringKinds: readonly RingKind[] = ["TypeScript", "WebAssembly"];

/** WebAssembly.Memory comes in units of 64 KiB. */
const UNIT_PAGES = 16;

/** Memory of `pages` at least, all zero, in which rings are of the kind. */
export function memoryFor(kind: RingKind, pages: number): GuestMemory {
  const units = Math.ceil(pages / UNIT_PAGES);
  const sizeBytes = units * UNIT_PAGES * PAGE_SIZE;
  if (kind === "TypeScript") return new GuestMemory(new ArrayBuffer(sizeBytes));
  const wasm = new WebAssembly.Memory({ initial: units, maximum: units, shared: true });
  const core = ringCore(wasm);
  if (core === undefined) throw new Error("this engine has no ring core");
  return new GuestMemory(wasm.buffer, 0, sizeBytes, core);
}

/** Both ends of one ring at GPA 0, with both indices at `start`. */
export function pairOfEnds(
  pages: number,
  start = 0,
  memory: GuestMemory = memoryFor("TypeScript", pages),
): { memory: GuestMemory; words: Int32Array; out: OutgoingRing; incoming: IncomingRing } {
  memory.words[0] = start;
  memory.words[1] = start;
  const area = RingArea.at(memory, 0, pages);
  return {
    memory,
    words: memory.words,
    out: new OutgoingRing(area),
    incoming: new IncomingRing(area),
  };
}

/** Puts an in-band packet with a zeroed payload; it must fit. */
export function putInBand(out: OutgoingRing, id: number, payloadBytes: number): void {
  if (out.begin(PacketType.inBand, 0, 16, 16 + payloadBytes, id, 0) !== SendResult.Ready)
    throw new Error("does not fit");
  out.putBytes(new Uint8Array(payloadBytes), 0, payloadBytes);
  out.end();
}

/** Releases everything there is; returns the count. */
export function takeAll(incoming: IncomingRing): number {
  let count = 0;
  for (; incoming.next() === ReceiveResult.Packet; count++) incoming.release();
  return count;
}
