import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { beforeEach, describe, expect, test } from "vitest";
import { PoolFiles, serveDevice } from "../src/node/index.js";
import { emitPool, freebsdDialect, linuxDialect } from "../src/protocol/index.js";
import { packageFile } from "./built.js";
import { Rig } from "./rig.js";
import { temporaryDirectory } from "./temporary-directory.js";
import { vector } from "./vectors.js";

const program = packageFile("dist/bin/hv-kvp.js");
const path = temporaryDirectory();
let count = 0;
let root: string;
let pools: PoolFiles;

beforeEach(() => {
  root = path(String(count++));
  pools = new PoolFiles(`${root}${linuxDialect.poolDirectory}`);
  mkdirSync(pools.directory, { recursive: true });
});

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const [command = "", ...rest] = args;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [program, command, "--root", root, ...rest],
    { encoding: "utf8", timeout: 10_000 },
  );
  return { status, stdout, stderr };
}

test("reads and changes the files of a stock daemon", () => {
  writeFileSync(pools.path(0), vector("V40"));
  expect(run("get", "color")).toMatchObject({ status: 0, stdout: "green\n" });
  expect(run("set", "--pool", "0", "color", "red").status).toBe(0);
  expect(run("delete", "--pool", "external", "n").status).toBe(0);
  expect(readFileSync(pools.path(0))).toEqual(
    Buffer.from(emitPool([{ key: "color", value: "red" }])),
  );
});

test("list prints what is there, and no control character of it", () => {
  writeFileSync(pools.path(0), vector("V40"));
  pools.set(1, { key: "k", value: "a\nb\x1b[2J" });
  expect(run("list").stdout).toBe("0  color  green\n0  n      7\n1  k      a\\x0ab\\x1b[2J\n");
  expect(JSON.parse(run("list", "--json", "--pool", "1").stdout)).toEqual([
    { pool: 1, key: "k", value: "a\nb\x1b[2J" },
  ]);
});

test("finds FreeBSD's pools below a root that has them", () => {
  root = path("freebsd");
  const found = new PoolFiles(`${root}${freebsdDialect.poolDirectory}`);
  found.set(0, { key: "color", value: "blue" });
  expect(run("get", "color").stdout).toBe("blue\n");
});

test("finds those of FreeBSD's port, too", () => {
  root = path("freebsd-port");
  const found = new PoolFiles(`${root}/usr/local/hyperv/pool`);
  found.set(0, { key: "color", value: "grey" });
  expect(run("get", "color").stdout).toBe("grey\n");
});

const verbs = [["list"], ["get", "k"], ["delete", "k"], ["watch"], ["set", "k", "v"], ["daemon"]];

test.each(verbs)("%s fails without the root that is named, and makes none", (...words) => {
  root = path("nowhere");
  for (const made of [false, true]) {
    if (made) writeFileSync(root, "");
    const { status, stdout, stderr } = run(...words);
    expect([status, stdout]).toEqual([1, ""]);
    expect(stderr).toBe(
      `hv-kvp ${words[0]!}: --root ${root}: no such directory; where is the guest's file system mounted?\n`,
    );
  }
  rmSync(root);
});

test.each(verbs.slice(0, 4))("%s fails without pools, and makes none", (...words) => {
  root = path("empty");
  mkdirSync(root, { recursive: true });
  const { status, stdout, stderr } = run(...words);
  expect([status, stdout]).toEqual([1, ""]);
  expect(stderr).toBe(
    `hv-kvp ${words[0]!}: ${root}/var/lib/hyperv: no pools there; a daemon makes them when it starts (the system's own, ` +
      "or 'hv-kvp daemon'), 'hv-kvp set' makes one\n",
  );
  expect(readdirSync(root)).toEqual([]);
  expect(JSON.parse(run(...words, "--json").stdout)).toMatchObject({
    error: { code: "ERR_KVP_POOL_FILE" },
  });
});

test("set makes the pools of a system that has none yet", () => {
  root = path("image");
  mkdirSync(root);
  expect(run("set", "k", "v").status).toBe(0);
  expect(run("list").stdout).toBe("1  k  v\n");
});

test("splits a long value", () => {
  expect(run("set", "--split", "log", "x".repeat(1500)).status).toBe(0);
  expect(pools.items(1).map(({ key, value }) => [key, value.length])).toEqual([
    ["log|0", 1024],
    ["log|1", 476],
  ]);
});

test.each([
  [["get", "none"], 1, "no key 'none' in any pool"],
  [["delete", "none"], 1, "no key 'none' in pool 1 (guest)"],
  [["set", "key", "v".repeat(2048)], 1, "at most 2047 bytes"],
  [["set", "key"], 2, "give KEY and VALUE"],
  [["get", "--pool", "7", "key"], 2, "--pool 7 is not 0 to 4"],
  [["daemon", "--dialect", "plan9"], 2, "is not freebsd or linux"],
  [["frobnicate"], 2, "there is no command 'frobnicate'"],
  [["daemon", "--device", "/nonexistent/hv_kvp"], 1, "Is this a guest of Hyper-V"],
] as const)("%j ends with status %i", (args, status, text) => {
  const result = run(...args);
  expect(result.status).toBe(status);
  expect(result.stderr).toContain(text);
});

test("a daemon without a device changes nothing", () => {
  root = path("no-guest");
  mkdirSync(root);
  expect(run("daemon", "--dialect", "linux", "--device", path("none")).status).toBe(1);
  expect(readdirSync(root)).toEqual([]);
});

describe("programs that stay", () => {
  test("watch prints each change, until it is told to end", async () => {
    const child = spawn(process.execPath, [program, "watch", "--json", "--root", root]);
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<unknown> => JSON.parse((await lines.next()).value as string);
    // It has looked once its files are there and it watches them; until then changes are set anew.
    const seen: unknown[] = [];
    const first = next().then((change) => seen.push(change));
    for (let value = 0; seen.length === 0; value++) {
      pools.set(0, { key: "color", value: String(value) });
      await new Promise((resolve) => setImmediate(resolve));
    }
    await first;
    expect(seen).toMatchObject([{ kind: "set", pool: 0, key: "color" }]);
    appendFileSync(pools.path(1), emitPool([{ key: "seen", value: "1" }]));
    let change = await next();
    while ((change as { pool: number }).pool === 0) change = await next();
    expect(change).toMatchObject({ kind: "set", pool: 1, key: "seen", value: "1" });
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([0, null]);
  });

  test("daemon serves a device, refuses to run beside another one, and ends in good order", async () => {
    const rig = new Rig({ dialect: freebsdDialect });
    const served = await serveDevice(path("device"), rig.service.device);
    const args = ["daemon", "--device", served.path, "--dialect", "freebsd", "--root", root];
    const child = spawn(process.execPath, [program, ...args], { stdio: "inherit" });
    while (rig.service.state !== "idle") await new Promise((resolve) => setImmediate(resolve));
    const second = spawn(process.execPath, [program, ...args]);
    let complaint = "";
    second.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
    expect(await once(second, "close")).toEqual([1, null]);
    expect(complaint).toContain("another daemon serves it");
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([0, null]);
    served.close();
  });
});

test("--clear-stale leaves nothing of another virtual machine", async () => {
  for (const pool of [0, 1, 3]) pools.set(pool, { key: "old", value: "1" });
  const server = createServer((socket) => socket.destroy());
  server.listen(path("refusing"));
  await once(server, "listening");
  const child = spawn(process.execPath, [
    program,
    ...["daemon", "--device", path("refusing"), "--root", root, "--clear-stale"],
  ]);
  expect(await once(child, "exit")).toEqual([1, null]);
  server.close();
  expect([0, 1, 3].map((pool) => pools.items(pool).length)).toEqual([0, 1, 0]);
});
