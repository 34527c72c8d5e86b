import { record, u16, u32, u64, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";

/** Value of `genLinkState`; OpenVMM: connect state 1, duplex, pause and negotiation 0. */
export const NdisLinkState = record({
  type: u8(0),
  revision: u8(1),
  size: u16(2),
  connectState: u32(4),
  duplexState: u32(8),
  /** Bits per second. */
  transmitSpeed: u64(16),
  receiveSpeed: u64(24),
  pause: u32(32),
  autoNegotiation: u32(36),
});
export type NdisLinkState = RecordOf<typeof NdisLinkState.fields>;

/** Value of `genMaxLinkSpeed`: bits per second. */
export const NdisLinkSpeed = record({ transmit: u64(0), receive: u64(8) });
export type NdisLinkSpeed = RecordOf<typeof NdisLinkSpeed.fields>;

/** Bits per second of the unit of `genLinkSpeed`, a u32. */
export const LINK_SPEED_UNIT = 100;
