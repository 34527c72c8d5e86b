import { assert } from "../assertion.js";
import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { isPowerOfTwo } from "../power-of-two.js";
import { type Random } from "../random.js";
import { refusing } from "../reporter.js";
import { type MappedDisk } from "../virtual-disk.js";
import { type BlockTable, MAX_BLOCKS, nextBlockOffset } from "./block-table.js";
import { DynamicHeaderLayout, emitDynamicHeader } from "./dynamic-header.js";
import { DynamicVhd } from "./dynamic-vhd.js";
import { FixedVhd } from "./fixed-vhd.js";
import {
  DiskType,
  emitFooter,
  FEATURES_RESERVED,
  FooterLayout,
  NO_OFFSET,
  VHD_EPOCH_SECONDS,
} from "./footer.js";
import { chsGeometry } from "./geometry.js";
import { MAX_VHD_BYTES, surveyVhd, type VhdKind } from "./survey.js";

/** How to open a VHD. */
export interface OpenVhdOptions {
  /** Opens for reading even where the file could be written. */
  readonly readOnly?: boolean | undefined;
  /** Needed only when the content could be either; see `surveyVhd`. */
  readonly format?: VhdKind | undefined;
}

/** What a new VHD is to be. */
export interface CreateVhdOptions {
  /** A positive multiple of 512, at most 2040 GiB. */
  readonly sizeBytes: number;
  /** All space in place from the start, instead of block by block. */
  readonly fixed?: boolean | undefined;
  /** Dynamic only: a power of two from 4096 to 256 MiB; 2 MiB without it. */
  readonly blockBytes?: number | undefined;
  /** Makes the unique id. */
  readonly random: Random;
  /** Time of creation, in seconds since the Unix epoch; the start of 2000 without it. */
  readonly unixSeconds?: number | undefined;
}

const DEFAULT_BLOCK_BYTES = 2 << 20;

/**
 * Opens a fixed or dynamic VHD.
 *
 * Opened for writing, a torn footer or copy is repaired, and space that an interrupted allocation has
 * left at the end is given back. The image owns `file` from here on; when this throws, the caller does.
 *
 * @throws ImageError `ERR_IMAGE_CORRUPT`, `ERR_IMAGE_TRUNCATED`, `ERR_IMAGE_UNSUPPORTED` (differencing
 *   disks among others), with the structure and its file offset.
 */
export function openVhd(file: BlockFile, options: OpenVhdOptions = {}): MappedDisk {
  const readOnly = file.readOnly || options.readOnly === true;
  const survey = surveyVhd(file, refusing, options.format);
  const { footer, footerBytes, table } = survey;
  assert(footer !== undefined, "a survey without errors has a footer");
  const sizeBytes = Number(footer.currentSize);
  const { uniqueId } = footer;
  if (footer.diskType === DiskType.Fixed) return new FixedVhd(file, readOnly, sizeBytes, uniqueId);
  assert(table !== undefined, "a survey without errors has a table");
  let { trailerOffset } = survey;
  if (!readOnly) {
    if (!survey.copyIsSound) {
      file.write(0, footerBytes, 0, FooterLayout.SIZE);
      file.flush();
    }
    if (
      trailerOffset === undefined ||
      trailerOffset < table.endOffset ||
      isAbandonedSpace(table, trailerOffset)
    ) {
      // What follows the last block belongs to nobody, and must read as zero when it is used again.
      trailerOffset = table.endOffset;
      file.truncate(trailerOffset);
      file.write(trailerOffset, footerBytes, 0, FooterLayout.SIZE);
      file.flush();
    }
  }
  return new DynamicVhd(
    file,
    readOnly,
    sizeBytes,
    uniqueId,
    table,
    footerBytes,
    trailerOffset ?? table.endOffset,
  );
}

/** Whether what lies between the last block and the footer is blocks that never reached the table. */
function isAbandonedSpace(table: BlockTable, trailerOffset: number): boolean {
  const blockBytes = table.bitmapBytes + table.blockBytes;
  const first = nextBlockOffset(table.endOffset, table.bitmapBytes);
  const stride = nextBlockOffset(first + blockBytes, table.bitmapBytes) - first;
  const behindFirst = trailerOffset - (first + blockBytes);
  return behindFirst >= 0 && behindFirst % stride === 0;
}

/**
 * Makes a VHD in an empty file, durable when this returns, and opens it.
 *
 * The creator is given as `win `, so that every reader takes the exact size and not the one of the
 * geometry.
 *
 * @throws ImageError `ERR_IMAGE_UNSUPPORTED` when an option breaks the format's limits.
 */
export function createVhd(file: BlockFile, options: CreateVhdOptions): MappedDisk {
  assert(file.sizeBytes === 0, "an image is created in an empty file");
  const { sizeBytes, fixed = false, blockBytes = DEFAULT_BLOCK_BYTES, random } = options;
  const blocks = Math.ceil(sizeBytes / blockBytes);
  demand(
    sizeBytes > 0 && sizeBytes % 512 === 0 && sizeBytes <= MAX_VHD_BYTES,
    `the size of a VHD must be a multiple of 512 bytes up to 2040 GiB, not ${sizeBytes}`,
  );
  demand(
    isPowerOfTwo(blockBytes) && blockBytes >= 4096 && blockBytes <= 1 << 28,
    `the block size of a VHD must be a power of two from 4 KiB to 256 MiB, not ${blockBytes} bytes`,
  );
  demand(fixed || blocks <= MAX_BLOCKS, `${blocks} blocks are too many, they must be larger`);
  const uniqueId = new Uint8Array(16);
  random.fill(uniqueId);
  const footerBytes = emitFooter({
    features: FEATURES_RESERVED,
    dataOffset: fixed ? NO_OFFSET : BigInt(FooterLayout.SIZE),
    timestamp: Math.max(0, (options.unixSeconds ?? VHD_EPOCH_SECONDS) - VHD_EPOCH_SECONDS),
    creatorApplication: "win ",
    creatorVersion: 0x000a_0000,
    creatorHostOs: "Wi2k",
    originalSize: BigInt(sizeBytes),
    currentSize: BigInt(sizeBytes),
    geometry: chsGeometry(sizeBytes),
    diskType: fixed ? DiskType.Fixed : DiskType.Dynamic,
    uniqueId,
    savedState: 0,
  });
  if (!fixed) {
    const tableOffset = FooterLayout.SIZE + DynamicHeaderLayout.SIZE;
    const table = new Uint8Array(Math.ceil((blocks * 4) / 512) * 512).fill(0xff);
    const header = { tableOffset: BigInt(tableOffset), maxTableEntries: blocks, blockBytes };
    file.write(0, footerBytes, 0, FooterLayout.SIZE);
    file.write(FooterLayout.SIZE, emitDynamicHeader(header), 0, DynamicHeaderLayout.SIZE);
    file.write(tableOffset, table, 0, table.byteLength);
  }
  file.write(fixed ? sizeBytes : file.sizeBytes, footerBytes, 0, FooterLayout.SIZE);
  file.flush();
  return openVhd(file, { format: fixed ? "vhd-fixed" : "vhd-dynamic" });
}

function demand(rule: boolean, text: string): void {
  if (!rule)
    throw new ImageError("ERR_IMAGE_UNSUPPORTED", { text, advice: "Choose another value." });
}
