import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { createImageFile, openImageFile } from "@hyperv-is/vhd/node";
import { instruction } from "./assembler.js";
import { BootProgram, describeWithFirmware } from "./boot-program.js";
import { bootCd, bootSector } from "./little-systems.js";

const { powerOff, say } = instruction;

const SECTOR_BYTES = 512;
const DISK_BYTES = 4 * 2 ** 20;
const directory = mkdtempSync(join(tmpdir(), "hyperv-pc-drives-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** Lets the BIOS read or write a sector of the first hard disk, from or to 0:7e00h. */
const disk = (service: "read" | "write", sector: number): number[] => [
  ...[0xb8, 0x01, service === "read" ? 0x02 : 0x03], // mov ax, service and count
  ...[0xb9, sector, 0x00, 0xba, 0x80, 0x00, 0xbb, 0x00, 0x7e], // mov cx, sector; mov dx, 80h; mov bx, 7e00h
  ...[0xcd, 0x13], // int 13h
];

/** Tells of the second sector, copies it to the third, and switches off. */
const system = bootSector(
  [0x31, 0xc0, 0x8e, 0xc0, 0x8e, 0xd8], // xor ax, ax; mov es, ax; mov ds, ax
  disk("read", 2),
  ...Array.from("data", (_, index) => [0xba, 0xf8, 0x03, 0xa0, index, 0x7e, 0xee]), // mov al, [7e00h + index]; out dx, al
  disk("write", 3),
  powerOff,
);

const sectors = new Uint8Array(DISK_BYTES);
sectors.set(system);
sectors.fill(0x5a, SECTOR_BYTES, 2 * SECTOR_BYTES);
sectors.set(new TextEncoder().encode("data"), SECTOR_BYTES);
const second = sectors.subarray(SECTOR_BYTES, 2 * SECTOR_BYTES);

describeWithFirmware("a guest that firmware boots", () => {
  test("from a raw disk reads and writes it", async () => {
    const path = join(directory, "disk.img");
    writeFileSync(path, sectors);
    const run = new BootProgram("--boot-disk", path);
    expect([await run.status(), run.stdout]).toEqual([0, "data"]);
    const written = readFileSync(path).subarray(2 * SECTOR_BYTES, 3 * SECTOR_BYTES);
    expect(Buffer.compare(written, second)).toBe(0);
  });

  test("from a VHDX reads and writes it", async () => {
    const path = join(directory, "disk.vhdx");
    const image = await createImageFile(path, { format: "vhdx-dynamic", sizeBytes: DISK_BYTES });
    image.write(0, sectors, 0, 3 * SECTOR_BYTES);
    image.close();
    const run = new BootProgram("--boot-disk", path);
    expect([await run.status(), run.stdout]).toEqual([0, "data"]);
    const written = new Uint8Array(SECTOR_BYTES);
    const after = await openImageFile(path, { readOnly: true });
    after.read(2 * SECTOR_BYTES, written, 0, SECTOR_BYTES);
    after.close();
    expect(Buffer.compare(written, second)).toBe(0);
  });

  test("from a CD-ROM", async () => {
    const path = join(directory, "disc.iso");
    writeFileSync(path, bootCd(say("from the disc"), powerOff));
    const run = new BootProgram("--cdrom", path);
    expect([await run.status(), run.stdout]).toEqual([0, "from the disc"]);
  });
});
