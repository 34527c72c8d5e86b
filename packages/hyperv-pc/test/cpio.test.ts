import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { cpioArchive } from "../src/firmware/cpio.js";

const bytes = Uint8Array.from({ length: 1001 }, (_, at) => at & 0xff);
const archive = cpioArchive([
  { path: "kernel/firmware/acpi/vmbus.aml", bytes },
  { path: "kernel/firmware/other", bytes: new Uint8Array(0) },
]);

/** The entries, read as the kernel reads them. */
function entries(): { readonly name: string; readonly mode: number; readonly size: number }[] {
  const text = new TextDecoder("latin1").decode(archive);
  const found = [];
  for (let at = 0; ;) {
    expect(text.slice(at, at + 6)).toBe("070701");
    const field = (index: number): number =>
      Number.parseInt(text.slice(at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = text.slice(at + 110, at + 110 + nameSize - 1);
    if (name === "TRAILER!!!") return found;
    found.push({ name, mode, size });
    at = (at + 110 + nameSize + 3) & ~3;
    at = (at + size + 3) & ~3;
  }
}

describe("an archive in front of an initrd", () => {
  test("has each directory once, before what is in it", () => {
    expect(entries()).toEqual([
      { name: "kernel", mode: 0o040755, size: 0 },
      { name: "kernel/firmware", mode: 0o040755, size: 0 },
      { name: "kernel/firmware/acpi", mode: 0o040755, size: 0 },
      { name: "kernel/firmware/acpi/vmbus.aml", mode: 0o100644, size: 1001 },
      { name: "kernel/firmware/other", mode: 0o100644, size: 0 },
    ]);
    expect(archive.byteLength % 4).toBe(0);
  });

  const cpio = spawnSync("cpio", ["--version"]).status === 0;
  test.skipIf(!cpio)("is read by cpio (apt-get install cpio)", () => {
    const directory = mkdtempSync(join(tmpdir(), "hyperv-pc-"));
    try {
      const made = spawnSync("cpio", ["-id", "--quiet"], { cwd: directory, input: archive });
      expect([made.status, made.stderr.toString()]).toEqual([0, ""]);
      const file = join(directory, "kernel/firmware/acpi/vmbus.aml");
      expect(new Uint8Array(readFileSync(file))).toEqual(bytes);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
