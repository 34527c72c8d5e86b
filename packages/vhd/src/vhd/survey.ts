import { type BlockFile } from "../block-file.js";
import { type Reporter } from "../reporter.js";
import { type BlockTable, readBlockTable } from "./block-table.js";
import { type DynamicHeader, DynamicHeaderLayout, parseDynamicHeader } from "./dynamic-header.js";
import { DiskType, type Footer, FooterLayout, hasFooterCookie, parseFooter } from "./footer.js";

/** Everything that the structures of a VHD say, as far as they could be read. */
export interface Survey {
  /** The footer that counts: the trailing one, or its copy at offset 0 when that one is torn. */
  readonly footer: Footer | undefined;
  /** The bytes of that footer. */
  readonly footerBytes: Uint8Array;
  /** File offset of the trailing footer; undefined when it is torn. */
  readonly trailerOffset: number | undefined;
  /** Dynamic disks: whether the copy at offset 0 equals the footer. */
  readonly copyIsSound: boolean;
  readonly header: DynamicHeader | undefined;
  readonly table: BlockTable | undefined;
}

/** 2040 GiB, the format's limit. */
export const MAX_VHD_BYTES = 0xff00_0000 * 512;

/** Which of the two kinds to read an image as, where its content could be either. */
export type VhdKind = "vhd-fixed" | "vhd-dynamic";

/** The bytes at both ends of a file where a footer, or its copy, may be. */
export interface FooterPlaces {
  readonly head: Uint8Array;
  readonly tail: Uint8Array;
  readonly tailOffset: number;
}

/** Reads where footers may be. */
export function readFooterPlaces(file: BlockFile): FooterPlaces {
  const size = Math.min(FooterLayout.SIZE, file.sizeBytes);
  const head = readBytes(file, 0, size);
  const tailOffset = file.sizeBytes - size;
  const tail = readBytes(file, tailOffset, size);
  if (hasFooterCookie(tail) || size < FooterLayout.SIZE) return { head, tail, tailOffset };
  // Virtual PC before 2004 wrote footers of 511 bytes.
  const short = readBytes(file, tailOffset + 1, size);
  return hasFooterCookie(short)
    ? { head, tail: short, tailOffset: tailOffset + 1 }
    : { head, tail, tailOffset };
}

/**
 * Whether the footer is that of a fixed disk that fills the file before it exactly.
 * The first sectors are then the guest's to write, and must not decide what the file is.
 */
export function isExactFixedFooter(footer: Footer | string, offset: number): boolean {
  return (
    typeof footer !== "string" &&
    footer.diskType === DiskType.Fixed &&
    footer.currentSize === BigInt(offset)
  );
}

/**
 * Reads and judges the footers, the dynamic header and the block allocation table; the reporter hears
 * of everything that is wrong.
 *
 * `kind` settles which footer to trust when the file could be a fixed disk whose guest wrote a dynamic
 * VHD to its first sectors, or the other way round; without it such a file is an error.
 */
export function surveyVhd(file: BlockFile, reporter: Reporter, kind?: VhdKind): Survey {
  const { head, tail, tailOffset } = readFooterPlaces(file);
  const copy = parseFooter(head);
  const trailer = parseFooter(tail);
  const isFixed =
    kind === undefined ? looksFixed(reporter, copy, trailer, tailOffset) : kind === "vhd-fixed";
  return isFixed
    ? surveyFixed(reporter, trailer, tail, tailOffset)
    : surveyDynamic(file, reporter, { copy, head, trailer, tail, tailOffset });
}

/** Decides by what a guest cannot write; see `isExactFixedFooter`. */
function looksFixed(
  reporter: Reporter,
  copy: Footer | string,
  trailer: Footer | string,
  tailOffset: number,
): boolean {
  const copyIsDynamic = typeof copy !== "string" && copy.diskType !== DiskType.Fixed;
  const isExact = isExactFixedFooter(trailer, tailOffset);
  if (isExact && copyIsDynamic)
    reporter.error(
      "ERR_IMAGE_UNSUPPORTED",
      "footer",
      tailOffset,
      "the file ends as a fixed disk and starts as a dynamic one, and a guest may have forged either; say which it is by the format option",
    );
  if (isExact || copyIsDynamic) return isExact;
  return typeof trailer !== "string" && trailer.diskType === DiskType.Fixed;
}

function surveyFixed(
  reporter: Reporter,
  trailer: Footer | string,
  footerBytes: Uint8Array,
  offset: number,
): Survey {
  const footer = typeof trailer === "string" ? undefined : trailer;
  if (footer === undefined)
    reporter.error("ERR_IMAGE_CORRUPT", "footer", offset, defectOf(trailer));
  else {
    judgeFooter(reporter, footer, offset);
    if (footer.diskType !== DiskType.Fixed)
      reporter.error("ERR_IMAGE_CORRUPT", "footer", offset, "it is not that of a fixed disk");
    else if (footer.currentSize > BigInt(offset)) {
      const text = `the disk has ${footer.currentSize} bytes, the file only ${offset} before the footer`;
      reporter.error("ERR_IMAGE_TRUNCATED", "footer", offset, text);
    }
  }
  return {
    footer,
    footerBytes,
    trailerOffset: offset,
    copyIsSound: false,
    header: undefined,
    table: undefined,
  };
}

interface DynamicEnds extends FooterPlaces {
  readonly copy: Footer | string;
  readonly trailer: Footer | string;
}

function surveyDynamic(file: BlockFile, reporter: Reporter, ends: DynamicEnds): Survey {
  const { copy, head, trailer, tail, tailOffset } = ends;
  const ownTrailer = isOwnTrailer(copy, trailer) ? trailer : undefined;
  const footer = ownTrailer ?? (typeof copy === "string" ? undefined : copy);
  const footerBytes = ownTrailer ? tail : head;
  const trailerOffset = ownTrailer ? tailOffset : undefined;
  const copyIsSound = head.every((byte, index) => byte === footerBytes[index]);
  let header: DynamicHeader | undefined;
  let table: BlockTable | undefined;
  if (footer === undefined) {
    reporter.error("ERR_IMAGE_CORRUPT", "footer", tailOffset, defectOf(trailer));
    reporter.error("ERR_IMAGE_CORRUPT", "footer copy", 0, defectOf(copy));
  } else {
    judgeFooter(reporter, footer, trailerOffset ?? 0);
    if (!ownTrailer) {
      const text = `${defectOf(trailer)}; its copy at the start of the file counts`;
      reporter.warning("footer", tailOffset, text);
    } else if (!copyIsSound) reporter.warning("footer copy", 0, "it differs from the footer");
    header = readHeader(file, reporter, footer, trailerOffset ?? 0);
    table = header && readBlockTable(file, reporter, footer, header);
  }
  return { footer, footerBytes, trailerOffset, copyIsSound, header, table };
}

/** Whether a trailing footer belongs to the dynamic disk, and not to guest data that ends a torn file. */
function isOwnTrailer(copy: Footer | string, trailer: Footer | string): trailer is Footer {
  if (typeof trailer === "string" || trailer.diskType === DiskType.Fixed) return false;
  return (
    typeof copy === "string" || copy.uniqueId.every((byte, at) => byte === trailer.uniqueId[at])
  );
}

function defectOf(footer: Footer | string): string {
  return typeof footer === "string" ? footer : "it is not this disk's";
}

function judgeFooter(reporter: Reporter, footer: Footer, offset: number): void {
  const { diskType, currentSize } = footer;
  const { Fixed, Dynamic, Differencing } = DiskType;
  if (diskType !== Fixed && diskType !== Dynamic && diskType !== Differencing) {
    const text = `disk type ${diskType} is not fixed (2), dynamic (3) or differencing (4)`;
    reporter.error("ERR_IMAGE_UNSUPPORTED", "footer", offset + FooterLayout.diskType, text);
  }
  const field = offset + FooterLayout.currentSize;
  if (currentSize === 0n || currentSize % 512n !== 0n) {
    const text = `the current size of ${currentSize} bytes is not a positive multiple of 512`;
    reporter.error("ERR_IMAGE_CORRUPT", "footer", field, text);
  } else if (currentSize > BigInt(MAX_VHD_BYTES)) {
    const text = `the current size of ${currentSize} bytes is above the format's limit of 2040 GiB`;
    reporter.error("ERR_IMAGE_UNSUPPORTED", "footer", field, text);
  }
}

function readHeader(
  file: BlockFile,
  reporter: Reporter,
  footer: Footer,
  footerOffset: number,
): DynamicHeader | undefined {
  const structure = "dynamic header";
  const { dataOffset } = footer;
  if (dataOffset < BigInt(FooterLayout.SIZE) || dataOffset > Number.MAX_SAFE_INTEGER) {
    const text = `the data offset 0x${dataOffset.toString(16)} leads to no dynamic header`;
    const field = footerOffset + FooterLayout.dataOffset;
    reporter.error("ERR_IMAGE_CORRUPT", "footer", field, text);
    return undefined;
  }
  const offset = Number(dataOffset);
  if (offset + DynamicHeaderLayout.SIZE > file.sizeBytes) {
    const text = `the file of ${file.sizeBytes} bytes ends before or inside it`;
    reporter.error("ERR_IMAGE_TRUNCATED", structure, offset, text);
    return undefined;
  }
  const header = parseDynamicHeader(readBytes(file, offset, DynamicHeaderLayout.SIZE));
  if (typeof header === "string") {
    reporter.error("ERR_IMAGE_CORRUPT", structure, offset, header);
    return undefined;
  }
  if (footer.diskType === DiskType.Differencing) {
    const text = `the image is a differencing disk over '${header.parentName}', which is not supported yet`;
    reporter.error("ERR_IMAGE_UNSUPPORTED", structure, offset, text);
  }
  return header;
}

/** Reads a whole small structure; what lies past the end of the file reads as zero. */
function readBytes(file: BlockFile, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  file.read(offset, bytes, 0, length);
  return bytes;
}
