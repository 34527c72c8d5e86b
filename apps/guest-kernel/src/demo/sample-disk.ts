import { randomFillSync } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { createImageFile } from "@hyperv-is/vhd/node";
import GPT from "gpt";

const SECTOR_BYTES = 512;
const DISK_BYTES = 64 * 2 ** 20;
const FIRST_SECTOR = 2048;
const LINUX_DATA = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

function newGuid(): string {
  const bytes = randomFillSync(Buffer.alloc(16));
  const text = bytes.toString("hex").toUpperCase();
  return [8, 12, 16, 20, 32].map((end, at) => text.slice([0, 8, 12, 16, 20][at], end)).join("-");
}

/** The partition table of the sample disk: its first sectors, and its last. */
function partitionTables(partitionBytes: number): {
  readonly first: Buffer;
  readonly last: Buffer;
} {
  const lastSector = BigInt(DISK_BYTES / SECTOR_BYTES - 1);
  const gpt = new GPT({
    blockSize: SECTOR_BYTES,
    guid: newGuid(),
    backupLBA: lastSector,
    lastLBA: lastSector - 33n,
  });
  gpt.partitions.push(
    new GPT.PartitionEntry({
      type: LINUX_DATA,
      guid: newGuid(),
      name: "sample",
      firstLBA: BigInt(FIRST_SECTOR),
      lastLBA: BigInt(FIRST_SECTOR + partitionBytes / SECTOR_BYTES - 1),
    }),
  );
  const first = Buffer.alloc(34 * SECTOR_BYTES);
  // The protective MBR: one partition of type EE over the whole disk.
  first.set([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff], 446);
  first.writeUInt32LE(1, 454);
  first.writeUInt32LE(Number(lastSector), 458);
  first.writeUInt16LE(0xaa55, 510);
  gpt.write(first, SECTOR_BYTES);
  const last = Buffer.alloc(33 * SECTOR_BYTES);
  gpt.writeBackupFromPrimary(last, 0);
  return { first, last };
}

/** Makes the sample disk, a dynamic VHDX with a GPT and an ext4 file system, unless it is there. */
export async function makeDemoDisk(path: string): Promise<void> {
  if (existsSync(path)) return;
  await mkdir(dirname(path), { recursive: true });
  const root = dirname(
    createRequire(import.meta.url).resolve("@hyperv-is/guest-kernel/package.json"),
  );
  const fixture = join(root, "fixtures", "sample.ext4.gz");
  const fileSystem = gunzipSync(await readFile(fixture));
  const half = `${path}.${process.pid}`;
  try {
    const disk = await createImageFile(half, { format: "vhdx-dynamic", sizeBytes: DISK_BYTES });
    const { first, last } = partitionTables(fileSystem.byteLength);
    disk.write(0, first, 0, first.byteLength);
    disk.write(FIRST_SECTOR * SECTOR_BYTES, fileSystem, 0, fileSystem.byteLength);
    disk.write(DISK_BYTES - last.byteLength, last, 0, last.byteLength);
    disk.close();
    await rename(half, path);
  } catch (error) {
    await rm(half, { force: true });
    throw error;
  }
}
