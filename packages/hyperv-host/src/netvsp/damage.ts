import type { OutgoingRing } from "@hyperv-is/vmbus-core";
import {
  PACKET_HEADER_BYTES,
  RECEIVE_BUFFER_ID,
  RndisPacket,
  RndisType,
  put32,
} from "@hyperv-is/hv-netvsc/protocol";

/** What may be wrong with an RNDIS message to a guest, on purpose. */
export const rndisDamages = [
  "type",
  "length-short",
  "length-long",
  "data-offset",
  "data-length",
  "info-offset",
  "info-length",
  "info-size-zero",
  "info-size-odd",
  "info-size-long",
] as const;
export type RndisDamage = (typeof rndisDamages)[number];

/** What may be wrong with the packet that tells a guest of its messages. */
export const transferDamages = [
  "set-id",
  "count-zero",
  "count-long",
  "range-outside",
  "range-overflow",
  "range-empty",
] as const;
export type TransferDamage = (typeof transferDamages)[number];

const { fields } = RndisPacket;

/** Makes the header of a PACKET message wrong. @param slotBytes - that the message may take. */
export function damageMessage(bytes: Uint8Array, damage: RndisDamage, slotBytes: number): void {
  switch (damage) {
    case "type":
      put32(bytes, 0, RndisType.setExComplete);
      return;
    case "length-short":
      put32(bytes, 4, PACKET_HEADER_BYTES - 4);
      return;
    case "length-long":
      put32(bytes, 4, slotBytes + 4);
      return;
    case "data-offset":
      put32(bytes, fields.dataOffset.offset, 0xffff_fff8);
      return;
    case "data-length":
      put32(bytes, fields.dataLength.offset, slotBytes);
      return;
    case "info-offset":
      put32(bytes, fields.perPacketInfoOffset.offset, 0xffff_fff0);
      put32(bytes, fields.perPacketInfoLength.offset, 16);
      return;
    case "info-length":
      put32(bytes, fields.perPacketInfoLength.offset, slotBytes);
      return;
    case "info-size-zero":
      damageInfo(bytes, 0);
      return;
    case "info-size-odd":
      damageInfo(bytes, 13);
      return;
    case "info-size-long":
      damageInfo(bytes, 0x1_0000);
  }
}

/** Has there be one piece of information, of a size that it cannot have. */
function damageInfo(bytes: Uint8Array, size: number): void {
  put32(bytes, fields.perPacketInfoLength.offset, 16);
  put32(bytes, PACKET_HEADER_BYTES, size);
}

/** Puts set id, count and ranges of a transfer-page packet, wrong. @param ranges - pairs of length and offset. */
export function damagedRange(
  outgoing: OutgoingRing,
  ranges: Int32Array,
  count: number,
  damage: TransferDamage,
): void {
  outgoing.putU32(damage === "set-id" ? RECEIVE_BUFFER_ID ^ 1 : RECEIVE_BUFFER_ID);
  outgoing.putU32(damage === "count-zero" ? 0 : damage === "count-long" ? 0x2000_0001 : count);
  for (let index = 0; index < count; index++) {
    const lengthBytes = ranges[index * 2]!;
    const offset = ranges[index * 2 + 1]!;
    outgoing.putU32(damage === "range-empty" ? 0 : lengthBytes);
    if (damage === "range-outside") outgoing.putU32(0x7fff_ff00);
    else if (damage === "range-overflow") outgoing.putU32(-8);
    else outgoing.putU32(offset);
  }
}
