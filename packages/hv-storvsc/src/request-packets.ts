import type { StorvscParameters } from "./negotiation.js";
import {
  CDB_BYTES,
  DataDirection,
  emitTransferCdb,
  FreebsdSrbFlags,
  SRB_TIMEOUT_SECONDS,
  SrbPacket,
  VSTOR_PACKET_BYTES,
  VstorFlag,
  VstorOperation,
  VstorPacket,
} from "./protocol/index.js";

const PACKET_WORDS = VSTOR_PACKET_BYTES / 4;

/**
 * The vstor packet of each slot, in private memory: written when a request is submitted, kept until it
 * goes into the ring. What never changes is written once, so that a request costs few stores.
 */
export class RequestPackets {
  /** All packets, 64 bytes apart. */
  readonly words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #minimumCdbBytes: number;

  constructor(slots: number, minimumCdbBytes: number) {
    this.words = new Int32Array(slots * PACKET_WORDS);
    this.#bytes = new Uint8Array(this.words.buffer);
    this.#minimumCdbBytes = minimumCdbBytes;
  }

  /** Index in `words` of the first word of a slot's packet. */
  firstWord(slot: number): number {
    return slot * PACKET_WORDS;
  }

  /** Makes the packets of a range of slots SCSI requests, of the agreed size and for one bus. */
  prepare(firstSlot: number, parameters: StorvscParameters, pathId: number): void {
    for (let word = firstSlot * PACKET_WORDS; word < this.words.length; word += PACKET_WORDS) {
      this.words[word + VstorPacket.operation / 4] = VstorOperation.executeSrb;
      this.words[word + VstorPacket.flags / 4] = VstorFlag.requestCompletion;
      this.words[word + SrbPacket.length / 4] = parameters.requestBytes;
      this.words[word + SrbPacket.timeOutValue / 4] = SRB_TIMEOUT_SECONDS;
      this.#bytes[word * 4 + SrbPacket.pathId] = pathId;
      this.#bytes[word * 4 + SrbPacket.senseInfoLength] = parameters.senseBytes;
    }
  }

  /** Puts a whole packet in place of the slot's own. */
  set(slot: number, packet: Uint8Array): void {
    this.#bytes.set(packet, slot * VSTOR_PACKET_BYTES);
  }

  /** Writes the CDB of READ or WRITE. */
  transfer(slot: number, write: boolean, lba: number, blocks: number): void {
    const at = slot * VSTOR_PACKET_BYTES;
    this.#bytes[at + SrbPacket.cdbLength] = emitTransferCdb(
      this.#bytes,
      at + SrbPacket.cdb,
      write,
      lba,
      blocks,
      this.#minimumCdbBytes,
    );
  }

  /** Copies a CDB of `cdbLength` bytes; nothing of the slot's last one stays behind it. */
  command(slot: number, cdb: Uint8Array, cdbLength: number): void {
    const at = slot * VSTOR_PACKET_BYTES;
    this.#bytes[at + SrbPacket.cdbLength] = cdbLength;
    for (let index = 0; index < CDB_BYTES; index++)
      this.#bytes[at + SrbPacket.cdb + index] = index < cdbLength ? cdb[index]! : 0;
  }

  /** Writes who is meant, and which way how much data goes: the rest of a request. */
  address(slot: number, target: number, lun: number, direction: number, lengthBytes: number): void {
    const at = slot * VSTOR_PACKET_BYTES;
    this.#bytes[at + SrbPacket.targetId] = target;
    this.#bytes[at + SrbPacket.lun] = lun;
    this.#bytes[at + SrbPacket.dataIn] = direction;
    const word = slot * PACKET_WORDS;
    this.words[word + SrbPacket.dataTransferLength / 4] = lengthBytes;
    this.words[word + SrbPacket.srbFlags / 4] =
      direction === DataDirection.fromDevice
        ? FreebsdSrbFlags.read
        : direction === DataDirection.toDevice
          ? FreebsdSrbFlags.write
          : FreebsdSrbFlags.noData;
  }

  /** One of `DataDirection`. */
  direction(slot: number): number {
    return this.#bytes[slot * VSTOR_PACKET_BYTES + SrbPacket.dataIn]!;
  }

  /** Bytes of the request's buffer. */
  lengthBytes(slot: number): number {
    return this.words[slot * PACKET_WORDS + SrbPacket.dataTransferLength / 4]!;
  }
}
