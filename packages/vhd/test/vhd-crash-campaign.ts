import { readBlockTable } from "../src/vhd/block-table.js";
import { NOT_ALLOCATED } from "../src/vhd/dynamic-header.js";
import { checkVhd, createVhd, openVhd } from "../src/vhd/index.js";
import { surveyVhd } from "../src/vhd/survey.js";
import { refusing } from "../src/reporter.js";
import { type VirtualDisk } from "../src/virtual-disk.js";
import { type CampaignOptions } from "./crash-campaign.js";
import { crashImage, type FileOperation, MemoryFile, powerLosses } from "./memory-file.js";
import { Prng } from "./prng.js";
import { SectorHistory } from "./sector-history.js";

const SECTOR = 512;

/**
 * Cuts the power of a dynamic VHD at every point of random sessions and looks at what is left: the
 * counterpart of `crash-campaign.ts`, for a format without a log.
 *
 * @returns How many rounds there were, and how many losses of power.
 * @throws Error that names the round's seed; `run({ seed, rounds: 1 })` repeats it.
 */
export function run(options: CampaignOptions): { rounds: number; images: number } {
  const report = { rounds: 0, images: 0 };
  const more = (): boolean =>
    "rounds" in options ? report.rounds < options.rounds : Date.now() < options.deadline;
  for (let seed = options.seed; report.rounds === 0 || more(); seed++) {
    try {
      const round = new Round(seed);
      round.run();
      report.images += round.images;
    } catch (error) {
      throw new Error(`VHD crash campaign, seed ${seed}: ${String(error)}`, { cause: error });
    }
    report.rounds++;
  }
  return report;
}

/** One random session, and every state that a loss of power can leave of it. */
class Round {
  readonly #prng: Prng;
  readonly #sizeBytes: number;
  #stamp = 0;
  #file = new MemoryFile();
  #disk: VirtualDisk;
  #history = new SectorHistory(SECTOR);
  images = 0;

  constructor(seed: number) {
    const prng = new Prng(seed);
    this.#prng = prng;
    // Up to two sectors of the block allocation table, and more blocks than wait for a flush at most.
    const [blockBytes, blocks] = prng.pick([
      [4096, 140],
      [8192, 70],
      [65536, 4],
    ] as const);
    this.#sizeBytes = blocks * blockBytes - prng.below(blockBytes / SECTOR) * SECTOR;
    createVhd(this.#file, { sizeBytes: this.#sizeBytes, blockBytes, random: prng }).close();
    this.#disk = this.#open(this.#file);
    this.#file.trace = [];
  }

  run(): void {
    const prng = this.#prng;
    for (let count = prng.below(10); count > 0; count--) this.#write();
    this.#close();
    if (prng.chance(40)) this.#forgetSectors();
    const start = this.#file.clone();
    const settled = new SectorHistory(SECTOR);
    this.#history.carryInto(settled);
    this.#history = settled;
    this.#file.trace = [];
    this.#disk = this.#open(this.#file);
    for (let count = 5 + prng.below(25); count > 0; count--) {
      const kind = prng.below(100);
      if (kind < 70) this.#write();
      else if (kind < 90) this.#flush();
      else {
        this.#close();
        this.#disk = this.#open(this.#file);
      }
    }
    this.#sweep(start, this.#file.trace);
  }

  #open(file: MemoryFile, readOnly = false): VirtualDisk {
    if (file.closed) file.reopen();
    return openVhd(file, { readOnly, format: "vhd-dynamic" });
  }

  get #at(): number {
    return this.#file.trace!.length;
  }

  #write(): void {
    const prng = this.#prng;
    const sectors = prng.pick([1, 3, 8, 40, 200]);
    const count = Math.min(sectors, this.#sizeBytes / SECTOR);
    const first = prng.below(this.#sizeBytes / SECTOR - count + 1);
    const bytes = new Uint8Array(count * SECTOR);
    const stamp = ++this.#stamp;
    for (let index = 0; index < count; index++) {
      this.#history.fill(bytes, index * SECTOR, first + index, stamp);
      this.#history.record(first + index, this.#at, stamp);
    }
    this.#disk.write(first * SECTOR, bytes, 0, bytes.byteLength);
  }

  #flush(): void {
    const began = this.#at;
    this.#disk.flush();
    this.#history.flushed(began, this.#at);
  }

  #close(): void {
    const began = this.#at;
    this.#disk.close();
    this.#history.flushed(began, this.#at);
  }

  /** Turns the file into one of another program, which has not written all sectors of its blocks. */
  #forgetSectors(): void {
    const file = this.#file;
    file.reopen();
    const { footer, header } = surveyVhd(file, refusing);
    const table = readBlockTable(file, refusing, footer!, header!)!;
    table.sectors.forEach((sector, block) => {
      if (sector === NOT_ALLOCATED) return;
      const bitmap = file.bytes(sector * SECTOR, table.bitmapBytes);
      for (let inBlock = 0; inBlock < table.blockBytes / SECTOR; inBlock++) {
        if (!this.#prng.chance(30)) continue;
        bitmap[inBlock >> 3]! &= ~(0x80 >> (inBlock & 7));
        const garbage = new Uint8Array(SECTOR).fill(0xee);
        file.write(sector * SECTOR + table.bitmapBytes + inBlock * SECTOR, garbage, 0, SECTOR);
        this.#history.record((block * table.blockBytes) / SECTOR + inBlock, -1, 0);
      }
      file.write(sector * SECTOR, bitmap, 0, bitmap.byteLength);
    });
    file.close();
  }

  /** Examines what a loss of power can leave at each point of `trace`. */
  #sweep(
    start: MemoryFile,
    trace: readonly FileOperation[],
    examine: (image: MemoryFile, cut: number) => void = (image, cut) => this.#examine(image, cut),
  ): void {
    const prng = this.#prng;
    for (const { cut, durable, unflushed } of powerLosses(start, trace)) {
      examine(
        crashImage(durable, unflushed, SECTOR, () => true),
        cut,
      );
      const percent = 5 + prng.below(90);
      const survives = (): boolean => prng.chance(percent);
      examine(crashImage(durable, unflushed, SECTOR, survives), cut);
    }
  }

  #examine(image: MemoryFile, cut: number): void {
    this.images++;
    const errors = checkVhd(image, "vhd-dynamic").filter(({ severity }) => severity === "error");
    if (errors.length > 0) throw new Error(`cut ${cut}: ${JSON.stringify(errors)}`);
    const before = image.clone();
    image.trace = [];
    const readOnly = this.#prng.chance(30);
    const disk = this.#open(image, readOnly);
    this.#verify(disk, cut);
    // Power may be lost during the repair, too; it changes no sector, so the history is the same.
    if (this.#prng.chance(10))
      this.#sweep(before, image.trace, (again) => {
        this.images++;
        const repaired = this.#open(again);
        this.#verify(repaired, cut);
        repaired.close();
      });
    disk.close();
    if (readOnly) return;
    image.reopen();
    const left = checkVhd(image, "vhd-dynamic");
    if (left.length > 0) throw new Error(`cut ${cut}, repaired: ${JSON.stringify(left)}`);
  }

  #verify(disk: VirtualDisk, cut: number): void {
    const bytes = new Uint8Array(this.#sizeBytes);
    const words = new Uint32Array(bytes.buffer);
    disk.read(0, bytes, 0, bytes.byteLength);
    for (let sector = 0; sector < this.#sizeBytes / SECTOR; sector++) {
      const stamp = this.#history.stampOf(words, (sector * SECTOR) / 4, sector);
      if (stamp < 0 || !this.#history.allows(sector, stamp, cut))
        throw new Error(`cut ${cut}: sector ${sector} holds stamp ${stamp}`);
    }
  }
}
