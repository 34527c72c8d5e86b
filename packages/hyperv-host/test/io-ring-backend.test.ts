import { closeSync, mkdtempSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { IoRing, createGuestMemory } from "@hyperv-is/platform-node";
import type { MappedDisk } from "@hyperv-is/vhd";
import { createImageFile } from "@hyperv-is/vhd/node";
import { IoRingBackend } from "../src/node/io-ring-backend.js";
import { GuestBuffer, type Run } from "./scsi-rig.js";

const MIB = 2 ** 20;
const SECTOR = 512;
const DISK_BYTES = 8 * MIB;

const directory = mkdtempSync(join(tmpdir(), "io-ring-backend-"));
afterAll(() => rmSync(directory, { recursive: true }));
const path = join(directory, "disk.vhdx");
const memory = createGuestMemory(4 * MIB).bytes;

let image: MappedDisk;
let backend: IoRingBackend;
beforeEach(async () => {
  rmSync(path, { force: true });
  image = await createImageFile(path, {
    format: "vhdx-dynamic",
    sizeBytes: DISK_BYTES,
    blockBytes: MIB,
  });
  // Blocks 1 and 4 stay holes.
  for (const block of [5, 0, 2, 7, 3, 6]) {
    const content = new Uint32Array(MIB / 4).map((_, word) => block * MIB + word);
    image.write(block * MIB, new Uint8Array(content.buffer), 0, MIB);
  }
  image.flush();
  backend = new IoRingBackend(image);
  memory.fill(0xee);
});
afterEach(() => backend.close());

function expected(sector: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  image.read(sector * SECTOR, bytes, 0, lengthBytes);
  return bytes;
}

describe.each(["on", "off"])(
  "reads of an image, with io_uring %s, where it can be had,",
  (setting) => {
    let hasRing = false;
    beforeEach(() => {
      vi.stubEnv("HYPERV_IS_IO_URING", setting);
      const ring = IoRing.open(memory, 1);
      hasRing = ring !== undefined;
      ring?.close();
    });
    afterEach(() => vi.unstubAllEnvs());

    test("are those of the image, in runs of any lengths, over blocks and holes", () => {
      const requests = fc.array(
        fc.record({
          sector: fc.nat({ max: DISK_BYTES / SECTOR - 1 }),
          runs: fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 20 }),
          thenCarriesOut: fc.boolean(),
        }),
        { minLength: 1, maxLength: 20 },
      );
      fc.assert(
        fc.property(requests, (list) => {
          let at = 0;
          const checks: (() => void)[] = [];
          let ends = 0;
          for (const { sector, runs, thenCarriesOut } of list) {
            const total = runs.reduce((sum, length) => sum + length, 0);
            const most = Math.min(total, DISK_BYTES - sector * SECTOR, memory.byteLength - at);
            const lengthBytes = most - (most % SECTOR);
            if (lengthBytes === 0) continue;
            const places: Run[] = [];
            for (let left = lengthBytes, run = 0; left > 0; run++) {
              const length = Math.min(left, runs[run]!);
              places.push([at, length]);
              at += length;
              left -= length;
            }
            // The second half of the runs comes first in memory.
            places.push(...places.splice(0, places.length >> 1));
            const buffer = new GuestBuffer(places, memory);
            let ended = 0;
            backend.read(sector, lengthBytes, buffer, (error) => {
              expect(error).toBeUndefined();
              ended++;
              ends++;
            });
            checks.push(() => {
              expect(ended).toBe(1);
              expect(expected(sector, lengthBytes).equals(buffer.contents)).toBe(true);
            });
            if (thenCarriesOut) backend.carryOut();
          }
          backend.carryOut();
          for (const check of checks) check();
          expect(ends).toBe(checks.length);
        }),
        { numRuns: 100 },
      );
    });

    test("are done before an image gives away their places", () => {
      let ended = 0;
      const buffers = [5, 6].map((block, index) => {
        const buffer = new GuestBuffer([[index * 8192, 4096]], memory);
        backend.read((block * MIB) / SECTOR, 4096, buffer, () => ended++);
        return buffer;
      });
      // Where there is no ring each is done at once.
      expect(ended).toBe(hasRing ? 0 : 2);
      const before = [5, 6].map((block) => expected((block * MIB) / SECTOR, 4096));
      backend.whenIdle(() => {
        image.unmap(5 * MIB, 2 * MIB);
        image.flush();
        // Into the places of blocks 5 and 6.
        image.write(1 * MIB, new Uint8Array(MIB).fill(0x11), 0, MIB);
        image.write(4 * MIB, new Uint8Array(MIB).fill(0x44), 0, MIB);
      });
      backend.carryOut();
      for (const [index, buffer] of buffers.entries())
        expect(before[index]!.equals(buffer.contents)).toBe(true);
    });

    test("see zeros where the file has lost its end, as the image's own calls do", () => {
      truncateSync(path, 4 * MIB);
      const sectors = [0, 2, 3, 5, 6, 7].map((block) => (block * MIB) / SECTOR);
      const buffers = sectors.map((sector, index) => {
        const buffer = new GuestBuffer([[index * 8192, 8192]], memory);
        backend.read(sector, 8192, buffer, (error) => expect(error).toBeUndefined());
        return buffer;
      });
      backend.carryOut();
      for (const [index, sector] of sectors.entries())
        expect(expected(sector, 8192).equals(buffers[index]!.contents)).toBe(true);
    });

    test("reach positions that 32 bits do not hold", async () => {
      const position = 5 * 2 ** 30;
      const sparse = join(directory, "sparse.vhd");
      const large = await createImageFile(sparse, { format: "vhd-fixed", sizeBytes: 6 * 2 ** 30 });
      const content = Buffer.from(new Uint32Array((3 * SECTOR) / 4).map((_, word) => word).buffer);
      large.write(position, content, 0, content.length);
      const reads = new IoRingBackend(large);
      for (let read = 0; read < 3; read++) {
        const buffer = new GuestBuffer([[read * SECTOR, SECTOR]], memory);
        reads.read(position / SECTOR + read, SECTOR, buffer, () => undefined);
      }
      reads.carryOut();
      reads.close();
      rmSync(sparse);
      expect(content.equals(memory.subarray(0, content.length))).toBe(true);
    });

    test("end with the error of the image's own call", async () => {
      const other = join(directory, "unreadable.vhdx");
      const broken = await createImageFile(other, { format: "vhdx-fixed", sizeBytes: MIB });
      const reads = new IoRingBackend(broken);
      const codes: unknown[] = [];
      for (let read = 0; read < 3; read++)
        reads.read(read, SECTOR, new GuestBuffer([[0, SECTOR]], memory), (error) =>
          codes.push((error as { readonly code?: string } | undefined)?.code),
        );
      closeSync(broken.file.descriptor!);
      reads.carryOut();
      expect(codes).toEqual(hasRing ? Array(3).fill("ERR_IMAGE_FILE") : Array(3).fill(undefined));
      expect(() => reads.close()).toThrow();
      rmSync(other);
    });
  },
);
