import { ConcurrentDisk } from "../src/concurrent-disk.js";
import { type MemoryRuns } from "../src/memory-runs.js";
import { openVhdx, type VhdxDisk } from "../src/vhdx/index.js";
import { pickRange, type SessionRound } from "./crash-campaign.js";
import { LaterCalls } from "./later-calls.js";
import { type MemoryFile } from "./memory-file.js";
import { type SectorHistory } from "./sector-history.js";

/** A read in flight, and what it may find. */
interface Expectation {
  readonly sector: number;
  /** The sector's stamp when the read began; 0 is allowed once it was unmapped since. */
  readonly stamp: number;
}

/**
 * Random operations on a disk, many in flight, whose calls of the file take effect and end in a random
 * order. Remembered with their place in the file's trace; reads are checked when they end.
 *
 * No two writes in flight overlap: which of them a sector keeps would be open.
 */
export class ConcurrentSession {
  readonly #round: SessionRound;
  readonly #file: MemoryFile;
  readonly #history: SectorHistory;
  #later: LaterCalls;
  #vhdx: VhdxDisk;
  #disk: ConcurrentDisk;
  /** Sectors of writes in flight. */
  readonly #written = new Set<number>();
  #unmaps = 0;
  #begun = 0;

  constructor(round: SessionRound, disk: VhdxDisk, file: MemoryFile, history: SectorHistory) {
    this.#round = round;
    this.#file = file;
    this.#history = history;
    this.#later = new LaterCalls(file);
    file.later = this.#later;
    this.#vhdx = disk;
    this.#disk = new ConcurrentDisk(disk);
  }

  /** Begins one more operation, and lets some of those in flight go on. */
  step(): void {
    const { prng } = this.#round;
    const kind = prng.below(100);
    if (kind < 40) this.#write(1 + prng.below(8));
    else if (kind < 46) this.#write(1 + prng.below(300));
    else if (kind < 55) this.#read(1 + prng.below(16));
    else if (kind < 75) this.#unmap();
    else if (kind < 95) this.#flush();
    else this.#reopen();
    for (let count = prng.below(4); count > 0 && this.#later.count > 0; count--)
      this.#later.step((limit) => prng.below(limit));
  }

  close(): void {
    this.#settle();
    const began = this.#begin();
    this.#vhdx.close();
    this.#history.flushed(began, this.#ended);
  }

  /** The place in the trace where something begins; of two that begin between the same operations the later one is larger. */
  #begin(): number {
    return this.#ended + ++this.#begun / 2 ** 32;
  }

  /** The place in the trace where something has ended. */
  get #ended(): number {
    return this.#file.trace!.length;
  }

  #write(most: number): void {
    const { sectorBytes } = this.#history;
    const [position, end] = this.#pick(most);
    const sectors = Array.from(
      { length: (end - position) / sectorBytes },
      (_, index) => position / sectorBytes + index,
    );
    if (sectors.some((sector) => this.#written.has(sector))) return;
    const bytes = new Uint8Array(end - position);
    const stamp = this.#round.nextStamp();
    const at = this.#begin();
    for (const [index, sector] of sectors.entries()) {
      this.#history.fill(bytes, index * sectorBytes, sector, stamp);
      this.#history.record(sector, at, stamp);
      this.#written.add(sector);
    }
    this.#disk.write(position / sectorBytes, bytes.byteLength, this.#runs(bytes), (error) => {
      expectSuccess(error);
      for (const sector of sectors) this.#written.delete(sector);
    });
  }

  #read(most: number): void {
    const { sectorBytes } = this.#history;
    const [position, end] = this.#pick(most);
    const first = position / sectorBytes;
    const expected: Expectation[] = [];
    for (let sector = first; sector < end / sectorBytes; sector++)
      if (!this.#written.has(sector))
        expected.push({ sector, stamp: this.#history.latest(sector) });
    const unmaps = this.#unmaps;
    const bytes = new Uint8Array(end - position);
    this.#disk.read(first, bytes.byteLength, this.#runs(bytes), (error) => {
      expectSuccess(error);
      const words = new Uint32Array(bytes.buffer);
      for (const { sector, stamp } of expected) {
        const found = this.#history.stampOf(words, ((sector - first) * sectorBytes) / 4, sector);
        const isZeroed = found === 0 && this.#unmaps > unmaps;
        // Stamps grow: a larger one is of a write that came after the read.
        if (found < stamp && !isZeroed)
          throw new Error(`sector ${sector} reads as stamp ${found} instead of ${stamp}`);
      }
    });
  }

  #flush(): void {
    const began = this.#begin();
    this.#disk.flush((error) => {
      expectSuccess(error);
      this.#history.flushed(began, this.#ended);
    });
  }

  #unmap(): void {
    const disk = this.#vhdx;
    const position = this.#round.prng.pick(this.#round.hotBlocks) * disk.blockBytes;
    const end = Math.min(position + disk.blockBytes, disk.sizeBytes);
    const { sectorBytes } = this.#history;
    if (disk.format === "vhdx-dynamic") {
      this.#history.recordZeros(position / sectorBytes, end / sectorBytes, this.#begin());
      this.#unmaps++;
    }
    this.#disk.whenIdle(() => disk.unmap(position, end - position));
  }

  #reopen(): void {
    this.close();
    this.#file.reopen();
    this.#later = new LaterCalls(this.#file);
    this.#file.later = this.#later;
    this.#vhdx = openVhdx(this.#file, { random: this.#round.prng });
    this.#disk = new ConcurrentDisk(this.#vhdx);
  }

  /** Lets everything in flight end, in a random order. */
  #settle(): void {
    while (this.#later.count > 0) this.#later.step((limit) => this.#round.prng.below(limit));
  }

  #pick(sectors: number): readonly [number, number] {
    return pickRange(this.#round, this.#vhdx, this.#history.sectorBytes, sectors);
  }

  /** The bytes as one or two runs. */
  #runs(bytes: Uint8Array): MemoryRuns {
    const cut = this.#round.prng.below(bytes.byteLength);
    const lengths = [cut, bytes.byteLength - cut];
    return {
      bytes,
      runs: 2,
      runAddress: (index) => index * cut,
      runLength: (index) => lengths[index]!,
    };
  }
}

function expectSuccess(error: unknown): void {
  if (error !== undefined) throw error as Error;
}
