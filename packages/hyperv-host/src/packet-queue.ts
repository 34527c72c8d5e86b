import { SendResult, type Channel } from "@hyperv-is/vmbus-core";
import type { PacketType } from "@hyperv-is/vmbus-core/protocol";

const HEADER_BYTES = 16;

/**
 * Packets to the guest of one channel, in order: written at once while there is room in the ring, kept in
 * preallocated slots while there is none.
 */
export class PacketQueue {
  /** Packet bytes of each slot. */
  readonly #packets: Int32Array;
  /** Transaction id halves, packet type and length of each slot. */
  readonly #heads: Int32Array;
  readonly #capacity: number;
  readonly #packetWords: number;
  #first = 0;
  #count = 0;

  /** @param packetBytes - of the largest packet's payload, a multiple of 8. */
  constructor(capacity: number, packetBytes: number) {
    this.#capacity = capacity;
    this.#packetWords = packetBytes / 4;
    this.#packets = new Int32Array(capacity * this.#packetWords);
    this.#heads = new Int32Array(capacity * 4);
  }

  /** Packets that wait for room. */
  get waiting(): number {
    return this.#count;
  }

  /** True if no more packets may be put until `flush` has made room. */
  get isFull(): boolean {
    return this.#count === this.#capacity;
  }

  /**
   * Sends a packet, or keeps a copy; it is published by the channel's `flush`.
   * @param packet - its first `lengthBytes` (a multiple of 8) are sent.
   */
  put(
    channel: Channel,
    type: PacketType,
    idLow: number,
    idHigh: number,
    packet: Int32Array,
    lengthBytes: number,
  ): void {
    if (this.#count === 0 && send(channel, type, idLow, idHigh, packet, 0, lengthBytes)) return;
    if (channel.isClosed()) return;
    if (this.isFull) throw new RangeError("more packets than slots");
    const slot = (this.#first + this.#count++) % this.#capacity;
    const words = lengthBytes >>> 2;
    for (let word = 0; word < words; word++)
      this.#packets[slot * this.#packetWords + word] = packet[word]!;
    this.#heads[slot * 4] = idLow;
    this.#heads[slot * 4 + 1] = idHigh;
    this.#heads[slot * 4 + 2] = type;
    this.#heads[slot * 4 + 3] = lengthBytes;
  }

  /** Sends kept packets while there is room; true if none is left. */
  drain(channel: Channel): boolean {
    while (this.#count > 0) {
      const at = this.#first * 4;
      const [idLow, idHigh] = [this.#heads[at]!, this.#heads[at + 1]!];
      const [type, lengthBytes] = [this.#heads[at + 2]!, this.#heads[at + 3]!];
      const from = this.#first * this.#packetWords;
      if (!send(channel, type, idLow, idHigh, this.#packets, from, lengthBytes)) return false;
      this.#first = (this.#first + 1) % this.#capacity;
      this.#count--;
    }
    return true;
  }

  /** Room in the ring that the first kept packet needs, in bytes. */
  get neededBytes(): number {
    return HEADER_BYTES + this.#heads[this.#first * 4 + 3]!;
  }

  /** Forgets everything. */
  clear(): void {
    this.#count = 0;
  }
}

function send(
  channel: Channel,
  type: PacketType,
  idLow: number,
  idHigh: number,
  packet: Int32Array,
  from: number,
  lengthBytes: number,
): boolean {
  const bytes = HEADER_BYTES + lengthBytes;
  if (channel.begin(type, 0, HEADER_BYTES, bytes, idLow, idHigh) !== SendResult.Ready) return false;
  channel.outgoing.putWords(packet, from, lengthBytes >>> 2);
  channel.outgoing.end();
  return true;
}
