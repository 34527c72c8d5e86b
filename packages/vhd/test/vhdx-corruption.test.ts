import { describe, expect, test } from "vitest";
import { type ImageErrorCode, ImageError } from "../src/errors.js";
import { checkVhdx, createVhdx, openVhdx } from "../src/vhdx/index.js";
import { MIB } from "../src/vhdx/layout.js";
import { MetadataId } from "../src/vhdx/metadata.js";
import { RegionId } from "../src/vhdx/region-table.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";
import {
  BAT,
  bat,
  edit,
  header,
  item,
  ITEMS,
  METADATA,
  newGuid,
  poke,
  region,
  regions,
  sizeBytes,
  sound,
  u32,
  u64,
} from "./vhdx-fixture.js";

describe("refused, with the structure and its place", () => {
  const CORRUPT = "ERR_IMAGE_CORRUPT";
  const UNSUPPORTED = "ERR_IMAGE_UNSUPPORTED";
  const TRUNCATED = "ERR_IMAGE_TRUNCATED";
  type Case = readonly [string, (file: MemoryFile) => void, ImageErrorCode, string, number];
  const cases: readonly Case[] = [
    ["another format", (it) => poke(it, 0, [0x51]), "ERR_IMAGE_FOREIGN", "file type identifier", 0],
    ["an empty file", (it) => it.truncate(0), "ERR_IMAGE_FOREIGN", "file type identifier", 0],
    ["only the identifier", (it) => it.truncate(4096), TRUNCATED, "header 1", 65536],
    [
      "no header",
      (it) => it.write(65536, new Uint8Array(131072), 0, 131072),
      CORRUPT,
      "header 1",
      65536,
    ],
    [
      "a cut before the log's end",
      (it) => it.truncate(MIB + 4096),
      TRUNCATED,
      "header 1",
      65536 + 72,
    ],
    [
      "a cut before the regions",
      (it) => it.truncate(2 * MIB),
      TRUNCATED,
      "region table 1 entry 0",
      196624,
    ],
    [
      "a cut before the BAT",
      (it) => it.truncate(3 * MIB),
      TRUNCATED,
      "region table 1 entry 1",
      196656,
    ],
    [
      "a cut in the last block",
      (it) => it.truncate(7 * MIB - 1),
      TRUNCATED,
      "BAT entry 5",
      BAT + 40,
    ],
    ["a cut before the blocks", (it) => it.truncate(4 * MIB), TRUNCATED, "BAT entry 0", BAT],
    [
      "no region table",
      (it) => it.write(196608, new Uint8Array(131072), 0, 131072),
      CORRUPT,
      "region table 1",
      196608,
    ],
    [
      "too many regions",
      (it) => regions(it, (view) => view.setUint32(8, 2048, true)),
      CORRUPT,
      "region table 1",
      196608,
    ],
    [
      "a region that is listed twice",
      (it) => regions(it, (view) => region(view, RegionId.Bat, 7 * MIB, MIB, 1)),
      CORRUPT,
      "region table 1 entry 2",
      196688,
    ],
    [
      "an unknown region that is required",
      (it) => {
        it.truncate(8 * MIB);
        regions(it, (view) => region(view, newGuid, 7 * MIB, MIB, 1));
      },
      UNSUPPORTED,
      "region table 1 entry 2",
      196688,
    ],
    [
      "a region over another",
      (it) => regions(it, (view) => region(view, newGuid, METADATA, MIB, 0)),
      CORRUPT,
      "region table",
      196608,
    ],
    [
      "a region over the log",
      (it) => regions(it, (view) => region(view, newGuid, MIB, MIB, 0)),
      CORRUPT,
      "region table",
      196608,
    ],
    [
      "no BAT",
      (it) => regions(it, (view) => view.setUint32(8, 1, true)),
      CORRUPT,
      "region table 1",
      196608,
    ],
    [
      "a crooked region",
      (it) => regions(it, (view) => view.setUint32(16 + 24, MIB + 512, true)),
      CORRUPT,
      "region table 1 entry 0",
      196624,
    ],
    [
      "a region of no length",
      (it) => regions(it, (view) => view.setUint32(16 + 24, 0, true)),
      CORRUPT,
      "region table 1 entry 0",
      196624,
    ],
    [
      "a huge metadata region",
      (it) => regions(it, (view) => view.setUint32(16 + 24, 256 * MIB, true)),
      UNSUPPORTED,
      "region table 1 entry 0",
      196624,
    ],
    [
      "a huge BAT region",
      (it) => regions(it, (view) => view.setUint32(48 + 24, 1024 * MIB, true)),
      UNSUPPORTED,
      "region table 1 entry 1",
      196656,
    ],
    [
      "a region in the first MiB",
      (it) => regions(it, (view) => view.setBigUint64(16 + 16, 0n, true)),
      CORRUPT,
      "region table 1 entry 0",
      196624,
    ],
    [
      "a region far outside",
      (it) => regions(it, (view) => view.setBigUint64(16 + 16, 1n << 62n, true)),
      CORRUPT,
      "region table 1 entry 0",
      196624,
    ],
    ["no metadata table", (it) => poke(it, METADATA, [0]), CORRUPT, "metadata table", METADATA],
    [
      "too many items",
      (it) => poke(it, METADATA + 10, [0, 8]),
      CORRUPT,
      "metadata table",
      METADATA,
    ],
    ["no items", (it) => poke(it, METADATA + 10, [0, 0]), CORRUPT, "metadata table", METADATA],
    [
      "an item of the wrong length",
      (it) => u32(it, METADATA + 32 + 20, 4),
      CORRUPT,
      "metadata entry 0",
      METADATA + 32,
    ],
    [
      "an item in the table",
      (it) => u32(it, METADATA + 32 + 16, 65528),
      CORRUPT,
      "metadata entry 0",
      METADATA + 32,
    ],
    [
      "an item past the region",
      (it) => u32(it, METADATA + 32 + 16, MIB - 4),
      CORRUPT,
      "metadata entry 0",
      METADATA + 32,
    ],
    [
      "an item over another",
      (it) => u32(it, METADATA + 64 + 16, 65536 + 4),
      CORRUPT,
      "metadata entry 1",
      METADATA + 64,
    ],
    [
      "an item that is listed twice",
      (it) => item(it, MetadataId.LogicalSectorSize, [70000, 4, 6]),
      CORRUPT,
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "an item without id",
      (it) => item(it, "00000000-0000-0000-0000-000000000000", [70000, 4, 0]),
      CORRUPT,
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "an unknown item that is required",
      (it) => item(it, newGuid, [70000, 4, 4]),
      UNSUPPORTED,
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "a user's item that is required",
      (it) => item(it, newGuid, [70000, 4, 5]),
      CORRUPT,
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "an empty item with a place",
      (it) => item(it, newGuid, [70000, 0, 0]),
      CORRUPT,
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "an item that is too long",
      (it) => item(it, newGuid, [65600, 2 * MIB, 0]),
      CORRUPT,
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "an image that was never finished",
      (it) => item(it, MetadataId.IncompleteFile, [0, 0, 4]),
      "ERR_IMAGE_INCOMPLETE",
      "metadata entry 5",
      METADATA + 192,
    ],
    [
      "a parent locator without a parent",
      (it) => item(it, MetadataId.ParentLocator, [70000, 20, 4]),
      CORRUPT,
      "metadata entry 5",
      METADATA + 70000,
    ],
    ["a parent without locator", (it) => u32(it, ITEMS + 4, 2), CORRUPT, "metadata entry 0", ITEMS],
    [
      "a differencing image",
      (it) => {
        u32(it, ITEMS + 4, 2);
        item(it, MetadataId.ParentLocator, [70000, 20, 4]);
      },
      UNSUPPORTED,
      "metadata",
      METADATA,
    ],
    ["blocks of 3 MiB", (it) => u32(it, ITEMS, 3 * MIB), CORRUPT, "metadata entry 0", ITEMS],
    ["blocks of 512 KiB", (it) => u32(it, ITEMS, MIB / 2), CORRUPT, "metadata entry 0", ITEMS],
    ["blocks of 512 MiB", (it) => u32(it, ITEMS, 512 * MIB), CORRUPT, "metadata entry 0", ITEMS],
    ["blocks of nothing", (it) => u32(it, ITEMS, 0), CORRUPT, "metadata entry 0", ITEMS],
    ["a disk of nothing", (it) => u64(it, ITEMS + 8, 0n), CORRUPT, "metadata entry 1", ITEMS + 8],
    [
      "a disk of 64 TiB and more",
      (it) => u64(it, ITEMS + 8, (1n << 46n) + 512n),
      CORRUPT,
      "metadata entry 1",
      ITEMS + 8,
    ],
    [
      "a disk of 16 EiB",
      (it) => u64(it, ITEMS + 8, (1n << 64n) - 512n),
      CORRUPT,
      "metadata entry 1",
      ITEMS + 8,
    ],
    [
      "a disk of half a sector",
      (it) => u64(it, ITEMS + 8, 256n),
      CORRUPT,
      "metadata entry 1",
      ITEMS + 8,
    ],
    [
      "sectors of 1024 bytes",
      (it) => u32(it, ITEMS + 32, 1024),
      CORRUPT,
      "metadata entry 3",
      ITEMS + 32,
    ],
    ["sectors of 0 bytes", (it) => u32(it, ITEMS + 32, 0), CORRUPT, "metadata entry 3", ITEMS + 32],
    [
      "physical sectors of 8192",
      (it) => u32(it, ITEMS + 36, 8192),
      CORRUPT,
      "metadata entry 4",
      ITEMS + 36,
    ],
    ["a BAT that is too short", (it) => u64(it, ITEMS + 8, 1n << 46n), CORRUPT, "BAT", BAT],
    ["state 4", (it) => bat(it, 1, 4, 7n), CORRUPT, "BAT entry 1", BAT + 8],
    [
      "reserved bits",
      (it) => u64(it, BAT + 16, (5n << 20n) | 8n | 6n),
      CORRUPT,
      "BAT entry 2",
      BAT + 16,
    ],
    ["a block in the first MiB", (it) => bat(it, 1, 6, 0n), CORRUPT, "BAT entry 1", BAT + 8],
    ["a block over another", (it) => bat(it, 2, 6, 4n), CORRUPT, "BAT entry 2", BAT + 16],
    ["a block over the log", (it) => bat(it, 2, 6, 1n), CORRUPT, "BAT entry 2", BAT + 16],
    ["a block over the BAT", (it) => bat(it, 2, 6, 3n), CORRUPT, "BAT entry 2", BAT + 16],
    ["a block past the end", (it) => bat(it, 2, 6, 7n), TRUNCATED, "BAT entry 2", BAT + 16],
    [
      "a block past all files",
      (it) => bat(it, 2, 6, (1n << 44n) - 1n),
      CORRUPT,
      "BAT entry 2",
      BAT + 16,
    ],
    [
      "a log that is promised and empty",
      (it) => header(it, (view) => view.setUint32(48, 1, true)),
      CORRUPT,
      "log",
      MIB,
    ],
  ];

  test.each(cases)("%s", (_name, spoil, code, structure, offset) => {
    const file = sound.clone();
    spoil(file);
    for (const readOnly of [true, false]) {
      const copy = file.clone();
      copy.trace = [];
      const error = expect.objectContaining({ code, structure, offset }) as Error;
      expect(() => openVhdx(copy, { random: new Prng(2), readOnly })).toThrow(error);
      expect(copy.trace).toEqual([]);
      expect(copy.closed).toBe(false);
    }
    // A differencing image is refused, but nothing is wrong with it.
    if (structure === "metadata") return;
    expect(checkVhdx(file)).toContainEqual(
      expect.objectContaining({ severity: "error", structure, offset }),
    );
  });

  test("writing where a log would be needed and there is none", () => {
    const file = sound.clone();
    header(file, (view) => view.setUint32(68, 0, true));
    const disk = openVhdx(file, { random: new Prng(2) });
    disk.read(0, new Uint8Array(512), 0, 512);
    expect(() => disk.write(0, new Uint8Array(512), 0, 512)).toThrow(
      expect.objectContaining({ code: "ERR_IMAGE_UNSUPPORTED", structure: "header" }),
    );
  });
});

test("a check goes on after an error", () => {
  const file = sound.clone();
  poke(file, 65536, [0]);
  poke(file, 262144, [0]);
  u32(file, METADATA + 192 + 16, 1);
  bat(file, 1, 4, 0n);
  bat(file, 2, 6, 4n);
  bat(file, 7, 6, 900n);
  expect(checkVhdx(file).map((finding) => finding.structure)).toEqual([
    "header 1",
    "region table 2",
    "BAT entry 1",
    "BAT entry 2",
    "BAT entry 7",
  ]);
});

test("a ruined BAT does not fill the memory with findings", () => {
  const file = new MemoryFile();
  createVhdx(file, { sizeBytes: 100_000 * MIB, blockBytes: MIB, random: new Prng(1) });
  file.write(BAT, new Uint8Array(MIB).fill(0xff), 0, MIB);
  const findings = checkVhdx(file);
  expect(findings.length).toBeGreaterThan(500);
  expect(findings.length).toBeLessThan(2000);
});

test("whatever is changed, it is refused with a typed error or works", () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000_000);
  console.info(`corruption fuzz: SEED=${seed}`);
  const prng = new Prng(seed);
  const values = [
    0n,
    1n,
    2n,
    3n,
    7n,
    0xffn,
    0x7fff_ffffn,
    0xffff_ffffn,
    1n << 32n,
    1n << 53n,
    (1n << 64n) - 1n,
  ];
  // Structures with a CRC at byte 4, which is made to fit again, and those without.
  const covered = [
    [65536, 4096, 80],
    [131072, 4096, 80],
    [196608, 65536, 80],
    [262144, 65536, 80],
  ] as const;
  const bare = [
    [METADATA, 200],
    [ITEMS, 40],
    [BAT, 100],
    [0, 10],
  ] as const;
  let refusals = 0;
  for (let round = 0; round < 600; round++) {
    const file = sound.clone();
    const spoil = (view: DataView, limit: number): void => {
      const at = prng.below(limit);
      const value = prng.chance(50) ? prng.pick(values) : BigInt(prng.next()) * BigInt(prng.next());
      const kind = prng.below(3);
      if (kind === 0) view.setUint8(at, Number(value & 0xffn));
      else if (kind === 1 && at % 4 === 0) view.setUint32(at, Number(value & 0xffff_ffffn), true);
      else if (at % 4 === 0) view.setBigUint64(at, BigInt.asUintN(64, value), true);
      else view.setUint8(at, view.getUint8(at) ^ (1 << prng.below(8)));
    };
    for (let changes = 1 + prng.below(3); changes > 0; changes--)
      if (prng.chance(50)) {
        const [offset, length, limit] = prng.pick(covered);
        edit(file, offset, length, (view) => spoil(view, limit));
      } else {
        const [offset, limit] = prng.pick(bare);
        const bytes = file.bytes(offset, limit + 8);
        spoil(new DataView(bytes.buffer), limit);
        file.write(offset, bytes, 0, bytes.byteLength);
      }
    if (prng.chance(10)) file.truncate(prng.below(file.sizeBytes));
    file.reads = 0;
    checkVhdx(file);
    expect(file.reads, `round ${round}`).toBeLessThan(3000);
    try {
      const disk = openVhdx(file, { random: prng, readOnly: prng.chance(30) });
      const bytes = new Uint8Array(512);
      for (let count = 0; count < 20; count++) {
        const sectors = Math.min(disk.sizeBytes, sizeBytes) / disk.logicalSectorBytes;
        if (disk.logicalSectorBytes !== 512) break;
        const position = prng.below(sectors) * 512;
        if (prng.chance(50) || disk.readOnly) disk.read(position, bytes, 0, 512);
        else disk.write(position, bytes, 0, 512);
      }
      disk.close();
      file.reopen();
      expect(checkVhdx(file).filter(({ severity }) => severity === "error")).toEqual([]);
    } catch (error) {
      if (!(error instanceof ImageError)) throw new Error(`round ${round}`, { cause: error });
      refusals++;
    }
  }
  expect(refusals).toBeGreaterThan(100);
  expect(refusals).toBeLessThan(580);
});
