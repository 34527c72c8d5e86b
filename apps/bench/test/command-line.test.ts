import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { BenchmarkReport } from "../src/report.js";
import { GCC_ADVICE } from "../src/ring/c-ring.js";

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

test("the storage benchmark reads what the image holds, and counts what a read costs", () => {
  const { results } = measure("storage", "--size", "4", "--depth", "8");
  expect(results.map(({ name, unit, peer }) => [name, unit, peer === null])).toEqual([
    ["4 KiB random reads, depth 8", "reads/s", false],
    ["interrupts of the guest", "per 1000 reads", true],
    ["signals to the host", "per 1000 reads", true],
    ["growth of the vCPU's heap", "bytes/read", true],
    ["64 KiB sequential reads, depth 8", "reads/s", false],
  ]);
});

test("a table, and the changes since an earlier run", () => {
  const earlier = join(directory, "earlier.json");
  writeFileSync(earlier, JSON.stringify(measure("storage", "--size", "4")));
  const { status, stdout } = run("storage", "--size", "4", "--compare", earlier, ...SHORT);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^storage at \S+, \d{4}-/);
  expect(stdout).toMatch(/4 KiB random reads, depth 32 .* reads\/s .*value [+-][\d.]+ %, ratio/);
});

describe("wrong use ends with status 2 and says what to write", () => {
  const foreign = join(directory, "foreign.json");
  writeFileSync(foreign, '{"bench": "ring", "results": []}');
  const cases: [string[], string][] = [
    [["frob"], "there is no benchmark 'frob'"],
    [["ring", "--runs", "0"], "--runs 0: whole numbers from 1 to 1000 are expected"],
    [["ring", "--sizes", "64,huge"], "--sizes 64,huge: whole numbers from 1 to 65536"],
    [["storage", "--frob"], "Unknown option '--frob'"],
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
