import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  checkImageFile,
  createImageFile,
  describeImageFile,
  openImageFile,
} from "@hyperv-is/vhd/node";
import { SECTOR, copyOf } from "./machine-kill-plan.mjs";

const MIB = 1 << 20;
const sizes = { sourceBytes: 8 * MIB, diskBytes: 64 * MIB };
const zeros = new Uint8Array(SECTOR);
/** When so much of a disk is in its file there is little left to break: a new one is made. */
const WORN = 0.8;

const formats = [
  { format: "vhd-dynamic", blockBytes: 64 * 1024 },
  { format: "vhdx-dynamic", blockBytes: MIB },
] as const;

/** How much to do, and where to tell of it. */
export interface MachineKillOptions {
  readonly seed: number;
  readonly rounds: number;
  /** No round begins after this time (as of `Date.now`). */
  readonly deadline?: number;
  /** Hears a line about the campaign now and then. */
  readonly report?: (line: string) => void;
}

/** What was done. */
export interface MachineKillReport {
  rounds: number;
  /** Copies that a flush of the guest had acknowledged before the kill. */
  acknowledged: number;
  /** Kills of a machine that had not acknowledged anything yet: most of them were booting. */
  early: number;
  /** Copies that the kill left half done in the image. */
  halfDone: number;
  /** Images that needed a repair or a replay when they were opened again. */
  repaired: number;
}

/** Numbers from a seed (xorshift32): what is written into the source, and when a machine is killed. */
class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b1) | 1;
  }

  next(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  below(limit: number): number {
    return this.next() % limit;
  }
}

/**
 * Kills a booted machine that writes to an image through its guest, and looks at what is left, again and
 * again on the same files.
 *
 * After each `kill -9` the image must be free, check without errors, open, and check clean then (by
 * qemu-img too, where it can); every sector holds what the last acknowledged copy to it brought, or what
 * the one copy brings that had begun after the last acknowledged one.
 *
 * @throws Error that names the seed and the file, which is kept.
 */
export async function run(options: MachineKillOptions): Promise<MachineKillReport> {
  const { seed, rounds, deadline = Infinity, report } = options;
  const chance = new Chance(seed);
  const directory = mkdtempSync(join(tmpdir(), "machine-kill-"));
  const source = await makeSource(join(directory, "source.vhd"), chance);
  const victims = formats.map((shape) => new Victim(directory, shape, source, chance));
  const totals = { rounds: 0, acknowledged: 0, early: 0, halfDone: 0, repaired: 0 };
  while (totals.rounds < rounds && Date.now() < deadline) {
    const victim = victims[totals.rounds % victims.length]!;
    try {
      await victim.round(totals);
    } catch (error) {
      const text = `machine-kill campaign, seed ${seed}, round ${totals.rounds}: ${String(error)}`;
      throw new Error(`${text}; the image is kept in ${victim.path}`, { cause: error });
    }
    totals.rounds++;
    if (totals.rounds % 20 === 0) report?.(`${totals.rounds} kills: ${JSON.stringify(totals)}`);
  }
  rmSync(directory, { recursive: true });
  return totals;
}

interface Source {
  readonly path: string;
  /** Its sectors begin with their number, from 1 on, and no two are alike. */
  readonly bytes: Uint8Array;
}

async function makeSource(path: string, chance: Chance): Promise<Source> {
  const words = new Uint32Array(sizes.sourceBytes / 4);
  for (let at = 0; at < words.length; at++) words[at] = chance.next();
  for (let at = 0; at < words.length; at += SECTOR / 4) words[at] = at / (SECTOR / 4) + 1;
  const bytes = new Uint8Array(words.buffer);
  const disk = await createImageFile(path, { format: "vhd-fixed", sizeBytes: bytes.byteLength });
  disk.write(0, bytes, 0, bytes.byteLength);
  disk.close();
  return { path, bytes };
}

/** One image, and the number of the source's sector that each of its own holds; 0 for zeros. */
class Victim {
  readonly path: string;
  readonly #shape: (typeof formats)[number];
  readonly #source: Source;
  readonly #chance: Chance;
  #held: Int32Array | undefined;
  #next = 1;

  constructor(directory: string, shape: (typeof formats)[number], source: Source, chance: Chance) {
    this.path = join(directory, `disk.${shape.format.replace("-dynamic", "")}`);
    this.#shape = shape;
    this.#source = source;
    this.#chance = chance;
  }

  async round(totals: MachineKillReport): Promise<void> {
    const held = (this.#held ??= await this.#create());
    const seed = this.#chance.next();
    const first = this.#next;
    const last = await this.#killGuest(seed, first);
    this.#next = last + 1;
    totals.acknowledged += last - first + 1;
    if (last < first) totals.early++;

    const dirty = await checkImageFile(this.path);
    const errors = dirty.filter(({ severity }) => severity === "error");
    if (errors.length > 0) throw new Error(`errors after the kill: ${JSON.stringify(errors)}`);
    if (dirty.length > 0) totals.repaired++;
    for (let number = first; number <= last; number++) apply(held, seed, number);
    if (await this.#verify(held, seed, last)) totals.halfDone++;
    const left = await checkImageFile(this.path);
    if (left.length > 0) throw new Error(`not clean after opening: ${JSON.stringify(left)}`);
    this.#askQemu();
    const { blocks = 1, allocatedBlocks = 0 } = await describeImageFile(this.path);
    if (allocatedBlocks / blocks < WORN) return;
    rmSync(this.path);
    this.#held = undefined;
  }

  async #create(): Promise<Int32Array> {
    const disk = await createImageFile(this.path, { ...this.#shape, sizeBytes: sizes.diskBytes });
    disk.close();
    return new Int32Array(sizes.diskBytes / SECTOR);
  }

  /** Boots a machine and kills it; the number of its last acknowledged copy, or the one before its first. */
  async #killGuest(seed: number, first: number): Promise<number> {
    const chance = this.#chance;
    const script = fileURLToPath(new URL("machine-kill-guest.mjs", import.meta.url));
    const args = [script, this.path, this.#source.path, String(seed), String(first)];
    const guest = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    const closed = once(guest, "close") as Promise<[number | null, NodeJS.Signals | null]>;
    let complaint = "";
    guest.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
    const kill = (): void => void guest.kill("SIGKILL");
    // Mostly a moment after some acknowledgements, in the middle of a copy; sometimes while it boots.
    let acknowledgements = chance.below(8) === 0 ? 0 : 1 + chance.below(60);
    if (acknowledgements === 0) setTimeout(kill, 50 + chance.below(400));
    const delayMs = chance.below(8);
    let output = "";
    guest.stdout.setEncoding("latin1").on("data", (text: string) => {
      output += text;
      if (acknowledgements === 0) return;
      acknowledgements = Math.max(0, acknowledgements - (text.split("\n").length - 1));
      if (acknowledgements === 0) setTimeout(kill, delayMs);
    });
    const [status, signal] = await closed;
    if (signal !== "SIGKILL") throw new Error(`the machine ended with ${status}: ${complaint}`);
    // All that was written to the pipe is here, so that at most one copy is not told of.
    const lines = output.split("\n").slice(0, -1);
    return lines.length === 0 ? first - 1 : Number(lines.at(-1));
  }

  /**
   * Opens the image as a writer does, which replays and repairs, and looks at each sector. Makes `held`
   * what was found. @returns True if it is neither without nor with all of the copy after the last one.
   */
  async #verify(held: Int32Array, seed: number, last: number): Promise<boolean> {
    const after = held.slice();
    apply(after, seed, last + 1);
    const disk = await openImageFile(this.path);
    const bytes = Buffer.alloc(MIB);
    let [old, begun] = [0, 0];
    for (let position = 0; position < sizes.diskBytes; position += MIB) {
      disk.read(position, bytes, 0, MIB);
      for (let at = 0; at < MIB; at += SECTOR) {
        const sector = (position + at) / SECTOR;
        const found = this.#sourceSector(bytes, at);
        const [acknowledged, next] = [held[sector]!, after[sector]!];
        if (found !== acknowledged && found !== next)
          throw new Error(
            `sector ${sector} holds ${found} after copy ${last}: ${acknowledged} was acknowledged, ${next} may follow`,
          );
        if (acknowledged !== next)
          [old, begun] = found === next ? [old, begun + 1] : [old + 1, begun];
        held[sector] = found;
      }
    }
    disk.close();
    return old > 0 && begun > 0;
  }

  /** Number of the source's sector that lies in `bytes`; 0 for zeros, -1 for what the source does not have. */
  #sourceSector(bytes: Buffer, at: number): number {
    const number = bytes.readUInt32LE(at);
    const from = (number - 1) * SECTOR;
    const expected = number === 0 ? zeros : this.#source.bytes.subarray(from, from + SECTOR);
    return bytes.compare(expected, 0, SECTOR, at, at + SECTOR) === 0 ? number : -1;
  }

  /** qemu-img checks no VHD. */
  #askQemu(): void {
    if (this.#shape.format === "vhd-dynamic") return;
    const { status, error, stdout, stderr } = spawnSync("qemu-img", ["check", this.path], {
      encoding: "utf8",
    });
    if (error === undefined && status !== 0) throw new Error(`qemu-img check: ${stdout}${stderr}`);
  }
}

/** Makes `held` what it is after a copy. */
function apply(held: Int32Array, seed: number, number: number): void {
  const { blockBytes, count, skip, seek } = copyOf(seed, number, sizes);
  const perBlock = blockBytes / SECTOR;
  for (let at = 0; at < count * perBlock; at++)
    held[seek * perBlock + at] = skip * perBlock + at + 1;
}
