import { record, u16, u32, u8, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { resized } from "./bytes.js";
import { NdisObjectType } from "./ndis-object.js";

// Sources: FreeBSD `sys/dev/hyperv/netvsc/ndis.h`, DPDK, OpenVMM `rndisprot.rs`.

const header = { type: u8(0), revision: u8(1), size: u16(2) };

const OffloadParametersFields = record(
  {
    ...header,
    /** `OffloadParameter` values. */
    ipv4Checksum: u8(4),
    tcp4Checksum: u8(5),
    udp4Checksum: u8(6),
    tcp6Checksum: u8(7),
    udp6Checksum: u8(8),
    /** `LargeSendParameter` values. */
    lsoV1: u8(9),
    ipsecV1: u8(10),
    lsoV2Ipv4: u8(11),
    lsoV2Ipv6: u8(12),
    tcp4Connection: u8(13),
    tcp6Connection: u8(14),
    flags: u32(16),
    ipsecV2: u8(20),
    ipsecV2Ipv4: u8(21),
    /** `LargeSendParameter` values. */
    rscIpv4: u8(22),
    rscIpv6: u8(23),
    encapsulation: u8(24),
    encapsulationTypes: u8(25),
  },
  28,
);

/** Value of a SET of `tcpOffloadParameters`. */
export type NdisOffloadParameters = Omit<
  RecordOf<typeof OffloadParametersFields.fields>,
  "type" | "size"
>;

/** Bytes of the offload parameters by revision. */
const offloadParametersSizes = [20, 22, 28] as const;

export const NdisOffloadParameters = {
  SIZE: OffloadParametersFields.SIZE,
  fields: OffloadParametersFields.fields,
  /** Undefined if there are fewer than 20 bytes, the size of revision 1; fields behind the end are 0. */
  parse(bytes: Uint8Array): NdisOffloadParameters | undefined {
    return bytes.byteLength < offloadParametersSizes[0]
      ? undefined
      : OffloadParametersFields.parse(resized(bytes, OffloadParametersFields.SIZE));
  },
  /** As many bytes as the revision has, 1 to 3. */
  emit(value: NdisOffloadParameters): Uint8Array<ArrayBuffer> {
    const size = sizeOfRevision(offloadParametersSizes, value.revision);
    const type = NdisObjectType.default;
    return OffloadParametersFields.emit({ ...value, type, size }).slice(0, size);
  },
} as const;

/** For each checksum: what is done in hardware. */
export const OffloadParameter = { noChange: 0, off: 1, tx: 2, rx: 3, txRx: 4 } as const;
/** For large send and receive segment coalescing. */
export const LargeSendParameter = { noChange: 0, off: 1, on: 2 } as const;

const OffloadFields = record(
  {
    ...header,
    ipv4TxEncapsulation: u32(4),
    /** `ChecksumFlag4` bits. */
    ipv4TxChecksum: u32(8),
    ipv4RxEncapsulation: u32(12),
    ipv4RxChecksum: u32(16),
    ipv6TxEncapsulation: u32(20),
    /** `ChecksumFlag6` bits. */
    ipv6TxChecksum: u32(24),
    ipv6RxEncapsulation: u32(28),
    ipv6RxChecksum: u32(32),
    lsoV2Ipv4Encapsulation: u32(80),
    lsoV2Ipv4MaxBytes: u32(84),
    lsoV2Ipv4MinSegments: u32(88),
    lsoV2Ipv6Encapsulation: u32(92),
    lsoV2Ipv6MaxBytes: u32(96),
    lsoV2Ipv6MinSegments: u32(100),
    /** `LargeSend6Option` bits. */
    lsoV2Ipv6Options: u32(104),
    flags: u32(108),
    rscIpv4: u8(144),
    rscIpv6: u8(145),
  },
  156,
);

/**
 * Value of `tcpOffloadHardwareCapabilities` and `tcpOffloadCurrentConfig`. Offloads that no peer has (large send
 * version 1, IPsec, NVGRE) are not told.
 */
export type NdisOffload = Omit<RecordOf<typeof OffloadFields.fields>, "type" | "size">;

const offloadSizes = [112, 144, 156] as const;

export const NdisOffload = {
  SIZE: OffloadFields.SIZE,
  fields: OffloadFields.fields,
  /** Bytes by some older guests' structure, whose last members were wider. */
  WIDE_SIZE: 168,
  /** Undefined if there are fewer than 112 bytes, the size of revision 1; fields behind the end are 0. */
  parse(bytes: Uint8Array): NdisOffload | undefined {
    return bytes.byteLength < offloadSizes[0]
      ? undefined
      : OffloadFields.parse(resized(bytes, OffloadFields.SIZE));
  },
  /** As many bytes as the revision has, 1 to 3. */
  emit(value: NdisOffload): Uint8Array<ArrayBuffer> {
    const size = sizeOfRevision(offloadSizes, value.revision);
    const type = NdisObjectType.offload;
    return OffloadFields.emit({ ...value, type, size }).slice(0, size);
  },
  /** Bytes of a revision, 1 to 3. */
  sizeOf: (revision: number): number => sizeOfRevision(offloadSizes, revision),
} as const;

/** Encapsulation of frames as everybody has them. */
export const ENCAPSULATION_802_3 = 2;

/** What of IPv4 frames is summed in hardware. */
export const ChecksumFlag4 = {
  ipOptions: 0x001,
  tcpOptions: 0x004,
  tcp: 0x010,
  udp: 0x040,
  ipHeader: 0x100,
} as const;
/** What of IPv6 frames is summed in hardware. */
export const ChecksumFlag6 = {
  ipExtensions: 0x001,
  tcpOptions: 0x004,
  tcp: 0x010,
  udp: 0x040,
} as const;

/** What large send takes of IPv6 frames. */
export const LargeSend6Option = { ipExtensions: 0x001, tcpOptions: 0x004 } as const;

/** Numbers of large send that hosts tell; they enforce neither. Source: OpenVMM. */
export const LARGE_SEND_BYTES_MAX = 62_780;
export const LARGE_SEND_SEGMENTS_MIN = 2;

/** Value of a SET of `offloadEncapsulation`. */
export const NdisOffloadEncapsulation = record({
  ...header,
  ipv4Enabled: u32(4),
  ipv4Encapsulation: u32(8),
  ipv4HeaderBytes: u32(12),
  ipv6Enabled: u32(16),
  ipv6Encapsulation: u32(20),
  ipv6HeaderBytes: u32(24),
});
export type NdisOffloadEncapsulation = RecordOf<typeof NdisOffloadEncapsulation.fields>;

/** Values of `ipv4Enabled` and `ipv6Enabled`. */
export const EncapsulationEnabled = { on: 1, off: 2 } as const;

function sizeOfRevision(sizes: readonly number[], revision: number): number {
  const size = sizes[revision - 1];
  if (size === undefined) throw new RangeError(`${revision} is no revision of this object`);
  return size;
}
