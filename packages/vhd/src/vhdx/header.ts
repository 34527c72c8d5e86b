import { type BlockFile } from "../block-file.js";
import { crc32cWithoutField } from "../crc32c.js";
import { ImageError } from "../errors.js";
import { emitGuid, readGuid, ZERO_GUID } from "../guid.js";
import { type Reporter } from "../reporter.js";
import { emitText, hasText } from "../text-field.js";
import { emitU64, FileMap, Limit, MIB, PAGE_BYTES, readU64, sameBytes, viewOf } from "./layout.js";

/** Byte offsets in a header; the CRC covers all 4096 bytes. Little-endian. */
export const HeaderLayout = {
  signature: 0, // 4 characters
  checksum: 4, // u32
  sequence: 8, // u64
  fileWriteGuid: 16, // 16 bytes
  dataWriteGuid: 32, // 16 bytes
  logGuid: 48, // 16 bytes
  logVersion: 64, // u16
  version: 66, // u16
  logBytes: 68, // u32
  logOffset: 72, // u64
  SIZE: PAGE_BYTES, // the rest is reserved
} as const;

/** How a header starts. */
export const HEADER_SIGNATURE = "head";
const VERSION = 1;
const LOG_VERSION = 0;
const MAX_SEQUENCE = 0xffff_ffff_ffff_ffffn;
const slotOffsets = [FileMap.header1, FileMap.header2] as const;

/** One of the two headers, copied out of the file. */
export interface Header {
  /** The valid header with the greater number is the current one. */
  readonly sequence: bigint;
  /** Changes once per session that writes anything at all to the file. */
  readonly fileWriteGuid: string;
  /** Changes once per session that changes what the guest sees; children name their parent by it. */
  readonly dataWriteGuid: string;
  /** `ZERO_GUID` when nothing is to be replayed. */
  readonly logGuid: string;
  readonly logVersion: number;
  readonly version: number;
  readonly logBytes: number;
  readonly logOffset: number;
}

/** Parses 4096 bytes; a string says why they are no valid header. */
export function parseHeader(bytes: Uint8Array): Header | string {
  if (!hasText(bytes, HeaderLayout.signature, HEADER_SIGNATURE))
    return "the signature 'head' is missing";
  const view = viewOf(bytes);
  const checksum = view.getUint32(HeaderLayout.checksum, true);
  const expected = crc32cWithoutField(bytes, HeaderLayout.checksum);
  if (checksum !== expected)
    return `the checksum is 0x${checksum.toString(16)}, its bytes give 0x${expected.toString(16)}`;
  return {
    sequence: view.getBigUint64(HeaderLayout.sequence, true),
    fileWriteGuid: readGuid(bytes, HeaderLayout.fileWriteGuid),
    dataWriteGuid: readGuid(bytes, HeaderLayout.dataWriteGuid),
    logGuid: readGuid(bytes, HeaderLayout.logGuid),
    logVersion: view.getUint16(HeaderLayout.logVersion, true),
    version: view.getUint16(HeaderLayout.version, true),
    logBytes: view.getUint32(HeaderLayout.logBytes, true),
    logOffset: readU64(view, HeaderLayout.logOffset),
  };
}

/** The 4096 bytes of a header, checksum included. */
export function emitHeader(header: Header): Uint8Array {
  const bytes = new Uint8Array(HeaderLayout.SIZE);
  const view = viewOf(bytes);
  emitText(bytes, HeaderLayout.signature, HEADER_SIGNATURE);
  view.setBigUint64(HeaderLayout.sequence, header.sequence, true);
  emitGuid(bytes, HeaderLayout.fileWriteGuid, header.fileWriteGuid);
  emitGuid(bytes, HeaderLayout.dataWriteGuid, header.dataWriteGuid);
  emitGuid(bytes, HeaderLayout.logGuid, header.logGuid);
  view.setUint16(HeaderLayout.logVersion, header.logVersion, true);
  view.setUint16(HeaderLayout.version, header.version, true);
  view.setUint32(HeaderLayout.logBytes, header.logBytes, true);
  emitU64(view, HeaderLayout.logOffset, header.logOffset);
  view.setUint32(HeaderLayout.checksum, crc32cWithoutField(bytes, HeaderLayout.checksum), true);
  return bytes;
}

/** The header of a new image with an empty log. */
export function newHeader(
  fields: Pick<Header, "fileWriteGuid" | "dataWriteGuid" | "logBytes" | "logOffset">,
): Header {
  return { ...fields, sequence: 0n, logGuid: ZERO_GUID, logVersion: LOG_VERSION, version: VERSION };
}

/** The two header slots and which of them counts. */
export class HeaderSlots {
  readonly #file: BlockFile;
  #current: Header;
  #slot: 0 | 1;

  constructor(file: BlockFile, current: Header, slot: 0 | 1) {
    this.#file = file;
    this.#current = current;
    this.#slot = slot;
  }

  get current(): Header {
    return this.#current;
  }

  /** File offset of the current header. */
  get offset(): number {
    return slotOffsets[this.#slot];
  }

  /**
   * Makes a changed copy current and durable: it is written over the other slot, so that a torn write
   * leaves the header of before. The file is flushed before this returns.
   */
  update(changes: Partial<Header>): void {
    if (this.#current.sequence === MAX_SEQUENCE)
      throw new ImageError("ERR_IMAGE_UNSUPPORTED", {
        structure: "header",
        offset: this.offset,
        text: "the sequence number cannot grow any more",
      });
    const next = { ...this.#current, ...changes, sequence: this.#current.sequence + 1n };
    const slot = this.#slot === 0 ? 1 : 0;
    this.#file.write(slotOffsets[slot], emitHeader(next), 0, HeaderLayout.SIZE);
    this.#file.flush();
    this.#current = next;
    this.#slot = slot;
  }

  /** Both slots, one after the other: the change survives the loss of either. */
  updateBoth(changes: Partial<Header>): void {
    this.update(changes);
    this.update({});
  }
}

/** Reads both headers and decides which is current; `undefined` when neither can be used. */
export function readHeaders(file: BlockFile, reporter: Reporter): HeaderSlots | undefined {
  const raw = slotOffsets.map((offset) => {
    const bytes = new Uint8Array(HeaderLayout.SIZE);
    file.read(offset, bytes, 0, bytes.byteLength);
    return bytes;
  });
  const [first, second] = [parseHeader(raw[0]!), parseHeader(raw[1]!)];
  if (typeof first === "string" && typeof second === "string") {
    const truncated = file.sizeBytes < FileMap.header2 + HeaderLayout.SIZE;
    reporter.error(
      truncated ? "ERR_IMAGE_TRUNCATED" : "ERR_IMAGE_CORRUPT",
      "header 1",
      FileMap.header1,
      `neither header is valid: ${first}; in header 2 at ${FileMap.header2} ${second}`,
    );
    return undefined;
  }
  if (typeof first === "string") reporter.warning("header 1", FileMap.header1, first);
  else if (typeof second === "string") reporter.warning("header 2", FileMap.header2, second);
  // Some programs write the same header twice; only a difference makes equal numbers ambiguous.
  else if (first.sequence === second.sequence && !sameBytes(raw[0]!, raw[1]!))
    reporter.error(
      "ERR_IMAGE_CORRUPT",
      "header 2",
      FileMap.header2,
      `it differs from header 1 but has the same sequence number ${String(second.sequence)}`,
    );
  const [one, two] = [first, second].map((it) => (typeof it === "string" ? undefined : it));
  const slots =
    one === undefined || (two !== undefined && two.sequence > one.sequence)
      ? new HeaderSlots(file, two!, 1)
      : new HeaderSlots(file, one, 0);
  return checkHeader(slots, file.sizeBytes, reporter) ? slots : undefined;
}

function checkHeader(slots: HeaderSlots, fileBytes: number, reporter: Reporter): boolean {
  const { version, logVersion, logGuid, logBytes, logOffset } = slots.current;
  const place = `header ${slots.offset === FileMap.header1 ? 1 : 2}`;
  const fail = (
    code: "ERR_IMAGE_CORRUPT" | "ERR_IMAGE_TRUNCATED" | "ERR_IMAGE_UNSUPPORTED",
    field: number,
    text: string,
  ): false => {
    reporter.error(code, place, slots.offset + field, text);
    return false;
  };
  if (version !== VERSION)
    return fail("ERR_IMAGE_UNSUPPORTED", HeaderLayout.version, `version ${version} is not 1`);
  if (logGuid !== ZERO_GUID && logVersion !== LOG_VERSION)
    return fail(
      "ERR_IMAGE_UNSUPPORTED",
      HeaderLayout.logVersion,
      `the log is not empty and has version ${logVersion}, not 0`,
    );
  if (logBytes === 0 && logGuid === ZERO_GUID) return true;
  if (logBytes % MIB !== 0 || logBytes < Limit.minLogBytes || logBytes > Limit.maxLogBytes)
    return fail(
      "ERR_IMAGE_CORRUPT",
      HeaderLayout.logBytes,
      `the log has ${logBytes} bytes, which is not a multiple of 1 MiB from 1 MiB to 1 GiB`,
    );
  if (logOffset % MIB !== 0 || logOffset < MIB || logOffset + logBytes > Limit.fileBytes)
    return fail(
      "ERR_IMAGE_CORRUPT",
      HeaderLayout.logOffset,
      `the log lies at ${logOffset}, which is not a multiple of 1 MiB from 1 MiB on`,
    );
  if (logOffset + logBytes > fileBytes)
    return fail(
      "ERR_IMAGE_TRUNCATED",
      HeaderLayout.logOffset,
      `the log ends at ${logOffset + logBytes}, the file at ${fileBytes}`,
    );
  return true;
}
