import { createHash, randomUUID } from "node:crypto";
import { statSync } from "node:fs";
import { access, constants, open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { deserialize, serialize } from "node:v8";
import type { SavedPartition } from "@hyperv-is/hyperv-host";
import manifest from "../../package.json" with { type: "json" };
import { PATCH_VERSION } from "../emulator/hooks.js";
import type { SavedBoard } from "../emulator/pc-board.js";
import { PcError } from "../pc-error.js";
import type { PcParts } from "./pc-parts.js";

/** A machine that stands still: its processor, memory and devices, and what the host knows of its guest. */
export interface SavedPc {
  /** The emulator's part: processor, memory, the PC's own devices. */
  readonly emulator: ArrayBuffer;
  readonly board: SavedBoard;
  readonly host: SavedPartition;
  /** Of the machine's clock. */
  readonly timeMs: number;
  /** What the guest had written to its serial console. */
  readonly transcript: string;
}

/** What a saved machine must find where it goes on. */
interface Fit {
  /** Hash of everything that a machine is made of, its host apart. */
  readonly machine: string;
  /** What its host speaks, and the disks as they were; undefined if the guest had not met the host yet. */
  readonly host: string | undefined;
}

/** First in the file; the number is that of this format. */
const MAGIC = "hyperv-pc snapshot 2\n";

/** Behind the magic: bytes of the two parts that follow, the host's and the emulator's; each length is 64 bits, little-endian. */
const LENGTHS_BYTES = 16;

/** What a saved machine fits: the same inputs, and unless its guest has not met the host yet, the same host and disks. */
function fitOf(parts: PcParts): Required<Fit> {
  const { options, memoryBytes, firmware, linux, controllers, cdrom, bootDisk } = parts;
  const hash = createHash("sha256");
  const versions = { package: manifest.version, patch: PATCH_VERSION };
  const drives = [cdrom && options.cdrom, bootDisk && options.bootDisk].map(fileState);
  const { bus, network, vmbusTable } = options;
  hash.update(JSON.stringify({ versions, memoryBytes, drives, vmbusTable }));
  hash.update(linux?.commandLine ?? "");
  for (const bytes of [firmware.bios, firmware.vgaBios, linux?.kernel, linux?.initrd])
    hash.update(`\n${bytes?.byteLength ?? 0}\n`).update(bytes ?? "");
  const disks = controllers.map(({ disks: onController, ...controller }) => ({
    ...controller,
    disks: onController.map(({ source, ...address }) => ({
      ...address,
      source,
      file: source.kind === "image" ? fileState(source.path) : undefined,
    })),
  }));
  const adapters = network?.adapters.map(({ mac, ...adapter }) => ({ ...adapter, mac: [...mac] }));
  return { machine: hash.digest("hex"), host: JSON.stringify({ bus, disks, adapters }) };
}

/** Disks in memory start with zeros each time. */
function hasWrittenToMemory({ controllers, disks }: PcParts): boolean {
  const stats = disks.stats();
  return controllers.some((controller, index) =>
    controller.disks.some(
      ({ source }, lun) =>
        source.kind === "ram" && (stats[index]?.disks[lun]?.writtenBytes ?? 0) > 0,
    ),
  );
}

/** A file that somebody has written to is not the one that the guest knows. */
function fileState(path: string | undefined): unknown {
  if (path === undefined) return undefined;
  const { size, mtimeMs } = statSync(path);
  return { path, size, mtimeMs };
}

/** A snapshot from which no machine goes on. */
export function snapshotError(path: string, detail: string, cause?: unknown): PcError {
  return new PcError("ERR_SNAPSHOT", `${path}: ${detail}; remove it to have it made again`, {
    cause,
  });
}

/** What is in the file beside the emulator's part. */
type HostPart = Omit<SavedPc, "emulator"> & { readonly fit: Fit };

function hostPart(path: string, bytes: Buffer): HostPart {
  try {
    return deserialize(bytes) as HostPart;
  } catch (cause) {
    throw snapshotError(path, "the snapshot is damaged", cause);
  }
}

/**
 * Reads a saved machine. @returns Undefined if there is none, or it was saved from other inputs, or with
 * another host or disks that have changed. Rejects with `ERR_SNAPSHOT` if the file is something else, or damaged.
 */
export async function readSnapshot(path: string, parts: PcParts): Promise<SavedPc | undefined> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    if ((cause as { readonly code?: string }).code === "ENOENT") return undefined;
    throw new PcError("ERR_SNAPSHOT", `${path}: ${(cause as Error).message}`, { cause });
  }
  if (bytes.toString("latin1", 0, MAGIC.length) !== MAGIC)
    throw snapshotError(path, "this is no snapshot of a machine, or one of another version");
  const start = MAGIC.length + LENGTHS_BYTES;
  if (bytes.byteLength < start) throw snapshotError(path, "the snapshot is cut off");
  const hostBytes = Number(bytes.readBigUInt64LE(MAGIC.length));
  const emulatorBytes = Number(bytes.readBigUInt64LE(MAGIC.length + 8));
  if (bytes.byteLength !== start + hostBytes + emulatorBytes)
    throw snapshotError(path, "the snapshot is cut off");
  const { fit, ...saved } = hostPart(path, bytes.subarray(start, start + hostBytes));
  const now = fitOf(parts);
  if (fit.machine !== now.machine) return undefined;
  if (fit.host !== undefined && fit.host !== now.host) return undefined;
  const emulator = new ArrayBuffer(emulatorBytes);
  new Uint8Array(emulator).set(bytes.subarray(start + hostBytes));
  return { ...saved, emulator };
}

/** Rejects with `ERR_SNAPSHOT` if no file can be made there: known before the guest boots, not after. */
export async function assertWritable(path: string): Promise<void> {
  try {
    await access(dirname(path), constants.W_OK);
  } catch (cause) {
    throw new PcError("ERR_SNAPSHOT", `${path}: ${(cause as Error).message}`, { cause });
  }
}

/** Writes a saved machine; the file appears whole or not at all. Rejects with `ERR_SNAPSHOT`. */
export async function writeSnapshot(path: string, parts: PcParts, saved: SavedPc): Promise<void> {
  const { emulator, ...rest } = saved;
  const now = fitOf(parts);
  const isConnected = saved.host.bus.connection !== undefined;
  if (isConnected && hasWrittenToMemory(parts))
    throw new PcError(
      "ERR_SNAPSHOT",
      "the guest has written to a disk that is in memory: it will not be there when the machine goes on",
    );
  const fit: Fit = { machine: now.machine, host: isConnected ? now.host : undefined };
  const host = serialize({ ...rest, fit });
  const lengths = Buffer.alloc(LENGTHS_BYTES);
  lengths.writeBigUInt64LE(BigInt(host.byteLength));
  lengths.writeBigUInt64LE(BigInt(emulator.byteLength), 8);
  const draft = `${path}.${randomUUID()}`;
  try {
    const file = await open(draft, "wx");
    try {
      await file.writev([Buffer.from(MAGIC), lengths, host, new Uint8Array(emulator)]);
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (cause) {
    await rm(draft, { force: true });
    throw new PcError("ERR_SNAPSHOT", `${path}: ${(cause as Error).message}`, { cause });
  }
}
