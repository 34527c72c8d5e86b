import { type BlockFile } from "../block-file.js";
import { crc32cWithoutField } from "../crc32c.js";
import { emitGuid, readGuid } from "../guid.js";
import { type Reporter } from "../reporter.js";
import { emitText, hasText } from "../text-field.js";
import { emitU64, FileMap, Limit, MIB, readU64, sameBytes, viewOf } from "./layout.js";

/** Byte offsets in a region table; the CRC covers all 64 KiB. Little-endian. */
export const RegionTableLayout = {
  signature: 0, // 4 characters
  checksum: 4, // u32
  entryCount: 8, // u32
  entries: 16,
  SIZE: 64 * 1024,
} as const;

/** Byte offsets in an entry. */
export const RegionEntryLayout = {
  id: 0, // GUID
  offset: 16, // u64, bytes from the start of the file
  length: 24, // u32, bytes
  flags: 28, // u32, bit 0: required
  SIZE: 32,
} as const;

/** How a region table starts. */
export const REGION_SIGNATURE = "regi";
/** The regions that the format knows. */
export const RegionId = {
  Bat: "2dc27766-f623-4200-9d64-115e9bfd4a08",
  Metadata: "8b7ca206-4790-4b9a-b8fe-575f050f886e",
} as const;

const MAX_ENTRIES = 2047;
const REQUIRED = 1;
const tableOffsets = [FileMap.regionTable1, FileMap.regionTable2] as const;

/** A range of the file that the region table gives to something. */
export interface Region {
  readonly id: string;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly required: boolean;
}

/** The regions of an image and the bytes that both copies of the table should have. */
export interface RegionTable {
  readonly regions: readonly Region[];
  readonly bat: Region;
  readonly metadata: Region;
  /** The table that was used, 64 KiB. */
  readonly bytes: Uint8Array;
  /** The other copy is damaged or differs: the next writer repairs it through the log. */
  readonly needsRepair: boolean;
}

/** The 64 KiB of a region table, checksum included. */
export function emitRegionTable(regions: readonly Region[]): Uint8Array {
  const bytes = new Uint8Array(RegionTableLayout.SIZE);
  const view = viewOf(bytes);
  emitText(bytes, RegionTableLayout.signature, REGION_SIGNATURE);
  view.setUint32(RegionTableLayout.entryCount, regions.length, true);
  for (const [index, region] of regions.entries()) {
    const at = RegionTableLayout.entries + index * RegionEntryLayout.SIZE;
    emitGuid(bytes, at + RegionEntryLayout.id, region.id);
    emitU64(view, at + RegionEntryLayout.offset, region.offset);
    view.setUint32(at + RegionEntryLayout.length, region.lengthBytes, true);
    view.setUint32(at + RegionEntryLayout.flags, region.required ? REQUIRED : 0, true);
  }
  view.setUint32(
    RegionTableLayout.checksum,
    crc32cWithoutField(bytes, RegionTableLayout.checksum),
    true,
  );
  return bytes;
}

/** Parses 64 KiB; a string says why they are no valid table. The places of the regions are not judged. */
export function parseRegionTable(bytes: Uint8Array): readonly Region[] | string {
  if (!hasText(bytes, RegionTableLayout.signature, REGION_SIGNATURE))
    return "the signature 'regi' is missing";
  const view = viewOf(bytes);
  const checksum = view.getUint32(RegionTableLayout.checksum, true);
  const expected = crc32cWithoutField(bytes, RegionTableLayout.checksum);
  if (checksum !== expected)
    return `the checksum is 0x${checksum.toString(16)}, its bytes give 0x${expected.toString(16)}`;
  const count = view.getUint32(RegionTableLayout.entryCount, true);
  if (count > MAX_ENTRIES) return `${count} entries are more than ${MAX_ENTRIES}`;
  return Array.from({ length: count }, (_, index) => {
    const at = RegionTableLayout.entries + index * RegionEntryLayout.SIZE;
    return {
      id: readGuid(bytes, at + RegionEntryLayout.id),
      offset: readU64(view, at + RegionEntryLayout.offset),
      lengthBytes: view.getUint32(at + RegionEntryLayout.length, true),
      required: (view.getUint32(at + RegionEntryLayout.flags, true) & REQUIRED) !== 0,
    };
  });
}

/** Reads both copies and checks every region; `undefined` when the BAT or the metadata cannot be found. */
export function readRegionTable(file: BlockFile, reporter: Reporter): RegionTable | undefined {
  const raw = tableOffsets.map((offset) => {
    const bytes = new Uint8Array(RegionTableLayout.SIZE);
    file.read(offset, bytes, 0, bytes.byteLength);
    return bytes;
  });
  const parsed = raw.map(parseRegionTable);
  const faults = parsed.filter((table) => typeof table === "string");
  const used = parsed.findIndex((table) => typeof table !== "string");
  if (used < 0) {
    reporter.error(
      "ERR_IMAGE_CORRUPT",
      "region table 1",
      FileMap.regionTable1,
      `neither region table is valid: ${faults.join(`; in table 2 at ${FileMap.regionTable2} `)}`,
    );
    return undefined;
  }
  for (const [index, table] of parsed.entries())
    if (typeof table === "string")
      reporter.warning(`region table ${index + 1}`, tableOffsets[index]!, table);
  const bytes = raw[used]!;
  const needsRepair = !sameBytes(raw[0]!, raw[1]!);
  if (needsRepair && parsed.every((table) => typeof table !== "string"))
    reporter.warning("region table 2", FileMap.regionTable2, "it differs from region table 1");

  const regions = parsed[used] as readonly Region[];
  const table = `region table ${used + 1}`;
  const sound = new Map<string, Region>();
  for (const [index, region] of regions.entries()) {
    const at = tableOffsets[used]! + RegionTableLayout.entries + index * RegionEntryLayout.SIZE;
    const structure = `${table} entry ${index}`;
    if (sound.has(region.id)) {
      reporter.error("ERR_IMAGE_CORRUPT", structure, at, `region ${region.id} is listed twice`);
      continue;
    }
    if (checkRegion(region, structure, at, file.sizeBytes, reporter)) sound.set(region.id, region);
  }
  const bat = sound.get(RegionId.Bat);
  const metadata = sound.get(RegionId.Metadata);
  for (const [id, region] of [
    ["BAT", bat],
    ["metadata", metadata],
  ] as const)
    if (region === undefined)
      reporter.error(
        "ERR_IMAGE_CORRUPT",
        table,
        tableOffsets[used]!,
        `it has no usable ${id} region`,
      );
  if (bat === undefined || metadata === undefined) return undefined;
  return { regions: [...sound.values()], bat, metadata, bytes, needsRepair };
}

function checkRegion(
  region: Region,
  structure: string,
  at: number,
  fileBytes: number,
  reporter: Reporter,
): boolean {
  const { id, offset, lengthBytes } = region;
  const known = id === RegionId.Bat || id === RegionId.Metadata;
  if (!known && region.required)
    reporter.error("ERR_IMAGE_UNSUPPORTED", structure, at, `region ${id} is required but unknown`);
  const limit =
    id === RegionId.Bat
      ? Limit.batBytes
      : id === RegionId.Metadata
        ? Limit.metadataBytes
        : Infinity;
  if (
    offset % MIB !== 0 ||
    offset < MIB ||
    lengthBytes % MIB !== 0 ||
    lengthBytes === 0 ||
    offset + lengthBytes > Limit.fileBytes
  ) {
    reporter.error(
      "ERR_IMAGE_CORRUPT",
      structure,
      at,
      `${lengthBytes} bytes at ${offset} are not whole MiB from 1 MiB on`,
    );
    return false;
  }
  if (lengthBytes > limit) {
    reporter.error(
      "ERR_IMAGE_UNSUPPORTED",
      structure,
      at,
      `the region has ${lengthBytes} bytes, more than ${limit}`,
    );
    return false;
  }
  if (offset + lengthBytes > fileBytes) {
    reporter.error(
      "ERR_IMAGE_TRUNCATED",
      structure,
      at,
      `the region ends at ${offset + lengthBytes}, the file at ${fileBytes}`,
    );
    return false;
  }
  return true;
}
