/**
 * The control page at the start of a ring; the data area follows it.
 *
 * Names ending in `Word` are indices of 32-bit words, for `Atomics`; the others are byte offsets.
 * Indices in the ring are byte offsets in the data area, multiples of 8, always below its size.
 */
export const ControlPage = {
  writeIndex: 0, // u32, written by the ring's writer
  readIndex: 4, // u32, written by the reader
  interruptMask: 8, // u32, written by the reader; 1: no signal when the ring becomes non-empty
  pendingSendSize: 12, // u32, written by the writer; bytes it waits for, 0: it does not wait
  featureBits: 64, // u32, written by the writer
  /** Guest-to-host signals as FreeBSD counts them; padding to everybody else, never relied on. */
  freebsdSignalCount: 4088, // u64
  writeIndexWord: 0,
  readIndexWord: 1,
  interruptMaskWord: 2,
  pendingSendSizeWord: 3,
  featureBitsWord: 16,
  SIZE: 4096, // bytes
} as const;

/**
 * Feature bit: this ring's writer sets `pendingSendSize` when it waits, and honours it in the opposite
 * ring when it reads.
 */
export const FEATURE_PENDING_SEND_SIZE = 1;

/** Everything in a ring is a multiple of this many bytes. */
export const RING_ALIGNMENT = 8;

/** Least pages of a ring: the control page and one of data. */
export const RING_MIN_PAGES = 2;

/**
 * Bytes that stay free when a packet of the largest portable size lies in an otherwise empty ring.
 *
 * The protocol's own limit is 8, because a full ring would look empty; OpenVMM refuses a packet that
 * reaches it.
 */
export const RING_PORTABLE_RESERVE = 16;
