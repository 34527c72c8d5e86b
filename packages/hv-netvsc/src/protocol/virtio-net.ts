import { record, u16, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";

/**
 * What a Linux TAP device opened with a vnet header puts in front of each frame. Not of NVSP: it is here
 * because a frame's large send and checksum values are translated from and to it at both ends.
 *
 * Source: Linux `include/uapi/linux/virtio_net.h`; in the machine's byte order, which is little-endian here.
 */
export const VirtioNetHeader = record({
  flags: u8(0),
  segmentation: u8(1),
  headerBytes: u16(2),
  segmentBytes: u16(4),
  checksumStart: u16(6),
  /** From `checksumStart`: 16 for TCP, 6 for UDP. */
  checksumOffset: u16(8),
});
export type VirtioNetHeader = RecordOf<typeof VirtioNetHeader.fields>;

/** Flags of a vnet header. */
export const VirtioNetFlag = { needsChecksum: 1, dataValid: 2 } as const;

/** Values of `segmentation`; `ecn` is added. */
export const VirtioNetSegmentation = {
  none: 0,
  tcp4: 1,
  udp: 3,
  tcp6: 4,
  udpL4: 5,
  ecn: 0x80,
} as const;
