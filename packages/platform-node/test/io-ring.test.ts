import { execFileSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { IO_NOT_CACHED, IO_UNSUPPORTED, IoRing, createGuestMemory } from "../src/index.js";
import { whyNot } from "./koffi.js";

const SHARED_MEMORY = "/dev/shm";
const BLOCK = 4096;

const directory = mkdtempSync(join(tmpdir(), "io-ring-"));
afterAll(() => rmSync(directory, { recursive: true }));
const memory = createGuestMemory(1 << 20).bytes;

function whyNoRing(): string | undefined {
  const ring = IoRing.open(memory, 1);
  ring?.close();
  return ring === undefined
    ? "io_uring: skipped: the system does not let this process use it (sysctl kernel.io_uring_disabled, or a container's rules)"
    : undefined;
}
const reason = whyNot("io_uring") ?? whyNoRing();
if (reason !== undefined) console.warn(reason);

const read = (fd: number, position: number, lengthBytes: number): Buffer => {
  const bytes = Buffer.alloc(lengthBytes);
  readSync(fd, bytes, 0, lengthBytes, position);
  return bytes;
};

test("a ring can be done without", () => {
  vi.stubEnv("HYPERV_IS_IO_URING", "off");
  expect(IoRing.open(memory, 1)).toBeUndefined();
  vi.stubEnv("HYPERV_IS_IO_URING", "no");
  expect(() => IoRing.open(memory, 1)).toThrow('HYPERV_IS_IO_URING is "on" or "off", not "no"');
  vi.unstubAllEnvs();
});

describe.skipIf(reason !== undefined)("reads that are carried out together", () => {
  const path = join(directory, "file");
  let fd: number;
  let ring: IoRing;
  beforeEach(() => {
    // Every block says which it is.
    const words = new Uint32Array((64 * BLOCK) / 4).map((_, word) => word);
    writeFileSync(path, new Uint8Array(words.buffer));
    fd = openSync(path, "r+");
    ring = IoRing.open(memory, 8)!;
    memory.fill(0xee);
  });
  afterEach(() => {
    ring.close();
    closeSync(fd);
  });

  const add = (position: number, at: number, lengthBytes: number, onlyCached = true): void =>
    ring.add(fd, position | 0, Math.floor(position / 2 ** 32), at, lengthBytes, onlyCached);

  test("bring what the file holds to where it belongs, and touch nothing else", () => {
    for (let turn = 0; turn < 20; turn++) {
      memory.fill(0xee);
      const reads = Array.from({ length: 8 }, (_, index) => ({
        position: ((turn * 8 + index) % 60) * BLOCK + 12,
        at: (index * 2 + 1) * 2 * BLOCK + index,
        lengthBytes: BLOCK + index * 100 + turn,
      }));
      for (const { position, at, lengthBytes } of reads) add(position, at, lengthBytes);
      ring.carryOut();
      for (const [index, { position, at, lengthBytes }] of reads.entries()) {
        expect(ring.result(index)).toBe(lengthBytes);
        expect(read(fd, position, lengthBytes).equals(memory.subarray(at, at + lengthBytes))).toBe(
          true,
        );
        expect(memory[at - 1]).toBe(0xee);
        expect(memory[at + lengthBytes]).toBe(0xee);
      }
    }
  });

  test("reach positions that 32 bits do not hold", () => {
    const positions = [2 ** 31 + 5, 2 ** 32 - 7, 5 * 2 ** 32 + 3];
    for (const [index, position] of positions.entries())
      writeSync(fd, new Uint8Array(16).fill(index + 1), 0, 16, position);
    for (const [index, position] of positions.entries()) add(position, index * 16, 16);
    ring.carryOut();
    expect(positions.map((_, index) => ring.result(index))).toEqual([16, 16, 16]);
    expect([memory[0], memory[15], memory[16], memory[47]]).toEqual([1, 1, 2, 3]);
  });

  test("are short at the end of the file, and fail one by one", () => {
    const writeOnly = openSync(path, "a");
    add(63 * BLOCK + 96, 0, BLOCK);
    add(100 * BLOCK, BLOCK, BLOCK);
    ring.add(writeOnly, 0, 0, 2 * BLOCK, BLOCK, true);
    add(0, 3 * BLOCK, BLOCK);
    ring.carryOut();
    closeSync(writeOnly);
    expect([0, 1, 3].map((index) => ring.result(index))).toEqual([BLOCK - 96, 0, BLOCK]);
    expect(ring.result(2)).toBeLessThan(0);
    expect(memory[BLOCK]).toBe(0xee);
  });

  test("wait for what is not cached, if they are told to", () => {
    fdatasyncSync(fd);
    const results = new Set<number>();
    for (let attempt = 0; attempt < 20 && !results.has(IO_NOT_CACHED); attempt++) {
      // Takes most of the file out of the page cache, where its file system can.
      execFileSync("dd", [`if=${path}`, "iflag=nocache", "count=0", "status=none"]);
      for (let index = 0; index < 8; index++) add(index * 8 * BLOCK, index * BLOCK, BLOCK);
      ring.carryOut();
      for (let index = 0; index < 8; index++) results.add(ring.result(index));
    }
    expect(results.has(IO_NOT_CACHED) || results.has(IO_UNSUPPORTED)).toBe(true);
    for (let index = 0; index < 8; index++) add(index * 8 * BLOCK, index * BLOCK, BLOCK, false);
    ring.carryOut();
    for (let index = 0; index < 8; index++) {
      expect(ring.result(index)).toBe(BLOCK);
      const block = memory.subarray(index * BLOCK, (index + 1) * BLOCK);
      expect(read(fd, index * 8 * BLOCK, BLOCK).equals(block)).toBe(true);
    }
  });

  test("stay within the memory and the room", () => {
    const outside = `${BLOCK} bytes at ${(1 << 20) - BLOCK + 1} are outside the memory`;
    expect(() => add(0, (1 << 20) - BLOCK + 1, BLOCK)).toThrow(outside);
    for (let index = 0; index < ring.room; index++) add(0, index * BLOCK, BLOCK);
    expect(() => add(0, 0, BLOCK)).toThrow("a ring has room for 8 reads");
    ring.carryOut();
    expect(ring.result(7)).toBe(BLOCK);
    add(0, 0, BLOCK);
    ring.carryOut();
    expect(ring.result(0)).toBe(BLOCK);
  });

  test("are refused by file systems that would hand them to a thread", () => {
    const inMemory = join(
      existsSync(SHARED_MEMORY) ? SHARED_MEMORY : directory,
      `io-ring-${process.pid}`,
    );
    writeFileSync(inMemory, new Uint8Array(BLOCK));
    const file = openSync(inMemory, "r");
    rmSync(inMemory);
    ring.add(file, 0, 0, 0, BLOCK, true);
    ring.carryOut();
    closeSync(file);
    // tmpfs of Linux 6.18 does; others may read.
    expect([IO_UNSUPPORTED, BLOCK]).toContain(ring.result(0));
  });
});

test.skipIf(reason !== undefined)(
  "a ring whose memory cannot be mapped is none, and leaves nothing",
  () => {
    const program = fileURLToPath(new URL("./io-ring-unmapped.mjs", import.meta.url));
    const told = execFileSync(process.execPath, [program], { encoding: "utf8" });
    const [none, first, both, atEnd] = JSON.parse(told) as unknown[];
    expect([none, first]).toEqual(Array(2).fill({ isOpen: false, left: [0, 0] }));
    expect([both, atEnd]).toEqual([{ isOpen: true, left: [1, 2] }, [0, 0]]);
  },
);
