import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bootCommand, bootUsage } from "../src/bin/boot-command.js";
import { UsageMistake } from "../src/bin/failure.js";
import { littleKernel } from "./little-systems.js";

let directory = "";
let kernel = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "hyperv-pc-"));
  kernel = join(directory, "vmlinuz");
  writeFileSync(kernel, littleKernel());
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("hyperv-pc boot", () => {
  test.each([
    ["nothing to boot", []],
    ["--initrd", ["--initrd"]],
    ["positional", ["vmlinuz"]],
    ["--frobnicate", ["--frobnicate"]],
    ["--memory 12", ["--kernel", "k", "--memory", "12"]],
    ["--ceiling 7", ["--kernel", "k", "--ceiling", "7"]],
    ["--control", ["--kernel", "k", "--control", "a b"]],
    ["--violations warn", ["--kernel", "k", "--violations", "warn"]],
    ["--snapshot FILE", ["--kernel", "k", "--snapshot-at", "x"]],
    ["add --switch lan", ["--kernel", "k", "--nic", "switch=lan"]],
    ["--switch lan,listen", ["--kernel", "k", "--switch", "lan,listen"]],
  ])("says what is wrong: %s", async (text, args) => {
    const failure = bootCommand(args);
    await expect(failure).rejects.toBeInstanceOf(UsageMistake);
    await expect(failure).rejects.toThrow(new RegExp(text, "i"));
  });

  test.each<[string, string, () => readonly string[]]>([
    ["ERR_FILE", "none: ENOENT", () => ["--kernel", join(directory, "none")]],
    ["ERR_KERNEL_FORMAT", "bzImage", () => ["--kernel", "/dev/null"]],
    ["ERR_MEMORY", "64M", () => ["--kernel", kernel, "--memory", "32M"]],
    ["ERR_BOOT_OPTIONS", "kernel", () => ["--cdrom", kernel, "--append", "quiet"]],
    ["ERR_FIRMWARE", "apt-get install seabios", () => ["--kernel", kernel, "--bios", directory]],
  ])("fails with %s, and says what to do", async (code, text, args) => {
    const failure = bootCommand(args());
    await expect(failure).rejects.toMatchObject({ code });
    await expect(failure).rejects.toThrow(text);
  });

  test("explains every option", () => {
    for (const option of ["kernel", "initrd", "append", "cdrom", "boot-disk", "memory", "bios"])
      expect(bootUsage).toContain(`--${option} `);
    for (const option of [
      "nic",
      "switch",
      "disk",
      "faults",
      "trace",
      "control",
      "ceiling",
      "violations",
      "snapshot",
      "json",
    ])
      expect(bootUsage).toContain(`--${option} `);
  });
});
