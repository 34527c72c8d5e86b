import {
  Channel,
  IncomingRing,
  OutgoingRing,
  RingArea,
  SendResult,
  type ChannelClosedReason,
  type ChannelHandler,
} from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  Packet,
  PacketType,
} from "@hyperv-is/vmbus-core/protocol";
import type { Rings, ScriptedGuest } from "./scripted-guest.js";

/** The guest's end of an open channel: sends packets, collects completions. */
export class GuestChannel implements ChannelHandler {
  readonly channel: Channel;
  /** Payloads of completions, by transaction id. */
  readonly completions = new Map<number, Uint8Array>();
  readonly #guest: ScriptedGuest;
  #nextId = 1;

  /** @param signal - how the host is signalled. */
  constructor(guest: ScriptedGuest, rings: Rings, signal: () => void) {
    this.#guest = guest;
    const area = (pages: readonly number[]): RingArea => new RingArea(guest.memory, pages);
    this.channel = new Channel(
      new IncomingRing(area(rings.pages.slice(rings.outgoing))),
      new OutgoingRing(area(rings.pages.slice(0, rings.outgoing))),
      { signal },
      this,
    );
  }

  /** Sends a packet and publishes it. @returns Its transaction id. */
  send(payload: Uint8Array): number {
    const id = this.#nextId++;
    const bytes = Packet.descriptorBytes + payload.byteLength;
    const flags = PACKET_FLAG_COMPLETION_REQUESTED;
    const { inBand } = PacketType;
    const result = this.channel.begin(inBand, flags, Packet.descriptorBytes, bytes, id, 0);
    if (result !== SendResult.Ready) throw new Error("the ring is full");
    this.channel.outgoing.putBytes(payload, 0, payload.byteLength);
    this.channel.outgoing.end();
    this.channel.flush();
    return id;
  }

  /** Sends packets one after the other and waits for each; true if they all come back. */
  echoes(count = 3, lengthBytes = 100): boolean {
    for (let number = 0; number < count; number++) {
      const payload = Uint8Array.from({ length: lengthBytes }, (_, at) => at + number);
      const id = this.send(payload);
      this.#guest.partition.run();
      this.poll();
      const echo = this.completions.get(id);
      if (echo?.subarray(0, lengthBytes).every((byte, at) => byte === payload[at]) !== true)
        return false;
    }
    return true;
  }

  poll(): void {
    this.channel.poll(1000);
  }

  packet({ incoming }: Channel): void {
    if (incoming.type !== PacketType.completion) throw new Error("not a completion");
    if (this.completions.has(incoming.idLow)) throw new Error("completed twice");
    const { headerBytes, payloadBytes } = incoming;
    this.completions.set(incoming.idLow, incoming.copyOut(headerBytes, payloadBytes));
  }

  batchEnd(): void {
    // Nothing is answered.
  }

  spaceArrived(): void {
    // Nothing waits.
  }

  closed(_: Channel, reason: ChannelClosedReason): void {
    if (reason === "corrupt") throw new Error("the host corrupted the ring");
  }
}
