// First in the file, as the numbers of protocol/packet-layout.ts are.
export const READY = 0;
export const FULL = 1;
export const EMPTY = 0;
export const PACKET = 1;
export const CORRUPT = 2;

/** Outcome of `OutgoingRing.begin`. */
export const SendResult = {
  /** There is room: put the packet's bytes, then `end`. */
  Ready: READY,
  /** No room now; `requestSpace` asks the reader to say when. */
  Full: FULL,
  /** The reader's index is impossible: close the channel. */
  Corrupt: CORRUPT,
} as const;
export type SendResult = (typeof SendResult)[keyof typeof SendResult];

/** Outcome of `IncomingRing.next`. */
export const ReceiveResult = {
  Empty: EMPTY,
  /** A packet: its header is in the ring's fields, its bytes can be read until `release`. */
  Packet: PACKET,
  /** The writer broke the protocol, see `corruption`: close the channel. */
  Corrupt: CORRUPT,
} as const;
export type ReceiveResult = (typeof ReceiveResult)[keyof typeof ReceiveResult];
