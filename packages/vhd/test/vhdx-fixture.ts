import { crc32cWithoutField } from "../src/crc32c.js";
import { emitGuid } from "../src/guid.js";
import { createVhdx } from "../src/vhdx/index.js";
import { MIB } from "../src/vhdx/layout.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

export const METADATA = 2 * MIB;
export const ITEMS = METADATA + 65536;
export const BAT = 3 * MIB;
export const sizeBytes = 8 * MIB + 512;
export const newGuid = "6b8c3e1a-0d5f-4e92-8a77-3c1b9f24d605";

/** An image with blocks 0, 2 and 5 at 4, 5 and 6 MiB, closed in order. */
export const sound = ((): MemoryFile => {
  const file = new MemoryFile();
  const disk = createVhdx(file, { sizeBytes, blockBytes: MIB, random: new Prng(1) });
  for (const block of [0, 2, 5])
    disk.write(block * MIB, new Uint8Array(512).fill(block + 1), 0, 512);
  disk.close();
  file.reopen();
  return file;
})();

/** Changes a structure that is covered by a CRC at byte 4, and makes the CRC fit again. */
export function edit(
  file: MemoryFile,
  offset: number,
  length: number,
  change: (view: DataView) => void,
): void {
  const bytes = file.bytes(offset, length);
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(4, crc32cWithoutField(bytes, 4), true);
  file.write(offset, bytes, 0, length);
}

export function header(file: MemoryFile, change: (view: DataView) => void): void {
  for (const offset of [65536, 131072]) edit(file, offset, 4096, change);
}

export function regions(file: MemoryFile, change: (view: DataView) => void): void {
  for (const offset of [196608, 262144]) edit(file, offset, 65536, change);
}

export function poke(
  file: MemoryFile,
  offset: number,
  bytes: readonly number[] | Uint8Array,
): void {
  file.write(offset, Uint8Array.from(bytes), 0, bytes.length);
}

export function u32(file: MemoryFile, offset: number, value: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  poke(file, offset, bytes);
}

export function u64(file: MemoryFile, offset: number, value: bigint): void {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  poke(file, offset, bytes);
}

export function bat(file: MemoryFile, block: number, state: number, mib: bigint): void {
  u64(file, BAT + block * 8, (mib << 20n) | BigInt(state));
}

export function guid(file: MemoryFile, offset: number, text: string): void {
  const bytes = new Uint8Array(16);
  emitGuid(bytes, 0, text);
  poke(file, offset, bytes);
}

/** Adds a sixth entry to the metadata table. */
export function item(
  file: MemoryFile,
  id: string,
  [offset, length, flags]: readonly [number, number, number],
): void {
  const entry = METADATA + 32 + 5 * 32;
  poke(file, METADATA + 10, [6, 0]);
  guid(file, entry, id);
  for (const [at, value] of [offset, length, flags].entries())
    u32(file, entry + 16 + at * 4, value);
}

/** Adds a third entry to the region tables. */
export function region(
  view: DataView,
  id: string,
  offset: number,
  length: number,
  flags: number,
): void {
  view.setUint32(8, 3, true);
  emitGuid(new Uint8Array(view.buffer), 16 + 64, id);
  view.setBigUint64(16 + 64 + 16, BigInt(offset), true);
  view.setUint32(16 + 64 + 24, length, true);
  view.setUint32(16 + 64 + 28, flags, true);
}
