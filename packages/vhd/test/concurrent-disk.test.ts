import { beforeEach, describe, expect, test } from "vitest";
import { type MemoryRuns } from "../src/memory-runs.js";
import { ConcurrentDisk, type MappedDisk } from "../src/index.js";
import { createVhd } from "../src/vhd/index.js";
import { createVhdx, openVhdx } from "../src/vhdx/index.js";
import { LaterCalls } from "./later-calls.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

const MIB = 2 ** 20;
const SECTOR = 512;

/** Memory with guards around the runs. */
class Memory implements MemoryRuns {
  readonly bytes = new Uint8Array(new SharedArrayBuffer(64 * 1024)).fill(0xa5);
  readonly #runs: readonly (readonly [address: number, lengthBytes: number])[];

  constructor(...runs: readonly (readonly [number, number])[]) {
    this.#runs = runs;
  }

  get runs(): number {
    return this.#runs.length;
  }

  runAddress(index: number): number {
    return this.#runs[index]![0];
  }

  runLength(index: number): number {
    return this.#runs[index]![1];
  }

  get contents(): Uint8Array {
    return Buffer.concat(
      this.#runs.map(([address, length]) => this.bytes.subarray(address, address + length)),
    );
  }

  fill(value: (index: number) => number): this {
    let index = 0;
    for (const [address, length] of this.#runs)
      for (let at = address; at < address + length; at++) this.bytes[at] = value(index++);
    return this;
  }

  /** Bytes outside the runs that something has changed. */
  get strays(): number {
    const guards = this.bytes.slice();
    for (const [address, length] of this.#runs) guards.fill(0xa5, address, address + length);
    return guards.filter((byte) => byte !== 0xa5).length;
  }
}

/** An image of 8 blocks of 1 MiB, of which 0 to 3 hold ones, over a file whose calls end when told. */
class Rig {
  readonly file = new MemoryFile();
  readonly later = new LaterCalls(this.file);
  readonly disk: ConcurrentDisk;
  /** Names of calls in the order in which they ended, with the code of what they ended with. */
  readonly ended: string[] = [];

  constructor(make: (file: MemoryFile) => MappedDisk = dynamicVhdx) {
    this.file.later = this.later;
    const image = make(this.file);
    const ones = new Uint8Array(4 * MIB).fill(1);
    image.write(0, ones, 0, ones.byteLength);
    image.flush();
    this.disk = new ConcurrentDisk(image);
    this.file.trace = [];
  }

  read(name: string, position: number, memory = page()): Memory {
    this.disk.read(position / SECTOR, memory.contents.byteLength, memory, this.#note(name));
    return memory;
  }

  write(name: string, position: number, value: number, memory = page()): void {
    memory.fill(() => value);
    this.disk.write(position / SECTOR, memory.contents.byteLength, memory, this.#note(name));
  }

  flush(name: string): void {
    this.disk.flush(this.#note(name));
  }

  whenIdle(name: string, work: () => void = () => undefined): void {
    this.disk.whenIdle(() => {
      work();
      this.ended.push(name);
    });
  }

  /** Lets the oldest call of the file, or the one at an index, take effect and end. */
  finish(index = 0): void {
    this.later.step(() => index);
    this.later.step(() => index);
  }

  /** The byte that each sector of a range begins with, as the image below has it. */
  bytes(position: number, sectors = 8): number[] {
    const bytes = new Uint8Array(sectors * SECTOR);
    this.disk.disk.read(position, bytes, 0, bytes.byteLength);
    return Array.from({ length: sectors }, (_, sector) => bytes[sector * SECTOR]!);
  }

  get flushesOfFile(): number {
    return this.file.trace!.filter(({ kind }) => kind === "flush").length;
  }

  #note(name: string): (error?: unknown) => void {
    return (error) => {
      const failure = error as { readonly code: string } | undefined;
      this.ended.push(failure === undefined ? name : `${name} ${failure.code}`);
    };
  }
}

const page = (): Memory => new Memory([4096, 4096]);
const dynamicVhdx = (file: MemoryFile): MappedDisk =>
  createVhdx(file, { sizeBytes: 8 * MIB, blockBytes: MIB, random: new Prng(1) });

let rig: Rig;
beforeEach(() => {
  rig = new Rig();
});

describe("data", () => {
  test("land in the runs and nowhere else, wherever a run ends", () => {
    const memory = (): Memory => new Memory([100, 3], [1000, 700], [5000, 1], [6001, 4416]);
    const written = memory().fill((index) => index * 7);
    // From the end of a block with content into one without.
    const position = 4 * MIB - 3 * SECTOR;
    rig.disk.write(position / SECTOR, 5120, written, (error) => expect(error).toBeUndefined());
    rig.later.finish();
    const found = memory();
    rig.disk.read(position / SECTOR, 5120, found, (error) => expect(error).toBeUndefined());
    rig.later.finish();
    expect(Buffer.compare(found.contents, written.contents)).toBe(0);
    expect([found.strays, written.strays]).toEqual([0, 0]);
    expect(rig.bytes(4 * MIB + 7 * SECTOR, 1)).toEqual([0]);
  });

  test("fill the runs up to the length, and not further", () => {
    const memory = new Memory([0, 512], [2048, 4096]);
    rig.disk.read(0, 1024, memory, () => undefined);
    rig.later.finish();
    expect(memory.contents.indexOf(0xa5)).toBe(1024);
  });

  test("that were never written read as zero at once", () => {
    expect(rig.read("zeros", 6 * MIB).contents.every((byte) => byte === 0)).toBe(true);
    expect(rig.ended).toEqual(["zeros"]);
    expect(rig.later.count).toBe(0);
  });

  test("move in any order, many at a time", () => {
    for (const block of [0, 1, 2, 3]) rig.write(`write ${block}`, block * MIB, 0x10 + block);
    rig.read("read", 8192);
    expect(rig.ended).toEqual([]);
    rig.finish(4);
    rig.finish(2);
    rig.finish(0);
    rig.later.finish();
    expect(rig.ended).toEqual(["read", "write 2", "write 0", "write 1", "write 3"]);
    expect([0, 1, 2, 3].map((block) => rig.bytes(block * MIB, 1)[0])).toEqual([16, 17, 18, 19]);
  });

  test("outside the disk, or of half a sector, are a mistake", () => {
    const { disk } = rig;
    const none = (): void => undefined;
    expect(() => disk.read(8 * 2048, 512, page(), none)).toThrow("not inside the disk");
    expect(() => disk.write(0, 100, page(), none)).toThrow("whole sectors");
  });
});

describe("where nothing was yet", () => {
  test("a write is done when it returns", () => {
    rig.write("new", 5 * MIB, 9);
    expect(rig.ended).toEqual(["new"]);
    expect(rig.bytes(5 * MIB)).toEqual([9, 9, 9, 9, 9, 9, 9, 9]);
    expect(rig.bytes(5 * MIB + 4096)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test("a write waits for a flush on its way, and reads and other writes do not", () => {
    rig.write("old", 0, 2);
    rig.later.finish();
    rig.flush("flush");
    rig.write("new", 5 * MIB, 9);
    rig.write("new too", 5 * MIB + 4096, 8);
    rig.write("other", MIB, 3);
    rig.read("zeros", 5 * MIB);
    expect(rig.ended).toEqual(["old", "zeros"]);
    rig.finish(1);
    expect(rig.ended).toEqual(["old", "zeros", "other"]);
    // Once the first has given the block a place the second goes straight to the file.
    rig.later.step(() => 0);
    expect(rig.ended).toEqual(["old", "zeros", "other", "flush", "new"]);
    rig.later.finish();
    expect(rig.bytes(5 * MIB, 16)).toEqual([9, 9, 9, 9, 9, 9, 9, 9, 8, 8, 8, 8, 8, 8, 8, 8]);
  });
});

describe("a flush", () => {
  test("of nothing ends at once", () => {
    rig.flush("flush");
    expect(rig.ended).toEqual(["flush"]);
    expect(rig.flushesOfFile).toBe(0);
  });

  test("waits for writes before it, and not for those after it", () => {
    rig.write("before", 0, 2);
    rig.write("before too", MIB, 2);
    rig.flush("flush");
    rig.write("after", 2 * MIB, 3);
    rig.finish(0);
    expect(rig.flushesOfFile).toBe(0);
    rig.finish(0);
    expect(rig.flushesOfFile).toBe(1);
    rig.later.step(() => 1);
    expect(rig.ended).toEqual(["before", "before too", "flush"]);
    // The write in flight belongs to the next one.
    rig.flush("next");
    rig.finish(0);
    expect(rig.flushesOfFile).toBe(2);
    rig.later.finish();
    expect(rig.ended.slice(3)).toEqual(["after", "next"]);
  });

  test("makes durable what ends while its file is being flushed, at the latest with the next one", () => {
    rig.write("first", 0, 2);
    rig.later.finish();
    rig.flush("flush");
    rig.write("meanwhile", MIB, 3);
    rig.finish(1);
    rig.later.finish();
    expect(rig.ended).toEqual(["first", "meanwhile", "flush"]);
    rig.flush("next");
    rig.later.finish();
    expect(rig.flushesOfFile).toBe(2);
  });

  test("of metadata has its steps with the data moving on", () => {
    // A block whose place has a past: its data must be durable before the log names it.
    rig.whenIdle("unmap", () => rig.disk.disk.unmap(0, MIB));
    rig.flush("unmapped");
    rig.later.finish();
    rig.write("again", 0, 4);
    rig.file.trace!.length = 0;
    rig.flush("flush");
    for (let step = 0; rig.ended.at(-1) !== "flush"; step++) {
      rig.write(`write ${step}`, MIB, step);
      rig.finish(1);
      rig.later.step(() => 0);
    }
    expect(rig.flushesOfFile).toBeGreaterThan(1);
    expect(rig.bytes(0)).toEqual([4, 4, 4, 4, 4, 4, 4, 4]);
  });

  test("begins when the one before it has ended, and covers what ended since", () => {
    rig.write("write", 0, 2);
    rig.flush("one");
    rig.write("write two", MIB, 3);
    rig.flush("two");
    rig.finish(0);
    expect(rig.flushesOfFile).toBe(1);
    rig.finish(0);
    rig.later.finish();
    expect(rig.flushesOfFile).toBe(2);
    expect(rig.ended).toEqual(["write", "write two", "one", "two"]);
  });
});

describe("the image to oneself", () => {
  test("comes when all that was before has ended, and keeps the rest back", () => {
    rig.read("read", 0);
    rig.write("write", MIB, 2);
    rig.flush("flush");
    rig.whenIdle("unmap", () => {
      rig.disk.disk.unmap(MIB, MIB);
      rig.read("zeros", MIB);
      expect(rig.ended).toEqual(["read", "write", "flush"]);
    });
    rig.read("late read", 2 * MIB);
    rig.write("late write", 3 * MIB, 5);
    expect(rig.later.count).toBe(2);
    rig.finish(0);
    rig.finish(0);
    rig.later.finish();
    expect(rig.ended.slice(0, 4)).toEqual(["read", "write", "flush", "unmap"]);
    expect(rig.ended.slice(4).sort()).toEqual(["late read", "late write", "zeros"]);
    expect(rig.bytes(MIB, 1)).toEqual([0]);
  });

  test("comes at once when nothing is in flight", () => {
    rig.whenIdle("now");
    expect(rig.ended).toEqual(["now"]);
  });

  test("may take a block away that a later write gives a place again", () => {
    rig.read("read", 0);
    rig.whenIdle("unmap", () => rig.disk.disk.unmap(0, MIB));
    rig.flush("flush");
    rig.write("write", 0, 7);
    rig.later.finish();
    expect(rig.ended).toEqual(["read", "unmap", "flush", "write"]);
    expect(rig.bytes(0, 9)).toEqual([7, 7, 7, 7, 7, 7, 7, 7, 0]);
  });

  test("is what closing waits for", async () => {
    rig.write("write", 0, 2);
    const closed = rig.disk.close();
    expect(rig.file.closed).toBe(false);
    rig.later.finish();
    await closed;
    expect(rig.file.closed).toBe(true);
    rig.file.reopen();
    const bytes = new Uint8Array(512);
    openVhdx(rig.file, { random: new Prng(2) }).read(0, bytes, 0, 512);
    expect(bytes[0]).toBe(2);
  });
});

describe("an error", () => {
  const fail = (kind: string): void => {
    rig.file.before = (operation) => {
      if (operation.kind === kind) throw Object.assign(new Error("no"), { code: "ERR_TEST" });
    };
  };

  test("of a write of data ends that write alone", () => {
    fail("write");
    rig.write("write", 0, 2);
    rig.later.finish();
    rig.write("new", 5 * MIB, 2);
    rig.file.before = undefined;
    rig.write("again", 0, 3);
    rig.flush("flush");
    rig.later.finish();
    expect(rig.ended).toEqual(["write ERR_TEST", "new ERR_TEST", "again", "flush"]);
  });

  test("of one of several calls of the file ends the transfer when the others have ended", () => {
    rig.file.before = ({ kind, ...operation }) => {
      if (kind === "write" && "bytes" in operation && operation.bytes.byteLength === 512)
        throw Object.assign(new Error("no"), { code: "ERR_TEST" });
    };
    // Blocks 0 and 1 of an image of another order, so that they are two runs of the file.
    const file = new MemoryFile();
    const later = new LaterCalls(file);
    file.later = later;
    const image = dynamicVhdx(file);
    for (const block of [1, 0]) image.write(block * MIB, new Uint8Array(512).fill(1), 0, 512);
    file.before = rig.file.before;
    const ended: unknown[] = [];
    new ConcurrentDisk(image).write(2047, 4096, page(), (error) => ended.push(error));
    expect(later.count).toBe(2);
    later.step(() => 0);
    later.step(() => 0);
    expect(ended).toEqual([]);
    later.finish();
    expect(ended).toMatchObject([{ code: "ERR_TEST" }]);
  });

  test("of a flush poisons the image for what comes after it, and what waits ends", async () => {
    rig.write("write", 0, 2);
    rig.later.finish();
    fail("flush");
    rig.flush("flush");
    rig.write("new", 5 * MIB, 1);
    rig.flush("flush two");
    rig.later.finish();
    rig.read("read", 0);
    rig.write("write two", 0, 1);
    expect(rig.ended).toEqual([
      "write",
      "flush ERR_TEST",
      "new ERR_IMAGE_POISONED",
      "flush two ERR_IMAGE_POISONED",
      "read ERR_IMAGE_POISONED",
      "write two ERR_IMAGE_POISONED",
    ]);
    await expect(rig.disk.close()).rejects.toMatchObject({ code: "ERR_IMAGE_POISONED" });
    expect(rig.file.closed).toBe(true);
  });

  test("tells that the image is read-only", () => {
    rig.disk.disk.close();
    rig.file.reopen();
    const image = openVhdx(rig.file, { random: new Prng(1), readOnly: true });
    const disk = new ConcurrentDisk(image);
    const errors: unknown[] = [];
    disk.write(0, 4096, page(), (error) => errors.push(error));
    disk.flush((error) => errors.push(error));
    expect(errors).toMatchObject([{ code: "ERR_IMAGE_READ_ONLY" }, undefined]);
  });
});

test("an image's own calls that change metadata are a mistake while a flush is on its way", () => {
  rig.write("write", 0, 2);
  rig.later.finish();
  rig.flush("flush");
  const { disk } = rig.disk;
  expect(() => disk.write(6 * MIB, new Uint8Array(512), 0, 512)).toThrow("a flush is on its way");
  expect(() => disk.unmap(0, MIB)).toThrow("a flush is on its way");
  expect(() => disk.close()).toThrow("a flush is on its way");
});

test("a log that is replayed in memory shows in reads", () => {
  rig.write("new", 5 * MIB, 6);
  rig.disk.disk.flush();
  // The block's place is in the log only.
  const crashed = rig.file.clone();
  const later = new LaterCalls(crashed);
  crashed.later = later;
  const image = openVhdx(crashed, { random: new Prng(3), readOnly: true });
  const disk = new ConcurrentDisk(image);
  const memory = page();
  disk.read(5 * 2048, 4096, memory, () => undefined);
  later.finish();
  expect(memory.contents.every((byte) => byte === 6)).toBe(true);
});

describe.each([
  [
    "fixed VHDX",
    (file: MemoryFile) =>
      createVhdx(file, { sizeBytes: 8 * MIB, blockBytes: MIB, fixed: true, random: new Prng(1) }),
  ],
  [
    "dynamic VHD",
    (file: MemoryFile) =>
      createVhd(file, { sizeBytes: 8 * MIB, fixed: false, blockBytes: MIB, random: new Prng(1) }),
  ],
  [
    "fixed VHD",
    (file: MemoryFile) => createVhd(file, { sizeBytes: 8 * MIB, fixed: true, random: new Prng(1) }),
  ],
])("a %s", (_, make: (file: MemoryFile) => MappedDisk) => {
  test("moves data as a dynamic VHDX does", () => {
    rig = new Rig(make);
    for (const position of [0, MIB - 2048, 6 * MIB]) {
      rig.write("write", position, 0x33);
      rig.flush("flush");
      const memory = rig.read("read", position);
      rig.later.finish();
      const again = rig.read("read", position);
      rig.later.finish();
      expect([1, 0, 0x33]).toContain(memory.contents[0]);
      expect(again.contents.every((byte) => byte === 0x33)).toBe(true);
    }
    expect(rig.ended.filter((name) => name === "flush")).toHaveLength(3);
  });
});
