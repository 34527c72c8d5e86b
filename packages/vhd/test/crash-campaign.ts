import { checkVhdx, createVhdx, openVhdx, type VhdxDisk } from "../src/vhdx/index.js";
import {
  crashImage,
  type FileOperation,
  MemoryFile,
  powerLosses,
  randomFates,
} from "./memory-file.js";
import { ConcurrentSession } from "./concurrent-session.js";
import { Prng } from "./prng.js";
import { SectorHistory } from "./sector-history.js";

const MIB = 1024 * 1024;

/** How much to do: that many rounds, or as many as begin before `deadline` (as of `Date.now`). */
export type CampaignOptions = (
  | { readonly seed: number; readonly rounds: number }
  | { readonly seed: number; readonly deadline: number }
) & {
  /** VHDX: by many calls in flight instead of one after the other. */
  readonly concurrent?: boolean;
};

/** What was done. */
export interface CampaignReport {
  rounds: number;
  /** Losses of power. */
  images: number;
  /** Images whose log had to be replayed. */
  replayed: number;
  /** Images that lost power again after the first recovery. */
  recovered: number;
}

/**
 * Cuts the power of a VHDX at every point of random sessions and looks at what is left.
 *
 * For each prefix of what the file was told, and for random subsets of what it was told since its last
 * flush, torn into sectors, the image must check without errors and open, and each sector must hold
 * what was flushed or something written to it since. Some of the images then go on and lose power
 * again, during the replay as well.
 *
 * @throws Error that names the round's seed; `run({ seed, rounds: 1 })` repeats it.
 */
export function run(options: CampaignOptions): CampaignReport {
  const report: CampaignReport = { rounds: 0, images: 0, replayed: 0, recovered: 0 };
  const more = (): boolean =>
    "rounds" in options ? report.rounds < options.rounds : Date.now() < options.deadline;
  for (let seed = options.seed; more(); seed++) {
    try {
      new Round(seed, report, options.concurrent === true).run();
    } catch (error) {
      throw new Error(`crash campaign, seed ${seed}: ${String(error)}`, { cause: error });
    }
    report.rounds++;
  }
  return report;
}

class Round implements SessionRound {
  readonly #prng: Prng;
  readonly #concurrent: boolean;
  readonly #report: CampaignReport;
  readonly #sectorBytes: number;
  readonly #blockBytes: number;
  readonly #sizeBytes: number;
  readonly #fixed: boolean;
  /** The blocks that are used; all others must stay empty. */
  readonly #hotBlocks: number[];
  #stamp = 0;

  constructor(seed: number, report: CampaignReport, concurrent: boolean) {
    const prng = new Prng(seed);
    this.#prng = prng;
    this.#concurrent = concurrent;
    this.#report = report;
    this.#sectorBytes = prng.chance(80) ? 512 : 4096;
    this.#blockBytes = prng.chance(85) ? MIB : 2 * MIB;
    this.#fixed = prng.chance(10);
    const wide = !this.#fixed && prng.chance(40);
    const blocks = wide ? 513 + prng.below(2000) : 4 + prng.below(8);
    const tail = this.#sectorBytes * prng.below(this.#blockBytes / this.#sectorBytes);
    this.#sizeBytes = blocks * this.#blockBytes + tail;
    const last = Math.ceil(this.#sizeBytes / this.#blockBytes) - 1;
    // 511 and 512 lie in different pages of the BAT.
    const hot = wide
      ? [0, 1, 511, 512, prng.below(last), last - 1, last]
      : [0, 1, 2, last - 1, last];
    this.#hotBlocks = [...new Set(hot)];
  }

  run(): void {
    const file = new MemoryFile();
    const disk = createVhdx(file, {
      sizeBytes: this.#sizeBytes,
      blockBytes: this.#blockBytes,
      logicalSectorBytes: this.#sectorBytes,
      fixed: this.#fixed,
      random: this.#prng,
    });
    const history = new SectorHistory(this.#sectorBytes);
    file.trace = [];
    // Enough changes of metadata to fill the log and to wrap around its end, now and then.
    const session = new Session(this, disk, file, history);
    for (let changes = this.#prng.pick([0, 0, 20, 60, 130, 260]); changes > 0; changes--) {
      session.churn();
      file.trace.length = 0;
    }
    session.flush();
    file.trace.length = 0;
    const start = file.clone();
    const settled = session.settle();
    const recorded = this.#session(session.disk, file, settled);
    // What is in flight takes several steps.
    const most = this.#concurrent ? 60 : 25;
    for (let count = 5 + this.#prng.below(most); count > 0; count--) recorded.step();
    if (this.#prng.chance(30)) recorded.close();
    this.#sweep(start, file.trace, settled, 0);
  }

  get prng(): Prng {
    return this.#prng;
  }

  get hotBlocks(): readonly number[] {
    return this.#hotBlocks;
  }

  nextStamp(): number {
    return ++this.#stamp;
  }

  #session(disk: VhdxDisk, file: MemoryFile, history: SectorHistory): Session | ConcurrentSession {
    return this.#concurrent
      ? new ConcurrentSession(this, disk, file, history)
      : new Session(this, disk, file, history);
  }

  /** Cuts the power after each operation of `trace`, done to a file that was durable in the state `start`. */
  #sweep(
    start: MemoryFile,
    trace: readonly FileOperation[],
    history: SectorHistory,
    depth: number,
  ): void {
    const prng = this.#prng;
    for (const { cut, durable, unflushed } of powerLosses(start, trace)) {
      // Deeper sweeps only sample, or the images would multiply.
      if (depth > 0 && !prng.chance(30)) continue;
      const whole = crashImage(durable, unflushed, 4096, () => true);
      this.#examine(whole, history, cut, depth);
      if (unflushed.length === 0) continue;
      const tear = this.#sectorBytes === 4096 ? 4096 : prng.pick([512, 4096]);
      const fates = randomFates((limit) => prng.below(limit));
      this.#examine(crashImage(durable, unflushed, tear, fates), history, cut, depth);
    }
  }

  #examine(image: MemoryFile, history: SectorHistory, cut: number, depth: number): void {
    const prng = this.#prng;
    this.#report.images++;
    const findings = checkVhdx(image);
    const errors = findings.filter((finding) => finding.severity === "error");
    if (errors.length > 0) throw new Error(`cut ${cut}: ${JSON.stringify(errors)}`);
    if (findings.some((finding) => finding.structure === "log")) this.#report.replayed++;

    const again = depth === 0 && prng.chance(6);
    const before = again ? image.clone() : image;
    image.trace = again ? [] : undefined;
    const readOnly = !again && prng.chance(40);
    const disk = openVhdx(image, { random: prng, readOnly });
    const found = this.#verify(disk, history, cut);
    if (again) {
      this.#report.recovered++;
      // What was found is on the disk, so it is durable; a second loss must not change it.
      const session = this.#session(disk, image, found);
      for (let count = prng.below(12); count > 0; count--) session.step();
      if (prng.chance(50)) session.close();
      this.#sweep(before, image.trace!, found, depth + 1);
      return;
    }
    disk.close();
    if (readOnly) return;
    image.reopen();
    const left = checkVhdx(image);
    if (left.length > 0) throw new Error(`cut ${cut}, after recovery: ${JSON.stringify(left)}`);
  }

  /** Reads the whole disk; the history that begins with what it holds. */
  #verify(disk: VhdxDisk, history: SectorHistory, cut: number): SectorHistory {
    const found = new SectorHistory(this.#sectorBytes);
    const hot = new Set(this.#hotBlocks);
    const bytes = new Uint8Array(this.#blockBytes);
    const words = new Uint32Array(bytes.buffer);
    for (let at = disk.nextData(0); at < disk.sizeBytes;) {
      const block = Math.floor(at / this.#blockBytes);
      const start = block * this.#blockBytes;
      const length = Math.min(this.#blockBytes, disk.sizeBytes - start);
      disk.read(start, bytes, 0, length);
      for (let offset = 0; offset < length; offset += this.#sectorBytes) {
        const sector = (start + offset) / this.#sectorBytes;
        const stamp = found.stampOf(words, offset / 4, sector);
        if (stamp < 0 || !history.allows(sector, stamp, cut) || (stamp > 0 && !hot.has(block)))
          throw new Error(`cut ${cut}: sector ${sector} of block ${block} holds stamp ${stamp}`);
        if (stamp > 0) found.record(sector, -1, stamp);
      }
      at = start + length < disk.sizeBytes ? disk.nextData(start + length) : disk.sizeBytes;
    }
    // What the disk says is empty must be allowed to be.
    for (const block of this.#hotBlocks) {
      const first = (block * this.#blockBytes) / this.#sectorBytes;
      const end = Math.min((block + 1) * this.#blockBytes, disk.sizeBytes) / this.#sectorBytes;
      for (let sector = first; sector < end; sector++)
        if (found.latest(sector) === 0 && !history.allows(sector, 0, cut))
          throw new Error(`cut ${cut}: sector ${sector} of block ${block} is empty`);
    }
    return found;
  }
}

/** What a session needs of the round that it belongs to. */
export interface SessionRound {
  readonly prng: Prng;
  /** The blocks that are used. */
  readonly hotBlocks: readonly number[];
  nextStamp(): number;
}

/** A range of up to so many sectors that begins in one of the round's blocks: its first byte, and that behind its last. */
export function pickRange(
  { prng, hotBlocks }: SessionRound,
  disk: VhdxDisk,
  sectorBytes: number,
  sectors: number,
  wholeBlock = false,
): readonly [number, number] {
  const block = prng.pick(hotBlocks);
  const inBlock = wholeBlock ? 0 : prng.below(disk.blockBytes / sectorBytes);
  const position = Math.min(
    block * disk.blockBytes + inBlock * sectorBytes,
    disk.sizeBytes - sectorBytes,
  );
  // A transfer that leaves its block must end in another one that is watched.
  const limit = hotBlocks.includes(block + 1) ? block + 2 : block + 1;
  const end = Math.min(position + sectors * sectorBytes, limit * disk.blockBytes, disk.sizeBytes);
  return [position, end];
}

/** Random operations on a disk, one after the other, remembered with their place in the file's trace. */
class Session {
  readonly #round: SessionRound;
  readonly #file: MemoryFile;
  readonly #history: SectorHistory;
  disk: VhdxDisk;

  constructor(round: SessionRound, disk: VhdxDisk, file: MemoryFile, history: SectorHistory) {
    this.#round = round;
    this.disk = disk;
    this.#file = file;
    this.#history = history;
  }

  step(): void {
    const { prng } = this.#round;
    const kind = prng.below(100);
    if (kind < 40) this.#write(1 + prng.below(8));
    else if (kind < 46) this.#write(1 + prng.below(300));
    else if (kind < 52) this.#write(this.disk.blockBytes / this.disk.logicalSectorBytes, true);
    else if (kind < 70) this.#unmap();
    else if (kind < 95) this.flush();
    else this.#reopen();
  }

  /** One change of metadata, flushed. */
  churn(): void {
    if (this.#round.prng.chance(50)) this.#unmap();
    else this.#write(1);
    this.flush();
  }

  flush(): void {
    const began = this.#at;
    this.disk.flush();
    this.#history.flushed(began, this.#at);
  }

  close(): void {
    const began = this.#at;
    this.disk.close();
    this.#history.flushed(began, this.#at);
  }

  /** The history of a trace that begins now, after a flush. */
  settle(): SectorHistory {
    const settled = new SectorHistory(this.#history.sectorBytes);
    this.#history.carryInto(settled);
    return settled;
  }

  get #at(): number {
    return this.#file.trace!.length;
  }

  #write(sectors: number, wholeBlock = false): void {
    const { disk } = this;
    const { sectorBytes } = this.#history;
    const [position, end] = pickRange(this.#round, disk, sectorBytes, sectors, wholeBlock);
    const bytes = new Uint8Array(end - position);
    const stamp = this.#round.nextStamp();
    const at = this.#at;
    for (let offset = 0; offset < bytes.byteLength; offset += sectorBytes) {
      const sector = (position + offset) / sectorBytes;
      this.#history.fill(bytes, offset, sector, stamp);
      this.#history.record(sector, at, stamp);
    }
    disk.write(position, bytes, 0, bytes.byteLength);
  }

  #unmap(): void {
    const { disk } = this;
    const block = this.#round.prng.pick(this.#round.hotBlocks);
    const position = block * disk.blockBytes;
    const end = Math.min(position + disk.blockBytes, disk.sizeBytes);
    const { sectorBytes } = this.#history;
    if (disk.format === "vhdx-dynamic")
      this.#history.recordZeros(position / sectorBytes, end / sectorBytes, this.#at);
    disk.unmap(position, end - position);
  }

  #reopen(): void {
    this.close();
    this.#file.reopen();
    this.disk = openVhdx(this.#file, { random: this.#round.prng });
  }
}
