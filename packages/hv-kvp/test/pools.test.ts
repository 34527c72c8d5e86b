import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { lockFile } from "@hyperv-is/platform-node";
import { MemoryPools, splitValue } from "../src/index.js";
import { PoolFiles, watchPools, type PoolChange } from "../src/node/index.js";
import { emitPool, utf8Bytes } from "../src/protocol/index.js";
import { temporaryDirectory } from "./temporary-directory.js";
import { vector } from "./vectors.js";

const path = temporaryDirectory();
let directory: string;
let files: PoolFiles;
let count = 0;

beforeEach(() => {
  directory = path(`${count++}/var/db/hyperv/pool`);
  files = new PoolFiles(directory);
});

const poolFile = (pool = 1): Buffer => readFileSync(files.path(pool));

test("items are written as V40, in a directory that was not there", () => {
  files.set(1, { key: "color", value: "green" });
  files.set(1, { key: "n", value: "7" });
  expect(poolFile()).toEqual(Buffer.from(vector("V40")));
  expect(statSync(directory).mode & 0o777).toBe(0o755);
  expect(statSync(files.path(1)).mode & 0o777).toBe(0o644);
});

test("create makes all five files, and leaves what is in them", () => {
  files.set(3, { key: "HostName", value: "host" });
  files.create();
  expect(readdirSync(directory).sort()).toEqual([0, 1, 2, 3, 4].map((pool) => `.kvp_pool_${pool}`));
  expect(files.items(3)).toEqual([{ key: "HostName", value: "host" }]);
});

test("what a program appends is there for the next call", () => {
  files.create();
  appendFileSync(files.path(1), emitPool([{ key: "CLOUD_INIT|1|start", value: "{}" }]));
  expect(files.items(1)).toEqual([{ key: "CLOUD_INIT|1|start", value: "{}" }]);
});

test("a changed value leaves nothing of the old one, and keeps the file's mode", () => {
  files.set(0, { key: "key", value: "AAAAAAAAAAAA" });
  chmodSync(files.path(0), 0o600);
  files.set(0, { key: "key", value: "bb" });
  expect(poolFile(0)).toEqual(Buffer.from(emitPool([{ key: "key", value: "bb" }])));
  expect(statSync(files.path(0)).mode & 0o777).toBe(0o600);
});

test("keys are compared whole: no prefix is deleted", () => {
  files.set(0, { key: "prefix-long", value: "1" });
  expect(files.delete(0, "prefix")).toBe(false);
  files.set(0, { key: "prefix", value: "2" });
  expect(files.delete(0, "prefix")).toBe(true);
  expect(files.items(0)).toEqual([{ key: "prefix-long", value: "1" }]);
});

test("of a key that is there several times a change leaves one", () => {
  mkdirSync(directory, { recursive: true });
  const item = (value: string) => ({ key: "key", value });
  const other = { key: "other", value: "o" };
  writeFileSync(files.path(1), emitPool([item("1"), other, item("2")]));
  files.set(1, item("3"));
  expect(files.items(1)).toEqual([item("3"), other]);
  appendFileSync(files.path(1), emitPool([item("4")]));
  expect(files.delete(1, "key")).toBe(true);
  expect(files.items(1)).toEqual([other]);
});

test("a record that is not complete is not seen, and gone with the next change", () => {
  files.set(1, { key: "a", value: "1" });
  const torn = emitPool([{ key: "torn", value: "2" }]).subarray(0, 2000);
  appendFileSync(files.path(1), torn);
  expect(files.items(1)).toEqual([{ key: "a", value: "1" }]);
  files.set(1, { key: "b", value: "3" });
  expect(poolFile().byteLength).toBe(2 * 2560);
  expect(files.items(1).map(({ key }) => key)).toEqual(["a", "b"]);
});

test("what others wrote in a record stays, whatever it is", () => {
  mkdirSync(directory, { recursive: true });
  const foreign = new Uint8Array(2560).fill(0xff);
  const ours = emitPool([{ key: "key", value: "1" }]);
  writeFileSync(files.path(1), Buffer.concat([foreign, ours]));
  expect(files.items(1)[0]?.key).toBe("\ufffd".repeat(512));
  files.set(1, { key: "key", value: "2" });
  expect(poolFile().subarray(0, 2560)).toEqual(Buffer.from(foreign));
  expect(files.items(1)[1]).toEqual({ key: "key", value: "2" });
});

test("what a killed daemon left of a new file is written over, a link in its place is not followed", () => {
  files.set(1, { key: "a", value: "1" });
  const made = `${files.path(1)}.new`;
  writeFileSync(made, new Uint8Array(10 * 2560).fill(0x41));
  files.set(1, { key: "a", value: "2" });
  expect(poolFile()).toEqual(Buffer.from(emitPool([{ key: "a", value: "2" }])));
  const victim = path(`victim-${count}`);
  writeFileSync(victim, "precious");
  symlinkSync(victim, made);
  expect(() => files.set(1, { key: "a", value: "3" })).toThrow(
    expect.objectContaining({ code: "ERR_KVP_POOL_FILE" }),
  );
  expect(readFileSync(victim, "utf8")).toBe("precious");
});

test("pools in memory take what files take, and nothing else", () => {
  const pools = new MemoryPools();
  pools.set(0, { key: "k", value: "1" });
  expect(() => pools.set(0, { key: "a\nb", value: "1" })).toThrow(
    expect.objectContaining({ code: "ERR_KVP_KEY" }),
  );
  expect(() => pools.set(9, { key: "k", value: "1" })).toThrow(
    expect.objectContaining({ code: "ERR_KVP_POOL" }),
  );
  expect(pools.items(0)).toEqual([{ key: "k", value: "1" }]);
});

test.each([
  ["ERR_KVP_KEY", "", "value"],
  ["ERR_KVP_KEY", "a\0b", "value"],
  ["ERR_KVP_KEY", "a\nb", "value"],
  ["ERR_KVP_KEY", "k".repeat(512), "value"],
  ["ERR_KVP_KEY", "中".repeat(171), "value"],
  ["ERR_KVP_VALUE", "key", "v".repeat(2048)],
  ["ERR_KVP_VALUE", "key", "a\0b"],
])("%s for what fits no record; the file stays as it is", (code, key, value) => {
  files.set(1, { key: "color", value: "green" });
  const before = poolFile();
  expect(() => files.set(1, { key, value })).toThrow(expect.objectContaining({ code }));
  expect(poolFile()).toEqual(before);
});

test("there are five pools, and a directory must be one", () => {
  expect(() => files.items(5)).toThrow(expect.objectContaining({ code: "ERR_KVP_POOL" }));
  writeFileSync(path("file"), "");
  const under = new PoolFiles(path("file/pool"));
  expect(() => under.set(0, { key: "a", value: "b" })).toThrow(
    expect.objectContaining({ code: "ERR_KVP_POOL_FILE" }),
  );
});

test("a lock that a dead process left is taken over, and one whose process id somebody else has by now", () => {
  files.create();
  const lock = join(directory, ".kvp_pool.lock");
  const dead = spawnSync(process.execPath, ["-e", "console.log(process.pid)"], {
    encoding: "utf8",
  });
  writeFileSync(lock, dead.stdout);
  files.set(1, { key: "a", value: "1" });
  writeFileSync(lock, `${process.pid}\n`);
  utimesSync(lock, 1, 1);
  files.set(1, { key: "b", value: "2" });
  expect(readdirSync(directory).sort()).toEqual([0, 1, 2, 3, 4].map((pool) => `.kvp_pool_${pool}`));
});

test("a file that another program has locked by fcntl is not changed", () => {
  const impatient = new PoolFiles(directory, 20);
  impatient.set(1, { key: "a", value: "1" });
  const descriptor = openSync(files.path(1), "r+");
  const lock = lockFile(descriptor);
  if (lock === "unsupported") {
    console.warn("locks of pool files: skipped: they need Linux and the package koffi");
    closeSync(descriptor);
    return;
  }
  const before = poolFile();
  const locked = expect.objectContaining({ code: "ERR_KVP_LOCKED" }) as Error;
  expect(() => impatient.set(1, { key: "a", value: "2" })).toThrow(locked);
  expect(() => impatient.delete(1, "a")).toThrow(locked);
  expect(poolFile()).toEqual(before);
  impatient.set(0, { key: "a", value: "2" });
  closeSync(descriptor);
  impatient.set(1, { key: "a", value: "2" });
  expect(files.items(1)).toEqual([{ key: "a", value: "2" }]);
  expect(readdirSync(directory).sort()).toEqual([".kvp_pool_0", ".kvp_pool_1"]);
});

describe("long values", () => {
  test("are split over keys that differ, between two characters", () => {
    const value = "日本語😀".repeat(300);
    const items = splitValue("log", value);
    expect(items.map(({ key }) => key)).toEqual(items.map((_, index) => `log|${index}`));
    expect(items.map((item) => item.value).join("")).toBe(value);
    for (const item of items) expect(utf8Bytes(item.value)).toBeLessThanOrEqual(1024);
    expect(items.length).toBe(Math.ceil(utf8Bytes(value) / 1024));
  });

  test("a piece is as long as it may be", () => {
    const lengths = splitValue("k", "x".repeat(2049)).map(({ value }) => value.length);
    expect(lengths).toEqual([1024, 1024, 1]);
  });

  test("nothing is one piece", () =>
    expect(splitValue("k", "")).toEqual([{ key: "k|0", value: "" }]));
});

test("watch tells of every change, whoever makes it", async () => {
  files.create();
  files.set(0, { key: "old", value: "1" });
  const stop = new AbortController();
  const changes = watchPools(files, [0, 1], stop.signal);
  const next = async (): Promise<PoolChange | undefined> =>
    ((await changes.next()).value as PoolChange | undefined) ?? undefined;
  let pending = next();
  files.set(0, { key: "old", value: "2" });
  expect(await pending).toEqual({ kind: "set", pool: 0, key: "old", value: "2", previous: "1" });
  pending = next();
  appendFileSync(files.path(1), emitPool([{ key: "new", value: "x" }]));
  expect(await pending).toEqual({
    kind: "set",
    pool: 1,
    key: "new",
    value: "x",
    previous: undefined,
  });
  pending = next();
  files.delete(0, "old");
  expect(await pending).toEqual({ kind: "delete", pool: 0, key: "old", previous: "2" });
  pending = next();
  stop.abort();
  expect(await pending).toBeUndefined();
});
