import { u32, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import {
  RNDIS_OFFSET_BASE,
  RndisType,
  rndisInformation,
  rndisMessage,
  rndisWithInformation,
  type RndisStatus,
} from "./rndis.js";
import type { Oid } from "./oids.js";

// Sources: FreeBSD `sys/net/rndis.h`, `hn_rndis.c`; OpenVMM `netvsp/src/rndisprot.rs`.

/** RNDIS version that every guest asks for. */
export const RNDIS_VERSION = { major: 1, minor: 0 } as const;

/** INITIALIZE (2), guest to host. */
export const RndisInitialize = rndisMessage(RndisType.initialize, {
  requestId: u32(8),
  major: u32(12),
  minor: u32(16),
  maxTransferSize: u32(20),
});
export type RndisInitialize = RecordOf<typeof RndisInitialize.fields>;

/** INITIALIZE_CMPLT; the last two fields, reserved, may be missing. */
export const RndisInitializeComplete = rndisMessage(
  RndisType.initializeComplete,
  {
    requestId: u32(8),
    status: u32(12),
    major: u32(16),
    minor: u32(20),
    /** Bit 0: connectionless. */
    deviceFlags: u32(24),
    /** 0: 802.3. */
    medium: u32(28),
    /** Most PACKET messages of one send. */
    maxPackets: u32(32),
    /** Most bytes of one send. */
    maxBytes: u32(36),
    /** Power of two to which messages of one send are aligned. */
    alignmentPower: u32(40),
    afListOffset: u32(44),
  },
  48,
);
export type RndisInitializeComplete = RecordOf<typeof RndisInitializeComplete.fields>;

/** Bytes of an INITIALIZE_CMPLT as hosts send it: one more reserved field. */
export const RNDIS_INITIALIZE_COMPLETE_BYTES = 52;

/** What hosts say in INITIALIZE_CMPLT. Source: OpenVMM. */
export const RndisInitializeLimits = {
  maxPackets: 8,
  maxBytes: 0xefff_ffff,
  alignmentPower: 3,
} as const;

/** HALT (3), guest to host, not answered. */
export const RndisHalt = rndisMessage(RndisType.halt, { requestId: u32(8) });
export type RndisHalt = RecordOf<typeof RndisHalt.fields>;

const request = {
  requestId: u32(8),
  oid: u32(12),
  infoLength: u32(16),
  /** From byte 8. */
  infoOffset: u32(20),
};
const REQUEST_BYTES = 28; // a reserved VC handle ends it

/** QUERY (4), guest to host. */
export const RndisQuery = rndisMessage(RndisType.query, request, REQUEST_BYTES);
export type RndisQuery = RecordOf<typeof RndisQuery.fields>;

/** SET (5), guest to host. */
export const RndisSet = rndisMessage(RndisType.set, request, REQUEST_BYTES);
export type RndisSet = RecordOf<typeof RndisSet.fields>;

/** QUERY_CMPLT. */
export const RndisQueryComplete = rndisMessage(RndisType.queryComplete, {
  requestId: u32(8),
  status: u32(12),
  infoLength: u32(16),
  /** From byte 8; 0 with no data. */
  infoOffset: u32(20),
});
export type RndisQueryComplete = RecordOf<typeof RndisQueryComplete.fields>;

/** SET_CMPLT. */
export const RndisSetComplete = rndisMessage(RndisType.setComplete, {
  requestId: u32(8),
  status: u32(12),
});
export type RndisSetComplete = RecordOf<typeof RndisSetComplete.fields>;

/** RESET (6), guest to host; nobody sends it. */
export const RndisReset = rndisMessage(RndisType.reset, {}, 12);

/** RESET_CMPLT; it has no request id. */
export const RndisResetComplete = rndisMessage(RndisType.resetComplete, {
  status: u32(8),
  addressingReset: u32(12),
});
export type RndisResetComplete = RecordOf<typeof RndisResetComplete.fields>;

/** INDICATE_STATUS (7), host to guest, not answered. */
export const RndisIndicateStatus = rndisMessage(RndisType.indicateStatus, {
  status: u32(8),
  bufferLength: u32(12),
  /** From byte 8. */
  bufferOffset: u32(16),
});
export type RndisIndicateStatus = RecordOf<typeof RndisIndicateStatus.fields>;

/** KEEPALIVE (8), both directions. */
export const RndisKeepalive = rndisMessage(RndisType.keepalive, { requestId: u32(8) });
export type RndisKeepalive = RecordOf<typeof RndisKeepalive.fields>;

/** KEEPALIVE_CMPLT. */
export const RndisKeepaliveComplete = rndisMessage(RndisType.keepaliveComplete, {
  requestId: u32(8),
  status: u32(12),
});
export type RndisKeepaliveComplete = RecordOf<typeof RndisKeepaliveComplete.fields>;

/** A QUERY or SET. */
export interface RndisRequest {
  readonly requestId: number;
  readonly oid: Oid;
  readonly information: Uint8Array;
}

const NO_BYTES = new Uint8Array(0);

/** A QUERY. Hyper-V fails one without input whose offset is not that of the byte behind the fields. */
export function emitRndisQuery(
  requestId: number,
  oid: Oid,
  information: Uint8Array = NO_BYTES,
): Uint8Array<ArrayBuffer> {
  return rndisWithInformation(
    RndisQuery,
    {
      requestId,
      oid,
      infoLength: information.byteLength,
      infoOffset: RndisQuery.SIZE - RNDIS_OFFSET_BASE,
    },
    information,
  );
}

/** A SET. */
export function emitRndisSet(
  requestId: number,
  oid: Oid,
  information: Uint8Array,
): Uint8Array<ArrayBuffer> {
  return rndisWithInformation(
    RndisSet,
    {
      requestId,
      oid,
      infoLength: information.byteLength,
      infoOffset: RndisSet.SIZE - RNDIS_OFFSET_BASE,
    },
    information,
  );
}

/** Parses a whole QUERY or SET; undefined if fields or the information are not all there. Not copied. */
export function parseRndisRequest(message: Uint8Array): RndisRequest | undefined {
  const fields = RndisQuery.parse(message);
  if (fields === undefined) return undefined;
  const { requestId, oid, infoLength, infoOffset } = fields;
  const information = rndisInformation(message, RndisQuery.SIZE, infoOffset, infoLength);
  return information && { requestId, oid, information };
}

/** A QUERY_CMPLT; with no information its offset is 0. */
export function emitRndisQueryComplete(
  requestId: number,
  status: RndisStatus,
  information: Uint8Array = NO_BYTES,
): Uint8Array<ArrayBuffer> {
  const infoLength = information.byteLength;
  return rndisWithInformation(
    RndisQueryComplete,
    {
      requestId,
      status,
      infoLength,
      infoOffset: infoLength === 0 ? 0 : RndisQueryComplete.SIZE - RNDIS_OFFSET_BASE,
    },
    information,
  );
}

/** The answer to a QUERY. */
export interface RndisQueryAnswer {
  readonly requestId: number;
  readonly status: RndisStatus;
  readonly information: Uint8Array;
}

/** Parses a whole QUERY_CMPLT; undefined if fields or the information are not all there. Not copied. */
export function parseRndisQueryComplete(message: Uint8Array): RndisQueryAnswer | undefined {
  const fields = RndisQueryComplete.parse(message);
  if (fields === undefined) return undefined;
  const { requestId, status, infoLength, infoOffset } = fields;
  // FreeBSD: an offset of 0 says that there is no data.
  const length = infoOffset === 0 ? 0 : infoLength;
  const information = rndisInformation(message, RndisQueryComplete.SIZE, infoOffset, length);
  return information && { requestId, status, information };
}

/** An INDICATE_STATUS; with no buffer its offset is 0. */
export function emitRndisStatus(
  status: RndisStatus,
  information: Uint8Array = NO_BYTES,
): Uint8Array<ArrayBuffer> {
  const bufferLength = information.byteLength;
  return rndisWithInformation(
    RndisIndicateStatus,
    {
      status,
      bufferLength,
      bufferOffset: bufferLength === 0 ? 0 : RndisIndicateStatus.SIZE - RNDIS_OFFSET_BASE,
    },
    information,
  );
}

/** What an INDICATE_STATUS tells. */
export interface RndisStatusIndication {
  readonly status: RndisStatus;
  readonly information: Uint8Array;
}

/** Parses a whole INDICATE_STATUS; undefined if fields or the buffer are not all there. Not copied. */
export function parseRndisStatus(message: Uint8Array): RndisStatusIndication | undefined {
  const fields = RndisIndicateStatus.parse(message);
  if (fields === undefined) return undefined;
  const { status, bufferLength, bufferOffset } = fields;
  const information = rndisInformation(
    message,
    RndisIndicateStatus.SIZE,
    bufferOffset,
    bufferLength,
  );
  return information && { status, information };
}
