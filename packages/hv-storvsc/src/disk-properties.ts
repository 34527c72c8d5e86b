import { ScsiError } from "./errors.js";
import type { LogicalUnit } from "./logical-unit.js";
import {
  CAPACITY_10_LIMIT,
  CodeSet,
  DesignatorType,
  ModePage,
  parseBlockLimits,
  parseDeviceIdentification,
  parseLogicalBlockProvisioning,
  parseModeSense10,
  parseModeSense6,
  parseReadCapacity10,
  parseReadCapacity16,
  parseRotationRate,
  parseSerialNumber,
  parseSupportedPages,
  ProvisioningFlag,
  RotationRate,
  ScsiVersion,
  VpdPage,
  type Designator,
  type ModeData,
  type StandardInquiry,
} from "./protocol/index.js";

/** How large a disk is. */
export interface DiskCapacity {
  readonly blocks: number;
  /** Bytes of a logical block: a multiple of 512. */
  readonly blockBytes: number;
  /** Bytes of a physical block: `blockBytes` or a power of two times that. */
  readonly physicalBlockBytes: number;
  /** LBPME: blocks can be unmapped. */
  readonly provisioned: boolean;
  /** LBPRZ: unmapped blocks read as zero. */
  readonly unmappedReadsZero: boolean;
}

/** By what a disk is known, wherever it is attached. */
export interface DiskIdentity {
  /** VPD page 80, without padding. */
  readonly serial: string | undefined;
  /** Names from VPD page 83. */
  readonly designators: readonly Designator[];
  /** The best name there is, for comparing: `naa.…`, `eui.…`, `t10.…` or `serial.…`; undefined without any. */
  readonly name: string | undefined;
}

/** How a disk takes UNMAP. Limits in blocks. */
export interface UnmapLimits {
  /** Blocks of one command. */
  readonly blocksMax: number;
  /** Ranges of one command. */
  readonly rangesMax: number;
  /** A range that is not a multiple of this, aligned, frees less than it names. */
  readonly granularity: number;
  /** First block of a granule. */
  readonly alignment: number;
}

/** What a disk says about itself. */
export interface DiskProperties {
  readonly capacity: DiskCapacity;
  readonly identity: DiskIdentity;
  readonly writeProtected: boolean;
  /** True also when the disk did not say: then it has to be flushed. */
  readonly writeCache: boolean;
  /** Undefined when the disk does not take UNMAP. */
  readonly unmap: UnmapLimits | undefined;
  /** Revolutions per minute; `RotationRate.nonRotating` or `notReported`. */
  readonly rotationRate: number;
}

/** What FreeBSD asks MODE SENSE for. */
const MODE_SENSE_BYTES = 192;
const VPD_BYTES = 255;
const UNMAP_BLOCKS_LIMIT = 0xffff_ffff;
/** UNMAP is trustworthy from Windows 8 on. */
const UNMAP_VERSION_MIN = 0x0501;

/** How often a disk is asked again, in a row, because it changed while it was asked. */
const ROUNDS_MAX = 4;

/**
 * Asks a disk for all that an attach needs, in the order in which FreeBSD's da driver asks; all of it again
 * when a unit attention says that something changed meanwhile.
 *
 * Only the capacity has to be there; a page that the disk refuses is one that it does not have. Pages are
 * asked for only when page 00 lists them. Rejects with `ScsiError` or `StorvscError`.
 *
 * @param unit - Made for this: what it does on a unit attention is replaced.
 */
export async function readDiskProperties(
  unit: LogicalUnit,
  inquiry: StandardInquiry,
  protocolVersion: number,
): Promise<DiskProperties> {
  let attentions = 0;
  unit.onAttention = () => {
    attentions++;
    return Promise.resolve();
  };
  for (let round = 1; ; round++) {
    // News from before, which the first command fetches, is no change.
    await unit.testUnitReady();
    const before = attentions;
    const properties = await askAll(unit, inquiry, protocolVersion);
    if (attentions === before || round === ROUNDS_MAX) return properties;
  }
}

async function askAll(
  unit: LogicalUnit,
  inquiry: StandardInquiry,
  protocolVersion: number,
): Promise<DiskProperties> {
  const general = await modeSense(unit, ModePage.all);
  const capacity = await readCapacity(unit, inquiry);
  const pages = (await page(unit, VpdPage.supportedPages, parseSupportedPages)) ?? [];
  const listed = <T>(code: VpdPage, parse: (bytes: Uint8Array) => T | undefined) =>
    pages.includes(code) ? page(unit, code, parse) : Promise.resolve(undefined);
  const provisioning = await listed(
    VpdPage.logicalBlockProvisioning,
    parseLogicalBlockProvisioning,
  );
  const limits = await listed(VpdPage.blockLimits, parseBlockLimits);
  const rotationRate = await listed(VpdPage.blockDeviceCharacteristics, parseRotationRate);
  const caching = await modeSense(unit, ModePage.caching);
  const designators = await listed(VpdPage.deviceIdentification, parseDeviceIdentification);
  const serial = await listed(VpdPage.unitSerialNumber, parseSerialNumber);
  const takesUnmap =
    protocolVersion >= UNMAP_VERSION_MIN &&
    ((provisioning?.flags ?? 0) & ProvisioningFlag.unmap) !== 0;
  return {
    capacity,
    identity: identityOf(designators ?? [], serial),
    writeProtected: general?.writeProtected ?? false,
    writeCache: caching?.writeCacheEnabled ?? true,
    unmap: takesUnmap
      ? {
          blocksMax: told(limits?.unmapBlocksMax, UNMAP_BLOCKS_LIMIT),
          rangesMax: told(limits?.unmapDescriptorsMax, 1),
          granularity: told(limits?.unmapGranularity, 1),
          alignment: limits?.unmapAlignment ?? 0,
        }
      : undefined,
    rotationRate: rotationRate ?? RotationRate.notReported,
  };
}

/** A limit, of which 0 means that it was not told. */
function told(limit: number | undefined, otherwise: number): number {
  return limit === undefined || limit === 0 ? otherwise : limit;
}

/** Asks a disk how large it is. Rejects with `ERR_SCSI_PROTOCOL` when it is of no size that a disk has. */
export async function readCapacity(
  unit: LogicalUnit,
  inquiry: StandardInquiry,
): Promise<DiskCapacity> {
  const long =
    inquiry.version >= ScsiVersion.spc3
      ? await refusable(async () => parseReadCapacity16(await unit.readCapacity16()))
      : undefined;
  if (long !== undefined) return capacityOf(long);
  const short = parseReadCapacity10(await unit.readCapacity10());
  if (short?.lastLba === CAPACITY_10_LIMIT)
    return capacityOf(parseReadCapacity16(await unit.readCapacity16()));
  return capacityOf(short);
}

function capacityOf(
  answer:
    | {
        readonly lastLba: number;
        readonly blockBytes: number;
        readonly physicalExponent?: number;
        readonly provisioned?: boolean;
        readonly unmappedReadsZero?: boolean;
      }
    | undefined,
): DiskCapacity {
  if (answer === undefined || answer.blockBytes === 0 || answer.blockBytes % 512 !== 0)
    throw new ScsiError(
      "ERR_SCSI_PROTOCOL",
      `READ CAPACITY: blocks of ${answer?.blockBytes ?? 0} bytes`,
    );
  return {
    blocks: answer.lastLba + 1,
    blockBytes: answer.blockBytes,
    physicalBlockBytes: answer.blockBytes * 2 ** (answer.physicalExponent ?? 0),
    provisioned: answer.provisioned ?? false,
    unmappedReadsZero: answer.unmappedReadsZero ?? false,
  };
}

async function page<T>(
  unit: LogicalUnit,
  code: VpdPage,
  parse: (bytes: Uint8Array) => T | undefined,
): Promise<T | undefined> {
  return refusable(async () => parse(await unit.inquiry(VPD_BYTES, code)));
}

async function modeSense(unit: LogicalUnit, code: number): Promise<ModeData | undefined> {
  const short = await refusable(async () =>
    parseModeSense6(await unit.modeSense6(code, MODE_SENSE_BYTES)),
  );
  return (
    short ?? refusable(async () => parseModeSense10(await unit.modeSense10(code, MODE_SENSE_BYTES)))
  );
}

/** What a disk refuses with sense data it does not have; any other failure is one. */
async function refusable<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof ScsiError && error.code === "ERR_SCSI_CHECK_CONDITION") return undefined;
    throw error;
  }
}

/** Designators by how well they name a unit, best first. */
const nameTypes = [
  [DesignatorType.naa, "naa."],
  [DesignatorType.eui64, "eui."],
  [DesignatorType.t10VendorId, "t10."],
] as const;

function identityOf(designators: readonly Designator[], serial: string | undefined): DiskIdentity {
  const unitNames = designators.filter((designator) => designator.association === 0);
  for (const [type, prefix] of nameTypes) {
    const found = unitNames.find((designator) => designator.type === type);
    if (found === undefined) continue;
    const text =
      found.codeSet === CodeSet.ascii
        ? String.fromCharCode(...found.identifier)
        : hex(found.identifier);
    return { serial, designators, name: prefix + text };
  }
  return { serial, designators, name: serial === undefined ? undefined : `serial.${serial}` };
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
