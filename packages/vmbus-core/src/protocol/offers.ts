import { MessageType, message } from "./message-record.js";
import { bytes, flag16, flag8, guid, record, u16, u32, u8, type RecordOf } from "./record.js";

/** Bytes of user data in OFFERCHANNEL and OPENCHANNEL. */
export const USER_DATA_SIZE = 120;

/** Flags of an offer. Guests choose a driver by class and need none but `tlnpiProvider`. */
export const OfferFlag = {
  enumerateDeviceInterface: 0x1,
  /** With `Feature.confidentialChannels`; below 6.0 a guest ignores it, like the next two. */
  confidentialRing: 0x2,
  confidentialExternalMemory: 0x4,
  /** With `Feature.gpaPinning`. */
  pinnedMemoryRequired: 0x8,
  namedPipeMode: 0x10,
  loopback: 0x100,
  parentOffer: 0x200,
  monitoredNotification: 0x400,
  /** The channel is a connection of hvsock. */
  tlnpiProvider: 0x2000,
} as const;

/** REQUESTOFFERS (3): header only; once per connection. */
export const RequestOffers = message(MessageType.requestOffers, {});

/** ALLOFFERS_DELIVERED (4): header only. FreeBSD's boot waits for it. */
export const AllOffersDelivered = message(MessageType.allOffersDelivered, {});

/** OFFERCHANNEL (1): the same 196 bytes in every version. */
export const OfferChannel = message(MessageType.offerChannel, {
  /** Device class: chooses the driver. */
  classId: guid(8),
  /** The device, stable across reboots. */
  instanceId: guid(24),
  /** `OfferFlag` bits. */
  flags: u16(56),
  mmioMegabytes: u16(58),
  /** `PipeUserData` if the flags say pipe, `HvsockUserData` if hvsock, else the device's own. */
  userData: bytes(60, USER_DATA_SIZE),
  /** 0: the primary channel; always 0 below 2.4. */
  subChannelIndex: u16(180),
  mmioMegabytesOptional: u16(182),
  relid: u32(184),
  /** 0 to 127, if `monitorAllocated`. */
  monitorId: u8(188),
  monitorAllocated: flag8(189, 1),
  /** To be ignored below 1.1. */
  dedicatedInterrupt: flag16(190),
  /** Where to signal the host; to be ignored below 1.1. */
  connectionId: u32(192),
});
export type OfferChannel = RecordOf<typeof OfferChannel.fields>;

/** RESCIND_CHANNELOFFER (2). */
export const RescindChannelOffer = message(MessageType.rescindChannelOffer, { relid: u32(8) });
export type RescindChannelOffer = RecordOf<typeof RescindChannelOffer.fields>;

/** RELID_RELEASED (13): the guest has let go of the channel; its relid may mean another one now. */
export const RelidReleased = message(MessageType.relidReleased, { relid: u32(8) });
export type RelidReleased = RecordOf<typeof RelidReleased.fields>;

/** How a pipe's packets are framed. */
export const PipeType = {
  byte: 0,
  message: 4,
} as const;
/** Open enumeration: any u32 may arrive. */
export type PipeType = (typeof PipeType)[keyof typeof PipeType] | (number & {});

/** Bit of `PipeUserData.flags`: the pipe takes GPA-direct transfers. */
export const PIPE_FLAG_GPA_DIRECT = 1;

/** User data of an offer in pipe mode. */
export const PipeUserData = record({
  /** A `PipeType`. */
  pipeType: u32(0),
  userData: bytes(4, 112),
  /** After OpenVMM; Linux and FreeBSD count these four bytes to the user data. */
  flags: u32(116),
});
export type PipeUserData = RecordOf<typeof PipeUserData.fields>;
