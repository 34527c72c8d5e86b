import { closeSync, ftruncateSync, openSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type Ended } from "../src/block-file.js";
import { type MemoryRuns } from "../src/memory-runs.js";
import { ConcurrentDisk } from "../src/concurrent-disk.js";
import { checkImageFile, createImageFile, openFile, openImageFile } from "../src/node/index.js";
import { Prng } from "./prng.js";
import { SectorHistory } from "./sector-history.js";
import { temporaryDirectory } from "./temporary-directory.js";

const temporary = temporaryDirectory();
const MIB = 2 ** 20;
const SECTOR = 512;
const PIECE = 8 * SECTOR;

/** The memory of a guest, as threads share it. */
function guestMemory(): Uint8Array {
  return new Uint8Array(new WebAssembly.Memory({ initial: 16, maximum: 16, shared: true }).buffer);
}

/** A piece of memory that is cut in two inside a sector. */
function runsAt(bytes: Uint8Array, address: number): MemoryRuns {
  const cut = 3 * SECTOR + 100;
  return {
    bytes,
    runs: 2,
    runAddress: (index) => address + index * cut,
    runLength: (index) => (index === 0 ? cut : PIECE - cut),
  };
}

/** Settles as the call ends. */
function settled(begin: (ended: Ended) => void): Promise<void> {
  return new Promise((resolve, reject) =>
    begin((error) => (error instanceof Error ? reject(error) : resolve())),
  );
}

describe.each(["vhdx-dynamic", "vhdx-fixed", "vhd-dynamic", "vhd-fixed"] as const)(
  "a file with a %s",
  (format) => {
    test("takes many calls at a time, straight from and to shared memory", async () => {
      const path = temporary(`${format}.img`);
      const image = await createImageFile(path, { format, sizeBytes: 16 * MIB });
      const disk = new ConcurrentDisk(image);
      const history = new SectorHistory(SECTOR);
      const prng = new Prng(1);
      const pieces = (16 * MIB) / PIECE;
      const places = Array.from({ length: 64 }, () => prng.below(pieces) * PIECE);
      const unique = [...new Set(places)];
      const memory = guestMemory();
      const fill = (position: number, address: number, stamp: number): void => {
        const bytes = new Uint8Array(PIECE);
        for (let at = 0; at < PIECE; at += SECTOR)
          history.fill(bytes, at, (position + at) / SECTOR, stamp);
        memory.set(bytes, address);
      };
      for (const stamp of [1, 2]) {
        const writes = unique.map((position, index) => {
          fill(position, index * PIECE, stamp);
          return settled((ended) =>
            disk.write(position / SECTOR, PIECE, runsAt(memory, index * PIECE), ended),
          );
        });
        const flush = settled((ended) => disk.flush(ended));
        await Promise.all([...writes, flush]);
      }
      memory.fill(0xee);
      await Promise.all(
        unique.map((position, index) =>
          settled((ended) =>
            disk.read(position / SECTOR, PIECE, runsAt(memory, index * PIECE), ended),
          ),
        ),
      );
      const words = new Uint32Array(memory.buffer);
      for (const [index, position] of unique.entries())
        for (let at = 0; at < PIECE; at += SECTOR)
          expect(history.stampOf(words, (index * PIECE + at) / 4, (position + at) / SECTOR)).toBe(
            2,
          );
      expect(memory[unique.length * PIECE]).toBe(0xee);
      await disk.close();
      expect(await checkImageFile(path)).toEqual([]);
    });
  },
);

test("what lies past the end of a file reads as zero", async () => {
  const path = temporary("short");
  const descriptor = openSync(path, "w");
  ftruncateSync(descriptor, 5000);
  closeSync(descriptor);
  const file = await openFile(path);
  const targets = [new Uint8Array(4000).fill(9), new Uint8Array(4000).fill(9)];
  await settled((ended) => file.later!.read(0, targets, ended));
  expect(targets.every((target) => target.every((byte) => byte === 0))).toBe(true);
  file.close();
});

test("a file grows with what is written past its end", async () => {
  const file = await openFile(temporary("growing"), { create: true });
  const sources = [new Uint8Array(700).fill(1), new Uint8Array(300).fill(2)];
  await settled((ended) => file.later!.write(4096, sources, ended));
  expect(file.sizeBytes).toBe(5096);
  const found = new Uint8Array(1000);
  file.read(4096, found, 0, 1000);
  expect([found[699], found[700]]).toEqual([1, 2]);
  file.close();
});

test("a call that the system refuses ends with an error that names the file", async () => {
  const path = temporary("read-only.vhdx");
  const image = await createImageFile(path, { format: "vhdx-fixed", sizeBytes: MIB });
  image.close();
  const file = await openFile(path, { readOnly: true });
  const write = settled((ended) => file.later!.write(0, [new Uint8Array(1)], ended));
  await expect(write).rejects.toMatchObject({ code: "ERR_IMAGE_FILE", structure: path });
  file.close();
  const disk = new ConcurrentDisk(await openImageFile(path, { readOnly: true }));
  const refused = settled((ended) => disk.write(0, PIECE, runsAt(guestMemory(), 0), ended));
  await expect(refused).rejects.toMatchObject({ code: "ERR_IMAGE_READ_ONLY" });
  await disk.close();
});
