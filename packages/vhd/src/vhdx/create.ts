import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { emitGuid, randomGuid } from "../guid.js";
import { isPowerOfTwo } from "../power-of-two.js";
import { type Random } from "../random.js";
import { emitText } from "../text-field.js";
import { batBytes, batGeometry, BlockMap, BlockState, blockWord } from "./block-map.js";
import { HeaderSlots, newHeader } from "./header.js";
import {
  FileMap,
  IDENTIFIER_SIGNATURE,
  IdentifierLayout,
  Limit,
  MIB,
  PAGE_BYTES,
  roundUp,
  viewOf,
} from "./layout.js";
import { type VhdxDisk } from "./disk.js";
import { type DiskParameters, emitMetadata } from "./metadata.js";
import { openVhdx } from "./open.js";
import { emitRegionTable, RegionId } from "./region-table.js";

/** Up to this size a disk gets small blocks; above it the BAT would grow large in memory. */
const SMALL_BLOCKS_UP_TO_BYTES = 2 * 1024 ** 4;
const SMALL_BLOCK_BYTES = 2 * MIB;
const LARGE_BLOCK_BYTES = 32 * MIB;
const CREATOR = "hyperv-is";
const METADATA_REGION_BYTES = MIB;
/** BAT regions are made for a disk this many times as large, so that the disk can grow in place. */
const BAT_SLACK = 2;

/** What a new VHDX is to be. */
export interface CreateVhdxOptions {
  /** A multiple of the logical sector size, up to 64 TiB. */
  readonly sizeBytes: number;
  /** Gives every block its place at once. The file is sparse where its file system can do that. */
  readonly fixed?: boolean | undefined;
  /** A power of two, 1 to 256 MiB; by default 2 MiB, 32 MiB for disks above 2 TiB. */
  readonly blockBytes?: number | undefined;
  /** 512 (default) or 4096. */
  readonly logicalSectorBytes?: number | undefined;
  /** 512 or 4096 (default). */
  readonly physicalSectorBytes?: number | undefined;
  /** A multiple of 1 MiB up to 1 GiB; 1 MiB by default. */
  readonly logBytes?: number | undefined;
  /** Source of the image's identities. */
  readonly random: Random;
}

/**
 * Makes a new image of whatever `file` held, and opens it. The file belongs to the disk from now on, or
 * still to the caller when this throws.
 *
 * The file type identifier is written last: a file whose creation was cut short is no VHDX.
 *
 * @throws ImageError `ERR_IMAGE_UNSUPPORTED` when an option breaks the format's limits; the file is then
 *   as it was.
 */
export function createVhdx(file: BlockFile, options: CreateVhdxOptions): VhdxDisk {
  const { sizeBytes, random, logBytes = MIB } = options;
  const identity = new Uint8Array(16);
  emitGuid(identity, 0, randomGuid(random));
  const disk: DiskParameters = {
    sizeBytes,
    blockBytes:
      options.blockBytes ??
      (sizeBytes <= SMALL_BLOCKS_UP_TO_BYTES ? SMALL_BLOCK_BYTES : LARGE_BLOCK_BYTES),
    logicalSectorBytes: options.logicalSectorBytes ?? 512,
    physicalSectorBytes: options.physicalSectorBytes ?? 4096,
    leaveBlocksAllocated: options.fixed ?? false,
    hasParent: false,
    identity,
  };
  checkOptions(disk, logBytes);

  const logOffset = MIB;
  const metadata = {
    id: RegionId.Metadata,
    offset: logOffset + logBytes,
    lengthBytes: METADATA_REGION_BYTES,
    required: true,
  };
  const grown = { ...disk, sizeBytes: Math.min(sizeBytes * BAT_SLACK, Limit.diskBytes) };
  const bat = {
    id: RegionId.Bat,
    offset: metadata.offset + metadata.lengthBytes,
    lengthBytes: roundUp(batBytes(batGeometry(grown)), MIB),
    required: true,
  };
  const blocks = new BlockMap(batGeometry(disk), bat);
  const firstBlock = bat.offset + bat.lengthBytes;
  if (disk.leaveBlocksAllocated)
    for (let block = 0; block < blocks.words.length; block++)
      blocks.words[block] = blockWord(
        BlockState.FullyPresent,
        (firstBlock + block * disk.blockBytes) / MIB,
      );

  file.truncate(0);
  // Log and BAT are written, zeros included, so that a full file system shows now and not in them later.
  const piece = new Uint8Array(MIB);
  for (let at = 0; at < logOffset + logBytes; at += MIB) file.write(at, piece, 0, MIB);
  const items = emitMetadata(disk);
  piece.set(items);
  file.write(metadata.offset, piece, 0, MIB);
  for (let at = 0; at < bat.lengthBytes; at += MIB) {
    for (let page = 0; page < MIB; page += PAGE_BYTES)
      blocks.renderPage(bat.offset + at + page, piece.subarray(page, page + PAGE_BYTES));
    file.write(bat.offset + at, piece, 0, MIB);
  }
  if (disk.leaveBlocksAllocated) file.truncate(firstBlock + blocks.words.length * disk.blockBytes);

  const table = emitRegionTable([metadata, bat]);
  file.write(FileMap.regionTable1, table, 0, table.byteLength);
  file.write(FileMap.regionTable2, table, 0, table.byteLength);
  const header = newHeader({
    fileWriteGuid: randomGuid(random),
    dataWriteGuid: randomGuid(random),
    logBytes,
    logOffset,
  });
  // As if slot 2 had been current: the first update goes to slot 1, the second to slot 2.
  new HeaderSlots(file, header, 1).updateBoth({});

  const identifier = new Uint8Array(PAGE_BYTES);
  const view = viewOf(identifier);
  emitText(identifier, IdentifierLayout.signature, IDENTIFIER_SIGNATURE);
  for (let index = 0; index < CREATOR.length; index++)
    view.setUint16(IdentifierLayout.creator + index * 2, CREATOR.charCodeAt(index), true);
  file.write(FileMap.identifier, identifier, 0, identifier.byteLength);
  file.flush();
  return openVhdx(file, { random });
}

function checkOptions(disk: DiskParameters, logBytes: number): void {
  const { blockBytes, logicalSectorBytes, physicalSectorBytes, sizeBytes } = disk;
  const demand = (rule: boolean, text: string): void => {
    if (!rule)
      throw new ImageError("ERR_IMAGE_UNSUPPORTED", { text, advice: "Choose another value." });
  };
  for (const [name, value] of [
    ["logical", logicalSectorBytes],
    ["physical", physicalSectorBytes],
  ] as const)
    demand(
      value === 512 || value === 4096,
      `the ${name} sector size must be 512 or 4096 bytes, not ${value}`,
    );
  demand(
    Number.isSafeInteger(sizeBytes) &&
      sizeBytes > 0 &&
      sizeBytes <= Limit.diskBytes &&
      sizeBytes % logicalSectorBytes === 0,
    `the disk size must be a multiple of ${logicalSectorBytes} bytes up to 64 TiB, not ${sizeBytes}`,
  );
  demand(
    isPowerOfTwo(blockBytes) &&
      blockBytes >= Limit.minBlockBytes &&
      blockBytes <= Limit.maxBlockBytes,
    `the block size must be a power of two from 1 MiB to 256 MiB, not ${blockBytes} bytes`,
  );
  demand(
    logBytes % MIB === 0 && logBytes >= Limit.minLogBytes && logBytes <= Limit.maxLogBytes,
    `the log size must be a multiple of 1 MiB up to 1 GiB, not ${logBytes} bytes`,
  );
}
