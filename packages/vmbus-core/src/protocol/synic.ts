import { bytes, record, u32, u64, u8, type RecordOf } from "./record.js";

/** Bytes of a message that are the sender's. */
export const MESSAGE_PAYLOAD_MAX = 240;

/** Types of SynIC messages. */
export const SynicMessageType = {
  /** The slot is empty. */
  none: 0,
  /** The payload is a VMBus channel message. */
  channel: 1,
  timerExpired: 0x8000_0010,
} as const;
/** Open enumeration: any u32 may arrive. */
export type SynicMessageType =
  (typeof SynicMessageType)[keyof typeof SynicMessageType] | (number & {});

/** Flag of a message slot: more messages wait, write the MSR EOM once the slot is empty. */
export const MESSAGE_PENDING = 1;

/**
 * A slot of a virtual processor's message page (SIMP). Slot n, at n times `SIZE`, belongs to SINT n.
 *
 * The host writes only into a slot whose type is 0. The guest copies the message, stores type 0, and
 * after a full barrier reads `flags`: the opposite order stops the stream of messages.
 */
export const MessageSlot = record({
  messageType: u32(0),
  /** Bytes of the payload that count; at most 240. */
  payloadSize: u8(4),
  /** `MESSAGE_PENDING`. */
  flags: u8(5),
  /** The sender, or a port id in the low 24 bits. */
  sender: u64(8),
  payload: bytes(16, MESSAGE_PAYLOAD_MAX),
});
export type MessageSlot = RecordOf<typeof MessageSlot.fields>;

/** Payload of a message of type `timerExpired`. */
export const TimerMessage = record({
  timerIndex: u32(0),
  /** Units of 100 ns of partition reference time, like the next. */
  expirationTime: u64(8),
  deliveryTime: u64(16),
});
export type TimerMessage = RecordOf<typeof TimerMessage.fields>;

/**
 * A virtual processor's event-flags page (SIEFP). Area n, at n times `areaBytes`, belongs to SINT n;
 * flag f is bit f % 8 of byte f / 8.
 */
export const EventFlagsPage = {
  areaBytes: 256,
  flagsPerArea: 2048,
} as const;
