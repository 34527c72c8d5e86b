import { type BlockFile } from "../block-file.js";
import { ImageError } from "../errors.js";
import { type Random } from "../random.js";
import { refusing } from "../reporter.js";
import { VhdxDisk } from "./disk.js";
import { readBody, readHead } from "./image.js";
import { OverlayFile } from "./overlay-file.js";
import { WriteSession } from "./write-session.js";

/** How to open a VHDX. */
export interface OpenVhdxOptions {
  /** Source of the GUIDs that a session writes; not used when reading only. */
  readonly random: Random;
  /** Opens for reading even where the file could be written. A log is then replayed in memory. */
  readonly readOnly?: boolean | undefined;
}

/**
 * Opens a VHDX, fixed or dynamic, after replaying its log where there is one.
 *
 * For writing, a dirty log is replayed into the file and a damaged region table is repaired; otherwise
 * the file stays as it is until the disk is written to. The file belongs to the disk from now on, or
 * still to the caller when this throws.
 *
 * @throws ImageError `ERR_IMAGE_FOREIGN`, `ERR_IMAGE_CORRUPT`, `ERR_IMAGE_TRUNCATED`,
 *   `ERR_IMAGE_INCOMPLETE`, or `ERR_IMAGE_UNSUPPORTED` (a differencing image, an unknown required
 *   region or item, another version), with the structure and its file offset.
 */
export function openVhdx(file: BlockFile, options: OpenVhdxOptions): VhdxDisk {
  const readOnly = file.readOnly || options.readOnly === true;
  // With `refusing`, what cannot be read throws.
  const { headers, log } = readHead(file, refusing)!;
  const session = new WriteSession(file, headers, options.random);
  let replayed = file;
  if (log !== undefined) {
    if (readOnly) replayed = new OverlayFile(file);
    else session.announce();
    log.reader.replay(log.active, replayed);
    replayed.flush();
    if (!readOnly) session.emptyLog();
  }
  const body = readBody(replayed, headers, refusing)!;
  if (body.parameters.hasParent)
    throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
      structure: "metadata",
      offset: body.regions.metadata.offset,
      text: "this is a differencing image, which holds only what differs from its parent",
      advice: "Merge it into its parent with the program that made it.",
    });
  if (body.blocks.hasDraftStates && !readOnly)
    throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
      structure: "BAT",
      offset: body.regions.bat.offset,
      text: "some blocks are in a state that only a draft of the format had",
      advice: "Open it read-only, or convert it.",
    });
  const disk = new VhdxDisk({ ...body, file: replayed, readOnly, session });
  if (body.regions.needsRepair && !readOnly) disk.repairRegionTables();
  return disk;
}
