import {
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  ReceiveResult,
  RingArea,
  SendResult,
} from "@hyperv-is/vmbus-core";
import { PAGE_SIZE, PacketType } from "@hyperv-is/vmbus-core/protocol";

/** Both ends of one ring at GPA 0, with both indices at `start`. */
export function pairOfEnds(
  pages: number,
  start = 0,
): { memory: GuestMemory; words: Int32Array; out: OutgoingRing; incoming: IncomingRing } {
  const memory = new GuestMemory(new ArrayBuffer(pages * PAGE_SIZE));
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
