import { assert, assertSectors } from "./assertion.js";
import { type AsyncFile, type Ended } from "./block-file.js";
import { type FlushSteps } from "./flush-steps.js";
import { type MemoryRuns, RunCursor } from "./memory-runs.js";
import { type MappedDisk } from "./virtual-disk.js";
import { zeroBytes } from "./zero-bytes.js";

/** What must have ended before a call may begin. */
type After = "nothing" | "flush" | "everything";

/** A call that has not begun. */
interface WaitingCall {
  readonly after: After;
  readonly begin: () => void;
}

/** The writes between one flush and the next. */
interface WriteBatch {
  inFlight: number;
}

/** The flush that is on its way; its steps begin when none of the batch before it is in flight. */
interface CurrentFlush {
  readonly batch: WriteBatch;
  readonly steps: FlushSteps;
  readonly ended: Ended;
}

/**
 * An open image with many calls in flight: for files that are slow to answer.
 *
 * Data move by calls of the file that end later, straight between file and memory, in any order. Metadata
 * change as they always do, synchronously and one call at a time: a write to where nothing was yet is done
 * by the image before the call returns. It waits only for a flush that is on its way; a caller that needs
 * the image to itself (`whenIdle`) waits for everything, and keeps later calls back.
 *
 * A flush makes durable what all writes before it wrote, those included that are in flight when it is called.
 * Of writes in flight that overlap each sector keeps one, and a read beside them gets either.
 *
 * `ended` is called once for each call, perhaps before that returns. The errors are those of `VirtualDisk`;
 * ranges outside the disk assert.
 */
export class ConcurrentDisk {
  /** The image. Its properties may be read at any time, its calls be used inside `whenIdle` only. */
  readonly disk: MappedDisk;
  readonly #file: AsyncFile;
  /** Calls that wait, in order. */
  readonly #waiting: WaitingCall[] = [];
  /** Calls that wait for everything, or are at work after that: nothing overtakes them. */
  #barriers = 0;
  /** Reads and writes in flight. */
  #transfers = 0;
  #batch: WriteBatch = { inFlight: 0 };
  #flush: CurrentFlush | undefined;
  #isAdvancing = false;

  /** Takes over an image whose file has calls that end later. */
  constructor(disk: MappedDisk) {
    assert(disk.file.later !== undefined, "the image's file has no calls that end later");
    this.disk = disk;
    this.#file = disk.file.later;
  }

  /** Fills the first `lengthBytes` of the runs, which are the call's until it has ended. */
  read(sector: number, lengthBytes: number, memory: MemoryRuns, ended: Ended): void {
    assertSectors(this.disk, sector, lengthBytes);
    this.#admit("nothing", () => this.#read(sector, lengthBytes, memory, ended));
  }

  /** Writes the first `lengthBytes` of the runs, which are the call's until it has ended. */
  write(sector: number, lengthBytes: number, memory: MemoryRuns, ended: Ended): void {
    assertSectors(this.disk, sector, lengthBytes);
    // A call that waits for everything may take places away.
    const isMapped = this.#barriers === 0 && this.#isMapped(sector, lengthBytes);
    this.#admit(isMapped ? "nothing" : "flush", () =>
      this.#write(sector, lengthBytes, memory, ended),
    );
  }

  /** Makes durable what was written before. */
  flush(ended: Ended): void {
    this.#admit("flush", () => {
      const batch = this.#batch;
      this.#batch = { inFlight: 0 };
      this.#flush = { batch, steps: this.disk.flushSteps(), ended };
      if (batch.inFlight === 0) this.#stepFlush();
    });
  }

  /**
   * Calls `work` once every call before this one has ended; no later one begins before it returns. Meanwhile
   * the image is the caller's, for `unmap` above all.
   */
  whenIdle(work: () => void): void {
    this.#barriers++;
    this.#admit("everything", () => {
      try {
        work();
      } finally {
        this.#barriers--;
      }
    });
  }

  /** Closes the image and its file after everything else. Rejects with what `VirtualDisk.close` throws. */
  close(): Promise<void> {
    return new Promise((resolve) =>
      this.whenIdle(() =>
        resolve(
          new Promise((closed) => {
            this.disk.close();
            closed();
          }),
        ),
      ),
    );
  }

  /** Begins a call now, or when what it must wait for has ended. */
  #admit(after: After, begin: () => void): void {
    if (after === "nothing" && this.#barriers === 0) {
      begin();
      return;
    }
    this.#waiting.push({ after, begin });
    this.#advance();
  }

  /** Begins what waits, in order, as far as it may. */
  #advance(): void {
    // What begins here may end at once and come back.
    if (this.#isAdvancing) return;
    this.#isAdvancing = true;
    try {
      for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
        if (next.after !== "nothing" && this.#flush !== undefined) return;
        if (next.after === "everything" && this.#transfers > 0) return;
        this.#waiting.shift();
        next.begin();
      }
    } finally {
      this.#isAdvancing = false;
    }
  }

  #read(sector: number, lengthBytes: number, memory: MemoryRuns, ended: Ended): void {
    const transfer = new Transfer((error) => this.#transferEnded(error, ended));
    this.#transfers++;
    transfer.run(() => {
      this.disk.assertUsable();
      const cursor = new RunCursor(memory);
      for (let done = 0; done < lengthBytes;) {
        const run = this.disk.resolve(sector + this.#sectors(done), lengthBytes - done);
        const targets = cursor.take(run);
        if (this.disk.resolvedPosition < 0)
          for (const target of targets) zeroBytes(target, 0, target.byteLength);
        else this.#file.read(this.disk.resolvedPosition, targets, transfer.begin());
        done += run;
      }
    });
  }

  #write(sector: number, lengthBytes: number, memory: MemoryRuns, ended: Ended): void {
    const batch = this.#batch;
    const transfer = new Transfer((error) => {
      this.disk.endWrite();
      if (--batch.inFlight === 0 && this.#flush?.batch === batch) this.#stepFlush();
      this.#transferEnded(error, ended);
    });
    this.#transfers++;
    batch.inFlight++;
    transfer.run(() => {
      this.disk.beginWrite();
      const cursor = new RunCursor(memory);
      for (let done = 0; done < lengthBytes;) {
        const from = sector + this.#sectors(done);
        const run = this.disk.resolve(from, lengthBytes - done);
        const sources = cursor.take(run);
        if (this.disk.resolvedPosition >= 0)
          this.#file.write(this.disk.resolvedPosition, sources, transfer.begin());
        else this.disk.writeSectors(from, joined(sources), 0, run);
        done += run;
      }
    });
  }

  #sectors(lengthBytes: number): number {
    return lengthBytes / this.disk.logicalSectorBytes;
  }

  #transferEnded(error: unknown, ended: Ended): void {
    this.#transfers--;
    ended(error);
    this.#advance();
  }

  /** Does the next step of the flush. @param failure - of the file's flush that the last one asked for. */
  #stepFlush(failure?: unknown): void {
    const { steps, ended } = this.#flush!;
    let error: unknown;
    try {
      const step = failure === undefined ? steps.next() : steps.throw(failure);
      if (step.done !== true) {
        this.#file.flush((flushError) => this.#stepFlush(flushError));
        return;
      }
    } catch (caught) {
      error = caught;
    }
    this.#flush = undefined;
    ended(error);
    this.#advance();
  }

  /** Whether every part of a range has a place in the file, as far as that can be found out. */
  #isMapped(sector: number, lengthBytes: number): boolean {
    try {
      for (let done = 0; done < lengthBytes;) {
        done += this.disk.resolve(sector + this.#sectors(done), lengthBytes - done);
        if (this.disk.resolvedPosition < 0) return false;
      }
      return true;
    } catch {
      // The write will meet the same error, and end with it.
      return false;
    }
  }
}

/** One read or write: its calls of the file, and the first error among them. */
class Transfer {
  readonly #ended: Ended;
  /** Calls of the file in flight, and one for the call that makes them. */
  #pending = 1;
  #error: unknown;

  constructor(ended: Ended) {
    this.#ended = ended;
  }

  /** Makes the calls; what it throws ends the transfer with those that were made. */
  run(calls: () => void): void {
    try {
      calls();
    } catch (error) {
      this.#end(error);
      return;
    }
    this.#end();
  }

  /** Counts a call of the file; the result is for its end. */
  begin(): Ended {
    this.#pending++;
    return this.#end;
  }

  readonly #end: Ended = (error) => {
    this.#error ??= error;
    if (--this.#pending === 0) this.#ended(this.#error);
  };
}

/** The views as one array: a copy if there are several. */
function joined(views: readonly Uint8Array[]): Uint8Array {
  if (views.length === 1) return views[0]!;
  const bytes = new Uint8Array(views.reduce((sum, view) => sum + view.byteLength, 0));
  let at = 0;
  for (const view of views) {
    bytes.set(view, at);
    at += view.byteLength;
  }
  return bytes;
}
