import { record, u32, type Fields, type RecordOf, type WireRecord } from "./record.js";

/** Numbers of the channel messages. */
export const MessageType = {
  offerChannel: 1,
  rescindChannelOffer: 2,
  requestOffers: 3,
  allOffersDelivered: 4,
  openChannel: 5,
  openChannelResult: 6,
  closeChannel: 7,
  gpadlHeader: 8,
  gpadlBody: 9,
  gpadlCreated: 10,
  gpadlTeardown: 11,
  gpadlTorndown: 12,
  relidReleased: 13,
  initiateContact: 14,
  versionResponse: 15,
  unload: 16,
  unloadResponse: 17,
  openReservedChannel: 18,
  closeReservedChannel: 19,
  closeReservedResponse: 20,
  tlConnectRequest: 21,
  modifyChannel: 22,
  tlConnectResult: 23,
  modifyChannelResponse: 24,
  modifyConnection: 25,
  modifyConnectionResponse: 26,
  pause: 27,
  pauseResponse: 28,
  resume: 29,
} as const;
/** Open enumeration: any u32 may arrive. */
export type MessageType = (typeof MessageType)[keyof typeof MessageType] | (number & {});

/** The first 8 bytes of every channel message; a u32 of padding follows the type. */
export const MessageHeader = record({ type: u32(0) }, 8);
export type MessageHeader = RecordOf<typeof MessageHeader.fields>;

/**
 * Defines a channel message: a record whose offsets count from the message header, which `emit` and
 * `write` put and `parse` skips.
 */
export function message<F extends Fields>(type: MessageType, fields: F): WireRecord<RecordOf<F>> {
  const body = record(fields, MessageHeader.SIZE);
  const write = (bytes: Uint8Array, value: RecordOf<F>): void => {
    body.write(bytes, value);
    MessageHeader.fields.type.write(
      new DataView(bytes.buffer, bytes.byteOffset, MessageHeader.SIZE),
      type,
    );
  };
  return {
    ...body,
    emit(value) {
      const bytes = new Uint8Array(body.SIZE);
      write(bytes, value);
      return bytes;
    },
    write,
  };
}
