import { VSTOR_PACKET_BYTES } from "./versions.js";
import { VstorPacket } from "./vstor.js";

const base = VstorPacket.payload;

/**
 * Byte offsets, from the start of the packet, of EXECUTE_SRB and of its COMPLETE_IO. Little-endian; bytes
 * inside the CDB and the sense data are big-endian.
 *
 * The reply overwrites the CDB with the sense data and does not have to repeat the address: a completion is
 * known by its transaction id only. From `reserve` on the fields exist from version 5.1 on.
 */
export const SrbPacket = {
  length: base, // u16; the request size of the version
  srbStatus: base + 2, // u8, reply
  scsiStatus: base + 3, // u8, reply
  port: base + 4, // u8, ignored by hosts
  pathId: base + 5, // u8
  targetId: base + 6, // u8
  lun: base + 7, // u8
  cdbLength: base + 8, // u8, 6 to 16; 16 in a reply
  senseInfoLength: base + 9, // u8
  dataIn: base + 10, // u8
  properties: base + 11, // u8, reserved
  dataTransferLength: base + 12, // u32; bytes of the buffer, bytes moved in a reply
  cdb: base + 16, // 16 bytes
  sense: base + 16, // 20 bytes
  reserve: base + 36, // u16
  queueTag: base + 38, // u8
  queueAction: base + 39, // u8
  srbFlags: base + 40, // u32
  timeOutValue: base + 44, // u32, seconds
  queueSortKey: base + 48, // u32
  SIZE: VSTOR_PACKET_BYTES, // bytes
} as const;

/** Bytes of the CDB field. */
export const CDB_BYTES = 16;
/** Bytes of the sense field, in every version; a fixed-format sense takes 18 of them. */
export const SENSE_AREA_BYTES = 20;

/** Values of `dataIn`. OpenVMM takes every value but 0 for device to memory. */
export const DataDirection = { toDevice: 0, fromDevice: 1, none: 2 } as const;

/** What both guests send in `timeOutValue`. */
export const SRB_TIMEOUT_SECONDS = 60;

/** Values of the queue fields when the device does tagged queueing (Linux; FreeBSD sends 0). */
export const SrbQueue = { untagged: 0xff, simpleTagRequest: 0x20 } as const;

/** Codes in the low six bits of `srbStatus`. */
export const SrbStatus = {
  pending: 0x00,
  success: 0x01,
  aborted: 0x02,
  abortFailed: 0x03,
  error: 0x04,
  busy: 0x05,
  invalidRequest: 0x06,
  invalidPathId: 0x07,
  noDevice: 0x08,
  timeout: 0x09,
  selectionTimeout: 0x0a,
  commandTimeout: 0x0b,
  messageRejected: 0x0d,
  busReset: 0x0e,
  parityError: 0x0f,
  requestSenseFailed: 0x10,
  noHba: 0x11,
  dataOverrun: 0x12,
  unexpectedBusFree: 0x13,
  phaseSequenceFailure: 0x14,
  badSrbBlockLength: 0x15,
  requestFlushed: 0x16,
  invalidLun: 0x20,
  invalidTargetId: 0x21,
  badFunction: 0x22,
  errorRecovery: 0x23,
  notPowered: 0x24,
  linkDown: 0x25,
  internalError: 0x30,
} as const;
/** Open enumeration: any six bits may arrive. */
export type SrbStatus = (typeof SrbStatus)[keyof typeof SrbStatus] | (number & {});

/** Mask before comparing: comparing the raw byte was a real bug in two drivers. */
export const SRB_STATUS_CODE_MASK = 0x3f;
/** Flags in the high two bits of `srbStatus`. */
export const SrbStatusFlag = { queueFrozen: 0x40, autosenseValid: 0x80 } as const;

/** Bits of `srbFlags`. */
export const SrbFlag = {
  queueActionEnable: 0x0000_0002,
  disableDisconnect: 0x0000_0004,
  disableSynchTransfer: 0x0000_0008,
  bypassFrozenQueue: 0x0000_0010,
  disableAutosense: 0x0000_0020,
  dataIn: 0x0000_0040,
  dataOut: 0x0000_0080,
  noQueueFreeze: 0x0000_0100,
  adapterCacheEnable: 0x0000_0200,
  freeSenseBuffer: 0x0000_0400,
  d3Processing: 0x0000_0800,
  isActive: 0x0001_0000,
  allocatedFromZone: 0x0002_0000,
  sgListFromPool: 0x0004_0000,
  bypassLockedQueue: 0x0008_0000,
  noKeepAwake: 0x0010_0000,
  portDriverAllocSense: 0x0020_0000,
  portDriverSenseHasPort: 0x0040_0000,
  dontStartNextPacket: 0x0080_0000,
  portDriverReserved: 0x0f00_0000,
  classDriverReserved: 0xf000_0000,
} as const;

/** `srbFlags` as FreeBSD sends them. */
export const FreebsdSrbFlags = { read: 0x48, write: 0x88, noData: 0x08 } as const;
/** `srbFlags` as Linux sends them for a device with tagged queueing. */
export const LinuxSrbFlags = { read: 0x14a, write: 0x18a, noData: 0x10a } as const;

/** A SCSI request, whole. */
export interface ScsiRequest {
  /** The request size of the version; some guests send the packet size instead, and hosts accept it. */
  readonly length: number;
  readonly port: number;
  readonly pathId: number;
  readonly targetId: number;
  readonly lun: number;
  readonly senseInfoLength: number;
  readonly dataIn: number;
  /** Bytes of the data buffer. */
  readonly dataTransferLength: number;
  /** At most 16 bytes; its length goes into `cdbLength`. Parsed: as many bytes as `cdbLength` says, at most 16. */
  readonly cdb: Uint8Array;
  /** The Windows 8 extension; absent from 48-byte packets. */
  readonly extension?: SrbExtension;
}

/** The fields that a SCSI request has from version 5.1 on. */
export interface SrbExtension {
  readonly queueTag: number;
  readonly queueAction: number;
  readonly srbFlags: number;
  readonly timeOutValueSeconds: number;
  readonly queueSortKey: number;
}

/** Parses a request; undefined when fewer than 48 bytes are there. The CDB is a copy. */
export function parseScsiRequest(packet: Uint8Array): ScsiRequest | undefined {
  if (packet.byteLength < SrbPacket.reserve) return undefined;
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  const cdbLength = Math.min(view.getUint8(SrbPacket.cdbLength), CDB_BYTES);
  const request = {
    length: view.getUint16(SrbPacket.length, true),
    port: view.getUint8(SrbPacket.port),
    pathId: view.getUint8(SrbPacket.pathId),
    targetId: view.getUint8(SrbPacket.targetId),
    lun: view.getUint8(SrbPacket.lun),
    senseInfoLength: view.getUint8(SrbPacket.senseInfoLength),
    dataIn: view.getUint8(SrbPacket.dataIn),
    dataTransferLength: view.getUint32(SrbPacket.dataTransferLength, true),
    cdb: packet.slice(SrbPacket.cdb, SrbPacket.cdb + cdbLength),
  };
  if (packet.byteLength < SrbPacket.SIZE) return request;
  return {
    ...request,
    extension: {
      queueTag: view.getUint8(SrbPacket.queueTag),
      queueAction: view.getUint8(SrbPacket.queueAction),
      srbFlags: view.getUint32(SrbPacket.srbFlags, true),
      timeOutValueSeconds: view.getUint32(SrbPacket.timeOutValue, true),
      queueSortKey: view.getUint32(SrbPacket.queueSortKey, true),
    },
  };
}

/** Writes a request into a packet whose header is already there; an extension needs 64 bytes. */
export function emitScsiRequest(packet: Uint8Array, request: ScsiRequest): void {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  view.setUint16(SrbPacket.length, request.length, true);
  view.setUint8(SrbPacket.port, request.port);
  view.setUint8(SrbPacket.pathId, request.pathId);
  view.setUint8(SrbPacket.targetId, request.targetId);
  view.setUint8(SrbPacket.lun, request.lun);
  view.setUint8(SrbPacket.cdbLength, request.cdb.byteLength);
  view.setUint8(SrbPacket.senseInfoLength, request.senseInfoLength);
  view.setUint8(SrbPacket.dataIn, request.dataIn);
  view.setUint32(SrbPacket.dataTransferLength, request.dataTransferLength, true);
  packet.set(request.cdb, SrbPacket.cdb);
  if (request.extension === undefined) return;
  view.setUint8(SrbPacket.queueTag, request.extension.queueTag);
  view.setUint8(SrbPacket.queueAction, request.extension.queueAction);
  view.setUint32(SrbPacket.srbFlags, request.extension.srbFlags, true);
  view.setUint32(SrbPacket.timeOutValue, request.extension.timeOutValueSeconds, true);
  view.setUint32(SrbPacket.queueSortKey, request.extension.queueSortKey, true);
}

/** The completion of a SCSI request; the header's status beside it is only for logs. */
export interface ScsiReply {
  readonly length: number;
  /** Flags included: mask with `SRB_STATUS_CODE_MASK` before comparing, and look at it before `scsiStatus`. */
  readonly srbStatus: number;
  readonly scsiStatus: number;
  readonly cdbLength: number;
  readonly senseInfoLength: number;
  /** Bytes moved; worth something only on success and data overrun. */
  readonly dataTransferLength: number;
  /** All 20 bytes; valid when `srbStatus` has `autosenseValid` and `scsiStatus` is check condition. */
  readonly sense: Uint8Array;
}

/** Parses a completion; undefined when fewer than 48 bytes are there. The sense data is a copy. */
export function parseScsiReply(packet: Uint8Array): ScsiReply | undefined {
  if (packet.byteLength < SrbPacket.reserve) return undefined;
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  return {
    length: view.getUint16(SrbPacket.length, true),
    srbStatus: view.getUint8(SrbPacket.srbStatus),
    scsiStatus: view.getUint8(SrbPacket.scsiStatus),
    cdbLength: view.getUint8(SrbPacket.cdbLength),
    senseInfoLength: view.getUint8(SrbPacket.senseInfoLength),
    dataTransferLength: view.getUint32(SrbPacket.dataTransferLength, true),
    sense: packet.slice(SrbPacket.sense, SrbPacket.sense + SENSE_AREA_BYTES),
  };
}

/** Writes a completion into a packet whose header is already there; address fields stay zero. */
export function emitScsiReply(packet: Uint8Array, reply: ScsiReply): void {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  view.setUint16(SrbPacket.length, reply.length, true);
  view.setUint8(SrbPacket.srbStatus, reply.srbStatus);
  view.setUint8(SrbPacket.scsiStatus, reply.scsiStatus);
  view.setUint8(SrbPacket.cdbLength, reply.cdbLength);
  view.setUint8(SrbPacket.senseInfoLength, reply.senseInfoLength);
  view.setUint32(SrbPacket.dataTransferLength, reply.dataTransferLength, true);
  packet.set(reply.sense, SrbPacket.sense);
}
