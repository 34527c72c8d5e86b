/**
 * Byte offsets in the header of every vstor packet. All fields little-endian.
 *
 * The payload, a union by operation, follows and is zero-filled to the size of the negotiated version.
 */
export const VstorPacket = {
  operation: 0, // u32
  flags: 4, // u32
  status: 8, // u32, NTSTATUS; filled by the host
  payload: 12,
  HEADER_SIZE: 12, // bytes
} as const;

/** Operations of a vstor packet; 14 is known from OpenVMM only. */
export const VstorOperation = {
  completeIo: 1,
  removeDevice: 2,
  executeSrb: 3,
  resetLun: 4,
  resetAdapter: 5,
  resetBus: 6,
  beginInitialization: 7,
  endInitialization: 8,
  queryProtocolVersion: 9,
  queryProperties: 10,
  enumerateBus: 11,
  fibreChannelHbaData: 12,
  createSubChannels: 13,
  eventNotification: 14,
} as const;
/** Open enumeration: any u32 may arrive. */
export type VstorOperation = (typeof VstorOperation)[keyof typeof VstorOperation] | (number & {});

/** Flags of a vstor packet: the only one a guest may set; a host sends none. */
export const VstorFlag = { requestCompletion: 1 } as const;

/** Transaction id of a packet that the host sends unasked; a guest never uses it for a request. */
export const UNSOLICITED_TRANSACTION_ID = 0;

/** The header of a vstor packet. */
export interface VstorHeader {
  readonly operation: VstorOperation;
  readonly flags: number;
  /** NTSTATUS. */
  readonly status: number;
}

/** Parses the header; undefined when fewer than 12 bytes are there. */
export function parseVstorHeader(packet: Uint8Array): VstorHeader | undefined {
  if (packet.byteLength < VstorPacket.HEADER_SIZE) return undefined;
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  return {
    operation: view.getUint32(VstorPacket.operation, true),
    flags: view.getUint32(VstorPacket.flags, true),
    status: view.getUint32(VstorPacket.status, true),
  };
}

/** Writes the header and zeroes the whole payload; `packet` has the size that goes on the wire. */
export function emitVstorHeader(packet: Uint8Array, header: VstorHeader): void {
  packet.fill(0);
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  view.setUint32(VstorPacket.operation, header.operation, true);
  view.setUint32(VstorPacket.flags, header.flags, true);
  view.setUint32(VstorPacket.status, header.status, true);
}
