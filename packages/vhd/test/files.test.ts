import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { Worker } from "node:worker_threads";
import { beforeEach, describe, expect, test } from "vitest";
import { ImageError } from "../src/errors.js";
import { createImageFile, openFile, openImageFile } from "../src/node/index.js";
import { fileLock, socketLock } from "../src/node/lock.js";
import { type ImageFormat } from "../src/virtual-disk.js";
import { packageFile } from "./built.js";
import { hasPeer } from "./peer.js";
import { temporaryDirectory } from "./temporary-directory.js";

const temporary = temporaryDirectory();
const formats = ["vhd-fixed", "vhd-dynamic", "vhdx-fixed", "vhdx-dynamic"] as const;
const MIB = 1 << 20;
const ownMounts = ["--map-root-user", "--mount"];
const canMount = hasPeer("unshare", [...ownMounts, "true"], "user namespaces must be allowed");
const isRoot = process.getuid?.() === 0;

async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return undefined;
}

async function makeImage(path: string, format: ImageFormat = "vhd-dynamic"): Promise<void> {
  (await createImageFile(path, { format, sizeBytes: 4 * MIB })).close();
}

let count = 0;
let path = "";
beforeEach(() => {
  path = temporary(`image-${count++}`);
});

describe("a file", () => {
  test("is read and written through windows of a caller's array, shared memory included", async () => {
    const file = await openFile(path, { create: true });
    const memory = new Uint8Array(new SharedArrayBuffer(100));
    memory.fill(7);
    file.write(10, memory, 20, 30);
    expect(file.sizeBytes).toBe(40);
    file.write(50, memory, 0, 5);
    expect(file.sizeBytes).toBe(55);
    memory.fill(9);
    file.read(5, memory, 1, 60);
    const expected = [9, ...zeros(5), ...sevens(30), ...zeros(10), ...sevens(5), ...zeros(10), 9];
    expect([...memory.subarray(0, 62)]).toEqual(expected);
    file.truncate(12);
    expect(file.sizeBytes).toBe(12);
    file.flush();
    file.close();
    expect([...readFileSync(path)]).toEqual([...zeros(10), 7, 7]);
  });

  const zeros = (length: number): number[] => Array.from({ length }, () => 0);
  const sevens = (length: number): number[] => Array.from({ length }, () => 7);

  test("that is missing, a directory or a pipe is refused by name", async () => {
    expect(await errorOf(openImageFile(path))).toMatchObject({
      code: "ERR_IMAGE_FILE",
      message: expect.stringMatching(/image-\d+: .*no such file.*ENOENT/) as unknown,
      cause: expect.objectContaining({ code: "ENOENT" }) as unknown,
    });
    mkdirSync(path);
    for (const readOnly of [true, false])
      expect(await errorOf(openImageFile(path, { readOnly }))).toMatchObject({
        code: "ERR_IMAGE_FILE",
        message: expect.stringContaining("it is a directory") as unknown,
      });
    const pipe = temporary("pipe");
    execFileSync("mkfifo", [pipe]);
    expect(await errorOf(openImageFile(pipe, { readOnly: true }))).toMatchObject({
      code: "ERR_IMAGE_FILE",
      message: expect.stringContaining("not a regular file") as unknown,
    });
    expect(await errorOf(openImageFile("/dev/null/x"))).toMatchObject({ code: "ERR_IMAGE_FILE" });
  });

  test("that may not be written is refused for writing and opened for reading", async () => {
    await makeImage(path);
    chmodSync(temporary("."), 0o755);
    chmodSync(path, 0o444);
    // Root may write anything: be somebody else for a moment.
    if (isRoot) process.seteuid?.(65534);
    try {
      expect(await errorOf(openImageFile(path))).toMatchObject({
        code: "ERR_IMAGE_READ_ONLY",
        message: expect.stringMatching(
          /permissions forbid it \(EACCES\). Open it read-only/,
        ) as unknown,
      });
      const disk = await openImageFile(path, { readOnly: true });
      expect(disk.readOnly).toBe(true);
      disk.close();
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
    chmodSync(path, 0o000);
    if (isRoot) process.seteuid?.(65534);
    try {
      expect(await errorOf(openImageFile(path, { readOnly: true }))).toMatchObject({
        code: "ERR_IMAGE_FILE",
        message: expect.stringContaining("permission denied (EACCES)") as unknown,
      });
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
  });

  test("is never made over another, and not left behind when it cannot be made", async () => {
    writeFileSync(path, "mine");
    expect(
      await errorOf(createImageFile(path, { format: "vhd-fixed", sizeBytes: MIB })),
    ).toMatchObject({ code: "ERR_IMAGE_FILE" });
    expect(readFileSync(path, "latin1")).toBe("mine");
    const other = temporary("too-odd");
    expect(
      await errorOf(createImageFile(other, { format: "vhdx-fixed", sizeBytes: 1000 })),
    ).toBeInstanceOf(ImageError);
    expect(existsSync(other)).toBe(false);
  });
});

describe.each(formats)("an image of format %s in a file", (format) => {
  test("keeps what was written", async () => {
    const disk = await createImageFile(path, { format, sizeBytes: 5 * 1024 * MIB });
    const bytes = new Uint8Array(4096).fill(0xa5);
    for (const position of [0, 4 * 1024 * MIB + 8192, disk.sizeBytes - 4096])
      disk.write(position, bytes, 0, 4096);
    disk.close();
    // Sparse, whatever its format.
    expect(statSync(path).blocks * 512).toBeLessThan(64 * MIB);
    const again = await openImageFile(path);
    expect(again.format).toBe(format);
    for (const position of [0, 4 * 1024 * MIB + 8192, again.sizeBytes - 4096]) {
      const read = new Uint8Array(8192);
      again.read(position, read, 4096, 4096);
      expect(Buffer.compare(read.subarray(4096), bytes)).toBe(0);
    }
    again.close();
  });

  test.runIf(canMount)(
    "on a full file system fails with its code, and keeps what was flushed",
    () => {
      const script = 'mount -t tmpfs -o size=12m none "$1" && exec "$2" "$3" "$1/image" "$4"';
      const child = packageFile("test/full-disk-writer.mjs");
      const directory = temporary(`full-${format}`);
      mkdirSync(directory);
      const args = ["sh", "-c", script, "sh", directory, process.execPath, child, format];
      const output = execFileSync("unshare", [...ownMounts, ...args], { encoding: "utf8" });
      const result = JSON.parse(output) as Record<string, unknown> & { flushed: number };
      expect(result).toMatchObject({ code: "ERR_IMAGE_NO_SPACE", errors: [] });
      expect(result["message"]).toMatch(/no space is left.*Free some space/);
      expect(result.flushed).toBeGreaterThan(10);
      expect(result["intact"]).toBe(result.flushed);
    },
  );
});

describe("the lock", () => {
  test("keeps a second writer out, by any name of the file, and names the first", async () => {
    await makeImage(path);
    const disk = await openImageFile(path);
    linkSync(path, `${path}-link`);
    for (const name of [path, `${path}-link`])
      expect(await errorOf(openImageFile(name))).toMatchObject({
        code: "ERR_IMAGE_LOCKED",
        message: expect.stringContaining(`this process (${process.pid})`) as unknown,
      });
    renameSync(path, `${path}-moved`);
    expect(await errorOf(openImageFile(`${path}-moved`))).toMatchObject({
      code: "ERR_IMAGE_LOCKED",
    });
    disk.close();
    (await openImageFile(`${path}-moved`)).close();
  });

  test("is free again even if its file cannot be closed", async () => {
    const file = await openFile(path, { create: true });
    closeSync(file.descriptor!);
    expect(() => file.close()).toThrow(/EBADF/);
    (await openFile(path)).close();
  });

  test("refuses readers while it is held, unless they allow it; readers share", async () => {
    await makeImage(path);
    const disk = await openImageFile(path);
    const refused = await errorOf(openImageFile(path, { readOnly: true }));
    expect(refused).toMatchObject({ code: "ERR_IMAGE_LOCKED" });
    // What was tried is not what is advised.
    expect(refused).not.toMatchObject({ message: expect.stringContaining("read-only") as unknown });
    (await openImageFile(path, { readOnly: true, allowLocked: true })).close();
    disk.close();
    const readers = [
      await openImageFile(path, { readOnly: true }),
      await openImageFile(path, { readOnly: true }),
    ];
    for (const reader of readers) reader.close();
  });

  test("is free again after an image that could not be opened", async () => {
    writeFileSync(path, new Uint8Array(8192));
    for (let attempt = 0; attempt < 2; attempt++)
      expect(await errorOf(openImageFile(path))).toMatchObject({ code: "ERR_IMAGE_FOREIGN" });
  });

  test("of a process that is killed frees itself, and was that process's", async () => {
    await makeImage(path);
    const child = spawn(process.execPath, [packageFile("test/lock-holder.mjs"), path], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    expect(await errorOf(openImageFile(path))).toMatchObject({
      code: "ERR_IMAGE_LOCKED",
      message: expect.stringContaining(`open for writing in process ${child.pid}`) as unknown,
    });
    child.kill("SIGKILL");
    await once(child, "exit");
    (await openImageFile(path)).close();
  });

  test("keeps no process alive", async () => {
    await makeImage(path);
    const child = spawn(process.execPath, [packageFile("test/lock-holder.mjs"), path, "exit"]);
    expect(await once(child, "exit")).toEqual([0, null]);
  });

  test("can be held by a worker, and ends with it", async () => {
    await makeImage(path);
    const worker = new Worker(packageFile("test/lock-holder.mjs"), { workerData: path });
    await once(worker, "message");
    expect(await errorOf(openImageFile(path))).toMatchObject({ code: "ERR_IMAGE_LOCKED" });
    await worker.terminate();
    (await openImageFile(path)).close();
  });
});

describe.each([
  ["abstract socket", socketLock],
  ["lock file", fileLock],
] as const)("the lock as %s", (_name, method) => {
  const file = (): { path: string; device: bigint; inode: bigint } => ({
    path,
    device: 1n << 40n,
    inode: BigInt(count) + (1n << 60n),
  });

  test("is held by one, known to all, and released", async () => {
    expect(method.holder(file())).toBeUndefined();
    const lock = await method.acquire(file());
    expect(lock).toHaveProperty("release");
    expect(method.holder(file())).toEqual({ pid: process.pid });
    expect(await method.acquire(file())).toEqual({ pid: process.pid });
    if ("release" in lock) lock.release();
    expect(method.holder(file())).toBeUndefined();
    const again = await method.acquire(file());
    expect(again).toHaveProperty("release");
    if ("release" in again) again.release();
  });
});

test("a lock file of a dead process is taken over by one of many", async () => {
  const dead = spawn(process.execPath, ["-e", ""]);
  await once(dead, "exit");
  writeFileSync(`${path}.lock`, `${dead.pid}\n`);
  const file = { path, device: 1n, inode: 1n };
  expect(fileLock.holder(file)).toBeUndefined();
  const results = await Promise.all([1, 2, 3].map(() => fileLock.acquire(file)));
  const locks = results.filter((result) => "release" in result);
  expect(locks).toHaveLength(1);
  for (const lock of locks) if ("release" in lock) lock.release();
  expect(readdirSync(temporary(".")).filter((name) => name.includes(".lock"))).toEqual([]);
});
