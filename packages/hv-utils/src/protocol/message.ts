import {
  PipeHeader,
  PipePacketType,
  record,
  u16,
  u32,
  u8,
  type RecordOf,
} from "@hyperv-is/vmbus-core/protocol";
import { versionField, type IcVersion } from "./version.js";

// Sources: FreeBSD `vmbus_icreg.h`, OpenVMM `hyperv_ic_protocol`, Linux `include/linux/hyperv.h`.

/** Which component a message is for; 0 is the agreement on versions. */
export const IcMessageType = {
  negotiate: 0,
  heartbeat: 1,
  kvp: 2,
  shutdown: 3,
  timeSync: 4,
  vss: 5,
  /** Remote desktop. */
  rdv: 6,
  /** Guest file copy. */
  guestInterface: 7,
  vmSession: 8,
} as const;
/** Open enumeration: any u16 may arrive. */
export type IcMessageType = (typeof IcMessageType)[keyof typeof IcMessageType] | (number & {});

/** Bits of `flags`. */
export const IcFlag = {
  /** In a request: an answer is expected. In an answer: set as well. */
  transaction: 1 << 0,
  request: 1 << 1,
  response: 1 << 2,
} as const;

/** `flags` of every request. */
export const IC_REQUEST_FLAGS = IcFlag.transaction | IcFlag.request;
/** `flags` of every answer. */
export const IC_ANSWER_FLAGS = IcFlag.transaction | IcFlag.response;

/** HRESULT of an answer; 0 in a request. Hosts treat whatever they do not know as failure. */
export const IcStatus = {
  ok: 0,
  /** General failure: a time-out, no daemon, a request that cannot be carried out. */
  fail: 0x8000_4005,
  /** The end of an enumeration; also what daemons say of a key that does not exist. */
  noMoreItems: 0x8007_0103,
  /** Unknown operation. */
  notSupported: 0x8007_0032,
  /** No adapter with that id. */
  notFound: 0x8004_1002,
  invalidArgument: 0x8007_0057,
  machineLocked: 0x8007_04f7,
  deviceNotConnected: 0x8007_048f,
  alreadyExists: 0x8007_0050,
  diskFull: 0x8007_0070,
} as const;
/** Open enumeration: any u32 may arrive. */
export type IcStatus = (typeof IcStatus)[keyof typeof IcStatus] | (number & {});

/**
 * In front of the body of every message: pipe framing, then the header that the components share. Each message
 * is the payload of an in-band packet of its own, which asks for no completion: the answer is a packet too.
 */
export const IcHeader = record(
  {
    pipeType: u32(PipeHeader.packetType),
    /** Bytes behind the pipe framing: the rest of this header, and the body. */
    pipeBytes: u32(PipeHeader.length),
    framework: versionField(8),
    type: u16(12),
    version: versionField(14),
    bodyBytes: u16(18),
    status: u32(20),
    transactionId: u8(24),
    flags: u8(25),
  },
  28,
);
export type IcHeader = RecordOf<typeof IcHeader.fields>;

/** Largest message, pipe framing excluded: what OpenVMM's buffer takes. The largest that is defined has 12,520 bytes. */
export const IC_MESSAGE_MAX_BYTES = 13_312;

/** A message without what its length says anyway. */
export interface IcMessage {
  /** 0.0 while nothing is agreed. */
  readonly framework: IcVersion;
  readonly type: IcMessageType;
  /** Version of the component's messages; 0.0 while nothing is agreed. */
  readonly version: IcVersion;
  readonly status: IcStatus;
  /** Hosts send 0, and require it back. */
  readonly transactionId: number;
  /** `IcFlag` bits. */
  readonly flags: number;
  /** Exactly the bytes that the header counts: a view into the packet where one was parsed. */
  readonly body: Uint8Array;
}

/**
 * What makes a packet no message.
 *
 * - `short`: it ends before the header does.
 * - `pipe-type`: pipe framing of another type than data.
 * - `pipe-length`: the pipe framing counts more bytes than came, fewer than the header has, or more than any message has.
 * - `body-length`: the header counts more bytes of body than the pipe framing leaves.
 */
export type IcMessageFlaw = "short" | "pipe-type" | "pipe-length" | "body-length";

/**
 * Parses the payload of a packet, which a ring has padded to a multiple of 8 bytes. What a peer left behind the
 * body is ignored: guests echo requests as long as they were, and keep their bytes.
 */
export function parseIcMessage(payload: Uint8Array): IcMessage | IcMessageFlaw {
  const header = IcHeader.parse(payload);
  if (header === undefined) return "short";
  const { pipeType, pipeBytes, bodyBytes, ...rest } = header;
  if (pipeType !== PipePacketType.data) return "pipe-type";
  const present = PipeHeader.SIZE + pipeBytes;
  if (
    pipeBytes < IcHeader.SIZE - PipeHeader.SIZE ||
    pipeBytes > IC_MESSAGE_MAX_BYTES ||
    present > payload.byteLength
  )
    return "pipe-length";
  const end = IcHeader.SIZE + bodyBytes;
  if (end > present) return "body-length";
  return { ...rest, body: payload.subarray(IcHeader.SIZE, end) };
}

/** The payload of the packet that carries a message. Throws a RangeError if it is larger than `IC_MESSAGE_MAX_BYTES`. */
export function emitIcMessage({ body, ...header }: IcMessage): Uint8Array<ArrayBuffer> {
  const pipeBytes = IcHeader.SIZE - PipeHeader.SIZE + body.byteLength;
  if (pipeBytes > IC_MESSAGE_MAX_BYTES)
    throw new RangeError(`a body of ${body.byteLength} bytes is larger than any message`);
  const bytes = new Uint8Array(PipeHeader.SIZE + pipeBytes);
  IcHeader.write(bytes, {
    pipeType: PipePacketType.data,
    pipeBytes,
    bodyBytes: body.byteLength,
    ...header,
  });
  bytes.set(body, IcHeader.SIZE);
  return bytes;
}

/** A request of the host. */
export function icRequest(
  type: IcMessageType,
  body: Uint8Array,
  versions: { readonly framework: IcVersion; readonly message: IcVersion },
): IcMessage {
  const { framework, message } = versions;
  const flags = IC_REQUEST_FLAGS;
  return { framework, type, version: message, status: 0, transactionId: 0, flags, body };
}

/** The answer to a request: its versions and id, with a status and a body of its own. */
export function icAnswer(request: IcMessage, status: IcStatus, body: Uint8Array): IcMessage {
  return { ...request, status, flags: IC_ANSWER_FLAGS, body };
}
