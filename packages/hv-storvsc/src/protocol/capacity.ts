/** Bytes of the answer to READ CAPACITY(10). */
export const READ_CAPACITY_10_BYTES = 8;
/** Bytes of the answer to READ CAPACITY(16). */
export const READ_CAPACITY_16_BYTES = 32;
/** Last block of a disk that READ CAPACITY(10) cannot describe. */
export const CAPACITY_10_LIMIT = 0xffff_ffff;

/** Byte offsets in the answer to READ CAPACITY(16). Big-endian. */
export const Capacity16 = {
  lastLba: 0, // u64
  blockBytes: 8, // u32
  protection: 12, // u8
  physicalExponent: 13, // u8: low four bits, log2 of logical blocks in a physical one
  provisioning: 14, // u16: bit 15 LBPME, bit 14 LBPRZ, the rest the lowest aligned block
  SIZE: READ_CAPACITY_16_BYTES,
} as const;

const provisioningEnabled = 0x80;
const readsZeroes = 0x40;

/** Size of a disk as READ CAPACITY(10) tells it. */
export interface ReadCapacity10 {
  /** `CAPACITY_10_LIMIT` when the disk is larger than this form can say. */
  readonly lastLba: number;
  readonly blockBytes: number;
}

/** Size of a disk as READ CAPACITY(16) tells it. */
export interface ReadCapacity16 {
  /** Below 2^53. */
  readonly lastLba: number;
  readonly blockBytes: number;
  /** log2 of the number of logical blocks in a physical one. */
  readonly physicalExponent: number;
  /** LBPME: blocks can be unmapped. */
  readonly provisioned: boolean;
  /** LBPRZ: unmapped blocks read as zero; Hyper-V never says so. */
  readonly unmappedReadsZero: boolean;
}

/** Parses the answer to READ CAPACITY(10); undefined when fewer than 8 bytes are there. */
export function parseReadCapacity10(bytes: Uint8Array): ReadCapacity10 | undefined {
  if (bytes.byteLength < READ_CAPACITY_10_BYTES) return undefined;
  const view = viewOf(bytes);
  return { lastLba: view.getUint32(0), blockBytes: view.getUint32(4) };
}

/** Writes the answer to READ CAPACITY(10); returns its length. A last block that does not fit becomes the limit. */
export function emitReadCapacity10(target: Uint8Array, capacity: ReadCapacity10): number {
  const view = viewOf(target);
  view.setUint32(0, Math.min(capacity.lastLba, CAPACITY_10_LIMIT));
  view.setUint32(4, capacity.blockBytes);
  return READ_CAPACITY_10_BYTES;
}

/**
 * Parses the answer to READ CAPACITY(16); undefined when fewer than 12 bytes are there (later fields then
 * read as zero) or when the last block is 2^53 or above.
 */
export function parseReadCapacity16(bytes: Uint8Array): ReadCapacity16 | undefined {
  if (bytes.byteLength < Capacity16.protection) return undefined;
  const view = viewOf(bytes);
  const lastLba =
    view.getUint32(Capacity16.lastLba) * 0x1_0000_0000 + view.getUint32(Capacity16.lastLba + 4);
  if (!Number.isSafeInteger(lastLba)) return undefined;
  const provisioning = bytes[Capacity16.provisioning] ?? 0;
  return {
    lastLba,
    blockBytes: view.getUint32(Capacity16.blockBytes),
    physicalExponent: (bytes[Capacity16.physicalExponent] ?? 0) & 0x0f,
    provisioned: (provisioning & provisioningEnabled) !== 0,
    unmappedReadsZero: (provisioning & readsZeroes) !== 0,
  };
}

/** Writes the answer to READ CAPACITY(16); returns its length. */
export function emitReadCapacity16(target: Uint8Array, capacity: ReadCapacity16): number {
  target.fill(0, 0, Capacity16.SIZE);
  const view = viewOf(target);
  view.setUint32(Capacity16.lastLba, Math.floor(capacity.lastLba / 0x1_0000_0000));
  view.setUint32(Capacity16.lastLba + 4, capacity.lastLba % 0x1_0000_0000);
  view.setUint32(Capacity16.blockBytes, capacity.blockBytes);
  target[Capacity16.physicalExponent] = capacity.physicalExponent;
  target[Capacity16.provisioning] =
    (capacity.provisioned ? provisioningEnabled : 0) |
    (capacity.unmappedReadsZero ? readsZeroes : 0);
  return Capacity16.SIZE;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
