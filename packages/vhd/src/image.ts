import { type BlockFile } from "./block-file.js";
import { ImageError } from "./errors.js";
import { type Finding } from "./finding.js";
import { type Random } from "./random.js";
import { hasText } from "./text-field.js";
import {
  checkVhd,
  createVhd,
  describeVhd,
  hasFooterCookie,
  isExactFixedFooter,
  openVhd,
  parseFooter,
  readFooterPlaces,
  type VhdDescription,
  type VhdKind,
} from "./vhd/index.js";
import {
  checkVhdx,
  createVhdx,
  describeVhdx,
  openVhdx,
  type VhdxDescription,
} from "./vhdx/index.js";
import { type ImageFormat, type MappedDisk } from "./virtual-disk.js";

/** How to open an image. */
export interface OpenImageOptions {
  /** Makes the identities of a session; VHDX only. */
  readonly random: Random;
  /** Opens for reading even where the file could be written. */
  readonly readOnly?: boolean | undefined;
  /**
   * What the file is, when its content does not decide, because its guest may have written the
   * structures of another format where that format has them. Of the two VHDX formats either will do.
   */
  readonly format?: ImageFormat | undefined;
}

/** What a new image is to be. */
export interface CreateImageOptions {
  readonly format: ImageFormat;
  /** Size of the virtual disk: a positive multiple of the logical sector; at most 2040 GiB (VHD) or 64 TiB. */
  readonly sizeBytes: number;
  /** A power of two; VHD: 4 KiB to 256 MiB, 2 MiB without it; VHDX: 1 to 256 MiB, by size without it. */
  readonly blockBytes?: number | undefined;
  /** VHDX: 512 or 4096; a VHD has 512. */
  readonly logicalSectorBytes?: 512 | 4096 | undefined;
  /** VHDX: 512 or 4096; a VHD has 512. */
  readonly physicalSectorBytes?: 512 | 4096 | undefined;
  readonly random: Random;
  /** Time of creation in seconds since the Unix epoch; VHD only. */
  readonly unixSeconds?: number | undefined;
}

/** What an image says about itself. */
export type ImageDescription = VhdDescription | VhdxDescription;

/**
 * Opens a VHD or VHDX by its content.
 *
 * Opened for writing, an image is made whole first: logs are replayed, torn copies repaired. The image
 * owns `file` from here on; when this throws, the caller still does.
 *
 * @throws ImageError `ERR_IMAGE_FOREIGN` for raw files and other formats, and any other of the codes.
 */
export function openImage(file: BlockFile, options: OpenImageOptions): MappedDisk {
  const { random, readOnly, format } = options;
  return containerOf(file, format) === "vhdx"
    ? openVhdx(file, { random, readOnly: readOnly === true })
    : openVhd(file, { readOnly, format: vhdKind(format) });
}

/**
 * Makes an image in an empty file, durable when this returns, and opens it for writing.
 *
 * @throws ImageError `ERR_IMAGE_UNSUPPORTED` when an option breaks the format's limits.
 */
export function createImage(file: BlockFile, options: CreateImageOptions): MappedDisk {
  const { format, sizeBytes, blockBytes, random, unixSeconds } = options;
  const { logicalSectorBytes, physicalSectorBytes } = options;
  const fixed = format === "vhd-fixed" || format === "vhdx-fixed";
  if (vhdKind(format) === undefined)
    return createVhdx(file, {
      sizeBytes,
      fixed,
      random,
      ...(blockBytes !== undefined && { blockBytes }),
      ...(logicalSectorBytes !== undefined && { logicalSectorBytes }),
      ...(physicalSectorBytes !== undefined && { physicalSectorBytes }),
    });
  if (logicalSectorBytes === 4096 || physicalSectorBytes === 4096)
    throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
      text: "a VHD has sectors of 512 bytes",
      advice: "Make it a VHDX for sectors of 4096.",
    });
  return createVhd(file, { sizeBytes, fixed, blockBytes, random, unixSeconds });
}

/**
 * Everything that is wrong with an image, without changing it; empty when it is sound.
 *
 * @throws ImageError `ERR_IMAGE_FOREIGN` when it is no image at all.
 */
export function checkImage(file: BlockFile, format?: ImageFormat): Finding[] {
  return containerOf(file, format) === "vhdx" ? checkVhdx(file) : checkVhd(file, vhdKind(format));
}

/** Describes an image without changing it. */
export function describeImage(file: BlockFile, format?: ImageFormat): ImageDescription {
  return containerOf(file, format) === "vhdx"
    ? describeVhdx(file)
    : describeVhd(file, vhdKind(format));
}

function vhdKind(format: ImageFormat | undefined): VhdKind | undefined {
  return format === "vhd-fixed" || format === "vhd-dynamic" ? format : undefined;
}

function containerOf(file: BlockFile, format: ImageFormat | undefined): "vhd" | "vhdx" {
  if (format !== undefined) return vhdKind(format) === undefined ? "vhdx" : "vhd";
  const { head, tail, tailOffset } = readFooterPlaces(file);
  const isVhdx = hasText(head, 0, "vhdxfile");
  if (isVhdx && isExactFixedFooter(parseFooter(tail), tailOffset))
    throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
      structure: "footer",
      offset: tailOffset,
      text: "the file starts as a VHDX and ends as a fixed VHD, and a guest may have forged either",
      advice: "Say which it is by the format option.",
    });
  if (isVhdx) return "vhdx";
  if (hasFooterCookie(head) || hasFooterCookie(tail)) return "vhd";
  const other = foreignFormat(file);
  if (other !== undefined)
    throw new ImageError("ERR_IMAGE_FOREIGN", {
      structure: "signature",
      offset: 0,
      text: `it is ${other}, not a VHD or VHDX`,
      advice: "Convert it with a program that knows it, such as qemu-img.",
    });
  throw new ImageError("ERR_IMAGE_FOREIGN", {
    structure: "signature",
    offset: 0,
    text: "there is neither the signature of a VHDX at its start nor a VHD footer at its end, so it is raw, foreign, or a fixed VHD that was cut",
  });
}

const foreignMagics: readonly (readonly [offset: number, magic: string, name: string])[] = [
  [0, "QFI\xfb", "a QCOW image"],
  [0, "KDMV", "a VMDK image"],
  [0, "# Disk DescriptorFile", "a VMDK description"],
  [0, "\x1f\x8b", "a gzip file"],
  [0, "\xfd7zXZ\0", "an xz file"],
  [0, "\x28\xb5\x2f\xfd", "a zstd file"],
  [0, "PK\x03\x04", "a zip file"],
  [64, "\x7f\x10\xda\xbe", "a VDI image"],
];

/** The name of a well-known format that is surely no raw disk; undefined for everything else. */
export function foreignFormat(file: BlockFile): string | undefined {
  const head = new Uint8Array(512);
  file.read(0, head, 0, head.byteLength);
  return foreignMagics.find(([offset, magic]) => hasText(head, offset, magic))?.[2];
}
