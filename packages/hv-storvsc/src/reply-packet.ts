import type { IncomingRing } from "@hyperv-is/vmbus-core";
import { SrbPacket, VstorOperation, VstorPacket } from "./protocol/index.js";

/**
 * A private copy of the vstor packet in a completion: the host's memory is read once. A queue has one of
 * these, as it is done with a completion before it looks at the next.
 */
export class ReplyPacket {
  /** The packet up to the fields that not every version has. */
  readonly bytes: Uint8Array;
  readonly #words = new Int32Array(SrbPacket.reserve / 4);

  constructor() {
    this.bytes = new Uint8Array(this.#words.buffer);
  }

  /**
   * Copies the payload of the ring's present packet, which is long enough.
   *
   * @returns False if it is no COMPLETE_IO; nothing else in it means anything then.
   */
  read(ring: IncomingRing): boolean {
    ring.readWords(ring.headerBytes, this.#words, 0, this.#words.length);
    return this.#words[VstorPacket.operation / 4] === VstorOperation.completeIo;
  }

  /** Raw, flags included. */
  get srbStatus(): number {
    return this.bytes[SrbPacket.srbStatus]!;
  }

  get scsiStatus(): number {
    return this.bytes[SrbPacket.scsiStatus]!;
  }

  /** What the host says it has moved, in bytes; see `transferredBytes`. */
  get returnedBytes(): number {
    return this.#words[SrbPacket.dataTransferLength / 4]! >>> 0;
  }

  /** How much sense data the host says there is, in bytes; it may be more than there is room for. */
  get senseBytes(): number {
    return this.bytes[SrbPacket.senseInfoLength]!;
  }
}
