import fc from "fast-check";
import { expect, test } from "vitest";
import { checkVhdx, createVhdx, openVhdx, type VhdxDisk } from "../src/vhdx/index.js";
import { MIB } from "../src/vhdx/layout.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";
import { SectorHistory } from "./sector-history.js";

/** A disk beside a model that knows the stamp of every sector. */
class Pair {
  readonly #file = new MemoryFile();
  readonly #random: Prng;
  readonly #model: SectorHistory;
  readonly #blockBytes: number;
  #disk: VhdxDisk;
  #stamp = 0;

  constructor(seed: number, sectorBytes: number, blockBytes: number, fixed: boolean) {
    this.#random = new Prng(seed);
    this.#blockBytes = blockBytes;
    this.#model = new SectorHistory(sectorBytes);
    this.#disk = createVhdx(this.#file, {
      // An odd tail after the last whole block.
      sizeBytes: 40 * MIB + 3 * sectorBytes,
      blockBytes,
      logicalSectorBytes: sectorBytes,
      fixed,
      random: this.#random,
    });
  }

  write(at: number, sectors: number): void {
    const [first, count] = this.#clip(at, sectors);
    const { sectorBytes } = this.#model;
    const stamp = ++this.#stamp;
    // The window lies somewhere in the caller's array, which is not to be touched elsewhere.
    const bytes = new Uint8Array((count + 2) * sectorBytes).fill(0xaa);
    for (let index = 0; index < count; index++) {
      this.#model.fill(bytes, (index + 1) * sectorBytes, first + index, stamp);
      this.#model.record(first + index, 0, stamp);
    }
    this.#disk.write(first * sectorBytes, bytes, sectorBytes, count * sectorBytes);
  }

  read(at: number, sectors: number): void {
    const [first, count] = this.#clip(at, sectors);
    const { sectorBytes } = this.#model;
    const bytes = new Uint8Array((count + 2) * sectorBytes).fill(0xaa);
    this.#disk.read(first * sectorBytes, bytes, sectorBytes, count * sectorBytes);
    const words = new Uint32Array(bytes.buffer);
    for (let index = 0; index < count; index++) {
      const sector = first + index;
      const found = this.#model.stampOf(words, ((index + 1) * sectorBytes) / 4, sector);
      if (found !== this.#model.latest(sector))
        expect.fail(`sector ${sector}: ${found} instead of ${this.#model.latest(sector)}`);
    }
    const guard = (from: number): boolean =>
      bytes.subarray(from, from + sectorBytes).every((byte) => byte === 0xaa);
    expect(guard(0) && guard((count + 1) * sectorBytes)).toBe(true);
  }

  unmap(at: number, sectors: number): void {
    const [first, count] = this.#clip(at, sectors);
    const { sectorBytes } = this.#model;
    this.#disk.unmap(first * sectorBytes, count * sectorBytes);
    if (this.#disk.format === "vhdx-fixed") return;
    const perBlock = this.#blockBytes / sectorBytes;
    const end = (first + count) * sectorBytes === this.#disk.sizeBytes ? Infinity : first + count;
    const from = Math.ceil(first / perBlock) * perBlock;
    this.#model.recordZeros(from, Math.max(from, Math.floor(end / perBlock) * perBlock), 0);
  }

  flush(): void {
    this.#disk.flush();
  }

  reopen(readOnly: boolean): void {
    this.#disk.close();
    this.#file.reopen();
    expect(checkVhdx(this.#file)).toEqual([]);
    if (readOnly) {
      this.#disk = openVhdx(this.#file, { random: this.#random, readOnly });
      this.readAll();
      this.#disk.close();
      this.#file.reopen();
    }
    this.#disk = openVhdx(this.#file, { random: this.#random });
  }

  readAll(): void {
    const { sectorBytes } = this.#model;
    const step = (5 * MIB) / sectorBytes;
    for (let at = 0; at < this.#disk.sizeBytes / sectorBytes; at += step) this.read(at, step);
  }

  /** A range inside the disk: the first sector and how many. */
  #clip(at: number, sectors: number): readonly [number, number] {
    const all = this.#disk.sizeBytes / this.#model.sectorBytes;
    const first = at % all;
    return [first, Math.min(sectors, all - first)];
  }
}

type Step =
  | readonly [kind: "write" | "read" | "unmap", at: number, sectors: number]
  | readonly ["flush" | "reopen" | "reopen read-only"];

const place = fc
  .oneof(
    // Around the borders of blocks, or anywhere.
    fc.tuple(fc.nat(41), fc.integer({ min: -3, max: 3 })).map(([block, off]) => block * 2048 + off),
    fc.nat(41 * 2048),
  )
  .map((at) => Math.max(0, at));
const length = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 16 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 6000 }) },
);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(fc.constant("write" as const), place, length) },
  { weight: 3, arbitrary: fc.tuple(fc.constant("read" as const), place, length) },
  {
    weight: 3,
    arbitrary: fc.tuple(fc.constant("unmap" as const), place, fc.integer({ min: 1, max: 12_000 })),
  },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom("flush", "reopen", "reopen read-only")) },
);

test("a disk does what an array of sectors would do", () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_000);
  console.info(`model: SEED=${seed}`);
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 5, maxLength: 60 }),
      fc.constantFrom(512, 4096),
      fc.constantFrom(1, 2, 4).map((mib) => mib * MIB),
      fc.boolean(),
      (steps, sectorBytes, blockBytes, fixed) => {
        const pair = new Pair(seed, sectorBytes, blockBytes, fixed);
        for (const [kind, at = 0, sectors = 0] of steps) {
          if (kind === "flush") pair.flush();
          else if (kind === "reopen") pair.reopen(false);
          else if (kind === "reopen read-only") pair.reopen(true);
          else pair[kind](at, sectors);
        }
        pair.readAll();
        pair.reopen(true);
      },
    ),
    { seed, numRuns: 15 },
  );
});
