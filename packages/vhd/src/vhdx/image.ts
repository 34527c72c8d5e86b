import { type BlockFile } from "../block-file.js";
import { ZERO_GUID } from "../guid.js";
import { type Reporter } from "../reporter.js";
import { hasText } from "../text-field.js";
import { BlockMap } from "./block-map.js";
import { FileSpace } from "./file-space.js";
import { type HeaderSlots, readHeaders } from "./header.js";
import { FileMap, IDENTIFIER_SIGNATURE, IdentifierLayout, Limit, MIB, viewOf } from "./layout.js";
import { type ActiveLog, LogReader } from "./log-reader.js";
import { type DiskParameters, readMetadata } from "./metadata.js";
import { readRegionTable, type RegionTable } from "./region-table.js";

const CREATOR_BYTES = 512;

/** What can be read before the log was replayed. */
export interface ImageHead {
  /** The program that made the image, as it calls itself. */
  readonly creator: string;
  readonly headers: HeaderSlots;
  /** The log, when there is something in it to be replayed. */
  readonly log: { readonly reader: LogReader; readonly active: ActiveLog } | undefined;
}

/** What may only be read once the log was replayed, in the file or in memory. */
export interface ImageBody {
  readonly regions: RegionTable;
  readonly parameters: DiskParameters;
  readonly blocks: BlockMap;
  readonly space: FileSpace;
}

/** Reads the identifier and the headers, and finds and checks the log; `undefined` when nothing can follow. */
export function readHead(file: BlockFile, reporter: Reporter): ImageHead | undefined {
  const bytes = new Uint8Array(IdentifierLayout.creator + CREATOR_BYTES);
  file.read(FileMap.identifier, bytes, 0, bytes.byteLength);
  if (!hasText(bytes, IdentifierLayout.signature, IDENTIFIER_SIGNATURE)) {
    reporter.error(
      "ERR_IMAGE_FOREIGN",
      "file type identifier",
      FileMap.identifier,
      "the signature 'vhdxfile' is missing",
    );
    return undefined;
  }
  if (file.sizeBytes > Limit.fileBytes)
    reporter.error(
      "ERR_IMAGE_UNSUPPORTED",
      "file",
      0,
      `its ${file.sizeBytes} bytes are more than 256 TiB`,
    );
  const headers = readHeaders(file, reporter);
  if (headers === undefined) return undefined;
  const head = { creator: readCreator(bytes), headers, log: undefined };
  if (headers.current.logGuid === ZERO_GUID) return head;
  const reader = new LogReader(file, headers.current);
  const active = reader.findActive(reporter);
  if (active === undefined || !reader.check(active, reporter)) return undefined;
  return { ...head, log: { reader, active } };
}

/** Reads regions, metadata and BAT; `undefined` when they do not make a disk. */
export function readBody(
  file: BlockFile,
  headers: HeaderSlots,
  reporter: Reporter,
): ImageBody | undefined {
  const regions = readRegionTable(file, reporter);
  if (regions === undefined) return undefined;
  const space = new FileSpace();
  space.claim(0, 1);
  const { logBytes, logOffset } = headers.current;
  if (logBytes > 0) space.claim(logOffset / MIB, logBytes / MIB);
  for (const region of regions.regions)
    if (!space.claim(region.offset / MIB, region.lengthBytes / MIB))
      reporter.error(
        "ERR_IMAGE_CORRUPT",
        "region table",
        FileMap.regionTable1,
        `region ${region.id} at ${region.offset} overlaps the log or another region`,
      );
  const parameters = readMetadata(file, regions.metadata, reporter);
  if (parameters === undefined) return undefined;
  const blocks = BlockMap.read(file, regions.bat, parameters, space, reporter);
  return blocks === undefined ? undefined : { regions, parameters, blocks, space };
}

function readCreator(identifier: Uint8Array): string {
  const view = viewOf(identifier);
  let creator = "";
  for (let at: number = IdentifierLayout.creator; at < identifier.byteLength; at += 2) {
    const unit = view.getUint16(at, true);
    if (unit === 0) break;
    creator += String.fromCharCode(unit);
  }
  return creator;
}
