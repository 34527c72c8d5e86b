import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { type Finding } from "../finding.js";
import { collecting } from "../reporter.js";
import { NOT_ALLOCATED } from "./dynamic-header.js";
import { DiskType, FEATURES_RESERVED, FooterLayout, VHD_EPOCH_SECONDS } from "./footer.js";
import { type Geometry } from "./geometry.js";
import { surveyVhd, type VhdKind } from "./survey.js";

/** What a VHD says about itself. */
export interface VhdDescription {
  readonly format: "vhd-fixed" | "vhd-dynamic" | "vhd-differencing";
  readonly sizeBytes: number;
  /** Holes included. */
  readonly fileBytes: number;
  readonly logicalSectorBytes: 512;
  readonly physicalSectorBytes: 512;
  /** The unique id, as 8-4-4-4-12 hexadecimal digits. */
  readonly diskId: string;
  /** The program that made the image, as it names itself: `win `, `qem2`, `vpc `. */
  readonly creator: string;
  /** Time of creation, in seconds since the Unix epoch. */
  readonly createdUnixSeconds: number;
  readonly geometry: Geometry;
  /** Not for fixed disks. */
  readonly blockBytes?: number;
  /** Not for fixed disks: blocks of the disk, and how many of them are in the file. */
  readonly blocks?: number;
  readonly allocatedBlocks?: number;
  /** Differencing disks: the parent's name as the image stores it. */
  readonly parentName?: string;
}

/**
 * Describes a VHD without opening it; also a differencing one, and one that has lesser damage.
 *
 * @throws ImageError `ERR_IMAGE_CORRUPT` when there is no valid footer.
 */
export function describeVhd(file: BlockFile, kind?: VhdKind): VhdDescription {
  const findings: Finding[] = [];
  const { footer, header, table } = surveyVhd(file, collecting(findings), kind);
  if (footer === undefined)
    throw new ImageError("ERR_IMAGE_CORRUPT", findings[0] ?? { text: "there is no footer" });
  const isFixed = footer.diskType === DiskType.Fixed;
  const isDifferencing = footer.diskType === DiskType.Differencing;
  return {
    format: isFixed ? "vhd-fixed" : isDifferencing ? "vhd-differencing" : "vhd-dynamic",
    sizeBytes: Number(footer.currentSize),
    fileBytes: file.sizeBytes,
    logicalSectorBytes: 512,
    physicalSectorBytes: 512,
    diskId: uniqueIdText(footer.uniqueId),
    creator: footer.creatorApplication,
    createdUnixSeconds: footer.timestamp + VHD_EPOCH_SECONDS,
    geometry: footer.geometry,
    ...(header !== undefined && { blockBytes: header.blockBytes }),
    ...(table !== undefined && {
      blocks: table.sectors.length,
      allocatedBlocks: table.sectors.reduce((sum, at) => sum + (at === NOT_ALLOCATED ? 0 : 1), 0),
    }),
    ...(isDifferencing && header !== undefined && { parentName: header.parentName }),
  };
}

/**
 * Everything that is wrong with a VHD, read-only: footer and copy, dynamic header, table, and the
 * place of every block. An empty list means that the image is sound.
 */
export function checkVhd(file: BlockFile, kind?: VhdKind): Finding[] {
  const findings: Finding[] = [];
  const reporter = collecting(findings);
  const { footer, table, trailerOffset } = surveyVhd(file, reporter, kind);
  if (footer !== undefined && (footer.features & FEATURES_RESERVED) === 0) {
    const field = (trailerOffset ?? 0) + FooterLayout.features;
    reporter.warning("footer", field, "the reserved feature bit is not set");
  }
  if (table !== undefined && trailerOffset !== undefined) {
    const unowned = trailerOffset - table.endOffset;
    if (unowned >= table.blockBytes) {
      const text = `${unowned} bytes before the footer belong to no block`;
      reporter.warning("blocks", table.endOffset, text);
    } else if (unowned < 0) {
      const text = "it lies inside the last block, behind the end of the disk";
      reporter.warning("footer", trailerOffset, text);
    }
  }
  return findings;
}

/** 16 bytes in the order of the file. */
function uniqueIdText(bytes: Uint8Array): string {
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
