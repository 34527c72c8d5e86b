import { execFileSync } from "node:child_process";
import { createCipheriv, createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import type {
  ControllerConfig,
  DiskSource,
  Fault,
  FaultPlanData,
  FaultSelector,
} from "@hyperv-is/hyperv-host";
import { StockLinux, withGuest } from "./stock-linux.js";

const MEGABYTE = 2 ** 20;
const DATA_BYTES = 200 * MEGABYTE;
const FS_BYTES = 320 * MEGABYTE;

const directory = mkdtempSync(join(tmpdir(), "stock-linux-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const start = { bootedOnce: join(directory, "booted") };

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const hashOf = (path: string): string =>
  createHash("sha256").update(readFileSync(path)).digest("hex");

/** A raw file with bytes that look random, the same for a seed. */
function seededFile(name: string, seed: number, lengthBytes: number): string {
  const path = join(directory, name);
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed);
  const stream = createCipheriv("aes-128-ctr", key, Buffer.alloc(16));
  writeFileSync(path, stream.update(Buffer.alloc(lengthBytes)));
  return path;
}

/** A raw file with an ext4 file system that has the files of a folder. */
function rawExt4(name: string, sizeBytes: number, files: Readonly<Record<string, string>>): string {
  const path = join(directory, name);
  const content = `${path}.d`;
  mkdirSync(content);
  for (const [file, text] of Object.entries(files)) writeFileSync(join(content, file), text);
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  run("mkfs.ext4", "-q", "-b", "4096", "-d", content, path);
  return path;
}

/** Makes a VHDX of a raw file, with qemu's own writer. */
function toVhdx(raw: string, subformat: "fixed" | "dynamic"): string {
  const path = raw.replace(/\.raw$/, ".vhdx");
  run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", `subformat=${subformat}`, raw, path);
  return path;
}

const ram = (sizeBytes: number, sectorBytes: 512 | 4096 = 512): DiskSource => ({
  kind: "ram",
  sizeBytes,
  identity: Uint8Array.from({ length: 16 }, (_, index) => index + sizeBytes / MEGABYTE),
  logicalSectorBytes: sectorBytes,
});
const at = (lun: number, source: DiskSource): ControllerConfig["disks"][number] => ({
  path: 0,
  target: 0,
  lun,
  source,
});

const FIRST = "5107a9e0-0000-4000-8000-000000000001";
const SECOND = "5107a9e0-0000-4000-8000-000000000002";

/** The name that the guest has given to a disk. */
async function nameOf(linux: StockLinux, instanceId: string, lun: number): Promise<string> {
  return linux.output(`ls /sys/bus/vmbus/devices/${instanceId}/host*/target*/*:${lun}/block`);
}

withGuest(
  "a stock Linux guest writes 200 MB to ext4 on a VHDX, and has them after a restart",
  { timeout: 1_200_000, peers: ["qemu-img", "mkfs.ext4", "e2fsck", "debugfs"] },
  async () => {
    const seed = Math.floor(Date.now() / 1000);
    console.log(`seed ${seed}`);
    const data = seededFile("data.raw", seed, DATA_BYTES);
    const source = toVhdx(data, "fixed");
    const volume = toVhdx(rawExt4("volume.raw", FS_BYTES, { hello: "from the host" }), "dynamic");
    const controllers: ControllerConfig[] = [
      {
        instanceId: FIRST,
        disks: [
          at(0, { kind: "image", path: volume }),
          at(1, { kind: "image", path: source, readOnly: true }),
        ],
      },
      { instanceId: SECOND, disks: [at(0, ram(64 * MEGABYTE)), at(63, ram(80 * MEGABYTE, 4096))] },
    ];
    {
      await using linux = await StockLinux.boot({ ...start, controllers });
      const disks = await Promise.all(
        [
          [FIRST, 0, FS_BYTES, 512, 0],
          [FIRST, 1, DATA_BYTES, 512, 1],
          [SECOND, 0, 64 * MEGABYTE, 512, 0],
          [SECOND, 63, 80 * MEGABYTE, 4096, 0],
        ].map(async ([instanceId, lun, sizeBytes, sectorBytes, readOnly]) => {
          const name = await nameOf(linux, String(instanceId), Number(lun));
          const block = `/sys/block/${name}`;
          const shown = await linux.output(
            `cat ${block}/size ${block}/queue/logical_block_size ${block}/ro`,
          );
          expect(shown.split("\n").map(Number)).toEqual([
            Number(sizeBytes) / 512,
            sectorBytes,
            readOnly,
          ]);
          return `/dev/${name}`;
        }),
      );
      expect(new Set(disks).size).toBe(4);
      const [volumeDisk = "", sourceDisk = "", ...others] = disks;

      // What may not be written to is not, by the block layer or past it.
      expect(await linux.run(`dd if=/dev/zero of=${sourceDisk} count=1`)).toMatchObject({
        status: 1,
        output: expect.stringContaining("Read-only file system") as string,
      });
      const generic = await linux.output(
        `ls ${sourceDisk.replace("/dev", "/sys/block")}/device/scsi_generic`,
      );
      const write = `sg_raw -s 512 -i /dev/zero /dev/${generic} 2a 00 00 00 00 00 00 00 01 00`;
      expect((await linux.run(write)).output).toContain("Write protected");

      // Disks of both controllers, at the same time.
      const load = others.map((disk) => `dd if=/dev/zero of=${disk} bs=1M count=32 conv=fsync &`);
      await linux.output(
        `${load.join(" ")} mount -t ext4 ${volumeDisk} /mnt && cat /mnt/hello && ` +
          `dd if=${sourceDisk} of=/mnt/data bs=1M && sync; result=$?; wait; exit $result`,
      );
      await linux.output("umount /mnt");
      await linux.kernelLog();

      await linux.reboot();
      const again = await nameOf(linux, FIRST, 0);
      await linux.output(`mount -t ext4 /dev/${again} /mnt`);
      expect(await linux.output("sha256sum /mnt/data")).toBe(`${hashOf(data)}  /mnt/data`);
      await linux.output("umount /mnt");
      await linux.kernelLog();
      linux.pc.serial.write("poweroff -f\n");
      expect(await linux.pc.ended).toBe("powered-off");
      expect(linux.unexplained).toEqual([]);
    }
    run("qemu-img", "check", "-f", "vhdx", volume);
    const raw = join(directory, "volume-after.raw");
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", volume, raw);
    run("e2fsck", "-fn", raw);
    const file = join(directory, "data-after.raw");
    run("debugfs", "-R", `dump /data ${file}`, raw);
    expect(hashOf(file)).toBe(hashOf(data));
  },
);

/** @param sense - key, additional code, and its qualifier. */
function checkCondition(where: FaultSelector, sense: readonly [number, number, number]): Fault {
  const [senseKey, additionalCode, additionalQualifier] = sense;
  return { kind: "check-condition", ...where, senseKey, additionalCode, additionalQualifier };
}

/** An error that the host answers, what the kernel makes of it (drivers/scsi/scsi_lib.c), and what dd says. */
const errors = [
  ["read", [0x3, 0x11, 0x00], "Unrecovered read error", "critical medium", "No data available"],
  ["read", [0x4, 0x44, 0x00], "Internal target failure", "critical target", "Remote I/O error"],
  ["write", [0x3, 0x0c, 0x00], "Write error", "I/O", "Input/output error"],
  ["write", [0x7, 0x27, 0x00], "Write protected", "critical target", "Remote I/O error"],
] as const;

withGuest(
  "a stock Linux guest reports the errors that the host injects",
  { timeout: 600_000 },
  async () => {
    const faults: FaultPlanData = {
      faults: [
        ...errors.map(([operation, sense], lun) =>
          checkCondition({ device: FIRST, lun, operation }, sense),
        ),
        // Aborted command: Linux tries again.
        checkCondition({ device: SECOND, lun: 0, operation: "write", count: 2 }, [0xb, 0x47, 0]),
        checkCondition({ device: SECOND, lun: 1, operation: "flush" }, [0x3, 0x0c, 0]),
        { kind: "late-completion", device: SECOND, lun: 2, operation: "write", delayMs: 200 },
      ],
    };
    await using linux = await StockLinux.boot({
      ...start,
      faults,
      controllers: [
        { instanceId: FIRST, disks: errors.map((_, lun) => at(lun, ram(16 * MEGABYTE))) },
        { instanceId: SECOND, disks: [0, 1, 2].map((lun) => at(lun, ram(16 * MEGABYTE))) },
      ],
    });
    // The kernel says ten such things in five seconds and drops the rest: the look for partitions used them up.
    await linux.output("sleep 6");
    await linux.kernelLog();
    for (const [lun, [operation, , sense, kind, said]] of errors.entries()) {
      const disk = `/dev/${await nameOf(linux, FIRST, lun)}`;
      const command =
        operation === "read"
          ? `dd if=${disk} of=/dev/null bs=4k skip=2048 count=1 iflag=direct`
          : `dd if=/dev/zero of=${disk} bs=4k seek=2048 count=1 oflag=direct`;
      const { status, output } = await linux.run(command);
      expect(output).toContain(said);
      expect(status).toBe(1);
      const log = await linux.kernelLog();
      expect(log).toContain(`Add. Sense: ${sense}`);
      expect(log).toMatch(
        new RegExp(
          `${kind} error, dev \\S+, sector 16384 op 0x[01]:\\(${operation.toUpperCase()}\\)`,
        ),
      );
    }
    const [aborted, flushed, late] = await Promise.all(
      [0, 1, 2].map((lun) => nameOf(linux, SECOND, lun)),
    );
    // Two errors that pass are not seen.
    await linux.output(`dd if=/dev/zero of=/dev/${aborted} bs=4k count=4 oflag=direct`);
    expect(await linux.kernelLog()).not.toContain("error");
    expect(
      await linux.run(`dd if=/dev/zero of=/dev/${flushed} bs=4k count=4 conv=fsync`),
    ).toMatchObject({
      status: 1,
      output: expect.stringContaining("Input/output error") as string,
    });
    expect(await linux.kernelLog()).toMatch(/Synchronize Cache|op 0x[01]:\((WRITE|FLUSH)\)/);
    await linux.output(`dd if=/dev/zero of=/dev/${late} bs=4k count=4 oflag=direct`);
    expect(await linux.kernelLog()).not.toContain("error");
    const [first, second] = linux.pc.host.stats().controllers;
    expect(first?.faults).toBeGreaterThanOrEqual(4);
    expect(second?.faults).toBeGreaterThanOrEqual(2 + 1 + 4);
    expect(linux.unexplained).toEqual([]);
  },
);
