import {
  record,
  u32,
  type Fields,
  type RecordOf,
  type WireRecord,
} from "@hyperv-is/vmbus-core/protocol";

/** Types of NVSP messages. Those of 109 to 124, 126 and 127 belonged to offloads that no peer has. */
export const NvspType = {
  init: 1,
  initComplete: 2,
  sendNdisVersion: 100,
  sendReceiveBuffer: 101,
  sendReceiveBufferComplete: 102,
  revokeReceiveBuffer: 103,
  sendSendBuffer: 104,
  sendSendBufferComplete: 105,
  revokeSendBuffer: 106,
  sendRndisPacket: 107,
  sendRndisPacketComplete: 108,
  sendNdisConfig: 125,
  sendVfAssociation: 128,
  switchDataPath: 129,
  uplinkConnectState: 130,
  oidQueryEx: 131,
  oidQueryExComplete: 132,
  subChannel: 133,
  sendIndirectionTable: 134,
  pdApi: 135,
  pdPostBatch: 136,
} as const;
/** Open enumeration: any u32 may arrive. */
export type NvspType = (typeof NvspType)[keyof typeof NvspType] | (number & {});

/** Status of a completion. A refused INIT has `none` from some hosts: ask whether it is `success`. */
export const NvspStatus = {
  none: 0,
  success: 1,
  failure: 2,
  protocolTooNew: 3,
  protocolTooOld: 4,
  invalidRndisPacket: 5,
  busy: 6,
  protocolUnsupported: 7,
} as const;
/** Open enumeration: any u32 may arrive. */
export type NvspStatus = (typeof NvspStatus)[keyof typeof NvspStatus] | (number & {});

/** The first 4 bytes of every NVSP message. */
export const NvspHeader = record({ type: u32(0) });
export type NvspHeader = RecordOf<typeof NvspHeader.fields>;

/**
 * One kind of NVSP message. `SIZE` counts its own fields only, which is what a receiver may insist on; a
 * sender pads to the size of the version with `packet`. `parse` does not look at the type.
 */
export interface NvspMessage<T> extends WireRecord<T> {
  readonly type: NvspType;
  /** The message as a new packet of `packetBytes`, zeros behind its fields. */
  packet(value: T, packetBytes: number): Uint8Array<ArrayBuffer>;
}

/** Defines a message; offsets count from its type, which `emit`, `write` and `packet` put. */
export function nvspMessage<F extends Fields>(type: NvspType, fields: F): NvspMessage<RecordOf<F>> {
  const body = record(fields, NvspHeader.SIZE);
  const write = (bytes: Uint8Array, value: RecordOf<F>): void => {
    body.write(bytes, value);
    bytes[0] = type; // all types are below 256
  };
  const packet = (value: RecordOf<F>, packetBytes: number): Uint8Array<ArrayBuffer> => {
    const bytes = new Uint8Array(packetBytes);
    write(bytes, value);
    return bytes;
  };
  return { ...body, type, write, packet, emit: (value) => packet(value, body.SIZE) };
}
