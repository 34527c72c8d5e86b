import { type BlockFile } from "../block-file.js";
import { readGuid } from "../guid.js";
import { refusing } from "../reporter.js";
import { type ImageFormat } from "../virtual-disk.js";
import { readBody, readHead } from "./image.js";
import { MIB } from "./layout.js";
import { OverlayFile } from "./overlay-file.js";

/** What there is to know about a VHDX without reading its blocks. */
export interface VhdxDescription {
  /** `vhdx-differencing` images can be described, but not opened. */
  readonly format: Extract<ImageFormat, `vhdx-${string}`> | "vhdx-differencing";
  /** The program that made the image, as it calls itself. */
  readonly creator: string;
  readonly sizeBytes: number;
  readonly fileBytes: number;
  readonly blockBytes: number;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
  readonly logBytes: number;
  /** 0 when the image was closed in order; otherwise that many are replayed when it is opened. */
  readonly logEntries: number;
  readonly blocks: number;
  /** Blocks that lie in the file. */
  readonly allocatedBlocks: number;
  /** Bytes between the file's objects that belong to none of them. */
  readonly unownedBytes: number;
  /** The virtual disk id, which SCSI shows in VPD page 0x83. */
  readonly diskId: string;
  readonly fileWriteGuid: string;
  readonly dataWriteGuid: string;
}

/** Reads the description, a log in memory included; throws as `openVhdx` does, except for differencing images. */
export function describeVhdx(file: BlockFile): VhdxDescription {
  const { creator, headers, log } = readHead(file, refusing)!;
  const replayed = new OverlayFile(file);
  log?.reader.replay(log.active, replayed);
  const { parameters, blocks, space } = readBody(replayed, headers, refusing)!;
  return {
    format: parameters.hasParent
      ? "vhdx-differencing"
      : parameters.leaveBlocksAllocated
        ? "vhdx-fixed"
        : "vhdx-dynamic",
    creator,
    sizeBytes: parameters.sizeBytes,
    fileBytes: file.sizeBytes,
    blockBytes: parameters.blockBytes,
    logicalSectorBytes: parameters.logicalSectorBytes,
    physicalSectorBytes: parameters.physicalSectorBytes,
    logBytes: headers.current.logBytes,
    logEntries: log?.active.entries ?? 0,
    blocks: blocks.geometry.payloadBlocks,
    allocatedBlocks: blocks.presentCount(),
    unownedBytes: space.unownedMib() * MIB,
    diskId: readGuid(parameters.identity),
    fileWriteGuid: headers.current.fileWriteGuid,
    dataWriteGuid: headers.current.dataWriteGuid,
  };
}
