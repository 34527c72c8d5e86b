import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { BenchmarkReport } from "../src/report.js";
import { GCC_ADVICE } from "../src/native-program.js";
import { SHORT, bench } from "./bench-command.js";

const directory = mkdtempSync(join(tmpdir(), "benchmarks-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Behind the name of what was measured with pinned threads. */
const ON_ONE_CPU = ", vCPU and disks on one CPU";
/** And of what was measured without lending the guest's thread to the host. */
const OWN_THREADS = ", threads of the host's own";

/** Pairs of measurements that a run of the ring benchmark is. */
const RING_PAIRS = 5;

/** Runs a benchmark, and checks what every benchmark prints. */
function measure(...args: string[]): BenchmarkReport {
  const { status, stdout, stderr } = bench(...args, "--json", ...SHORT);
  expect(status, stderr).toBe(0);
  const report = JSON.parse(stdout) as BenchmarkReport;
  expect(Object.keys(report)).toEqual(["bench", "revision", "machine", "date", "results"]);
  expect(report.bench).toBe(args[0]);
  expect(new Date(report.date).toISOString()).toBe(report.date);
  expect(stderr).toContain("Not included: ");
  for (const { value, peerValue, ratio, runs } of report.results) {
    expect(runs).toBe(args[0] === "ring" ? RING_PAIRS : 1);
    if (peerValue === null) expect(ratio).toBeNull();
    else if (runs === 1) expect(ratio! / (value / peerValue)).toBeCloseTo(1, 2);
    else expect(ratio).toBeGreaterThan(0);
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

test.runIf(hasPeers("fio"))(
  "the storage benchmark reads what the image holds, and counts what a read costs",
  () => {
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
      [`4 KiB random reads, depth 8${ON_ONE_CPU}`, "reads/s", "fio"],
      [`4 KiB random reads, depth 8${ON_ONE_CPU}`, "reads/s", "fs.readSync loop on the file"],
      [`64 KiB sequential reads, depth 8${ON_ONE_CPU}`, "reads/s", "fs.readSync loop on the file"],
      ["4 KiB reads of 500 us each, 1 channel, depth 8 each", "reads/s", "8 every"],
      ["4 KiB reads of 500 us each, 4 channels on 1 vCPU, depth 8 each", "reads/s", "1 channel"],
      [
        "4 KiB reads of 500 us each, 4 channels on as many vCPUs, depth 8 each",
        "reads/s",
        "1 channel",
      ],
      [`4 KiB reads of 500 us each, 1 channel, depth 8 each${ON_ONE_CPU}`, "reads/s", "8 every"],
      [
        `4 KiB reads of 500 us each, 4 channels on 1 vCPU, depth 8 each${ON_ONE_CPU}`,
        "reads/s",
        "1 channel",
      ],
      ["heap of the host, reads", "bytes per transfer", undefined],
      ["of it by fs.readSync", "bytes per transfer", undefined],
      ["heap of the host, writes", "bytes per transfer", undefined],
      ["of it by fs.writeSync", "bytes per transfer", undefined],
    ]);
    expect(results[0]!.peer).toMatch(/^fio \d+\.\d+ --ioengine=psync --rw=randread --bs=4k /);
  },
);

test.runIf(hasPeers("fio", "nbdkit", "qemu-nbd"))(
  "the NBD benchmark has fio read an export, and servers of the same image",
  () => {
    const { results } = measure("nbd", "--size", "4", "--depth", "8");
    const exported = [
      "4 KiB random reads, depth 8",
      "4 KiB random reads, depth 1",
      "64 KiB sequential reads, depth 8",
    ];
    const whole = "whole stack: 4 KiB random reads, depth 8";
    const placements = ["", ON_ONE_CPU];
    expect(results.map(({ name, peer }) => [name, / on (\S+) \d/.exec(peer!)?.[1]])).toEqual([
      ...["", OWN_THREADS].flatMap((where) =>
        exported.map((name) => [`NBD export: ${name}${where}`, "nbdkit"]),
      ),
      ...placements.flatMap((where) => ["qemu-nbd", "nbdkit"].map((peer) => [whole + where, peer])),
    ]);
    for (const { peer } of results) expect(peer).toMatch(/^fio \d+\.\d+ --ioengine=nbd --rw=/);
  },
);

test.runIf(canRunRing())("a table, and the changes since an earlier run", () => {
  const earlier = join(directory, "earlier.json");
  const load = ["ring", "--sizes", "64", "--batch", "1"];
  writeFileSync(earlier, JSON.stringify(measure(...load)));
  const { status, stdout } = bench(...load, "--compare", earlier, ...SHORT);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^ring at \S+, \d{4}-/);
  expect(stdout).toMatch(/64 B, batch 1 .* packets\/s .*value [+-][\d.]+ %, ratio/);
});
