import { type BlockFile } from "../block-file.js";
import { crc32c, crc32cWithoutField } from "../crc32c.js";
import { ZERO_GUID } from "../guid.js";
import { type Reporter } from "../reporter.js";
import { hasText } from "../text-field.js";
import { type Header } from "./header.js";
import { FileMap, Limit, MIB, PAGE_BYTES, readU64, viewOf } from "./layout.js";
import {
  DataDescriptorLayout,
  DataSectorLayout,
  descriptorAreaBytes,
  LogEntryLayout,
  type LogEntryHeader,
  LogSignature,
  readEntryHeader,
  restorePage,
  ZeroDescriptorLayout,
} from "./log-entry.js";

/** Lowest file offset that the log may change. */
const LOWEST_TARGET = FileMap.regionTable1;
/** Most that zero descriptors may ask for in one replay: they are for metadata, and an image must not keep us busy. */
const MAX_ZEROED_BYTES = 1024 * MIB;
const ZERO_PIECE_BYTES = 64 * 1024;

/** The entries to be replayed: from the tail up to the head, both log offsets. */
export interface ActiveLog {
  readonly tail: number;
  readonly lengthBytes: number;
  readonly entries: number;
  readonly newest: LogEntryHeader;
}

/** Receives what the log says, in order. */
interface Changes {
  zero(fileOffset: number, lengthBytes: number): void;
  /** The page is valid during the call only. */
  page(fileOffset: number, page: Uint8Array): void;
}

/** Where a replay writes to: the image, or pages in memory above it. */
export type ReplayTarget = Pick<BlockFile, "sizeBytes" | "truncate" | "write">;

/**
 * The log of an image as the opener finds it.
 *
 * Nothing in it is believed before it was checked. An entry is read sector by sector, and a sector that
 * begins another entry ends it, so the time is linear in the size of the log and the memory is constant.
 */
export class LogReader {
  readonly #file: BlockFile;
  readonly #offset: number;
  readonly #bytes: number;
  readonly #guid: string;
  readonly #head = new Uint8Array(PAGE_BYTES);
  readonly #sector = new Uint8Array(PAGE_BYTES);

  constructor(file: BlockFile, header: Header) {
    this.#file = file;
    this.#offset = header.logOffset;
    this.#bytes = header.logBytes;
    this.#guid = header.logGuid;
  }

  /**
   * Finds the newest unbroken sequence of entries, as [MS-VHDX] 2.3.2 describes it; reports an error
   * when there is none, because a header with a log GUID promises at least one entry.
   */
  findActive(reporter: Reporter): ActiveLog | undefined {
    let best: ActiveLog | undefined;
    let start = 0;
    while (start < this.#bytes) {
      let used = 0;
      let last: LogEntryHeader | undefined;
      const lengths: number[] = [];
      for (;;) {
        const entry = this.#readEntry((start + used) % this.#bytes);
        if (entry === undefined || used + entry.lengthBytes > this.#bytes) break;
        if (last !== undefined) {
          if (entry.sequence !== last.sequence + 1n) break;
          if (this.#distance(start, entry.tail) > used) break;
        }
        used += entry.lengthBytes;
        lengths.push(entry.lengthBytes);
        last = entry;
      }
      if (last === undefined) {
        start += PAGE_BYTES;
        continue;
      }
      const skipped = this.#distance(start, last.tail);
      if (skipped < used && (best === undefined || last.sequence > best.newest.sequence)) {
        let before = 0;
        let first = 0;
        while (before < skipped) before += lengths[first++]!;
        // A tail between two entries would point at no entry at all.
        if (before === skipped)
          best = {
            tail: last.tail,
            lengthBytes: used - skipped,
            entries: lengths.length - first,
            newest: last,
          };
      }
      start += used;
    }
    if (best === undefined)
      reporter.error(
        "ERR_IMAGE_CORRUPT",
        "log",
        this.#offset,
        `the header promises entries of log ${this.#guid}, but there is no valid sequence of them`,
      );
    return best;
  }

  /** Checks everything that a replay would do, before it does any of it. */
  check(active: ActiveLog, reporter: Reporter): boolean {
    let sound = true;
    const fail = (code: "ERR_IMAGE_CORRUPT" | "ERR_IMAGE_TRUNCATED", text: string): void => {
      sound = false;
      reporter.error(code, "log", this.#offset + active.tail, text);
    };
    const { flushedFileBytes, lastFileBytes } = active.newest;
    const fileBytes = this.#file.sizeBytes;
    if (flushedFileBytes > fileBytes)
      fail(
        "ERR_IMAGE_TRUNCATED",
        `the file had ${flushedFileBytes} bytes when the log was written, now ${fileBytes}`,
      );
    if (lastFileBytes > Limit.fileBytes)
      fail("ERR_IMAGE_CORRUPT", `it asks for a file of ${lastFileBytes} bytes`);
    const end = Math.max(lastFileBytes, fileBytes);
    let zeroed = 0;
    const target = (fileOffset: number, lengthBytes: number): boolean => {
      const logEnd = this.#offset + this.#bytes;
      const sane =
        fileOffset % PAGE_BYTES === 0 &&
        lengthBytes % PAGE_BYTES === 0 &&
        fileOffset >= LOWEST_TARGET &&
        fileOffset + lengthBytes <= end &&
        (fileOffset >= logEnd || fileOffset + lengthBytes <= this.#offset);
      if (!sane)
        fail(
          "ERR_IMAGE_CORRUPT",
          `an entry wants to change ${lengthBytes} bytes at file offset ${fileOffset}, where the log may not write`,
        );
      return sane;
    };
    this.#walk(active, {
      zero: (fileOffset, lengthBytes) => {
        if (target(fileOffset, lengthBytes)) zeroed += lengthBytes;
      },
      page: (fileOffset) => void target(fileOffset, PAGE_BYTES),
    });
    if (zeroed > MAX_ZEROED_BYTES)
      fail("ERR_IMAGE_CORRUPT", `its entries zero ${zeroed} bytes, more than metadata can have`);
    return sound;
  }

  /** Carries out all entries; `check` has been called. Doing it again changes nothing. */
  replay(active: ActiveLog, target: ReplayTarget): void {
    const { lastFileBytes } = active.newest;
    if (lastFileBytes > target.sizeBytes) target.truncate(lastFileBytes);
    const zeros = new Uint8Array(ZERO_PIECE_BYTES);
    this.#walk(active, {
      zero(fileOffset, lengthBytes) {
        for (let done = 0; done < lengthBytes; done += zeros.byteLength) {
          const piece = Math.min(zeros.byteLength, lengthBytes - done);
          target.write(fileOffset + done, zeros, 0, piece);
        }
      },
      page(fileOffset, page) {
        target.write(fileOffset, page, 0, PAGE_BYTES);
      },
    });
  }

  #walk(active: ActiveLog, changes: Changes): void {
    const area = new Uint8Array(PAGE_BYTES);
    const view = viewOf(area);
    for (let done = 0; done < active.lengthBytes;) {
      const position = (active.tail + done) % this.#bytes;
      const entry = this.#readEntry(position);
      // The sequence was found a moment ago in a file that nobody else writes.
      if (entry === undefined) throw new Error("the log changed while it was read");
      let data = position + descriptorAreaBytes(entry.descriptorCount);
      for (let index = 0; index < entry.descriptorCount; index++) {
        const at = LogEntryLayout.descriptors + index * DataDescriptorLayout.SIZE;
        if (index === 0 || at % PAGE_BYTES === 0)
          this.#readSector(position + Math.floor(at / PAGE_BYTES) * PAGE_BYTES, area);
        const inSector = at % PAGE_BYTES;
        const fileOffset = readU64(view, inSector + DataDescriptorLayout.fileOffset);
        if (hasText(area, inSector, LogSignature.Zero)) {
          changes.zero(fileOffset, readU64(view, inSector + ZeroDescriptorLayout.length));
          continue;
        }
        this.#readSector(data, this.#sector);
        restorePage(this.#sector, area, inSector);
        changes.page(fileOffset, this.#sector);
        data += PAGE_BYTES;
      }
      done += entry.lengthBytes;
    }
  }

  /** The entry at a log offset, if all of it is there and sound. */
  #readEntry(position: number): LogEntryHeader | undefined {
    this.#readSector(position, this.#head);
    const entry = readEntryHeader(this.#head);
    if (entry === undefined) return undefined;
    const { lengthBytes, tail, descriptorCount } = entry;
    if (entry.logGuid !== this.#guid || entry.logGuid === ZERO_GUID || entry.sequence === 0n)
      return undefined;
    if (lengthBytes % PAGE_BYTES !== 0 || lengthBytes === 0 || lengthBytes >= this.#bytes)
      return undefined;
    if (tail % PAGE_BYTES !== 0 || tail >= this.#bytes) return undefined;
    const area = descriptorAreaBytes(descriptorCount);
    if (area > lengthBytes) return undefined;

    let checksum = crc32cWithoutField(this.#head, LogEntryLayout.checksum);
    let pages = this.#dataDescriptors(this.#head, LogEntryLayout.descriptors, entry, 0);
    for (let at = PAGE_BYTES; at < area && pages >= 0; at += PAGE_BYTES) {
      const sector = this.#readSector(position + at, this.#sector);
      const done = (at - LogEntryLayout.descriptors) / DataDescriptorLayout.SIZE;
      const more = this.#dataDescriptors(sector, 0, entry, done);
      pages = more < 0 ? -1 : pages + more;
      checksum = crc32c(sector, 0, PAGE_BYTES, checksum);
    }
    if (pages < 0 || lengthBytes !== area + pages * PAGE_BYTES) return undefined;
    const high = Number(entry.sequence >> 32n);
    const low = Number(entry.sequence & 0xffff_ffffn);
    for (let at = area; at < lengthBytes; at += PAGE_BYTES) {
      const sector = this.#readSector(position + at, this.#sector);
      const view = viewOf(sector);
      if (
        !hasText(sector, DataSectorLayout.signature, LogSignature.Sector) ||
        view.getUint32(DataSectorLayout.sequenceHigh, true) !== high ||
        view.getUint32(DataSectorLayout.sequenceLow, true) !== low
      )
        return undefined;
      checksum = crc32c(sector, 0, PAGE_BYTES, checksum);
    }
    const stored = viewOf(this.#head).getUint32(LogEntryLayout.checksum, true);
    return stored === checksum ? entry : undefined;
  }

  /**
   * Counts the data descriptors in a sector from byte `from` on, of which `done` descriptors of the
   * entry lie before; -1 when one is not sound.
   */
  #dataDescriptors(sector: Uint8Array, from: number, entry: LogEntryHeader, done: number): number {
    const view = viewOf(sector);
    const end = Math.min(
      PAGE_BYTES,
      from + (entry.descriptorCount - done) * DataDescriptorLayout.SIZE,
    );
    let pages = 0;
    for (let at = from; at < end; at += DataDescriptorLayout.SIZE) {
      if (hasText(sector, at, LogSignature.Data)) pages++;
      else if (!hasText(sector, at, LogSignature.Zero)) return -1;
      if (view.getBigUint64(at + DataDescriptorLayout.sequence, true) !== entry.sequence) return -1;
    }
    return pages;
  }

  #readSector(position: number, target: Uint8Array): Uint8Array {
    this.#file.read(this.#offset + (position % this.#bytes), target, 0, PAGE_BYTES);
    return target;
  }

  /** From one log offset forward to another. */
  #distance(from: number, to: number): number {
    return to >= from ? to - from : to - from + this.#bytes;
  }
}
