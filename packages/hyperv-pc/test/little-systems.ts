import { code } from "./assembler.js";

/** Where the code of a kernel image of one setup sector may begin: behind the header. */
const KERNEL_CODE = 0x268;
const SECTOR_BYTES = 512;
const CD_SECTOR_BYTES = 2048;

/** A kernel image (bzImage) whose real-mode part is a program of a few hundred bytes. */
export function littleKernel(...program: readonly (readonly number[])[]): Uint8Array {
  const image = new Uint8Array(8 * SECTOR_BYTES);
  const view = new DataView(image.buffer);
  view.setUint8(0x1f1, 1);
  view.setUint16(0x1fe, 0xaa55, true);
  // The entry: a jump over the header.
  view.setUint8(0x200, 0xeb);
  view.setUint8(0x201, KERNEL_CODE - 0x202);
  view.setUint32(0x202, 0x5372_6448, true);
  view.setUint16(0x206, 0x020f, true);
  view.setUint8(0x211, 1);
  view.setUint32(0x22c, 0x7fff_ffff, true);
  view.setUint32(0x238, 2047, true);
  image.subarray(KERNEL_CODE, 2 * SECTOR_BYTES).set(code(...program));
  return image;
}

/** A first sector that firmware boots from a hard disk. */
export function bootSector(...program: readonly (readonly number[])[]): Uint8Array {
  const sector = new Uint8Array(SECTOR_BYTES);
  sector.subarray(0, SECTOR_BYTES - 2).set(code(...program));
  sector.set([0x55, 0xaa], SECTOR_BYTES - 2);
  return sector;
}

/** A CD-ROM that firmware boots without emulating a disk ("El Torito", version 1.0). */
export function bootCd(...program: readonly (readonly number[])[]): Uint8Array {
  const [descriptors, catalog, boot] = [16, 19, 20];
  const image = new Uint8Array((boot + 1) * CD_SECTOR_BYTES);
  const sector = (index: number): Uint8Array => image.subarray(index * CD_SECTOR_BYTES);
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);
  // Volume descriptors: primary, boot record with the catalog's place, end.
  for (const [index, type] of [1, 0, 255].entries()) {
    sector(descriptors + index).set([type, ...text("CD001"), 1]);
    if (type !== 0) continue;
    sector(descriptors + index).set(text("EL TORITO SPECIFICATION"), 7);
    sector(descriptors + index).set([catalog], 0x47);
  }
  // The validation entry, whose words add up to 0, and the entry to boot: no emulation, four sectors of 512 bytes.
  sector(catalog).set([1], 0);
  sector(catalog).set([0xaa, 0x55, 0x55, 0xaa], 28);
  sector(catalog).set([0x88, 0, 0, 0, 0, 0, 4, 0, boot], 32);
  sector(boot).set(code(...program));
  return image;
}
