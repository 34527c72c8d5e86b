/**
 * Types of the messages of the synthetic keyboard. Each is an in-band packet of its own, without pipe
 * framing, and none is completed. Sources: OpenVMM's keyboard; FreeBSD's and Linux's drivers agree.
 */
export const KeyboardMessage = {
  /** Guest to host: u32 type, u32 version. */
  protocolRequest: 1,
  /** Host to guest: u32 type, u32 whose bit 0 says "accepted". */
  protocolResponse: 2,
  /** Host to guest: a key. */
  event: 3,
  /** Guest to host: u32 type, u16 lights. */
  setLedIndicators: 4,
} as const;

/** Byte offsets in the messages that a guest sends, and in the answer. Little-endian; the ring pads each to 8 bytes. */
export const KeyboardPacket = {
  type: 0, // u32
  version: 4, // u32: major << 16 | minor
  accepted: 4, // u32
  SIZE: 8,
} as const;

/** Version 1.0, the only one there is. */
export const KEYBOARD_VERSION = 0x0001_0000;
