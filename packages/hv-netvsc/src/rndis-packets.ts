import { NvspSendRndisPacketComplete, NvspHeader } from "./protocol/index.js";

/** Bytes of SEND_RNDIS_PACKET, which hosts of every version take: FreeBSD sends no other. */
export const RNDIS_PACKET_BYTES = 32;

/** The NVSP status of a completion of SEND_RNDIS_PACKET; undefined if it is none. */
export function sendStatus(packet: Uint8Array): number | undefined {
  if (NvspHeader.parse(packet)?.type !== NvspSendRndisPacketComplete.type) return undefined;
  return NvspSendRndisPacketComplete.parse(packet)?.status;
}
