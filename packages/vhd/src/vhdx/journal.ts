import { type BlockFile } from "../block-file.js";
import { finishFlush, type FlushSteps } from "../flush-steps.js";
import { PAGE_BYTES } from "./layout.js";
import { DESCRIPTORS_IN_FIRST_SECTOR, emitEntry } from "./log-entry.js";

/** Logged pages that may wait in memory before they are written in place. */
const MAX_WAITING_PAGES = 1024;

/** Where the journal writes its entries, and what it promises about the file. */
export interface JournalOptions {
  readonly logOffset: number;
  readonly logBytes: number;
  readonly logGuid: string;
  /** Fills `page` (4096 bytes) with what the file should hold at `pageOffset`. */
  readonly render: (pageOffset: number, page: Uint8Array) => void;
}

/**
 * Changes metadata pages so that a crash at any point leaves all of a batch or none of it, and earlier
 * batches before later ones.
 *
 * A page goes through four states. *Dirty*: it differs in memory from the log. *Logged*: its batch, one
 * log entry, is written. *Durable*: the file was flushed after that. *In place*: written where it
 * belongs, and flushed again; only then may the log forget it. That is put off until half of the log is
 * used, so that a flush by the user is nearly always one flush of the file.
 *
 * Every method may throw what the file throws; the journal's state is then unknown and it must not be
 * used any more.
 */
export class Journal {
  readonly #file: BlockFile;
  readonly #options: JournalOptions;
  readonly #maxBatchPages: number;
  readonly #entry: Uint8Array;
  /** File offsets of dirty pages, in the order in which they became dirty. */
  readonly #dirty = new Set<number>();
  /** Pages by file offset as the newest log entry has them, not yet written in place. */
  readonly #waiting = new Map<number, Uint8Array>();
  #sequence = 0n;
  /** Log offset of the next entry. */
  #head = 0;
  /** Log offset of the oldest entry that is not known to be in place; the head when all are. */
  #tail = 0;
  /** The tail that the newest entry names. */
  #tailWritten = 0;
  /** The tail that the newest durable entry names: nothing from here to the head may be overwritten. */
  #tailDurable = 0;
  /** Size of the file at the last flush. */
  #durableFileBytes: number;
  #payloadFirst = false;

  /** The log must be unused, and the file as long as its metadata says; `start` comes next. */
  constructor(file: BlockFile, options: JournalOptions) {
    this.#file = file;
    this.#options = options;
    // An entry takes less than a quarter of the log, and one sector of descriptors.
    this.#maxBatchPages = Math.min(
      DESCRIPTORS_IN_FIRST_SECTOR,
      options.logBytes / 4 / PAGE_BYTES - 2,
    );
    this.#entry = new Uint8Array((1 + this.#maxBatchPages) * PAGE_BYTES);
    this.#durableFileBytes = file.sizeBytes;
  }

  /** Writes an entry without changes: a header may name the log only when there is one to be found. */
  start(): void {
    this.#file.flush();
    this.#append([], []);
    this.flush();
  }

  /** Says that the page at this file offset is about to change in memory. */
  touch(pageOffset: number): void {
    if (this.#dirty.has(pageOffset)) return;
    // A full batch goes out before one more page joins, so that changes keep their order.
    if (this.#dirty.size === this.#maxBatchPages) this.commit();
    this.#dirty.add(pageOffset);
  }

  /** Payload was written to space with a past: it must be durable before the metadata names it. */
  requirePayload(): void {
    this.#payloadFirst = true;
  }

  /** Writes the dirty pages to the log, as one entry. They are durable after the next `flush`. */
  commit(): void {
    finishFlush(this.#committing(), this.#file);
  }

  /** Makes everything written so far durable, payload and log alike, with one flush of the file. */
  flush(): void {
    finishFlush(this.#flushing(), this.#file);
  }

  /**
   * Commits and flushes, step by step. Payload of blocks that are in the file already may be written
   * between two steps; `touch` and the rest may not be called.
   */
  *steps(): FlushSteps {
    yield* this.#committing();
    yield* this.#flushing();
  }

  /** Commits, and leaves everything durable in place: the log is not needed any more. */
  finish(): void {
    this.commit();
    this.flush();
    finishFlush(this.#placing(), this.#file);
  }

  *#committing(): FlushSteps {
    if (this.#dirty.size === 0) return;
    if (this.#payloadFirst || this.#waiting.size > MAX_WAITING_PAGES) yield* this.#flushing();
    yield* this.#makingRoom((1 + this.#dirty.size) * PAGE_BYTES);
    const offsets = [...this.#dirty];
    const pages = offsets.map((offset) => {
      const page = this.#waiting.get(offset) ?? new Uint8Array(PAGE_BYTES);
      this.#options.render(offset, page);
      this.#waiting.set(offset, page);
      return page;
    });
    this.#append(offsets, pages);
    this.#dirty.clear();
  }

  *#flushing(): FlushSteps {
    const fileBytes = this.#file.sizeBytes;
    yield;
    this.#payloadFirst = false;
    this.#durableFileBytes = fileBytes;
    this.#tailDurable = this.#tailWritten;
    if (this.#used() * 2 > this.#options.logBytes || this.#waiting.size > MAX_WAITING_PAGES)
      yield* this.#placing();
  }

  /**
   * Writes all logged pages in place; the log is durable. No entry may come between these writes and the
   * flush: it would name the old tail, and readers want every tail inside the sequence that is left.
   */
  *#placing(): FlushSteps {
    if (this.#waiting.size > 0) {
      for (const [offset, page] of this.#waiting) this.#file.write(offset, page, 0, PAGE_BYTES);
      yield;
      this.#waiting.clear();
    }
    this.#tail = this.#head;
  }

  /** Bytes of the log that the newest durable sequence, and what was written after it, occupy. */
  #used(): number {
    const { logBytes } = this.#options;
    return (this.#head - this.#tailDurable + logBytes) % logBytes;
  }

  /**
   * Frees the log until an entry of `lengthBytes` fits. One sector always stays free, so that full and
   * empty differ, and room for one entry without changes, which is what lets go of the entries before.
   */
  *#makingRoom(lengthBytes: number): FlushSteps {
    const fits = (): boolean =>
      this.#used() + lengthBytes + 2 * PAGE_BYTES <= this.#options.logBytes;
    if (fits()) return;
    yield* this.#flushing();
    if (fits()) return;
    yield* this.#placing();
    this.#append([], []);
    yield* this.#flushing();
  }

  #append(offsets: readonly number[], pages: readonly Uint8Array[]): void {
    const { logBytes, logGuid, logOffset } = this.#options;
    this.#sequence++;
    const length = emitEntry(
      this.#entry,
      {
        tail: this.#tail,
        sequence: this.#sequence,
        logGuid,
        flushedFileBytes: this.#durableFileBytes,
        lastFileBytes: this.#file.sizeBytes,
      },
      offsets,
      pages,
    );
    const untilWrap = Math.min(length, logBytes - this.#head);
    this.#file.write(logOffset + this.#head, this.#entry, 0, untilWrap);
    if (untilWrap < length) this.#file.write(logOffset, this.#entry, untilWrap, length - untilWrap);
    this.#head = (this.#head + length) % logBytes;
    this.#tailWritten = this.#tail;
  }
}
