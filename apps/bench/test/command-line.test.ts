import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { SHORT, bench, benchWith } from "./bench-command.js";

const directory = mkdtempSync(join(tmpdir(), "bench-cli-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

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
    const { status, stdout, stderr } = bench(...args);
    expect(status).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain(message);
  });
});

test("an image that is none ends with status 1 and its reason", () => {
  const file = join(directory, "text.vhdx");
  writeFileSync(file, "no disk");
  const { status, stderr } = bench("storage", "--image", file, ...SHORT);
  expect(status).toBe(1);
  expect(stderr).toMatch(/^bench storage: .*text\.vhdx/);
});

test("a ring benchmark that cannot build its peer ends with status 1 and says what to install", () => {
  const env = { PATH: directory, XDG_CACHE_HOME: directory };
  const { status, stderr } = benchWith({ env, timeoutMs: 20_000 }, "ring", ...SHORT);
  expect(status, stderr).toBe(1);
  expect(stderr).toMatch(
    availableParallelism() < 2 ? /^bench ring: two ends/ : /^bench ring: .*apt-get install gcc/,
  );
});

test("a folder without a guest ends with status 1 and the command that makes one", () => {
  const { status, stderr } = bench("real-guest", "--guest", directory);
  expect(status).toBe(1);
  expect(stderr).toContain("holds no guest: 'npm run -s stock-guest -- --out DIR' makes one");
});
