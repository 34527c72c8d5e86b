import { Packet, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import type { ChannelClosedReason } from "@hyperv-is/vmbus-core";
import { TraceError } from "./trace-error.js";
import {
  ChannelBody,
  ClosedBody,
  DataBody,
  GuestMessageBody,
  HostMessageBody,
  NO_VP,
  PacketBody,
  RecordFlag,
  RecordHeader,
  RecordKind,
  RegisterBody,
  TRACE_MAGIC,
  TraceHeader,
  TraceVersion,
  closeReasons,
} from "./trace-format.js";

/** What all records of a trace have. */
interface Timed {
  /** Units of 100 ns since the trace began. */
  readonly time: number;
  /** Undefined for what no virtual processor did or got. */
  readonly vp: number | undefined;
  /** Byte in the file where the record begins. */
  readonly offset: number;
}

/** Data of a request. */
export interface TraceData {
  /** Bytes that there were. */
  readonly totalBytes: number;
  /** The first of them, as many as were recorded. */
  readonly bytes: Uint8Array;
}

/** A packet of a ring. */
export interface PacketRecord extends Timed {
  readonly kind: "packet";
  readonly toGuest: boolean;
  /** Names the channel, see `ChannelOpenedRecord`. */
  readonly channel: number;
  /** A `PacketType`. */
  readonly type: number;
  readonly flags: number;
  readonly transactionId: bigint;
  /** Bytes from the start of the packet to its payload. */
  readonly headerBytes: number;
  /** The whole packet without its trailer; as long as its descriptor says. */
  readonly bytes: Uint8Array;
  /** What it brought, if that was recorded. */
  readonly data?: TraceData;
}

/** A host worker opened a channel. */
export interface ChannelOpenedRecord extends Timed, RecordOf<typeof ChannelBody.fields> {
  readonly kind: "channel-opened";
}

/** A record of a trace. */
export type TraceRecord =
  | (Timed & {
      readonly kind: "guest-message";
      readonly connectionId: number;
      /** A `SynicMessageType`. */
      readonly type: number;
      readonly payload: Uint8Array;
    })
  | (Timed & {
      readonly kind: "host-message";
      readonly sint: number;
      /** The SINT took no messages. */
      readonly lost: boolean;
      readonly payload: Uint8Array;
    })
  | (Timed & { readonly kind: "register"; readonly msr: number; readonly value: bigint })
  | ChannelOpenedRecord
  | (Timed & {
      readonly kind: "channel-closed";
      readonly channel: number;
      readonly reason: ChannelClosedReason;
    })
  | PacketRecord;

/** Where a trace ends before its end. */
export interface TraceDamage {
  /** Byte in the file up to which everything is whole. */
  readonly offset: number;
  /** `truncated`: bytes are missing; `corrupt`: a record contradicts itself. */
  readonly kind: "truncated" | "corrupt";
  readonly detail: string;
}

/** A trace that was read. */
export interface Trace {
  readonly header: TraceHeader;
  /** In the order of time; records of one thread in their order. */
  readonly records: readonly TraceRecord[];
  /** Undefined if the file is whole. */
  readonly damage: TraceDamage | undefined;
}

/**
 * Reads a trace. What is whole before a damage is read; records of unknown kinds are skipped. The records
 * own copies of nothing: they are views of `bytes`.
 *
 * @throws TraceError `ERR_TRACE_FORMAT` if it is no trace, `ERR_TRACE_VERSION` if it is a later one.
 */
export function readTrace(bytes: Uint8Array): Trace {
  const header = readHeader(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records: TraceRecord[] = [];
  let damage: TraceDamage | undefined;
  /** The last packet of each channel and direction, which data may follow. */
  const packets = new Map<string, number>();
  for (let offset = header.headerBytes; offset < bytes.byteLength && damage === undefined;) {
    const rest = bytes.byteLength - offset;
    const stop = (kind: TraceDamage["kind"], detail: string): void => {
      damage = { offset, kind, detail };
    };
    if (rest < RecordHeader.SIZE) {
      stop("truncated", `${rest} bytes of a record's ${RecordHeader.SIZE} of header`);
      break;
    }
    const lengthBytes = view.getUint32(offset, true);
    if (lengthBytes < RecordHeader.SIZE) {
      stop("corrupt", `a record of ${lengthBytes} bytes`);
      break;
    }
    if (lengthBytes > rest) {
      stop("truncated", `${rest} bytes of a record of ${lengthBytes}`);
      break;
    }
    const outcome = readRecord(bytes.subarray(offset, offset + lengthBytes), offset);
    if (typeof outcome === "string") stop("corrupt", outcome);
    else if (outcome?.kind === "data") {
      const at = packets.get(`${outcome.channel}:${outcome.toGuest}`);
      const packet = at === undefined ? undefined : records[at];
      if (packet?.kind === "packet" && packet.transactionId === outcome.transactionId)
        records[at!] = { ...packet, data: outcome.data };
      else stop("corrupt", "data of no packet");
    } else if (outcome !== undefined) {
      if (outcome.kind === "packet")
        packets.set(`${outcome.channel}:${outcome.toGuest}`, records.length);
      records.push(outcome);
    }
    offset += lengthBytes;
  }
  // Threads write when their buffers are full, so only the records of one thread are in order.
  records.sort((a, b) => a.time - b.time);
  return { header, records, damage };
}

function readHeader(bytes: Uint8Array): TraceHeader {
  if (TRACE_MAGIC.some((byte, index) => bytes[index] !== byte))
    throw new TraceError("ERR_TRACE_FORMAT", "this is no trace: it does not begin as one");
  const header = TraceHeader.parse(bytes);
  if (header === undefined || header.headerBytes < TraceHeader.SIZE)
    throw new TraceError("ERR_TRACE_FORMAT", "the header of the trace is cut off");
  if (header.major !== TraceVersion.major)
    throw new TraceError(
      "ERR_TRACE_VERSION",
      `the trace has format ${header.major}.${header.minor}, this program reads ${TraceVersion.major}`,
    );
  return header;
}

interface DataRecord {
  readonly kind: "data";
  readonly channel: number;
  readonly toGuest: boolean;
  readonly transactionId: bigint;
  readonly data: TraceData;
}

/** @returns The record; undefined for one of an unknown kind; what contradicts itself in words. */
function readRecord(
  record: Uint8Array,
  offset: number,
): TraceRecord | DataRecord | undefined | string {
  const { kind, flags, vp, time } = RecordHeader.parse(record)!;
  const timed: Timed = { time: Number(time), vp: vp === NO_VP ? undefined : vp, offset };
  const body = record.subarray(RecordHeader.SIZE);
  const toGuest = (flags & RecordFlag.toGuest) !== 0;
  const short = `a record of kind ${kind} has ${body.byteLength} bytes`;
  switch (kind) {
    case RecordKind.guestMessage: {
      const message = GuestMessageBody.parse(body);
      const payload = body.subarray(GuestMessageBody.SIZE);
      return message ? { kind: "guest-message", ...timed, ...message, payload } : short;
    }
    case RecordKind.hostMessage: {
      const message = HostMessageBody.parse(body);
      const payload = body.subarray(HostMessageBody.SIZE);
      const lost = (flags & RecordFlag.lost) !== 0;
      return message ? { kind: "host-message", ...timed, ...message, lost, payload } : short;
    }
    case RecordKind.register: {
      const register = RegisterBody.parse(body);
      return register ? { kind: "register", ...timed, ...register } : short;
    }
    case RecordKind.channelOpened: {
      const channel = ChannelBody.parse(body);
      return channel ? { kind: "channel-opened", ...timed, ...channel } : short;
    }
    case RecordKind.channelClosed: {
      const closed = ClosedBody.parse(body);
      const reason = closed && closeReasons[closed.reason];
      if (reason === undefined) return short;
      return { kind: "channel-closed", ...timed, channel: closed!.channel, reason };
    }
    case RecordKind.packet:
      return readPacket(body, timed, toGuest) ?? short;
    case RecordKind.data: {
      const data = DataBody.parse(body);
      if (data === undefined) return short;
      const { channel, totalBytes, transactionId } = data;
      const bytes = body.subarray(DataBody.SIZE);
      return { kind: "data", channel, toGuest, transactionId, data: { totalBytes, bytes } };
    }
    default:
      return undefined;
  }
}

/** @returns Undefined if the descriptor contradicts the length. */
function readPacket(body: Uint8Array, timed: Timed, toGuest: boolean): PacketRecord | undefined {
  const packet = PacketBody.parse(body);
  const bytes = body.subarray(PacketBody.SIZE);
  if (packet === undefined || bytes.byteLength < Packet.descriptorBytes) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerBytes = view.getUint16(Packet.dataOffset8, true) * 8;
  if (
    view.getUint16(Packet.length8, true) * 8 !== bytes.byteLength ||
    headerBytes < Packet.descriptorBytes ||
    headerBytes > bytes.byteLength
  )
    return undefined;
  return {
    kind: "packet",
    ...timed,
    ...packet,
    toGuest,
    type: view.getUint16(Packet.type, true),
    flags: view.getUint16(Packet.flags, true),
    transactionId: view.getBigUint64(Packet.transactionIdLow, true),
    headerBytes,
    bytes,
  };
}
