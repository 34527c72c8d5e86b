import { record, u16, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";

/** The first 4 bytes of every NDIS object. */
export const NdisObjectHeader = record({
  type: u8(0),
  revision: u8(1),
  /** Bytes of the object, this header included. Some guests count what follows it, too. */
  size: u16(2),
});
export type NdisObjectHeader = RecordOf<typeof NdisObjectHeader.fields>;

/** Types of NDIS objects. */
export const NdisObjectType = {
  default: 0x80,
  rssCapabilities: 0x88,
  rssParameters: 0x89,
  oidRequest: 0x96,
  offload: 0xa7,
  offloadEncapsulation: 0xa8,
} as const;

/** An object that is only a header, and zeros up to `size`: the input of a query. */
export function emitNdisQueryObject(header: NdisObjectHeader): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(header.size);
  NdisObjectHeader.write(bytes, header);
  return bytes;
}
