import { spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import {
  checkImageFile,
  createImageFile,
  describeImageFile,
  openImageFile,
} from "../src/node/index.js";
import { chsGeometry } from "../src/vhd/index.js";
import { type ImageFormat, type VirtualDisk } from "../src/virtual-disk.js";
import { hasPeer } from "./peer.js";
import { Prng } from "./prng.js";
import { temporaryDirectory } from "./temporary-directory.js";

// In memory where possible: the peer syncs often, and nothing here is about durability.
const temporary = temporaryDirectory(existsSync("/dev/shm") ? "/dev/shm" : undefined);
const hasQemu = hasPeer("qemu-io", ["--version"], "apt-get install qemu-utils");
const seed = Number(process.env["SEED"] ?? process.env["SOAK_SEED"] ?? Date.now() % 1_000_000_000);
if (hasQemu) console.info(`qemu tests: SEED=${seed}`);

const SECTOR = 512;
const MIB = 1 << 20;
const GIB = 1024 * MIB;
const CHUNK = 1 * MIB;
const ROUNDS = 1;
/** Above this size nobody reads a whole disk, only where it was ever written. */
const LARGE_BYTES = 64 * MIB;

/** Runs one of the qemu tools; throws with what it said unless it ends with 0. */
function run(command: string, ...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

/** What the disk must hold, as a sparse raw file that qemu-img can compare with. */
class Model {
  readonly path: string;
  readonly #file: number;
  readonly #sizeBytes: number;
  /** Numbers of the chunks that were ever written to. */
  readonly chunks = new Set<number>();

  constructor(path: string, sizeBytes: number) {
    this.path = path;
    this.#sizeBytes = sizeBytes;
    this.#file = openSync(path, "w+");
    ftruncateSync(this.#file, sizeBytes);
  }

  write(position: number, bytes: Uint8Array): void {
    writeSync(this.#file, bytes, 0, bytes.byteLength, position);
    const last = Math.floor((position + bytes.byteLength - 1) / CHUNK);
    for (let chunk = Math.floor(position / CHUNK); chunk <= last; chunk++) this.chunks.add(chunk);
  }

  /** Compares every sector that either side has data in; of a large fixed disk, where we have. */
  expectEqual(disk: VirtualDisk): void {
    const isFixed = disk.format === "vhd-fixed" || disk.format === "vhdx-fixed";
    const chunks = new Set(this.chunks);
    if (!isFixed || disk.sizeBytes <= LARGE_BYTES)
      for (let at = 0; at < disk.sizeBytes;) {
        const data = disk.nextData?.(at) ?? at;
        if (data === disk.sizeBytes) break;
        const chunk = Math.floor(data / CHUNK);
        chunks.add(chunk);
        at = (chunk + 1) * CHUNK;
      }
    this.#compare(disk, chunks);
  }

  /** Compares what was ever written to. */
  expectWritten(disk: VirtualDisk): void {
    this.#compare(disk, this.chunks);
  }

  #compare(disk: VirtualDisk, chunks: Iterable<number>): void {
    const actual = new Uint8Array(CHUNK);
    for (const chunk of chunks) {
      const expected = this.#read(chunk);
      disk.read(chunk * CHUNK, actual, 0, expected.byteLength);
      if (Buffer.compare(actual.subarray(0, expected.byteLength), expected) !== 0) {
        const at = expected.findIndex((byte, index) => byte !== actual[index]);
        throw new Error(`the disk differs from the model at ${chunk * CHUNK + at}`);
      }
    }
  }

  /** The qemu-io commands that verify all that was ever written, for disks written in patterns. */
  readCommands(): string[] {
    const commands: string[] = [];
    for (const chunk of this.chunks) {
      const bytes = this.#read(chunk);
      for (let from = 0; from < bytes.byteLength;) {
        let to = from + SECTOR;
        while (to < bytes.byteLength && bytes[to] === bytes[from]) to += SECTOR;
        commands.push("-c", `read -P ${bytes[from]!} ${chunk * CHUNK + from} ${to - from}`);
        from = to;
      }
    }
    return commands;
  }

  #read(chunk: number): Uint8Array {
    const bytes = new Uint8Array(Math.min(CHUNK, this.#sizeBytes - chunk * CHUNK));
    readSync(this.#file, bytes, 0, bytes.byteLength, chunk * CHUNK);
    return bytes;
  }

  close(): void {
    closeSync(this.#file);
  }
}

interface Range {
  readonly position: number;
  readonly length: number;
}

/** Whole sectors at the start, the end, over the border of a block, or anywhere. */
function pickRange(prng: Prng, sizeBytes: number, blockBytes: number): Range {
  const wanted = SECTOR * (1 + prng.below(prng.pick([1, 8, 64, 1024])));
  const length = Math.min(wanted, sizeBytes);
  const last = (sizeBytes - length) / SECTOR;
  const block = blockBytes * prng.below(Math.ceil(sizeBytes / blockBytes));
  const sector = prng.pick([
    0,
    last,
    block / SECTOR - 1,
    Math.floor(prng.next() * 2 ** 21) % (last + 1),
  ]);
  return { position: Math.min(Math.max(sector, 0), last) * SECTOR, length };
}

async function writeOurs(
  path: string,
  model: Model,
  prng: Prng,
  blockBytes: number,
): Promise<void> {
  const disk = await openImageFile(path);
  model.expectWritten(disk);
  for (let count = 6; count > 0; count--) {
    const { position, length } = pickRange(prng, disk.sizeBytes, blockBytes);
    const bytes = new Uint8Array(length);
    if (disk.sizeBytes <= LARGE_BYTES) prng.fill(bytes);
    else bytes.fill(1 + prng.below(255));
    disk.write(position, bytes, 0, length);
    model.write(position, bytes);
    if (prng.chance(30)) disk.flush();
  }
  if (disk.format === "vhdx-dynamic" && blockBytes <= 8 * MIB) {
    const block = prng.below(Math.ceil(disk.sizeBytes / blockBytes)) * blockBytes;
    const length = Math.min(blockBytes, disk.sizeBytes - block);
    disk.unmap(block, length);
    model.write(block, new Uint8Array(length));
  }
  model.expectWritten(disk);
  disk.close();
}

function writeTheirs(
  path: string,
  format: string,
  model: Model,
  prng: Prng,
  sizeBytes: number,
  blockBytes: number,
): void {
  const commands: string[] = [];
  for (let count = 5; count > 0; count--) {
    const { position, length } = pickRange(prng, sizeBytes, blockBytes);
    const byte = 1 + prng.below(255);
    commands.push("-c", `write -P ${byte} ${position} ${length}`);
    model.write(position, new Uint8Array(length).fill(byte));
  }
  run("qemu-io", "-f", format, ...commands, path);
}

/** Ours and theirs write in turn; after each, both find the image sound and its content right. */
async function interleave(path: string, format: "vpc" | "vhdx", name: string): Promise<void> {
  let caseSeed = seed;
  for (const character of name) caseSeed = Math.imul(caseSeed, 31) + character.charCodeAt(0);
  const prng = new Prng(caseSeed);
  const description = await describeImageFile(path);
  const { sizeBytes, blockBytes = 2 * MIB } = description;
  const model = new Model(`${path}.raw`, sizeBytes);
  try {
    for (let round = 0; round < ROUNDS; round++) {
      await writeOurs(path, model, prng, blockBytes);
      if (format === "vhdx") run("qemu-img", "check", "-f", format, path);
      expect(await checkImageFile(path)).toEqual([]);
      if (sizeBytes <= LARGE_BYTES)
        run("qemu-img", "compare", "-f", "raw", "-F", format, model.path, path);
      else run("qemu-io", "-f", format, ...model.readCommands(), path);
      writeTheirs(path, format, model, prng, sizeBytes, blockBytes);
      expect(await checkImageFile(path)).toEqual([]);
    }
    const reader = await openImageFile(path, { readOnly: true });
    model.expectEqual(reader);
    reader.close();
  } finally {
    model.close();
    for (const file of [path, model.path]) rmSync(file, { force: true });
  }
}

const vhdxSizes = [MIB, 3 * MIB + SECTOR, 300 * MIB, 5 * GIB, 64 * GIB];

/** Every block size, subformat and zero state meets every size, in pairs; not all of them with all. */
const vhdxCases = ["dynamic", "fixed"].flatMap((subformat, s) =>
  [1, 8, 32, 256].flatMap((blockMib, b) =>
    ["on", "off"].flatMap((zero, z) =>
      [0, 2].map((step) => {
        const size = vhdxSizes[(s + b + z * 3 + step) % vhdxSizes.length]!;
        const logMib = (b + step) % 4 === 0 ? 16 : 1;
        return { subformat, blockMib, zero, size, logMib };
      }),
    ),
  ),
);

const vpcSizes = [1, 3, 10, 127, 504, 8 * 1024, 40 * 1024, 127 * 1024, 130 * 1024];
const vpcCases = ["dynamic", "fixed"].flatMap((subformat) =>
  vpcSizes.flatMap((mib, index) =>
    ["on", "off"]
      .filter((force) => subformat === "dynamic" || (index + (force === "on" ? 1 : 0)) % 2 === 0)
      .map((force) => ({ subformat, mib, force })),
  ),
);

const ours: readonly (readonly [ImageFormat, number | undefined, number])[] = [
  ["vhd-fixed", undefined, 3 * MIB + SECTOR],
  ["vhd-fixed", undefined, 5 * GIB],
  ["vhd-dynamic", 4096, 1 * MIB],
  ["vhd-dynamic", 512 << 10, 3 * MIB + SECTOR],
  ["vhd-dynamic", 2 * MIB, 127 * MIB],
  ["vhd-dynamic", 2 * MIB, 130 * GIB + SECTOR],
  ["vhd-dynamic", 32 * MIB, 5 * GIB],
  ["vhdx-fixed", 1 * MIB, 3 * MIB + SECTOR],
  ["vhdx-fixed", 32 * MIB, 300 * MIB],
  ["vhdx-fixed", 2 * MIB, 5 * GIB],
  ["vhdx-dynamic", 1 * MIB, 1 * MIB],
  ["vhdx-dynamic", 2 * MIB, 5 * GIB + SECTOR],
  ["vhdx-dynamic", 8 * MIB, 64 * GIB],
  ["vhdx-dynamic", 256 * MIB, 300 * MIB],
];

/** Registers the tests, or one of so many parts of each kind, which the seed chooses. */
export function testQemuImages(parts: number): void {
  const share = <Case>(cases: readonly Case[]): readonly Case[] =>
    cases.filter((_, index) => index % parts === seed % parts);

  describe.runIf(hasQemu)("images that qemu-img made", { timeout: 120_000 }, () => {
    test.each(share(vhdxCases))(
      "vhdx $subformat, blocks of $blockMib MiB, block_state_zero=$zero, log of $logMib MiB, $size bytes",
      async ({ subformat, blockMib, zero, size, logMib }) => {
        const name = `vhdx-${subformat}-${blockMib}-${zero}-${size}`;
        const path = temporary(name);
        const options = `subformat=${subformat},block_size=${blockMib}M,block_state_zero=${zero},log_size=${logMib}M`;
        run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, path, String(size));
        expect(await describeImageFile(path)).toMatchObject({
          format: `vhdx-${subformat}`,
          sizeBytes: size,
          blockBytes: blockMib * MIB,
        });
        await interleave(path, "vhdx", name);
      },
    );

    test.each(share(vpcCases))(
      "vpc $subformat, force_size=$force, $mib MiB",
      async ({ subformat, mib, force }) => {
        const name = `vpc-${subformat}-${mib}-${force}`;
        const path = temporary(name);
        const options = `subformat=${subformat},force_size=${force}`;
        run("qemu-img", "create", "-q", "-f", "vpc", "-o", options, path, `${mib}M`);
        const description = await describeImageFile(path);
        const said = JSON.parse(run("qemu-img", "info", "--output=json", "-f", "vpc", path)) as {
          "virtual-size": number;
        };
        expect(description).toMatchObject({
          format: `vhd-${subformat}`,
          sizeBytes: said["virtual-size"],
        });
        if (force === "on") expect(description.sizeBytes).toBe(mib * MIB);
        else expect(description).toMatchObject({ geometry: chsGeometry(description.sizeBytes) });
        await interleave(path, "vpc", name);
      },
    );
  });

  describe.runIf(hasQemu)("images that we made", { timeout: 120_000 }, () => {
    test.each(share(ours))(
      "%s, blocks of %s bytes, %i bytes",
      async (format, blockBytes, sizeBytes) => {
        const name = `${format}-${String(blockBytes)}-${sizeBytes}`;
        const path = temporary(name);
        (await createImageFile(path, { format, sizeBytes, blockBytes })).close();
        const peerFormat = format.startsWith("vhdx") ? "vhdx" : "vpc";
        const said = JSON.parse(run("qemu-img", "info", "--output=json", path)) as object;
        expect(said).toMatchObject({ format: format === "vhd-fixed" ? "raw" : peerFormat });
        const forced = run("qemu-img", "info", "--output=json", "-f", peerFormat, path);
        expect(JSON.parse(forced)).toMatchObject({ "virtual-size": sizeBytes });
        await interleave(path, peerFormat, name);
      },
    );
  });
}
