import { bytes, record, u16, u32, type RecordOf } from "./record.js";
import { MESSAGE_PAYLOAD_MAX } from "./synic.js";

/** Call codes, the low 16 bits of the hypercall input value. */
export const HypercallCode = {
  postMessage: 0x005c,
  signalEvent: 0x005d,
} as const;
/** Open enumeration: any u16 may arrive. */
export type HypercallCode = (typeof HypercallCode)[keyof typeof HypercallCode] | (number & {});

/** The part of the hypercall input value that holds the code. */
export const HYPERCALL_CODE_MASK = 0xffff;

/** Bit of the hypercall input value: the input is in the register itself, not at the GPA it names. */
export const HYPERCALL_FAST = 0x1_0000;

/** An input in memory begins at a multiple of this many bytes. */
export const HYPERCALL_INPUT_ALIGNMENT = 8;

/** Status in the low 16 bits of a hypercall's result. */
export const HypercallStatus = {
  success: 0,
  invalidHypercallCode: 2,
  invalidHypercallInput: 3,
  invalidAlignment: 4,
  invalidParameter: 5,
  accessDenied: 6,
  insufficientMemory: 11,
  invalidPortId: 17,
  /** Posting INITIATE_CONTACT on connection 4: the host is older than protocol 5.0. */
  invalidConnectionId: 18,
  /** The receiver's queue is full: try again later. */
  insufficientBuffers: 19,
  /** The receiver's SINT is masked or its SynIC off. */
  invalidSynicState: 24,
} as const;
/** Open enumeration: any u16 may arrive. */
export type HypercallStatus =
  (typeof HypercallStatus)[keyof typeof HypercallStatus] | (number & {});

/** Connection ids that are not told by the host. */
export const ConnectionId = {
  /** Messages below protocol 5.0. */
  message: 1,
  /** Events of all channels of protocol 0.13. */
  event: 2,
  monitor: 3,
  /** INITIATE_CONTACT from protocol 5.0 on; the response names the connection for what follows. */
  multiclientMessage: 4,
  redirectedMessage: 0x80_0074,
} as const;

/** A connection id has this many significant bits. */
export const CONNECTION_ID_MASK = 0xff_ffff;

/**
 * The id on which a guest signals a channel, as OpenVMM forms it; to a guest it is opaque.
 * @param sint - Usually `VMBUS_SINT`. @param vtl - Virtual trust level, usually 0.
 */
export function eventConnectionId(relid: number, sint: number, vtl: number): number {
  return (relid | (sint << 12) | (vtl << 16)) >>> 0;
}

/** Input of the hypercall post message. */
export const PostMessageInput = record({
  connectionId: u32(0),
  /** A `SynicMessageType`. */
  messageType: u32(8),
  /** Bytes of the payload that count; at most 240. */
  payloadSize: u32(12),
  payload: bytes(16, MESSAGE_PAYLOAD_MAX),
});
export type PostMessageInput = RecordOf<typeof PostMessageInput.fields>;

/** Input of the hypercall signal event; in a fast call these 8 bytes are the register. */
export const SignalEventInput = record(
  {
    connectionId: u32(0),
    /** 0 from every guest below protocol 6.0. */
    flagNumber: u16(4),
  },
  8,
);
export type SignalEventInput = RecordOf<typeof SignalEventInput.fields>;
