import {
  GpaRanges,
  GpaRangesResult,
  SendResult,
  type Channel,
  type ChannelHandler,
  type GuestMemory,
} from "@hyperv-is/vmbus-core";
import { PacketType } from "@hyperv-is/vmbus-core/protocol";

/**
 * What the far end of a channel does in the channel compliance suite. It answers every request that asks
 * for a completion with a completion of the same transaction id, in order, waiting for room when it must:
 * `echo` with the payload of the request, `increment` after adding 1 to every byte that a GPA-direct
 * request names (and with no payload).
 */
export type ChannelPeer = "echo" | "increment";

interface Answer {
  readonly idLow: number;
  readonly idHigh: number;
  readonly payload: Uint8Array;
}

/** The far end as a handler, for implementations that can host ours. */
export class ChannelPeerHandler implements ChannelHandler {
  readonly #peer: ChannelPeer;
  readonly #ranges: GpaRanges;
  readonly #answers: Answer[] = [];
  #waiting = false;

  constructor(peer: ChannelPeer, memory: GuestMemory) {
    this.#peer = peer;
    this.#ranges = new GpaRanges(memory);
  }

  packet(channel: Channel): void {
    const { incoming } = channel;
    const { idLow, idHigh } = incoming;
    if (!incoming.completionRequested) return;
    let payload: Uint8Array = new Uint8Array(0);
    if (this.#peer === "echo")
      payload = incoming.copyOut(incoming.headerBytes, incoming.payloadBytes);
    else if (incoming.type === PacketType.gpaDirect) {
      if (this.#ranges.load(incoming) !== GpaRangesResult.Ok)
        channel.fail("ERR_GPA_RANGE", "a range is not in guest memory");
      for (let run = 0; run < this.#ranges.runs; run++) {
        const address = this.#ranges.runAddress(run);
        for (let at = address; at < address + this.#ranges.runLength(run); at++)
          this.#ranges.bytes[at]!++;
      }
    }
    this.#answers.push({ idLow, idHigh, payload });
  }

  batchEnd(channel: Channel): void {
    this.#answer(channel);
  }

  spaceArrived(channel: Channel): void {
    this.#waiting = false;
    this.#answer(channel);
  }

  closed(): void {
    this.#answers.length = 0;
  }

  #answer(channel: Channel): void {
    for (
      let next = this.#answers[0];
      next !== undefined && !this.#waiting;
      next = this.#answers[0]
    ) {
      const { idLow, idHigh, payload } = next;
      const bytes = 16 + payload.byteLength;
      const result = channel.begin(PacketType.completion, 0, 16, bytes, idLow, idHigh);
      if (result === SendResult.Ready) {
        channel.outgoing.putBytes(payload, 0, payload.byteLength);
        channel.outgoing.end();
        this.#answers.shift();
      } else if (result === SendResult.Corrupt) return;
      else if (!channel.waitForSpace(bytes)) this.#waiting = true;
    }
    channel.flush();
  }
}
