import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { crc32c, crc32cWithoutField } from "../src/crc32c.js";
import { emitGuid, randomGuid, readGuid } from "../src/guid.js";
import { batGeometry } from "../src/vhdx/block-map.js";
import {
  emitHeader,
  type Header,
  HeaderLayout,
  HeaderSlots,
  newHeader,
  parseHeader,
  readHeaders,
} from "../src/vhdx/header.js";
import { FileMap, MIB } from "../src/vhdx/layout.js";
import {
  DataDescriptorLayout,
  DESCRIPTORS_IN_FIRST_SECTOR,
  descriptorAreaBytes,
  emitEntry,
  LogEntryLayout,
  ZeroDescriptorLayout,
} from "../src/vhdx/log-entry.js";
import { emitMetadata, MetadataEntryLayout, readMetadata } from "../src/vhdx/metadata.js";
import {
  emitRegionTable,
  parseRegionTable,
  RegionEntryLayout,
  RegionId,
  RegionTableLayout,
} from "../src/vhdx/region-table.js";
import { refusing } from "../src/reporter.js";
import { MemoryFile } from "./memory-file.js";
import { Prng } from "./prng.js";

function hex(bytes: Uint8Array, from = 0, to = bytes.byteLength): string {
  return Buffer.from(bytes.subarray(from, to)).toString("hex");
}

const header: Header = {
  sequence: 0x0102_0304_0506_0708n,
  fileWriteGuid: "00112233-4455-6677-8899-aabbccddeeff",
  dataWriteGuid: "2dc27766-f623-4200-9d64-115e9bfd4a08",
  logGuid: "8b7ca206-4790-4b9a-b8fe-575f050f886e",
  logVersion: 0,
  version: 1,
  logBytes: 0x0030_0000,
  logOffset: 0x0000_0001_2340_0000,
};

describe("checksum", () => {
  test("of the well-known nine characters", () => {
    expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe306_9283);
  });

  // RFC 3720 B.4: 32 bytes of zeros, of ones, rising, falling.
  test.each([
    [() => 0, 0x8a91_36aa],
    [() => 0xff, 0x62a8_ab43],
    [(at: number) => at, 0x46dd_794e],
    [(at: number) => 31 - at, 0x113f_db5c],
  ])("of the blocks of RFC 3720", (byteAt, expected) => {
    const bytes = Uint8Array.from({ length: 32 }, (_, at) => byteAt(at));
    expect(crc32c(bytes)).toBe(expected);
  });

  test("goes on from piece to piece, at any place", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), (bytes, at) => {
        const cut = Math.min(at, bytes.byteLength);
        const first = crc32c(bytes, 0, cut);
        expect(crc32c(bytes, cut, bytes.byteLength, first)).toBe(crc32c(bytes));
      }),
    );
  });

  test("takes its own field as zero", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 12, maxLength: 40 }), fc.nat(8), (bytes, field) => {
        const zeroed = bytes.slice().fill(0, field, field + 4);
        expect(crc32cWithoutField(bytes, field)).toBe(crc32c(zeroed));
      }),
    );
  });
});

describe("GUID", () => {
  test("is stored with its first three groups little-endian", () => {
    const bytes = new Uint8Array(16);
    emitGuid(bytes, 0, RegionId.Bat);
    expect(hex(bytes)).toBe("6677c22d23f600429d64115e9bfd4a08");
    expect(readGuid(bytes)).toBe(RegionId.Bat);
  });

  test("any 16 bytes survive reading and writing", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
        const copy = new Uint8Array(18);
        emitGuid(copy, 1, readGuid(bytes));
        expect(hex(copy, 1, 17)).toBe(hex(bytes));
      }),
    );
  });

  test("a new one is of version 4", () => {
    expect(randomGuid(new Prng(1))).toMatch(/^.{8}-.{4}-4.{3}-[89ab].{3}-.{12}$/);
  });

  test("what is none is refused", () => {
    expect(() => emitGuid(new Uint8Array(16), 0, "2dc27766")).toThrow(RangeError);
  });
});

describe("header", () => {
  test("has these bytes", () => {
    const bytes = emitHeader(header);
    expect(bytes.byteLength).toBe(HeaderLayout.SIZE);
    expect(hex(bytes, 0, 4)).toBe(hex(new TextEncoder().encode("head")));
    expect(hex(bytes, 8, 16)).toBe("0807060504030201");
    expect(hex(bytes, 16, 32)).toBe("33221100554477668899aabbccddeeff");
    expect(hex(bytes, 32, 48)).toBe("6677c22d23f600429d64115e9bfd4a08");
    expect(hex(bytes, 48, 64)).toBe("06a27c8b90479a4bb8fe575f050f886e");
    expect(hex(bytes, 64, 80)).toBe("00000100" + "00003000" + "0000402301000000");
    expect(bytes.subarray(80).every((byte) => byte === 0)).toBe(true);
    expect(parseHeader(bytes)).toEqual(header);
  });

  test("a change of any bit is noticed", () => {
    fc.assert(
      fc.property(fc.nat(HeaderLayout.SIZE * 8 - 1), (bit) => {
        const bytes = emitHeader(header);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        expect(parseHeader(bytes)).toBeTypeOf("string");
      }),
    );
  });

  const file = (first: Uint8Array, second: Uint8Array): MemoryFile => {
    const made = new MemoryFile();
    made.truncate(16 * MIB);
    made.write(FileMap.header1, first, 0, first.byteLength);
    made.write(FileMap.header2, second, 0, second.byteLength);
    return made;
  };
  const plain = newHeader({
    fileWriteGuid: header.fileWriteGuid,
    dataWriteGuid: header.dataWriteGuid,
    logBytes: MIB,
    logOffset: MIB,
  });
  const at = (sequence: bigint): Uint8Array => emitHeader({ ...plain, sequence });
  const broken = new Uint8Array(HeaderLayout.SIZE);

  test.each([
    ["the greater number counts", at(5n), at(6n), 6n, FileMap.header2],
    ["in either slot", at(9n), at(6n), 9n, FileMap.header1],
    ["as an unsigned number", at(1n), at(1n << 63n), 1n << 63n, FileMap.header2],
    ["the first alone", at(3n), broken, 3n, FileMap.header1],
    ["the second alone", broken, at(3n), 3n, FileMap.header2],
    ["two that are the same", at(3n), at(3n), 3n, FileMap.header1],
  ])("%s", (_name, first, second, sequence, offset) => {
    const slots = readHeaders(file(first, second), refusing)!;
    expect(slots.current.sequence).toBe(sequence);
    expect(slots.offset).toBe(offset);
  });

  const corrupt = { code: "ERR_IMAGE_CORRUPT" };
  const unsupported = { code: "ERR_IMAGE_UNSUPPORTED" };
  const truncated = { code: "ERR_IMAGE_TRUNCATED" };
  const withField = (fields: Partial<Header>): Uint8Array => emitHeader({ ...plain, ...fields });
  test.each([
    ["neither is valid", broken, broken, { ...corrupt, structure: "header 1", offset: 65536 }],
    [
      "the same number on different headers",
      at(3n),
      emitHeader({ ...plain, sequence: 3n, dataWriteGuid: header.logGuid }),
      { ...corrupt, structure: "header 2", offset: 131072 },
    ],
    [
      "another version",
      withField({ version: 2 }),
      broken,
      { ...unsupported, offset: 65536 + HeaderLayout.version },
    ],
    [
      "another version of a log that matters",
      withField({ logVersion: 1, logGuid: header.logGuid }),
      broken,
      { ...unsupported, offset: 65536 + HeaderLayout.logVersion },
    ],
    ["a crooked log length", withField({ logBytes: MIB + 4096 }), broken, corrupt],
    ["a huge log", withField({ logBytes: 0xfff0_0000 }), broken, corrupt],
    [
      "no log, but something in it",
      withField({ logBytes: 0, logGuid: header.logGuid }),
      broken,
      corrupt,
    ],
    ["a log in the first MiB", withField({ logOffset: 0 }), broken, corrupt],
    ["a crooked log offset", withField({ logOffset: MIB + 512 }), broken, corrupt],
    ["a log past any file", withField({ logOffset: 2 ** 52 }), broken, corrupt],
    ["a log past the end of this file", withField({ logOffset: 16 * MIB }), broken, truncated],
  ])("refused: %s", (_name, first, second, error) => {
    expect(() => readHeaders(file(first, second), refusing)).toThrow(
      expect.objectContaining(error),
    );
  });

  test("without a log is fine as long as nothing is in it", () => {
    const empty = withField({ logBytes: 0, logOffset: 2 ** 60, logVersion: 7 });
    expect(readHeaders(file(empty, broken), refusing)?.current.logBytes).toBe(0);
  });

  test("an update goes to the other slot, and is flushed before the next", () => {
    const image = file(at(5n), at(6n));
    const slots = readHeaders(image, refusing)!;
    image.trace = [];
    slots.updateBoth({ logGuid: header.logGuid });
    expect(
      image.trace.map((operation) =>
        operation.kind === "write" ? operation.position : operation.kind,
      ),
    ).toEqual([FileMap.header1, "flush", FileMap.header2, "flush"]);
    for (const [position, sequence] of [
      [FileMap.header1, 7n],
      [FileMap.header2, 8n],
    ] as const)
      expect(parseHeader(image.bytes(position, HeaderLayout.SIZE))).toEqual({
        ...plain,
        logGuid: header.logGuid,
        sequence,
      });
  });

  test("the last sequence number cannot be followed", () => {
    const slots = new HeaderSlots(file(at(0n), broken), { ...plain, sequence: 2n ** 64n - 1n }, 0);
    expect(() => slots.update({})).toThrow(expect.objectContaining(unsupported));
  });
});

describe("region table", () => {
  const regions = [
    { id: RegionId.Metadata, offset: 0x1_2340_0000, lengthBytes: 0x0050_0000, required: true },
    { id: RegionId.Bat, offset: 0x0030_0000, lengthBytes: 0x0060_0000, required: false },
  ];

  test("has these bytes", () => {
    const bytes = emitRegionTable(regions);
    expect(bytes.byteLength).toBe(RegionTableLayout.SIZE);
    expect(hex(bytes, 0, 4)).toBe(hex(new TextEncoder().encode("regi")));
    expect(hex(bytes, 8, 16)).toBe("0200000000000000");
    expect(hex(bytes, 16, 48)).toBe(
      "06a27c8b90479a4bb8fe575f050f886e" + "0000402301000000" + "00005000" + "01000000",
    );
    expect(hex(bytes, 48, 80)).toBe(
      "6677c22d23f600429d64115e9bfd4a08" + "0000300000000000" + "00006000" + "00000000",
    );
    expect(RegionEntryLayout.SIZE).toBe(48 - 16);
    expect(parseRegionTable(bytes)).toEqual(regions);
  });

  test("a change of any bit is noticed", () => {
    fc.assert(
      fc.property(fc.nat(RegionTableLayout.SIZE * 8 - 1), (bit) => {
        const bytes = emitRegionTable(regions);
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        expect(parseRegionTable(bytes)).toBeTypeOf("string");
      }),
      { numRuns: 50 },
    );
  });
});

describe("metadata", () => {
  const disk = {
    blockBytes: 0x0200_0000,
    leaveBlocksAllocated: true,
    hasParent: false,
    sizeBytes: 0x12_3456_7000,
    identity: Uint8Array.from({ length: 16 }, (_, at) => 0xa0 + at),
    logicalSectorBytes: 4096,
    physicalSectorBytes: 4096,
  };

  test("has these bytes", () => {
    const bytes = emitMetadata(disk);
    expect(hex(bytes, 0, 12)).toBe(hex(new TextEncoder().encode("metadata")) + "00000500");
    const entry = (index: number): string =>
      hex(bytes, 32 + index * MetadataEntryLayout.SIZE, 64 + index * MetadataEntryLayout.SIZE);
    expect(entry(0)).toBe("3767a1ca36fa434db3b633f0aa44e76b" + "00000100080000000400000000000000");
    expect(entry(1)).toBe("2442a52f1bcd7648b2115dbed83bf4b8" + "08000100080000000600000000000000");
    expect(entry(2)).toBe("ab12cabee6b2234593efc309e000c746" + "10000100100000000600000000000000");
    expect(entry(3)).toBe("1dbf41816fa90947ba47f233a8faab5f" + "20000100040000000600000000000000");
    expect(entry(4)).toBe("c748a3cd5d4471449cc9e9885251c556" + "24000100040000000600000000000000");
    expect(hex(bytes, 65536, 65536 + 40)).toBe(
      "00000002" +
        "01000000" +
        "0070563412000000" +
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf" +
        "00100000" +
        "00100000",
    );
  });

  test("is read back as it was written", () => {
    const region = { id: RegionId.Metadata, offset: MIB, lengthBytes: MIB, required: true };
    const file = new MemoryFile();
    file.write(MIB, emitMetadata(disk), 0, 128 * 1024);
    expect(readMetadata(file, region, refusing)).toEqual(disk);
  });
});

describe("BAT", () => {
  const sizes = { hasParent: false, logicalSectorBytes: 512, blockBytes: 2 * MIB };

  test.each([
    [2 * MIB, 512, 2048],
    [32 * MIB, 512, 128],
    [256 * MIB, 512, 16],
    [2 * MIB, 4096, 16384],
  ])("blocks of %d and sectors of %d make chunks of %d", (blockBytes, sector, ratio) => {
    const disk = { ...sizes, blockBytes, logicalSectorBytes: sector, sizeBytes: MIB };
    expect(batGeometry(disk).chunkRatio).toBe(ratio);
  });

  test.each([
    [512, false, 1, 1],
    [2048 * 2 * MIB, false, 2048, 2048],
    [2048 * 2 * MIB + 512, false, 2049, 2050],
    [4096 * 2 * MIB + 512, false, 4097, 4099],
    [512, true, 1, 2049],
    [2048 * 2 * MIB + 512, true, 2049, 4098],
  ])(
    "a disk of %d bytes (parent: %s) has %d blocks and %d entries",
    (size, parent, blocks, entries) => {
      const geometry = batGeometry({ ...sizes, sizeBytes: size, hasParent: parent });
      expect(geometry.payloadBlocks).toBe(blocks);
      expect(geometry.entries).toBe(entries);
    },
  );
});

describe("log entry", () => {
  test("has these bytes", () => {
    const page = Uint8Array.from({ length: 4096 }, (_, at) => (at * 7 + (at >> 8)) & 0xff);
    const buffer = new Uint8Array(3 * 4096).fill(0xee);
    const length = emitEntry(
      buffer,
      {
        tail: 0x0001_2000,
        sequence: 0x1122_3344_5566_7788n,
        logGuid: RegionId.Metadata,
        flushedFileBytes: 0x0050_0000,
        lastFileBytes: 0x1_0060_0000,
      },
      [0x2_0030_1000],
      [page],
    );
    expect(length).toBe(8192);
    expect(hex(buffer, 0, 4)).toBe(hex(new TextEncoder().encode("loge")));
    expect(hex(buffer, 8, 64)).toBe(
      "00200000" +
        "00200100" +
        "8877665544332211" +
        "01000000" +
        "00000000" +
        "06a27c8b90479a4bb8fe575f050f886e" +
        "0000500000000000" +
        "0000600001000000",
    );
    // The page's last 4 bytes, then its first 8, then where it belongs.
    expect(hex(buffer, 64, 96)).toBe(
      hex(new TextEncoder().encode("desc")) +
        hex(page, 4092) +
        hex(page, 0, 8) +
        "0010300002000000" +
        "8877665544332211",
    );
    expect(buffer.subarray(96, 4096).every((byte) => byte === 0)).toBe(true);
    expect(hex(buffer, 4096, 4104)).toBe(hex(new TextEncoder().encode("data")) + "44332211");
    expect(hex(buffer, 4104, 8188)).toBe(hex(page, 8, 4092));
    expect(hex(buffer, 8188, 8192)).toBe("88776655");
    expect(buffer[8192]).toBe(0xee);
    const view = new DataView(buffer.buffer);
    expect(view.getUint32(LogEntryLayout.checksum, true)).toBe(
      crc32cWithoutField(buffer.subarray(0, 8192), LogEntryLayout.checksum),
    );
  });

  test.each([
    [0, 4096],
    [126, 4096],
    [127, 8192],
    [254, 8192],
    [255, 12288],
  ])("%d descriptors take %d bytes", (count, bytes) => {
    expect(descriptorAreaBytes(count)).toBe(bytes);
    expect(DESCRIPTORS_IN_FIRST_SECTOR).toBe(126);
    expect(DataDescriptorLayout.sequence + 8).toBe(DataDescriptorLayout.SIZE);
    expect(ZeroDescriptorLayout.sequence + 8).toBe(ZeroDescriptorLayout.SIZE);
  });
});
