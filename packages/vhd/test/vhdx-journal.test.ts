import { expect, test } from "vitest";
import { newHeader } from "../src/vhdx/header.js";
import { Journal } from "../src/vhdx/journal.js";
import { MIB, PAGE_BYTES } from "../src/vhdx/layout.js";
import { LogReader } from "../src/vhdx/log-reader.js";
import { refusing } from "../src/reporter.js";
import { apply, crashImage, type FileOperation, MemoryFile, randomFates } from "./memory-file.js";
import { Prng } from "./prng.js";

const LOG_OFFSET = MIB;
const PAGES_OFFSET = 3 * MIB;
const PAGES = 300;
const guid = "6b8c3e1a-0d5f-4e92-8a77-3c1b9f24d605";

/** A file, a journal over it, and what its pages hold in memory: page p at version v is made of p and v. */
class Bench {
  readonly file = new MemoryFile();
  readonly journal: Journal;
  readonly versions: number[] = Array.from({ length: PAGES }, () => 0);
  /** State of all pages after each batch, with the length of the trace when the batch was made. */
  readonly batches: { readonly at: number; readonly versions: number[] }[] = [];
  readonly flushes: { readonly batches: number; readonly ended: number }[] = [];

  constructor() {
    this.file.truncate(PAGES_OFFSET + 2 * MIB);
    this.batches.push({ at: -1, versions: [...this.versions] });
    this.journal = new Journal(this.file, {
      logOffset: LOG_OFFSET,
      logBytes: MIB,
      logGuid: guid,
      render: (offset, bytes) => this.#render(offset, bytes),
    });
    this.journal.start();
    this.file.trace = [];
  }

  change(page: number): void {
    this.journal.touch(PAGES_OFFSET + page * PAGE_BYTES);
    this.versions[page]!++;
  }

  flush(): void {
    const batches = this.batches.length;
    this.journal.flush();
    this.flushes.push({ batches, ended: this.file.trace!.length });
  }

  #render(offset: number, bytes: Uint8Array): void {
    const page = (offset - PAGES_OFFSET) / PAGE_BYTES;
    const at = this.file.trace!.length;
    // All pages of a batch are rendered before its entry is written.
    if (this.batches.at(-1)!.at !== at)
      this.batches.push({ at, versions: [...this.batches.at(-1)!.versions] });
    this.batches.at(-1)!.versions[page] = this.versions[page]!;
    bytes.set(pageBytes(page, this.versions[page]!));
  }

  /** The batch whose state a crashed file has after its log was replayed. */
  batchOf(image: MemoryFile, cut: number): number {
    const reader = new LogReader(image, {
      ...newHeader({
        fileWriteGuid: guid,
        dataWriteGuid: guid,
        logBytes: MIB,
        logOffset: LOG_OFFSET,
      }),
      logGuid: guid,
    });
    const active = reader.findActive(refusing)!;
    expect(reader.check(active, refusing)).toBe(true);
    reader.replay(active, image);
    const found = this.versions.map((_, page) => versionOf(image, page));
    const durable = this.flushes.findLast((flush) => flush.ended <= cut)?.batches ?? 1;
    const first = durable - 1;
    const index = this.batches
      .slice(first)
      .findIndex(
        ({ at, versions }) => at < cut && versions.every((it, page) => it === found[page]),
      );
    return index < 0 ? index : first + index;
  }
}

/** Every byte counts, the first eight and the last four included: the log keeps those elsewhere. */
function pageBytes(page: number, version: number): Uint8Array {
  const words = new Uint32Array(PAGE_BYTES / 4);
  if (version > 0)
    for (let at = 0; at < words.length; at++)
      words[at] = Math.imul(page + 1, 0x9e37_79b1) ^ Math.imul(version, 0x85eb_ca6b) ^ at;
  words[1] = version;
  return new Uint8Array(words.buffer);
}

function versionOf(file: MemoryFile, page: number): number {
  const bytes = file.bytes(PAGES_OFFSET + page * PAGE_BYTES, PAGE_BYTES);
  const version = new Uint32Array(bytes.buffer)[1]!;
  return Buffer.compare(bytes, pageBytes(page, version)) === 0 ? version : -1;
}

function isLogWrite(operation: FileOperation): operation is FileOperation & { kind: "write" } {
  return operation.kind === "write" && operation.position < LOG_OFFSET + MIB;
}

test("a crash shows all batches up to some point, and at least those flushed", () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_000);
  console.info(`journal crashes: SEED=${seed}`);
  const prng = new Prng(seed);
  let wraps = 0;
  // Most pages that change before a commit, and how often: small entries and large ones.
  for (const [most, steps] of [
    [2, 300],
    [30, 120],
    [90, 100],
  ] as const) {
    const bench = new Bench();
    const start = bench.file.clone();
    // Some rounds flush seldom, so that the log fills up in between.
    const flushPercent = prng.pick([2, 10, 40]);
    for (let step = 0; step < steps; step++) {
      for (let count = prng.below(most); count > 0; count--) bench.change(prng.below(PAGES));
      if (prng.chance(50)) bench.journal.commit();
      if (prng.chance(flushPercent)) bench.flush();
      if (prng.chance(1)) bench.journal.finish();
    }
    const durable = start.clone();
    const trace = bench.file.trace!;
    // Most operations write pages in place; the log is where it gets interesting.
    const cuts = trace.map((operation) => prng.chance(isLogWrite(operation) ? 40 : 1));
    let flushed = 0;
    for (const [index, operation] of trace.entries()) {
      const cut = index + 1;
      if (isLogWrite(operation) && operation.position === LOG_OFFSET) wraps++;
      if (operation.kind === "flush") {
        for (const done of trace.slice(flushed, cut)) apply(durable, done);
        flushed = cut;
      }
      if (!cuts[index]) continue;
      const unflushed = trace.slice(flushed, cut);
      const tear = prng.pick([512, 4096]);
      const fates = randomFates((limit) => prng.below(limit));
      const torn = crashImage(durable, unflushed, tear, fates);
      expect(bench.batchOf(torn, cut), `torn at ${cut}, at most ${most}`).toBeGreaterThanOrEqual(0);
      const whole = crashImage(durable, unflushed, 4096, () => true);
      expect(bench.batchOf(whole, cut), `cut at ${cut}, at most ${most}`).toBeGreaterThanOrEqual(0);
    }
  }
  expect(wraps).toBeGreaterThan(3);
});

test("when it is finished everything is in place", () => {
  const bench = new Bench();
  for (let page = 0; page < PAGES; page++) bench.change(page);
  bench.journal.finish();
  for (let page = 0; page < PAGES; page++) expect(versionOf(bench.file, page)).toBe(1);
});

test("a flush is one flush of the file, except when pages go into their place", () => {
  const bench = new Bench();
  for (let round = 0; round < 400; round++) {
    bench.change(round % 7);
    bench.journal.commit();
    bench.flush();
  }
  // Half of the log holds 64 entries of one page; then 7 pages are written in place and flushed.
  const placements = Math.floor(400 / 64);
  const kinds = bench.file.trace!.map((operation) =>
    operation.kind === "write" && operation.position >= PAGES_OFFSET ? "in place" : operation.kind,
  );
  expect(kinds.filter((kind) => kind === "flush")).toHaveLength(400 + placements);
  expect(kinds.filter((kind) => kind === "in place")).toHaveLength(7 * placements);
  for (const [index, kind] of kinds.entries())
    if (kind === "in place") expect(kinds[index - 1]).not.toBe("write");
});

test("payload that must come first is flushed before the entry is written", () => {
  const bench = new Bench();
  bench.change(0);
  bench.journal.requirePayload();
  bench.journal.commit();
  bench.change(1);
  bench.journal.commit();
  expect(bench.file.trace!.map((operation) => operation.kind)).toEqual(["flush", "write", "write"]);
});

test("a full batch is written before one more page joins", () => {
  const bench = new Bench();
  // Less than a quarter of 1 MiB, with its sector of descriptors.
  for (let page = 0; page < 62; page++) bench.change(page);
  expect(bench.file.trace).toEqual([]);
  bench.change(62);
  expect(bench.file.trace).toHaveLength(1);
  bench.journal.commit();
  expect(bench.file.trace).toHaveLength(2);
});
