import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { checkImageFile } from "@hyperv-is/vhd/node";
import { boot } from "@hyperv-is/guest-kernel";

const peers = ["qemu-img", "mkfs.ext4", "e2fsck"];
const missing = peers.filter((name) => spawnSync(name, ["--version"]).error !== undefined);
if (missing.length > 0) {
  const reason = `${missing.join(", ")} missing: apt-get install qemu-utils e2fsprogs`;
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

const directory = mkdtempSync(join(tmpdir(), "guest-qemu-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const MEGABYTE = 2 ** 20;
const FS_BYTES = 8 * MEGABYTE;
const DISK_BYTES = 20 * MEGABYTE;

const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const hashOf = (path: string): string =>
  createHash("sha256").update(readFileSync(path)).digest("hex");

/** A raw file with an ext4 that holds a file of the given text. */
function rawExt4(name: string, text: string, sizeBytes: number): string {
  const path = join(directory, `${name}.raw`);
  const content = join(directory, `${name}.d`);
  mkdirSync(content);
  writeFileSync(join(content, "file"), text.repeat(100_000));
  writeFileSync(path, "");
  truncateSync(path, FS_BYTES);
  run("mkfs.ext4", "-q", "-b", "4096", "-d", content, path);
  truncateSync(path, sizeBytes);
  return path;
}

const formats: [string, string, string][] = [
  ["vpc", "subformat=fixed,force_size=on", "vhd"],
  ["vpc", "subformat=dynamic,force_size=on", "vhd"],
  ["vpc", "subformat=dynamic", "vhd"],
  ["vhdx", "subformat=fixed", "vhdx"],
  ...["1M", "256M"].map((block): [string, string, string] => [
    "vhdx",
    `subformat=dynamic,block_size=${block}`,
    "vhdx",
  ]),
];

describe.skipIf(missing.length > 0)("images made by qemu-img", () => {
  const original = missing.length > 0 ? "" : rawExt4("original", "old text\n", DISK_BYTES);
  const other = missing.length > 0 ? "" : rawExt4("other", "entirely new text\n", FS_BYTES);

  test.each(formats)(
    "%s %s is read and written, byte for byte",
    async (format, options, extension) => {
      const name = `${format}-${options.replace(/\W+/g, "-")}`;
      const image = join(directory, `${name}.${extension}`);
      run("qemu-img", "convert", "-O", format, "-o", options, original, image);
      // qemu may have rounded the size up; what it says the image holds is what counts.
      const expected = join(directory, `${name}.expected.raw`);
      run("qemu-img", "convert", "-f", format, "-O", "raw", image, expected);
      const source = join(directory, `${name}.source.vhdx`);
      run("qemu-img", "convert", "-O", "vhdx", other, source);

      const machine = await boot({
        disks: [image, { kind: "image", path: source, readOnly: true }],
      });
      try {
        expect(machine.disks[0]!.sizeBytes).toBe(statSync(expected).size);
        const before = await machine.exec("sha256 -q /dev/da0");
        expect(before.stdout.trim()).toBe(hashOf(expected));
        // A new file system over the old one, and random data where nothing was written before.
        const written = await machine.exec(
          "dd if=/dev/da1 of=/dev/da0 bs=1m count=8 status=none && " +
            "dd if=/dev/random of=/dev/da0 bs=64k seek=200 count=37 status=none && " +
            "dd if=/dev/da0 bs=64k skip=200 count=37 status=none",
          {},
        );
        expect(written.status).toBe(0);
        expect((await machine.exec("sha256 -q /dev/da0")).status).toBe(0);
        const after = (await machine.exec("sha256 -q /dev/da0")).stdout.trim();
        expect(machine.host.violations).toEqual([]);
        await machine.shutdown();

        const result = join(directory, `${name}.result.raw`);
        run("qemu-img", "convert", "-f", format, "-O", "raw", image, result);
        expect(hashOf(result)).toBe(after);
        const wanted = readFileSync(expected);
        const found = readFileSync(result);
        wanted.set(readFileSync(other), 0);
        wanted.set(found.subarray(200 * 65536, 237 * 65536), 200 * 65536);
        writeFileSync(expected, wanted);
        expect(run("qemu-img", "compare", "-f", "raw", "-F", format, expected, image)).toContain(
          "Images are identical.",
        );
        expect(found.subarray(200 * 65536, 237 * 65536).some((byte) => byte !== 0)).toBe(true);
        // qemu-img cannot check a VHD; our own check reads both.
        if (format === "vhdx") expect(run("qemu-img", "check", image)).toContain("No errors");
        expect(await checkImageFile(image)).toEqual([]);
        const fileSystem = join(directory, `${name}.ext4`);
        writeFileSync(fileSystem, found.subarray(0, FS_BYTES));
        expect(run("e2fsck", "-fn", fileSystem)).toContain("files");
        rmSync(fileSystem);
        rmSync(result);
      } finally {
        await machine.shutdown();
        for (const file of [image, expected, source]) rmSync(file, { force: true });
      }
    },
    120_000,
  );
});
