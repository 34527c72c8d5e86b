import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { BenchmarkReport } from "../src/report.js";
import { GCC_ADVICE } from "../src/native-program.js";

const root = dirname(createRequire(import.meta.url).resolve("@hyperv-is/bench/package.json"));
const directory = mkdtempSync(join(tmpdir(), "bench-cli-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const run = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, [join(root, "dist", "index.js"), ...args], { encoding: "utf8" });

const SHORT = ["--runs", "1", "--round-ms", "5", "--wait-s", "0"];

/** Runs a benchmark, and checks what every benchmark prints. */
function measure(...args: string[]): BenchmarkReport {
  const { status, stdout, stderr } = run(...args, "--json", ...SHORT);
  expect(status, stderr).toBe(0);
  const report = JSON.parse(stdout) as BenchmarkReport;
  expect(Object.keys(report)).toEqual(["bench", "revision", "machine", "date", "results"]);
  expect(report.bench).toBe(args[0]);
  expect(new Date(report.date).toISOString()).toBe(report.date);
  expect(stderr).toContain("Not included: ");
  for (const { value, peerValue, ratio, runs } of report.results) {
    expect(runs).toBe(1);
    if (peerValue !== null) expect(ratio! / (value / peerValue)).toBeCloseTo(1, 2);
    else expect(ratio).toBeNull();
  }
  return report;
}

/** The C ring needs a compiler and a processor for each end; in CI it must have them. */
function canRunRing(): boolean {
  const header = spawnSync("gcc", ["-E", "-"], { input: "#include <stdio.h>\n" });
  const reason =
    availableParallelism() < 2
      ? "the ring benchmark needs two processors"
      : header.status !== 0
        ? GCC_ADVICE
        : undefined;
  if (reason === undefined) return true;
  if (process.env["CI"] !== undefined) throw new Error(reason);
  console.warn(`skipped: ${reason}`);
  return false;
}

test.runIf(canRunRing())("both rings deliver whole payloads of odd sizes, at every batch", () => {
  // Both sides' checksums are compared with the payload's by the benchmark, which fails on a difference.
  const { results } = measure("ring", "--sizes", "1,1514,65536", "--batch", "1,32");
  expect(results.map(({ name }) => name)).toEqual(
    [1, 1514, 65_536].flatMap((size) => [`${size} B, batch 1`, `${size} B, batch 32`]),
  );
  for (const { value, peerValue } of results) {
    expect(value).toBeGreaterThan(0);
    expect(peerValue).toBeGreaterThan(0);
  }
});

/** Programs of others; in CI they must be there. */
function hasPeers(...commands: readonly string[]): boolean {
  const missing = commands.filter((command) => spawnSync(command, ["--version"]).error);
  if (missing.length === 0) return true;
  const reason = `a benchmark needs ${missing.join(", ")}: apt-get install fio nbdkit qemu-utils`;
  if (process.env["CI"] !== undefined) throw new Error(reason);
  console.warn(`skipped: ${reason}`);
  return false;
}

describe.runIf(hasPeers("fio"))("the storage benchmark", () => {
  test("reads what the image holds, and counts what a read costs", () => {
    const { results } = measure("storage", "--size", "4", "--depth", "8", "--io", "async");
    expect(results.map(({ name, unit, peer }) => [name, unit, peer?.split(/ [\d-]/)[0]])).toEqual([
      ["4 KiB random reads, depth 8", "reads/s", "fio"],
      ["interrupts of the guest", "per 1000 reads", undefined],
      ["signals to the host", "per 1000 reads", undefined],
      ["interrupts of the guest, signal optimization off", "per 1000 reads", undefined],
      ["signals to the host, signal optimization off", "per 1000 reads", undefined],
      ["growth of the vCPU's heap", "bytes/read", undefined],
      ["4 KiB random reads, depth 8", "reads/s", "fs.readSync loop on the file"],
      ["64 KiB sequential reads, depth 8", "reads/s", "fs.readSync loop on the file"],
      ["4 KiB reads of 500 us each, 1 channel, depth 8 each", "reads/s", "8 every"],
      ["4 KiB reads of 500 us each, 4 channels on 1 vCPU, depth 8 each", "reads/s", "1 channel"],
      [
        "4 KiB reads of 500 us each, 4 channels on as many vCPUs, depth 8 each",
        "reads/s",
        "1 channel",
      ],
      ["heap of the host, reads", "bytes per transfer", undefined],
      ["of it by fs.readSync", "bytes per transfer", undefined],
      ["heap of the host, writes", "bytes per transfer", undefined],
      ["of it by fs.writeSync", "bytes per transfer", undefined],
    ]);
    expect(results[0]!.peer).toMatch(/^fio \d+\.\d+ --ioengine=psync --rw=randread --bs=4k /);
  });
});

test.runIf(hasPeers("fio", "nbdkit", "qemu-nbd"))(
  "the NBD benchmark has fio read an export, and servers of the same image",
  { timeout: 120_000 },
  () => {
    const { results } = measure("nbd", "--size", "4", "--depth", "8");
    expect(results.map(({ name }) => name)).toEqual([
      "NBD export: 4 KiB random reads, depth 8",
      "NBD export: 4 KiB random reads, depth 1",
      "NBD export: 64 KiB sequential reads, depth 8",
      "whole stack: 4 KiB random reads, depth 8",
      "whole stack: 4 KiB random reads, depth 8",
    ]);
    expect(results.map(({ peer }) => / on (\S+) \d/.exec(peer!)?.[1])).toEqual([
      "nbdkit",
      "nbdkit",
      "nbdkit",
      "qemu-nbd",
      "nbdkit",
    ]);
    for (const { peer } of results) expect(peer).toMatch(/^fio \d+\.\d+ --ioengine=nbd --rw=/);
  },
);

test.runIf(canRunRing())("a table, and the changes since an earlier run", () => {
  const earlier = join(directory, "earlier.json");
  const load = ["ring", "--sizes", "64", "--batch", "1"];
  writeFileSync(earlier, JSON.stringify(measure(...load)));
  const { status, stdout } = run(...load, "--compare", earlier, ...SHORT);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^ring at \S+, \d{4}-/);
  expect(stdout).toMatch(/64 B, batch 1 .* packets\/s .*value [+-][\d.]+ %, ratio/);
});

describe("wrong use ends with status 2 and says what to write", () => {
  const foreign = join(directory, "foreign.json");
  writeFileSync(foreign, '{"bench": "ring", "results": []}');
  const cases: [string[], string][] = [
    [["frob"], "there is no benchmark 'frob'"],
    [["ring", "--runs", "0"], "--runs 0: whole numbers from 1 to 1000 are expected"],
    [["ring", "--sizes", "64,huge"], "--sizes 64,huge: whole numbers from 1 to 65536"],
    [["storage", "--frob"], "Unknown option '--frob'"],
    [["storage", "--io", "fast"], "--io fast: sync or async"],
    [["storage", "--compare", foreign], "holds the benchmark 'ring'"],
    [["storage", "--compare", "/nowhere.json"], "--compare /nowhere.json cannot be used"],
  ];
  test.each(cases)("%j", (args, message) => {
    const { status, stdout, stderr } = run(...args);
    expect(status).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(message);
  });
});

test("an image that is none ends with status 1 and its reason", () => {
  const file = join(directory, "text.vhdx");
  writeFileSync(file, "no disk");
  const { status, stderr } = run("storage", "--image", file, ...SHORT);
  expect(status).toBe(1);
  expect(stderr).toMatch(/^bench storage: .*text\.vhdx/);
});

test("a folder without a guest ends with status 1 and the command that makes one", () => {
  const { status, stderr } = run("real-guest", "--guest", directory);
  expect(status).toBe(1);
  expect(stderr).toContain("holds no guest: 'npm run -s stock-guest -- --out DIR' makes one");
});
