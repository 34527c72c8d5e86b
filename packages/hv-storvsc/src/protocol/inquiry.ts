import { latin1, putLatin1 } from "./latin1.js";

/** Byte offsets in standard INQUIRY data. */
export const InquiryData = {
  peripheral: 0, // u8: qualifier in the high three bits, device type in the low five
  removable: 1, // u8: bit 7
  version: 2, // u8
  responseDataFormat: 3, // u8: low four bits
  additionalLength: 4, // u8: bytes after this one
  flags: 7, // u8: bit 1 is command queueing
  vendor: 8, // 8 bytes of ASCII
  product: 16, // 16 bytes of ASCII
  revision: 32, // 4 bytes of ASCII
  SIZE: 36, // bytes that every device has
} as const;

/** Byte 0 when the device could exist here but does not: qualifier 3, unknown type. */
export const ABSENT_PERIPHERAL = 0x7f;

/** Bytes of standard INQUIRY data of a Hyper-V disk. */
export const HYPERV_INQUIRY_BYTES = 104;

const removableMedium = 0x80;
const commandQueueing = 0x02;

/** Standard INQUIRY data, as far as anybody looks at it. */
export interface StandardInquiry {
  /** 0: the device is there; 1: it could be; 3: it cannot. */
  readonly peripheralQualifier: number;
  /** 0 disk, 5 CD or DVD, 31 unknown. */
  readonly peripheralType: number;
  readonly removable: boolean;
  /** 0 none, 4 SPC-2, 5 SPC-3. */
  readonly version: number;
  /** 2 in every current device. */
  readonly responseDataFormat: number;
  /** Bytes of the whole data, minus 5. */
  readonly additionalLength: number;
  readonly commandQueueing: boolean;
  /** Without the padding, as are `product` and `revision`; empty when all bytes are zero. */
  readonly vendor: string;
  readonly product: string;
  readonly revision: string;
}

/**
 * Parses what a device returned; undefined when fewer than 5 bytes are there.
 * Fields past the end read as zero and empty.
 */
export function parseStandardInquiry(bytes: Uint8Array): StandardInquiry | undefined {
  if (bytes.byteLength <= InquiryData.additionalLength) return undefined;
  const peripheral = bytes[InquiryData.peripheral]!;
  return {
    peripheralQualifier: peripheral >>> 5,
    peripheralType: peripheral & 0x1f,
    removable: (bytes[InquiryData.removable]! & removableMedium) !== 0,
    version: bytes[InquiryData.version]!,
    responseDataFormat: bytes[InquiryData.responseDataFormat]! & 0x0f,
    additionalLength: bytes[InquiryData.additionalLength]!,
    commandQueueing: ((bytes[InquiryData.flags] ?? 0) & commandQueueing) !== 0,
    vendor: latin1(bytes, InquiryData.vendor, 8),
    product: latin1(bytes, InquiryData.product, 16),
    revision: latin1(bytes, InquiryData.revision, 4),
  };
}

/**
 * Writes the data of a device at the start of `target`, zeroes after the known fields.
 *
 * @returns Bytes written: `additionalLength` + 5, at least 36.
 */
export function emitStandardInquiry(target: Uint8Array, inquiry: StandardInquiry): number {
  const length = Math.max(inquiry.additionalLength + 5, InquiryData.SIZE);
  target.fill(0, 0, length);
  target[InquiryData.peripheral] = (inquiry.peripheralQualifier << 5) | inquiry.peripheralType;
  target[InquiryData.removable] = inquiry.removable ? removableMedium : 0;
  target[InquiryData.version] = inquiry.version;
  target[InquiryData.responseDataFormat] = inquiry.responseDataFormat;
  target[InquiryData.additionalLength] = inquiry.additionalLength;
  target[InquiryData.flags] = inquiry.commandQueueing ? commandQueueing : 0;
  putLatin1(target, InquiryData.vendor, 8, inquiry.vendor);
  putLatin1(target, InquiryData.product, 16, inquiry.product);
  putLatin1(target, InquiryData.revision, 4, inquiry.revision);
  return length;
}
