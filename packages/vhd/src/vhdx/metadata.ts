import { type BlockFile } from "../block-file.js";
import { emitGuid, readGuid, ZERO_GUID } from "../guid.js";
import { isPowerOfTwo } from "../power-of-two.js";
import { type Reporter } from "../reporter.js";
import { emitText, hasText } from "../text-field.js";
import { emitU64, Limit, readU64, viewOf } from "./layout.js";
import { type Region } from "./region-table.js";

/** Byte offsets in the metadata table, the first 64 KiB of the metadata region. Little-endian, no CRC. */
export const MetadataTableLayout = {
  signature: 0, // 8 characters
  entryCount: 10, // u16
  entries: 32,
  SIZE: 64 * 1024,
} as const;

/** Byte offsets in an entry. */
export const MetadataEntryLayout = {
  id: 0, // GUID
  offset: 16, // u32, bytes from the start of the region
  length: 20, // u32, bytes
  flags: 24, // u32
  SIZE: 32,
} as const;

/** How the metadata table starts. */
export const METADATA_SIGNATURE = "metadata";

/** Bits of an entry's flags. */
export const MetadataFlag = { User: 1, VirtualDisk: 2, Required: 4 } as const;

/** The items that the format knows. */
export const MetadataId = {
  FileParameters: "caa16737-fa36-4d43-b3b6-33f0aa44e76b",
  VirtualDiskSize: "2fa54224-cd1b-4876-b211-5dbed83bf4b8",
  VirtualDiskId: "beca12ab-b2e6-4523-93ef-c309e000c746",
  LogicalSectorSize: "8141bf1d-a96f-4709-ba47-f233a8faab5f",
  PhysicalSectorSize: "cda348c7-445d-4471-9cc9-e9885251c556",
  ParentLocator: "a8d35f2d-b30b-454d-abf7-d3d84834ab0c",
  ChsParameters: "da02d7bc-3d3a-423c-ac88-2a36ab21479b",
  IncompleteFile: "71cc85f0-1b69-4e28-9558-c3bf83ae75d3",
} as const;

/** Bits of the file parameters' second word. */
export const FileFlag = { LeaveBlocksAllocated: 1, HasParent: 2 } as const;

const MAX_ENTRIES = 2047;
const MAX_USER_ENTRIES = 1024;
const MAX_SYSTEM_ENTRIES = 1023;
const MAX_CLASS_BYTES = 40 * 1024 * 1024;
const knownIds: ReadonlySet<string> = new Set(Object.values(MetadataId));

/** What the metadata says about the disk. */
export interface DiskParameters {
  readonly blockBytes: number;
  /** A fixed image: blocks keep their place in the file. */
  readonly leaveBlocksAllocated: boolean;
  readonly hasParent: boolean;
  readonly sizeBytes: number;
  /** The 16 stored bytes of the GUID that SCSI shows in VPD page 0x83. */
  readonly identity: Uint8Array;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
}

interface Item {
  readonly id: string;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly flags: number;
  /** Of the entry, in the file. */
  readonly at: number;
  readonly structure: string;
}

/** The table and the items of a new image: the first 128 KiB of its metadata region. */
export function emitMetadata(disk: DiskParameters): Uint8Array {
  const bytes = new Uint8Array(2 * MetadataTableLayout.SIZE);
  const view = viewOf(bytes);
  emitText(bytes, MetadataTableLayout.signature, METADATA_SIGNATURE);
  const { Required, VirtualDisk } = MetadataFlag;
  let entry = MetadataTableLayout.entries;
  let item: number = MetadataTableLayout.SIZE;
  const add = (id: string, length: number, flags: number): number => {
    const at = item;
    emitGuid(bytes, entry + MetadataEntryLayout.id, id);
    view.setUint32(entry + MetadataEntryLayout.offset, at, true);
    view.setUint32(entry + MetadataEntryLayout.length, length, true);
    view.setUint32(entry + MetadataEntryLayout.flags, flags, true);
    entry += MetadataEntryLayout.SIZE;
    item += length;
    return at;
  };
  const parameters = add(MetadataId.FileParameters, 8, Required);
  view.setUint32(parameters, disk.blockBytes, true);
  view.setUint32(
    parameters + 4,
    (disk.leaveBlocksAllocated ? FileFlag.LeaveBlocksAllocated : 0) |
      (disk.hasParent ? FileFlag.HasParent : 0),
    true,
  );
  emitU64(view, add(MetadataId.VirtualDiskSize, 8, VirtualDisk | Required), disk.sizeBytes);
  bytes.set(disk.identity, add(MetadataId.VirtualDiskId, 16, VirtualDisk | Required));
  for (const [id, value] of [
    [MetadataId.LogicalSectorSize, disk.logicalSectorBytes],
    [MetadataId.PhysicalSectorSize, disk.physicalSectorBytes],
  ] as const)
    view.setUint32(add(id, 4, VirtualDisk | Required), value, true);
  view.setUint16(
    MetadataTableLayout.entryCount,
    (entry - MetadataTableLayout.entries) / MetadataEntryLayout.SIZE,
    true,
  );
  return bytes;
}

/** Reads and checks the metadata; `undefined` when the disk cannot be described from it. */
export function readMetadata(
  file: BlockFile,
  region: Region,
  reporter: Reporter,
): DiskParameters | undefined {
  const items = readItems(file, region, reporter);
  if (items === undefined) return undefined;
  const incomplete = items.get(MetadataId.IncompleteFile);
  if (incomplete !== undefined)
    reporter.error(
      "ERR_IMAGE_INCOMPLETE",
      incomplete.structure,
      incomplete.at,
      "the image is marked as unfinished",
    );
  const missing: string[] = [];
  const read = (id: string, name: string, length: number): DataView => {
    const bytes = new Uint8Array(length);
    const item = items.get(id);
    if (item?.lengthBytes === length) {
      file.read(region.offset + item.offset, bytes, 0, length);
    } else {
      missing.push(name);
      reporter.error(
        "ERR_IMAGE_CORRUPT",
        item?.structure ?? "metadata table",
        item?.at ?? region.offset,
        item === undefined
          ? `the ${name} is missing`
          : `the ${name} has ${item.lengthBytes} bytes, not ${length}`,
      );
    }
    return viewOf(bytes);
  };
  const parameters = read(MetadataId.FileParameters, "file parameters item", 8);
  const size = read(MetadataId.VirtualDiskSize, "virtual disk size", 8);
  const id = read(MetadataId.VirtualDiskId, "virtual disk id", 16);
  const logical = read(MetadataId.LogicalSectorSize, "logical sector size", 4);
  const physical = read(MetadataId.PhysicalSectorSize, "physical sector size", 4);
  if (missing.length > 0) return undefined;

  const flags = parameters.getUint32(4, true);
  const disk: DiskParameters = {
    blockBytes: parameters.getUint32(0, true),
    leaveBlocksAllocated: (flags & FileFlag.LeaveBlocksAllocated) !== 0,
    hasParent: (flags & FileFlag.HasParent) !== 0,
    sizeBytes: readU64(size, 0),
    identity: new Uint8Array(id.buffer),
    logicalSectorBytes: logical.getUint32(0, true),
    physicalSectorBytes: physical.getUint32(0, true),
  };
  return checkParameters(disk, items, region, reporter) ? disk : undefined;
}

function checkParameters(
  disk: DiskParameters,
  items: ReadonlyMap<string, Item>,
  region: Region,
  reporter: Reporter,
): boolean {
  const broken: string[] = [];
  const demand = (rule: boolean, id: string, text: string): void => {
    if (rule) return;
    broken.push(text);
    const item = items.get(id);
    reporter.error(
      "ERR_IMAGE_CORRUPT",
      item?.structure ?? "metadata table",
      region.offset + (item?.offset ?? 0),
      text,
    );
  };
  const { blockBytes, sizeBytes, logicalSectorBytes, physicalSectorBytes } = disk;
  demand(
    isPowerOfTwo(blockBytes) &&
      blockBytes >= Limit.minBlockBytes &&
      blockBytes <= Limit.maxBlockBytes,
    MetadataId.FileParameters,
    `block size ${blockBytes} is not a power of two from 1 MiB to 256 MiB`,
  );
  demand(
    logicalSectorBytes === 512 || logicalSectorBytes === 4096,
    MetadataId.LogicalSectorSize,
    `logical sector size ${logicalSectorBytes} is neither 512 nor 4096`,
  );
  demand(
    physicalSectorBytes === 512 || physicalSectorBytes === 4096,
    MetadataId.PhysicalSectorSize,
    `physical sector size ${physicalSectorBytes} is neither 512 nor 4096`,
  );
  demand(
    sizeBytes > 0 && sizeBytes <= Limit.diskBytes,
    MetadataId.VirtualDiskSize,
    `disk size ${sizeBytes} is not from 1 byte to 64 TiB`,
  );
  if (broken.length === 0)
    demand(
      sizeBytes % logicalSectorBytes === 0,
      MetadataId.VirtualDiskSize,
      `disk size ${sizeBytes} is not a multiple of the sector size ${logicalSectorBytes}`,
    );
  demand(
    disk.hasParent === items.has(MetadataId.ParentLocator),
    disk.hasParent ? MetadataId.FileParameters : MetadataId.ParentLocator,
    disk.hasParent
      ? "the disk has a parent but no parent locator"
      : "there is a parent locator but no parent",
  );
  return broken.length === 0;
}

/** The system items by id, each inside the region and apart from the others. */
function readItems(
  file: BlockFile,
  region: Region,
  reporter: Reporter,
): ReadonlyMap<string, Item> | undefined {
  const table = new Uint8Array(MetadataTableLayout.SIZE);
  file.read(region.offset, table, 0, table.byteLength);
  const view = viewOf(table);
  const count = view.getUint16(MetadataTableLayout.entryCount, true);
  if (!hasText(table, MetadataTableLayout.signature, METADATA_SIGNATURE) || count > MAX_ENTRIES) {
    reporter.error(
      "ERR_IMAGE_CORRUPT",
      "metadata table",
      region.offset,
      count > MAX_ENTRIES
        ? `${count} entries are more than ${MAX_ENTRIES}`
        : "the signature 'metadata' is missing",
    );
    return undefined;
  }
  const items: Item[] = [];
  const seen = new Set<string>();
  const totals = { user: { count: 0, bytes: 0 }, system: { count: 0, bytes: 0 } };
  for (let index = 0; index < count; index++) {
    const entry = MetadataTableLayout.entries + index * MetadataEntryLayout.SIZE;
    const item: Item = {
      id: readGuid(table, entry + MetadataEntryLayout.id),
      offset: view.getUint32(entry + MetadataEntryLayout.offset, true),
      lengthBytes: view.getUint32(entry + MetadataEntryLayout.length, true),
      flags: view.getUint32(entry + MetadataEntryLayout.flags, true),
      at: region.offset + entry,
      structure: `metadata entry ${index}`,
    };
    const total = item.flags & MetadataFlag.User ? totals.user : totals.system;
    total.count++;
    total.bytes += item.lengthBytes;
    const fault = itemFault(item, region, seen);
    if (fault === undefined) items.push(item);
    else reporter.error("ERR_IMAGE_CORRUPT", item.structure, item.at, fault);
    if (item.flags & MetadataFlag.Required && !knownIds.has(item.id))
      reporter.error(
        "ERR_IMAGE_UNSUPPORTED",
        item.structure,
        item.at,
        `item ${item.id} is required but unknown`,
      );
  }
  if (
    totals.user.count > MAX_USER_ENTRIES ||
    totals.system.count > MAX_SYSTEM_ENTRIES ||
    Math.max(totals.user.bytes, totals.system.bytes) > MAX_CLASS_BYTES
  )
    reporter.error(
      "ERR_IMAGE_UNSUPPORTED",
      "metadata table",
      region.offset,
      "it holds more entries or bytes of one class than the format's readers take",
    );
  const byPlace = items.filter((item) => item.lengthBytes > 0).sort((a, b) => a.offset - b.offset);
  for (const [index, item] of byPlace.entries()) {
    const before = byPlace[index - 1];
    if (before !== undefined && before.offset + before.lengthBytes > item.offset)
      reporter.error(
        "ERR_IMAGE_CORRUPT",
        item.structure,
        item.at,
        `its item overlaps that of ${before.structure}`,
      );
  }
  return new Map(
    items.filter((item) => !(item.flags & MetadataFlag.User)).map((item) => [item.id, item]),
  );
}

function itemFault(item: Item, region: Region, seen: Set<string>): string | undefined {
  const { id, offset, lengthBytes, flags } = item;
  const user = (flags & MetadataFlag.User) !== 0;
  const key = `${id} ${String(user)}`;
  if (id === ZERO_GUID) return "the item id is zero";
  if (seen.has(key)) return `item ${id} is listed twice`;
  seen.add(key);
  if (user && flags & MetadataFlag.Required) return "a user item cannot be required";
  if (lengthBytes === 0) return offset === 0 ? undefined : "an empty item has an offset";
  if (lengthBytes > Limit.metadataItemBytes)
    return `${lengthBytes} bytes are more than an item may have`;
  if (offset < MetadataTableLayout.SIZE || offset + lengthBytes > region.lengthBytes)
    return `${lengthBytes} bytes at ${offset} are not inside the metadata region`;
  return undefined;
}
