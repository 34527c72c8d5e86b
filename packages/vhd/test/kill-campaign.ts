import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  checkImageFile,
  createImageFile,
  describeImageFile,
  openImageFile,
} from "../src/node/index.js";
import { type ImageFormat, type VirtualDisk } from "../src/virtual-disk.js";
import { packageFile } from "./built.js";
import { operation, SECTOR, stampOf } from "./kill-plan.mjs";
import { Prng } from "./prng.js";

const MIB = 1 << 20;
const DISK_BYTES = 64 * MIB;
/** A writer begins so far behind the last one's acknowledged operation: further than that one can have come. */
const NUMBER_GAP = 100_000;
/** When so much of a disk is in its file there is little left to break: a new one is made. */
const WORN = 0.8;

/** How much to do, and where to tell of it. */
export interface KillOptions {
  readonly seed: number;
  readonly rounds: number;
  /** No round begins after this time (as of `Date.now`). */
  readonly deadline?: number;
  /** Hears a line about the campaign now and then. */
  readonly report?: (line: string) => void;
}

/** What was done. */
export interface KillReport {
  rounds: number;
  /** Operations that a flush had acknowledged before the kill. */
  acknowledged: number;
  /** Images that needed a repair or a replay when they were opened again. */
  repaired: number;
}

/**
 * Kills a process that writes to an image, and looks at what is left, again and again on the same files.
 *
 * After each `kill -9` the image must be free, check without errors, open, hold everything that was
 * acknowledged and nothing that was never written, and check clean once it was opened for writing. What
 * is killed keeps its page cache, so this tests the order of our own steps in a real file; loss of power
 * is what the crash campaigns simulate.
 *
 * @throws Error that names the seed and the file, which is kept.
 */
export async function run(options: KillOptions): Promise<KillReport> {
  const { seed, rounds, deadline = Infinity, report } = options;
  const prng = new Prng(seed);
  const directory = mkdtempSync(join(tmpdir(), "vhd-kill-"));
  const totals: KillReport = { rounds: 0, acknowledged: 0, repaired: 0 };
  const victims = [
    new Victim(join(directory, "dynamic.vhd"), "vhd-dynamic", 64 * 1024, prng),
    new Victim(join(directory, "dynamic.vhdx"), "vhdx-dynamic", MIB, prng),
    new Victim(join(directory, "fixed.vhdx"), "vhdx-fixed", MIB, prng),
  ];
  while (totals.rounds < rounds && Date.now() < deadline) {
    // A fixed image has little to lose: it gets one round of nine.
    const victim = victims[totals.rounds % 9 === 8 ? 2 : totals.rounds % 2]!;
    try {
      await victim.round(totals);
    } catch (error) {
      const text = `kill campaign, seed ${seed}, round ${totals.rounds}: ${String(error)}`;
      throw new Error(`${text}; the image is kept in ${victim.path}`, { cause: error });
    }
    totals.rounds++;
    if (totals.rounds % 20 === 0) report?.(`${totals.rounds} kills: ${JSON.stringify(totals)}`);
  }
  rmSync(directory, { recursive: true });
  return totals;
}

/** One image and what its sectors hold. */
class Victim {
  readonly path: string;
  readonly #format: ImageFormat;
  readonly #blockBytes: number;
  readonly #prng: Prng;
  /** Stamps found after the last kill: what the next writer begins with. */
  #found: Int32Array | undefined;
  #next = 1;

  constructor(path: string, format: ImageFormat, blockBytes: number, prng: Prng) {
    this.path = path;
    this.#format = format;
    this.#blockBytes = blockBytes;
    this.#prng = prng;
  }

  async round(totals: KillReport): Promise<void> {
    const found = (this.#found ??= await this.#create());
    const seed = this.#prng.next();
    const first = this.#next;
    const last = await this.#killWriter(seed, first);
    totals.acknowledged += last - first + 1;
    this.#next = last + NUMBER_GAP;

    const dirty = await checkImageFile(this.path);
    const errors = dirty.filter(({ severity }) => severity === "error");
    if (errors.length > 0) throw new Error(`errors after the kill: ${JSON.stringify(errors)}`);
    if (dirty.length > 0) totals.repaired++;
    const disk = await openImageFile(this.path);
    this.#found = this.#verify(disk, found, seed, first, last);
    disk.close();
    const left = await checkImageFile(this.path);
    if (left.length > 0) throw new Error(`not clean after opening: ${JSON.stringify(left)}`);
    const description = await describeImageFile(this.path);
    const { blocks = 1, allocatedBlocks = 0 } = description;
    if (this.#format.endsWith("dynamic") && allocatedBlocks / blocks > WORN) {
      rmSync(this.path);
      this.#found = undefined;
    }
  }

  async #create(): Promise<Int32Array> {
    const disk = await createImageFile(this.path, {
      format: this.#format,
      sizeBytes: DISK_BYTES,
      blockBytes: this.#blockBytes,
    });
    disk.close();
    return new Int32Array(DISK_BYTES / SECTOR);
  }

  get #unmapBytes(): number {
    return this.#format === "vhdx-dynamic" ? this.#blockBytes : 0;
  }

  /** Starts a writer and kills it; the number of its last acknowledged operation, or the one before its first. */
  async #killWriter(seed: number, first: number): Promise<number> {
    const prng = this.#prng;
    const script = packageFile("test/kill-writer.mjs");
    const args = [script, this.path, ...[seed, first, this.#unmapBytes].map(String)];
    const writer = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    const exit = once(writer, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    let complaint = "";
    writer.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
    let output = "";
    // Mostly in the middle of the work, after some acknowledgements and a moment; sometimes while it opens.
    let kills = prng.chance(85) ? 1 + prng.below(60) : 0;
    const kill = (): void => void writer.kill("SIGKILL");
    if (kills === 0) setTimeout(kill, 30 + prng.below(200));
    const delayMs = prng.below(8);
    writer.stdout.setEncoding("latin1").on("data", (text: string) => {
      output += text;
      const lines = text.split("\n").length - 1;
      if (kills > 0 && (kills -= lines) <= 0) {
        kills = 0;
        setTimeout(kill, delayMs);
      }
    });
    const [status, signal] = await exit;
    if (signal !== "SIGKILL") throw new Error(`the writer ended with ${status}: ${complaint}`);
    // A line that was cut off by the kill was not read by anybody.
    const lines = output.split("\n").slice(0, -1);
    return lines.length === 0 ? first - 1 : Number(lines.at(-1));
  }

  /** Reads the whole disk; throws unless each sector holds what was acknowledged, or something later. */
  #verify(
    disk: VirtualDisk,
    before: Int32Array,
    seed: number,
    first: number,
    last: number,
  ): Int32Array {
    const durable = before.slice();
    const plan = { sizeBytes: DISK_BYTES, unmapBytes: this.#unmapBytes };
    const each = (number: number, sectorDo: (sector: number, stamp: number) => void): void => {
      const { kind, position, length } = operation(seed, number, plan);
      for (let at = position; at < position + length; at += SECTOR)
        sectorDo(at / SECTOR, kind === "unmap" ? 0 : number);
    };
    for (let number = first; number <= last; number++)
      each(number, (sector, stamp) => (durable[sector] = stamp));

    const found = new Int32Array(durable.length);
    const bytes = new Uint8Array(MIB);
    const words = new Uint32Array(bytes.buffer);
    const surprises = new Map<number, number>();
    for (let position = 0; position < DISK_BYTES; position += MIB) {
      disk.read(position, bytes, 0, MIB);
      for (let at = 0; at < MIB; at += SECTOR) {
        const sector = (position + at) / SECTOR;
        const stamp = stampOf(words, at / 4, sector);
        found[sector] = stamp;
        if (stamp !== durable[sector]) surprises.set(sector, stamp);
      }
    }
    // What is not the acknowledged state must come from an operation that was begun after it.
    for (let number = last + 1; surprises.size > 0 && number < last + 20_000; number++)
      each(number, (sector, stamp) => {
        if (surprises.get(sector) === stamp) surprises.delete(sector);
      });
    for (const [sector, stamp] of surprises)
      throw new Error(
        `sector ${sector} holds stamp ${stamp}, ${durable[sector]!} was acknowledged (of ${first} to ${last})`,
      );
    return found;
  }
}
