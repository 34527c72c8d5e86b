import { latin1 } from "./latin1.js";

/** Vital product data pages: byte 2 of an INQUIRY with EVPD. */
export const VpdPage = {
  supportedPages: 0x00,
  unitSerialNumber: 0x80,
  deviceIdentification: 0x83,
  thirdPartyCopy: 0x8f,
  blockLimits: 0xb0,
  blockDeviceCharacteristics: 0xb1,
  logicalBlockProvisioning: 0xb2,
  microsoftPagingExtent: 0xce,
  microsoftVirtualDevice: 0xcf,
} as const;
/** Open enumeration: any byte may arrive. */
export type VpdPage = (typeof VpdPage)[keyof typeof VpdPage] | (number & {});

/** Byte offsets in the header of every vital product data page. */
export const VpdHeader = {
  peripheral: 0, // u8
  page: 1, // u8
  length: 2, // u16 big-endian: bytes after the header
  SIZE: 4, // bytes
} as const;

/**
 * Body of a page, a view of what is really there; undefined when the header is short or names another page
 * (a device that ignores EVPD answers with standard data).
 */
export function vpdBody(bytes: Uint8Array, page: VpdPage): Uint8Array | undefined {
  if (bytes.byteLength < VpdHeader.SIZE || bytes[VpdHeader.page] !== page) return undefined;
  const length = viewOf(bytes).getUint16(VpdHeader.length);
  return bytes.subarray(VpdHeader.SIZE, VpdHeader.SIZE + length);
}

/** Writes the header of a page of device type 0 whose body has `bodyBytes`; returns the length of the page. */
export function emitVpdHeader(target: Uint8Array, page: VpdPage, bodyBytes: number): number {
  target[VpdHeader.peripheral] = 0;
  target[VpdHeader.page] = page;
  viewOf(target).setUint16(VpdHeader.length, bodyBytes);
  return VpdHeader.SIZE + bodyBytes;
}

/** Parses page 00: the pages a device has, ascending. */
export function parseSupportedPages(bytes: Uint8Array): readonly VpdPage[] | undefined {
  const body = vpdBody(bytes, VpdPage.supportedPages);
  return body === undefined ? undefined : [...body];
}

/** Writes page 00; returns its length. */
export function emitSupportedPages(target: Uint8Array, pages: readonly VpdPage[]): number {
  target.set(pages, VpdHeader.SIZE);
  return emitVpdHeader(target, VpdPage.supportedPages, pages.length);
}

/** Parses page 80: the serial number without padding. */
export function parseSerialNumber(bytes: Uint8Array): string | undefined {
  const body = vpdBody(bytes, VpdPage.unitSerialNumber);
  return body === undefined ? undefined : latin1(body, 0, body.byteLength).trimStart();
}

/** Writes page 80 with the bytes of a serial number; returns its length. */
export function emitSerialNumber(target: Uint8Array, serial: Uint8Array): number {
  target.set(serial, VpdHeader.SIZE);
  return emitVpdHeader(target, VpdPage.unitSerialNumber, serial.byteLength);
}

/** Values of the code set of a designator. */
export const CodeSet = { binary: 1, ascii: 2, utf8: 3 } as const;
/** Values of the type of a designator. */
export const DesignatorType = { vendorSpecific: 0, t10VendorId: 1, eui64: 2, naa: 3 } as const;

/** One name of a device, from page 83. */
export interface Designator {
  readonly codeSet: number;
  readonly type: number;
  /** 0: the name is the logical unit's. */
  readonly association: number;
  readonly identifier: Uint8Array;
}

const designatorHeaderBytes = 4;

/** Parses page 83; a designator that does not fit ends the list. Identifiers are copies. */
export function parseDeviceIdentification(bytes: Uint8Array): readonly Designator[] | undefined {
  const body = vpdBody(bytes, VpdPage.deviceIdentification);
  if (body === undefined) return undefined;
  const designators: Designator[] = [];
  let at = 0;
  while (at + designatorHeaderBytes <= body.byteLength) {
    const start = at + designatorHeaderBytes;
    const end = start + body[at + 3]!;
    if (end > body.byteLength) break;
    designators.push({
      codeSet: body[at]! & 0x0f,
      association: (body[at + 1]! >>> 4) & 0x03,
      type: body[at + 1]! & 0x0f,
      identifier: body.slice(start, end),
    });
    at = end;
  }
  return designators;
}

/** Writes page 83; returns its length. */
export function emitDeviceIdentification(
  target: Uint8Array,
  designators: readonly Designator[],
): number {
  let at: number = VpdHeader.SIZE;
  for (const { codeSet, type, association, identifier } of designators) {
    target[at] = codeSet;
    target[at + 1] = (association << 4) | type;
    target[at + 2] = 0;
    target[at + 3] = identifier.byteLength;
    target.set(identifier, at + designatorHeaderBytes);
    at += designatorHeaderBytes + identifier.byteLength;
  }
  return emitVpdHeader(target, VpdPage.deviceIdentification, at - VpdHeader.SIZE);
}

/** Byte offsets in page B0, header included. Big-endian. */
export const BlockLimitsPage = {
  transferBlocksMax: 8, // u32
  transferBlocksOptimal: 12, // u32
  unmapBlocksMax: 20, // u32
  unmapDescriptorsMax: 24, // u32
  unmapGranularity: 28, // u32
  unmapAlignment: 32, // u32: bit 31 says that the alignment is valid
  writeSameBlocksMax: 36, // u64
  BODY: 60, // bytes after the header
} as const;

const alignmentValid = 0x8000_0000;

/** Limits in logical blocks, from page B0; 0 means "not told". */
export interface BlockLimits {
  readonly transferBlocksMax: number;
  readonly transferBlocksOptimal: number;
  readonly unmapBlocksMax: number;
  readonly unmapDescriptorsMax: number;
  readonly unmapGranularity: number;
  /** First block of a granule; undefined when the device does not say. */
  readonly unmapAlignment: number | undefined;
  readonly writeSameBlocksMax: bigint;
}

/** Parses page B0; undefined without the fields that every version of the page has (16 bytes). */
export function parseBlockLimits(bytes: Uint8Array): BlockLimits | undefined {
  const body = vpdBody(bytes, VpdPage.blockLimits);
  if (body === undefined || body.byteLength < 12) return undefined;
  // A short page is one of an older version: what it lacks is zero.
  const page = new Uint8Array(VpdHeader.SIZE + BlockLimitsPage.BODY);
  page.set(body.subarray(0, BlockLimitsPage.BODY), VpdHeader.SIZE);
  const view = viewOf(page);
  const alignment = view.getUint32(BlockLimitsPage.unmapAlignment);
  return {
    transferBlocksMax: view.getUint32(BlockLimitsPage.transferBlocksMax),
    transferBlocksOptimal: view.getUint32(BlockLimitsPage.transferBlocksOptimal),
    unmapBlocksMax: view.getUint32(BlockLimitsPage.unmapBlocksMax),
    unmapDescriptorsMax: view.getUint32(BlockLimitsPage.unmapDescriptorsMax),
    unmapGranularity: view.getUint32(BlockLimitsPage.unmapGranularity),
    unmapAlignment: alignment >= alignmentValid ? alignment - alignmentValid : undefined,
    writeSameBlocksMax: view.getBigUint64(BlockLimitsPage.writeSameBlocksMax),
  };
}

/** Writes page B0; returns its length. */
export function emitBlockLimits(target: Uint8Array, limits: BlockLimits): number {
  const length = emitVpdHeader(target, VpdPage.blockLimits, BlockLimitsPage.BODY);
  target.fill(0, VpdHeader.SIZE, length);
  const view = viewOf(target);
  view.setUint32(BlockLimitsPage.transferBlocksMax, limits.transferBlocksMax);
  view.setUint32(BlockLimitsPage.transferBlocksOptimal, limits.transferBlocksOptimal);
  view.setUint32(BlockLimitsPage.unmapBlocksMax, limits.unmapBlocksMax);
  view.setUint32(BlockLimitsPage.unmapDescriptorsMax, limits.unmapDescriptorsMax);
  view.setUint32(BlockLimitsPage.unmapGranularity, limits.unmapGranularity);
  if (limits.unmapAlignment !== undefined)
    view.setUint32(BlockLimitsPage.unmapAlignment, alignmentValid + limits.unmapAlignment);
  view.setBigUint64(BlockLimitsPage.writeSameBlocksMax, limits.writeSameBlocksMax);
  return length;
}

/** Values of the rotation rate of page B1 that are no rates. */
export const RotationRate = { notReported: 0, nonRotating: 1 } as const;

const characteristicsBodyBytes = 60;

/** Parses page B1: revolutions per minute, or 0 or 1 as in `RotationRate`. */
export function parseRotationRate(bytes: Uint8Array): number | undefined {
  const body = vpdBody(bytes, VpdPage.blockDeviceCharacteristics);
  return body === undefined || body.byteLength < 2 ? undefined : viewOf(body).getUint16(0);
}

/** Writes page B1; returns its length. */
export function emitRotationRate(target: Uint8Array, rate: number): number {
  const length = emitVpdHeader(
    target,
    VpdPage.blockDeviceCharacteristics,
    characteristicsBodyBytes,
  );
  target.fill(0, VpdHeader.SIZE, length);
  viewOf(target).setUint16(VpdHeader.SIZE, rate);
  return length;
}

/** Flags of page B2. */
export const ProvisioningFlag = { unmap: 0x80, writeSame16: 0x40, writeSame10: 0x20 } as const;
/** Provisioning types of page B2. */
export const ProvisioningType = { none: 0, resource: 1, thin: 2 } as const;

/** How a disk gives back blocks, from page B2. */
export interface LogicalBlockProvisioning {
  readonly thresholdExponent: number;
  /** `ProvisioningFlag`s. */
  readonly flags: number;
  readonly provisioningType: number;
}

/** Parses page B2; undefined when it is shorter than 3 bytes. */
export function parseLogicalBlockProvisioning(
  bytes: Uint8Array,
): LogicalBlockProvisioning | undefined {
  const body = vpdBody(bytes, VpdPage.logicalBlockProvisioning);
  if (body === undefined || body.byteLength < 3) return undefined;
  return {
    thresholdExponent: body[0]!,
    flags: body[1]!,
    provisioningType: body[2]! & 0x07,
  };
}

/** Writes page B2; returns its length. */
export function emitLogicalBlockProvisioning(
  target: Uint8Array,
  provisioning: LogicalBlockProvisioning,
): number {
  target[VpdHeader.SIZE] = provisioning.thresholdExponent;
  target[VpdHeader.SIZE + 1] = provisioning.flags;
  target[VpdHeader.SIZE + 2] = provisioning.provisioningType;
  target[VpdHeader.SIZE + 3] = 0;
  return emitVpdHeader(target, VpdPage.logicalBlockProvisioning, 4);
}

/** What page CE of a Hyper-V disk carries. */
export const microsoftPagingExtent: readonly number[] = [0x01, 0x01, 0x00, 0x00];

/**
 * What page CF of a Hyper-V disk carries: version 1, flags 0, two reserved bytes, and the signature
 * 89a98f15-c928-4d8b-94cd-ef51faa99d33 in the byte order of a GUID in memory.
 */
export const microsoftVirtualDevice: readonly number[] = [
  0x01, 0x00, 0x00, 0x00, 0x15, 0x8f, 0xa9, 0x89, 0x28, 0xc9, 0x8b, 0x4d, 0x94, 0xcd, 0xef, 0x51,
  0xfa, 0xa9, 0x9d, 0x33,
];

/** Writes a page whose body is known; returns its length. */
export function emitVpdPage(target: Uint8Array, page: VpdPage, body: ArrayLike<number>): number {
  target.set(body, VpdHeader.SIZE);
  return emitVpdHeader(target, page, body.length);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
