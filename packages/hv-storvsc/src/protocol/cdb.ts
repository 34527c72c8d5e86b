import { CdbFlag, Opcode, ServiceAction } from "./scsi.js";
import { CDB_BYTES } from "./srb.js";

// Command descriptor blocks. Every `emit` function zeroes the 16 bytes at `at`, writes one CDB there and
// returns its length. Fields are big-endian. Nothing here allocates.

const u32 = 0x1_0000_0000;

/** TEST UNIT READY. */
export function emitTestUnitReadyCdb(target: Uint8Array, at: number): number {
  return begin(target, at, Opcode.testUnitReady, 6);
}

/** REQUEST SENSE; `allocationBytes` up to 255. */
export function emitRequestSenseCdb(
  target: Uint8Array,
  at: number,
  allocationBytes: number,
): number {
  const length = begin(target, at, Opcode.requestSense, 6);
  target[at + 4] = allocationBytes;
  return length;
}

/** INQUIRY for standard data, or for the vital product data page `page`; `allocationBytes` up to 65535. */
export function emitInquiryCdb(
  target: Uint8Array,
  at: number,
  allocationBytes: number,
  page?: number,
): number {
  const length = begin(target, at, Opcode.inquiry, 6);
  if (page !== undefined) {
    target[at + 1] = CdbFlag.enableVitalProductData;
    target[at + 2] = page;
  }
  put16(target, at + 3, allocationBytes);
  return length;
}

/** REPORT LUNS. */
export function emitReportLunsCdb(target: Uint8Array, at: number, allocationBytes: number): number {
  const length = begin(target, at, Opcode.reportLuns, 12);
  put32(target, at + 6, allocationBytes);
  return length;
}

/** READ CAPACITY(10). */
export function emitReadCapacity10Cdb(target: Uint8Array, at: number): number {
  return begin(target, at, Opcode.readCapacity10, 10);
}

/** READ CAPACITY(16). */
export function emitReadCapacity16Cdb(
  target: Uint8Array,
  at: number,
  allocationBytes: number,
): number {
  const length = begin(target, at, Opcode.serviceActionIn16, 16);
  target[at + 1] = ServiceAction.readCapacity16;
  put32(target, at + 10, allocationBytes);
  return length;
}

/** GET LBA STATUS from block `lba` on, an integer below 2^53. */
export function emitGetLbaStatusCdb(
  target: Uint8Array,
  at: number,
  lba: number,
  allocationBytes: number,
): number {
  const length = begin(target, at, Opcode.serviceActionIn16, 16);
  target[at + 1] = ServiceAction.getLbaStatus;
  put32(target, at + 2, Math.floor(lba / u32));
  put32(target, at + 6, lba);
  put32(target, at + 10, allocationBytes);
  return length;
}

/** MODE SENSE(6) without block descriptors; `pageControl` as in `PageControl`, `allocationBytes` up to 255. */
export function emitModeSense6Cdb(
  target: Uint8Array,
  at: number,
  pageControl: number,
  page: number,
  allocationBytes: number,
): number {
  const length = begin(target, at, Opcode.modeSense6, 6);
  target[at + 1] = CdbFlag.disableBlockDescriptors;
  target[at + 2] = pageControl | page;
  target[at + 4] = allocationBytes;
  return length;
}

/** MODE SENSE(10) without block descriptors; `allocationBytes` up to 65535. */
export function emitModeSense10Cdb(
  target: Uint8Array,
  at: number,
  pageControl: number,
  page: number,
  allocationBytes: number,
): number {
  const length = begin(target, at, Opcode.modeSense10, 10);
  target[at + 1] = CdbFlag.disableBlockDescriptors;
  target[at + 2] = pageControl | page;
  put16(target, at + 7, allocationBytes);
  return length;
}

/** SYNCHRONIZE CACHE(10) for the whole disk: address and count 0. */
export function emitSynchronizeCache10Cdb(target: Uint8Array, at: number): number {
  return begin(target, at, Opcode.synchronizeCache10, 10);
}

/** SYNCHRONIZE CACHE(16) for the whole disk: address and count 0. */
export function emitSynchronizeCache16Cdb(target: Uint8Array, at: number): number {
  return begin(target, at, Opcode.synchronizeCache16, 16);
}

/** UNMAP with a parameter list of `listBytes`, up to 65535. */
export function emitUnmapCdb(target: Uint8Array, at: number, listBytes: number): number {
  const length = begin(target, at, Opcode.unmap, 10);
  put16(target, at + 7, listBytes);
  return length;
}

/** START STOP UNIT. */
export function emitStartStopUnitCdb(target: Uint8Array, at: number, start: boolean): number {
  const length = begin(target, at, Opcode.startStopUnit, 6);
  target[at + 4] = start ? CdbFlag.start : 0;
  return length;
}

/**
 * READ or WRITE in the smallest form that fits and is not shorter than `minimumLength`.
 *
 * The 6-byte form carries 1 to 255 blocks below block 2^21 (its count 0 means 256 to some devices and
 * nothing to others, so it is never used for 256); the 12-byte form serves counts of 65536 and more below
 * block 2^32.
 *
 * @param lba - First block, an integer below 2^53.
 * @param blocks - 0 to 2^32 - 1.
 * @param minimumLength - 6, 10, 12 or 16.
 */
export function emitTransferCdb(
  target: Uint8Array,
  at: number,
  write: boolean,
  lba: number,
  blocks: number,
  minimumLength: number,
): number {
  if (minimumLength <= 6 && lba < 0x20_0000 && (blocks - 1) >>> 0 < 0xff) {
    const length = begin(target, at, write ? Opcode.write6 : Opcode.read6, 6);
    target[at + 1] = lba >>> 16;
    target[at + 2] = lba >>> 8;
    target[at + 3] = lba;
    target[at + 4] = blocks;
    return length;
  }
  if (minimumLength <= 10 && lba < u32 && blocks <= 0xffff) {
    const length = begin(target, at, write ? Opcode.write10 : Opcode.read10, 10);
    put32(target, at + 2, lba);
    put16(target, at + 7, blocks);
    return length;
  }
  if (minimumLength <= 12 && lba < u32) {
    const length = begin(target, at, write ? Opcode.write12 : Opcode.read12, 12);
    put32(target, at + 2, lba);
    put32(target, at + 6, blocks);
    return length;
  }
  const length = begin(target, at, write ? Opcode.write16 : Opcode.read16, 16);
  put32(target, at + 2, Math.floor(lba / u32));
  put32(target, at + 6, lba);
  put32(target, at + 10, blocks);
  return length;
}

/**
 * First block of a READ, WRITE, VERIFY or WRITE SAME of any length, told by the group of the operation code.
 *
 * Exact below 2^53; a larger address comes back rounded, but never below 2^53.
 */
export function transferLba(cdb: Uint8Array, at: number): number {
  switch (cdb[at]! >>> 5) {
    case 0:
      return ((cdb[at + 1]! & 0x1f) << 16) | (cdb[at + 2]! << 8) | cdb[at + 3]!;
    case 4:
      return get32(cdb, at + 2) * u32 + get32(cdb, at + 6);
    default:
      return get32(cdb, at + 2);
  }
}

/** Block count of the same commands, as the CDB has it: 0 is 0 in the 6-byte form too. */
export function transferBlocks(cdb: Uint8Array, at: number): number {
  switch (cdb[at]! >>> 5) {
    case 0:
      return cdb[at + 4]!;
    case 4:
      return get32(cdb, at + 10);
    case 5:
      return get32(cdb, at + 6);
    default:
      return (cdb[at + 7]! << 8) | cdb[at + 8]!;
  }
}

function begin(target: Uint8Array, at: number, opcode: number, length: number): number {
  target.fill(0, at, at + CDB_BYTES);
  target[at] = opcode;
  return length;
}

function put16(target: Uint8Array, at: number, value: number): void {
  target[at] = value >>> 8;
  target[at + 1] = value;
}

function put32(target: Uint8Array, at: number, value: number): void {
  target[at] = value >>> 24;
  target[at + 1] = value >>> 16;
  target[at + 2] = value >>> 8;
  target[at + 3] = value;
}

function get32(source: Uint8Array, at: number): number {
  return (
    source[at]! * 0x100_0000 + ((source[at + 1]! << 16) | (source[at + 2]! << 8) | source[at + 3]!)
  );
}
