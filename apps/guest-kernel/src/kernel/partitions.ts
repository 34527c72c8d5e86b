import type GPT from "gpt";
import type MBR from "mbr";
import type { BlockDevice, GuestBuffer } from "./block-device.js";

/** A partition as its table has it; addresses in blocks of the disk. */
export interface Partition {
  /** Index in the table, from 1. */
  readonly index: number;
  readonly firstBlock: number;
  readonly blocks: number;
  /** FreeBSD's name of the type, or the type itself. */
  readonly type: string;
  /** GPT name of the partition; empty without one. */
  readonly label: string;
}

/** The partition table of a disk. */
export interface PartitionTable {
  readonly scheme: "GPT" | "MBR";
  /** First and last block that partitions may use. */
  readonly firstBlock: number;
  readonly lastBlock: number;
  /** One of the two copies of a GPT is damaged. */
  readonly corrupt: boolean;
  /** By first block. */
  readonly partitions: readonly Partition[];
}

/** FreeBSD's names of GPT types. */
const gptTypes: ReadonlyMap<string, string> = new Map([
  ["C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "efi"],
  ["21686148-6449-6E6F-744E-656564454649", "bios-boot"],
  ["83BD6B9D-7F41-11DC-BE0B-001560B84F0F", "freebsd-boot"],
  ["516E7CB4-6ECF-11D6-8FF8-00022D09712B", "freebsd"],
  ["516E7CB5-6ECF-11D6-8FF8-00022D09712B", "freebsd-swap"],
  ["516E7CB6-6ECF-11D6-8FF8-00022D09712B", "freebsd-ufs"],
  ["516E7CBA-6ECF-11D6-8FF8-00022D09712B", "freebsd-zfs"],
  ["0FC63DAF-8483-4772-8E79-3D69D8477DE4", "linux-data"],
  ["0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "linux-swap"],
  ["EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "ms-basic-data"],
  ["E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "ms-reserved"],
]);

/** FreeBSD's names of MBR types. */
const mbrTypes: ReadonlyMap<number, string> = new Map([
  [0x01, "fat12"],
  [0x05, "ebr"],
  [0x06, "fat16"],
  [0x07, "ntfs"],
  [0x0b, "fat32"],
  [0x0c, "fat32lba"],
  [0x0f, "ebr"],
  [0x82, "linux-swap"],
  [0x83, "linux-data"],
  [0xa5, "freebsd"],
  [0xef, "efi"],
]);

const PROTECTIVE = 0xee;

/** Reads a disk's partition table; undefined when it has none. */
export async function readPartitionTable(
  device: BlockDevice,
  allocate: (lengthBytes: number) => GuestBuffer,
): Promise<PartitionTable | undefined> {
  const { blockBytes } = device;
  const blocks = device.sizeBytes / blockBytes;
  const read = async (block: number, count: number): Promise<Buffer> => {
    const buffer = allocate(count * blockBytes);
    try {
      await device.read(block * blockBytes, buffer.address, count * blockBytes);
      return Buffer.from(buffer.bytes);
    } finally {
      buffer.free();
    }
  };
  const first = await read(0, 1);
  if (first.readUInt16LE(510) !== 0xaa55) return undefined;
  // The libraries are loaded by what finds a table, not by each processor that starts.
  const mbr = new (await import("mbr")).default(first);
  if (!mbr.partitions.some(({ type }) => type === PROTECTIVE)) return mbrTable(mbr, blocks);

  const { default: Gpt } = await import("gpt");
  const readGpt = async (headerBlock: number): Promise<GPT | undefined> => {
    try {
      const gpt = new Gpt({ blockSize: blockBytes });
      gpt.parseHeader(await read(headerBlock, 1));
      if (gpt.entrySize < 128 || gpt.entries > 1024) return undefined;
      const tableBlocks = Math.ceil((gpt.entries * gpt.entrySize) / blockBytes);
      const tableBlock = Number(gpt.tableOffset);
      if (tableBlock + tableBlocks > blocks) return undefined;
      gpt.parseTable(await read(tableBlock, tableBlocks), 0, gpt.entries * gpt.entrySize);
      return gpt.verifyHeader() && gpt.verifyTable() ? gpt : undefined;
    } catch {
      // The library throws at a bad signature: this copy of the table is not there.
      return undefined;
    }
  };
  const primary = await readGpt(1);
  const backup = await readGpt(blocks - 1);
  const good = primary ?? backup;
  if (good === undefined) return undefined;
  const partitions = good.partitions
    .map((entry, at) => ({ entry, index: at + 1 }))
    .filter(({ entry }) => !entry.isEmpty())
    .map(({ entry, index }) => ({
      index,
      firstBlock: Number(entry.firstLBA),
      blocks: Number(entry.lastLBA) - Number(entry.firstLBA) + 1,
      type: gptTypes.get(entry.type.toUpperCase()) ?? `!${entry.type.toLowerCase()}`,
      label: entry.name.replace(/\0.*$/s, ""),
    }))
    .sort((left, right) => left.firstBlock - right.firstBlock);
  return {
    scheme: "GPT",
    firstBlock: Number(good.firstLBA),
    lastBlock: Number(good.lastLBA),
    corrupt: primary === undefined || backup === undefined,
    partitions,
  };
}

function mbrTable(mbr: MBR, blocks: number): PartitionTable | undefined {
  const partitions = mbr.partitions
    .map((entry, at) => ({ entry, index: at + 1 }))
    .filter(({ entry }) => entry.type !== 0 && entry.sectors > 0)
    .map(({ entry, index }) => ({
      index,
      firstBlock: entry.firstLBA,
      blocks: entry.sectors,
      type: mbrTypes.get(entry.type) ?? `!${entry.type}`,
      label: "",
    }))
    .sort((left, right) => left.firstBlock - right.firstBlock);
  // A boot sector of a file system has the same signature; its "partitions" leave the disk.
  const inside = partitions.every(({ firstBlock, blocks: count }) => firstBlock + count <= blocks);
  if (partitions.length === 0 || !inside) return undefined;
  return { scheme: "MBR", firstBlock: 1, lastBlock: blocks - 1, corrupt: false, partitions };
}

/** A partition as a device of its own: `da0p1` in a GPT, `da0s1` in an MBR. */
export function partitionDevice(
  disk: BlockDevice,
  scheme: PartitionTable["scheme"],
  partition: Partition,
): BlockDevice {
  const base = partition.firstBlock * disk.blockBytes;
  return {
    name: `${disk.name}${scheme === "GPT" ? "p" : "s"}${partition.index}`,
    sizeBytes: partition.blocks * disk.blockBytes,
    blockBytes: disk.blockBytes,
    physicalBlockBytes: disk.physicalBlockBytes,
    readOnly: disk.readOnly,
    maxTransferBytes: disk.maxTransferBytes,
    read: (position, address, length) => disk.read(base + position, address, length),
    write: (position, address, length) => disk.write(base + position, address, length),
    flush: () => disk.flush(),
    unmap: (position, length) => disk.unmap(base + position, length),
  };
}
