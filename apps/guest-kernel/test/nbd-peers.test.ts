import { execFile, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { createHash, randomFillSync } from "node:crypto";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
  statSync,
  watch,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createImageFile } from "@hyperv-is/vhd/node";
import { boot, type Machine } from "@hyperv-is/guest-kernel";

const peers: readonly (readonly [command: string, argument: string, debianPackage: string])[] = [
  ["nbdinfo", "--version", "libnbd-bin"],
  ["nbdcopy", "--version", "libnbd-bin"],
  ["nbdfuse", "--version", "nbdfuse"],
  ["fusermount3", "--version", "fuse3"],
  ["qemu-img", "--version", "qemu-utils"],
  ["qemu-io", "--version", "qemu-utils"],
  ["fio", "--version", "fio"],
];
const missing = peers.filter(([command, argument]) => spawnSync(command, [argument]).error);
if (missing.length > 0) {
  const packages = [...new Set(missing.map(([, , name]) => name))].join(" ");
  const reason = `${missing.map(([command]) => command).join(", ")} missing: apt-get install ${packages}`;
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

/** File systems in user space need a device that not every machine lets its programs use. */
function canMount(): boolean {
  try {
    closeSync(openSync("/dev/fuse", "r+"));
    return true;
  } catch (error) {
    console.log(`not registered: nbdfuse, because of ${(error as Error).message}`);
    return false;
  }
}

const MIB = 2 ** 20;
const DISK_BYTES = 32 * MIB;
/** Programs that start several times on a busy machine. */
const TIMEOUT_MS = 120_000;
const directory = mkdtempSync(join(tmpdir(), "guest-nbd-peers-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const execute = promisify(execFile);
const run = async (command: string, ...args: string[]): Promise<string> =>
  (await execute(command, args, { encoding: "utf8", maxBuffer: 64 * MIB })).stdout;
const hashOf = (path: string): string =>
  createHash("sha256").update(readFileSync(path)).digest("hex");

describe.skipIf(missing.length > 0)("real clients", { timeout: TIMEOUT_MS }, () => {
  const image = join(directory, "disk.vhdx");
  const raw = join(directory, "disk.raw");
  let machine: Machine;
  let unix: string;
  let tcp: string;
  beforeAll(async () => {
    // Data in front and at the end, a hole between.
    const content = Buffer.alloc(DISK_BYTES);
    randomFillSync(content, 0, 8 * MIB);
    randomFillSync(content, DISK_BYTES - 4 * MIB);
    writeFileSync(raw, content);
    const disk = await createImageFile(image, {
      format: "vhdx-dynamic",
      sizeBytes: DISK_BYTES,
      blockBytes: MIB,
    });
    disk.write(0, content, 0, 8 * MIB);
    disk.write(DISK_BYTES - 4 * MIB, content, DISK_BYTES - 4 * MIB, 4 * MIB);
    disk.close();
    machine = await boot({
      disks: [image, { kind: "ram", sizeBytes: DISK_BYTES, identity: new Uint8Array(16).fill(3) }],
      nbd: [
        { disk: "da0", unix: join(directory, "da0.sock") },
        { disk: "da0", port: 0 },
        { disk: "da1", unix: join(directory, "da1.sock") },
      ],
    });
    unix = machine.nbd[0]!.uri;
    tcp = machine.nbd[1]!.uri;
  }, TIMEOUT_MS);
  afterAll(async () => {
    expect(machine.host.violations).toEqual([]);
    await machine.shutdown();
  });

  test("nbdinfo finds what there is, on both addresses", async () => {
    for (const uri of [unix, tcp]) {
      const info = JSON.parse(await run("nbdinfo", "--json", uri)) as {
        protocol: string;
        TLS: boolean;
        structured: boolean;
        exports: Record<string, unknown>[];
      };
      expect(info).toMatchObject({ protocol: "newstyle-fixed", TLS: false, structured: true });
      expect(info.exports).toMatchObject([
        {
          "export-name": "da0",
          "export-size": DISK_BYTES,
          description: "Msft Virtual Disk 1.0",
          contexts: ["base:allocation"],
          is_read_only: false,
          can_multi_conn: true,
          can_fast_zero: true,
          block_size_minimum: 512,
          block_size_preferred: 4096,
          block_size_maximum: 32 * MIB,
        },
      ]);
    }
    expect(await run("nbdinfo", "--size", tcp)).toBe(`${DISK_BYTES}\n`);
    const map = JSON.parse(await run("nbdinfo", "--map", "--json", unix)) as {
      offset: number;
      length: number;
      type: number;
    }[];
    expect(map.map(({ offset, length, type }) => [offset / MIB, length / MIB, type])).toEqual([
      [0, 8, 0],
      [8, 20, 3],
      [28, 4, 0],
    ]);
  });

  test("nbdcopy copies to a file, from a file, and from one disk to the other", async () => {
    const out = join(directory, "copied.raw");
    for (const uri of [unix, tcp]) {
      await run("nbdcopy", uri, out);
      expect(hashOf(out)).toBe(hashOf(raw));
      // It has skipped what the disk says to be a hole.
      expect(statSync(out).blocks * 512).toBeLessThan(16 * MIB);
      rmSync(out);
    }
    const da1 = machine.nbd[2]!.uri;
    await run("nbdcopy", unix, da1);
    const sum = async (disk: string): Promise<string> =>
      (await machine.exec(`sha256 -q /dev/${disk}`)).stdout.trim();
    expect(await sum("da1")).toBe(hashOf(raw));
    const other = join(directory, "other.raw");
    writeFileSync(other, randomFillSync(Buffer.alloc(DISK_BYTES)));
    await run("nbdcopy", "--flush", other, da1);
    expect(await sum("da1")).toBe(hashOf(other));
  });

  test("qemu-img describes, compares and converts, both ways", async () => {
    expect(await run("qemu-img", "info", unix)).toContain("virtual size: 32 MiB");
    expect(await run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, unix)).toContain(
      "Images are identical.",
    );
    const map = JSON.parse(await run("qemu-img", "map", "-f", "raw", "--output=json", unix)) as {
      start: number;
      zero: boolean;
    }[];
    expect(map.map(({ start, zero }) => [start / MIB, zero])).toEqual([
      [0, false],
      [8, true],
      [28, false],
    ]);
    const qcow = join(directory, "disk.qcow2");
    await run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tcp, qcow);
    expect(await run("qemu-img", "compare", "-f", "raw", raw, qcow)).toContain("identical");
    const da1 = machine.nbd[2]!.uri;
    await run("qemu-img", "convert", "-n", "-O", "raw", qcow, da1);
    expect(await run("qemu-img", "compare", "-F", "raw", qcow, da1)).toContain("identical");
  });

  test("qemu-io writes, zeroes, discards and flushes, and reads what it should", async () => {
    const da1 = machine.nbd[2]!.uri;
    const steps = [
      "write -P 0xa5 0 4M",
      "write -f -P 0x5a 1M 512",
      "write -z 2M 1M",
      "write -z -u 3M 64k",
      "discard 3M 512k",
      "flush",
      "read -P 0xa5 0 1M",
      "read -P 0x5a 1M 512",
      "read -P 0xa5 1049088 512",
      "read -P 0 2M 1M",
      "aio_write -P 0x11 8M 8M",
      "aio_flush",
      "read -P 0x11 8M 8M",
    ];
    const output = await run("qemu-io", "-f", "raw", ...steps.flatMap((step) => ["-c", step]), da1);
    expect(output).not.toMatch(/fail|error|verification/i);
    expect(output.match(/^(read|wrote|discard) \d+\/\d+ bytes/gm)).toHaveLength(11);
    const { stdout } = await machine.exec(
      "dd if=/dev/da1 bs=512 skip=2048 count=1 status=none | sha256",
    );
    expect(stdout.trim()).toBe(createHash("sha256").update(Buffer.alloc(512, 0x5a)).digest("hex"));
  });

  test("fio verifies what it has written, at depth, with flushes between", async () => {
    const report = await run(
      "fio",
      "--name=verify",
      "--ioengine=nbd",
      `--uri=${machine.nbd[2]!.uri}`,
      "--rw=randrw",
      "--bs=3584",
      "--iodepth=32",
      "--size=8m",
      "--verify=crc32c",
      "--fsync=64",
      "--randrepeat=0",
      "--verify_state_save=0",
      "--output-format=json",
    );
    const { jobs } = JSON.parse(report.slice(report.indexOf("{"))) as {
      jobs: { error: number; read: { total_ios: number }; write: { total_ios: number } }[];
    };
    expect(jobs[0]!.error).toBe(0);
    expect(jobs[0]!.read.total_ios).toBeGreaterThan(100);
    expect(jobs[0]!.write.total_ios).toBeGreaterThan(100);
  });

  test.runIf(missing.length === 0 && canMount())(
    "nbdfuse makes the disk a file for ordinary programs",
    async () => {
      const point = join(directory, "mount");
      mkdirSync(point);
      const pidFile = join(directory, "nbdfuse.pid");
      // The file is written when the mount is there.
      const written = new Promise<void>((resolve) => {
        const watcher = watch(directory, (_event, name) => {
          if (name !== "nbdfuse.pid") return;
          watcher.close();
          resolve();
        });
      });
      const child: ChildProcess = spawn("nbdfuse", ["-P", pidFile, point, unix], {
        stdio: "inherit",
      });
      const ended = once(child, "exit");
      try {
        await Promise.race([written, ended]);
        expect(existsSync(pidFile)).toBe(true);
        const file = join(point, "nbd");
        expect(statSync(file).size).toBe(DISK_BYTES);
        expect((await run("sha256sum", file)).split(" ")[0]).toBe(hashOf(raw));
        await run(
          "dd",
          `if=${raw}`,
          `of=${file}`,
          "bs=1M",
          "seek=20",
          "count=2",
          "conv=notrunc,fsync",
        );
        const { stdout } = await machine.exec(
          "dd if=/dev/da0 bs=1m skip=20 count=2 status=none | sha256",
        );
        const part = readFileSync(raw).subarray(0, 2 * MIB);
        expect(stdout.trim()).toBe(createHash("sha256").update(part).digest("hex"));
      } finally {
        spawnSync("fusermount3", ["-u", point]);
        child.kill();
        await ended;
      }
    },
  );
});
