import fc from "fast-check";
import { describe, expect, test } from "vitest";
import vectorFile from "./vectors/storage.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const lba = fc.oneof(u32, fc.maxSafeNat());

describe("versions", () => {
  test("run from newest to oldest, each found by its value", () => {
    const values = protocol.vstorVersions.map(({ value }) => value);
    expect(values).toEqual([1538, 1536, 1281, 1026, 512]);
    for (const version of protocol.vstorVersions)
      expect(protocol.findVstorVersion(version.value)).toBe(version);
    expect(protocol.findVstorVersion(0x0601)).toBeUndefined();
  });
  test.each([
    [0x0200, 48, 36, 18, false, false],
    [0x0402, 48, 36, 18, false, true],
    [0x0501, 64, 52, 20, true, true],
    [0x0600, 64, 52, 20, true, true],
    [0x0602, 64, 52, 20, true, true],
  ])(
    "%i has its sizes",
    (value, packetBytes, requestBytes, senseBytes, multiChannel, enumerateBus) => {
      expect(protocol.findVstorVersion(value)).toMatchObject({
        packetBytes,
        requestBytes,
        senseBytes,
        multiChannel,
        enumerateBus,
      });
    },
  );
});

describe("layouts", () => {
  interface Struct {
    readonly size?: number;
    readonly baseOffset?: number;
    readonly fields?: readonly { readonly name: string; readonly offset: number }[];
  }
  const structs: Readonly<Record<string, Struct>> = vectorFile.structs;
  const {
    FixedSense,
    NotificationPacket,
    PropertiesPacket,
    SrbPacket,
    StorageOffer,
    SubChannelsPacket,
    VersionPacket,
    VstorPacket,
    WorldWideNamesPacket,
  } = protocol;
  test.each([
    ["packetHeader", VstorPacket, VstorPacket.HEADER_SIZE, {}],
    ["scsiRequestV2", SrbPacket, SrbPacket.SIZE, { reserved: "properties", cdbOrSense: "cdb" }],
    [
      "channelProperties",
      PropertiesPacket,
      PropertiesPacket.END,
      { maxChannelCount: "subChannelCountMax" },
    ],
    ["protocolVersion", VersionPacket, VersionPacket.END, {}],
    ["subChannelCount", SubChannelsPacket, SubChannelsPacket.END, {}],
    [
      "fcWwn",
      WorldWideNamesPacket,
      WorldWideNamesPacket.END,
      {
        primaryPortWwn: "primaryPort",
        primaryNodeWwn: "primaryNode",
        secondaryPortWwn: "secondaryPort",
        secondaryNodeWwn: "secondaryNode",
      },
    ],
    ["offerProperties", StorageOffer, StorageOffer.SIZE, {}],
    [
      "notification",
      NotificationPacket,
      NotificationPacket.END,
      { target: "targetId", path: "pathId" },
    ],
    [
      "senseFixed",
      FixedSense,
      FixedSense.SIZE,
      { errorCode: "responseCode", asc: "additionalSense", fru: "fieldReplaceableUnit" },
    ],
  ])("%s has its fields where the reference has them", (name, offsets, end, renamed) => {
    const { size, fields, baseOffset } = structs[name]!;
    // EVENT_NOTIFICATION's table tells no base: its fields are the payload.
    const base = baseOffset ?? (name === "notification" ? VstorPacket.payload : 0);
    expect(end).toBe(base + size!);
    const known: Readonly<Partial<Record<string, number>>> = offsets;
    const names: Readonly<Partial<Record<string, string>>> = renamed;
    const unnamed = /^(reserved\d?|segment|ascq)$/u;
    for (const field of fields!) {
      const camel = field.name.replace(/_(\w)/gu, (_, letter: string) => letter.toUpperCase());
      const at = known[names[camel] ?? camel];
      if (at === undefined) expect(camel).toMatch(unnamed);
      else expect(at, camel).toBe(base + field.offset);
    }
  });
  test.each([
    ["header", protocol.parseVstorHeader, 12],
    ["version", protocol.parseProtocolVersion, 16],
    ["properties", protocol.parseChannelProperties, 36],
    ["sub-channels", protocol.parseSubChannelCount, 14],
    ["names", protocol.parseWorldWideNames, 48],
    ["offer", protocol.parseStorageOffer, 24],
    ["request", protocol.parseScsiRequest, 48],
    ["reply", protocol.parseScsiReply, 48],
    ["lun list", protocol.parseReportLuns, 8],
    ["inquiry", protocol.parseStandardInquiry, 5],
    ["capacity (10)", protocol.parseReadCapacity10, 8],
    ["capacity (16)", protocol.parseReadCapacity16, 12],
    ["mode header (6)", protocol.parseModeSense6, 4],
    ["mode header (10)", protocol.parseModeSense10, 8],
    ["unmap list", protocol.parseUnmapList, 8],
    ["LBA status list", protocol.parseLbaStatusList, 8],
  ] as const)("%s needs all of its bytes", (_, parse, length) => {
    expect(parse(new Uint8Array(length))).toBeDefined();
    expect(parse(new Uint8Array(length - 1))).toBeUndefined();
  });
  test("the SCSI request with all fields different is parsed and emitted", () => {
    const bytes = Uint8Array.from({ length: 64 }, (_, index) => 0x80 + index);
    bytes[20] = 16;
    // The reply fields, the reserved ones and the end of the sense area do not belong to a request.
    for (const at of [14, 15, 23, 44, 45, 46, 47, 48, 49]) bytes[at] = 0;
    const request = protocol.parseScsiRequest(bytes)!;
    expect(request).toEqual({
      length: 0x8d8c,
      port: 0x90,
      pathId: 0x91,
      targetId: 0x92,
      lun: 0x93,
      senseInfoLength: 0x95,
      dataIn: 0x96,
      dataTransferLength: 0x9b9a9998,
      cdb: bytes.slice(28, 44),
      extension: {
        queueTag: 0xb2,
        queueAction: 0xb3,
        srbFlags: 0xb7b6b5b4,
        timeOutValueSeconds: 0xbbbab9b8,
        queueSortKey: 0xbfbebdbc,
      },
    });
    const target = new Uint8Array(64);
    protocol.emitVstorHeader(target, protocol.parseVstorHeader(bytes)!);
    protocol.emitScsiRequest(target, request);
    expect(target).toEqual(bytes);
  });
  test("the SCSI reply with all fields different is parsed and emitted", () => {
    const bytes = Uint8Array.from({ length: 48 }, (_, index) => 0x80 + index);
    for (const at of [16, 17, 18, 19, 22, 23]) bytes[at] = 0;
    const reply = protocol.parseScsiReply(bytes)!;
    expect(reply).toEqual({
      length: 0x8d8c,
      srbStatus: 0x8e,
      scsiStatus: 0x8f,
      cdbLength: 0x94,
      senseInfoLength: 0x95,
      dataTransferLength: 0x9b9a9998,
      sense: bytes.slice(28, 48),
    });
    const target = new Uint8Array(48);
    protocol.emitVstorHeader(target, protocol.parseVstorHeader(bytes)!);
    protocol.emitScsiReply(target, reply);
    expect(target).toEqual(bytes);
  });
  test("channel properties and offer properties ignore reserved bytes and write them as zero", () => {
    const packet = Uint8Array.from({ length: 64 }, (_, index) => 0x80 + index);
    const properties = protocol.parseChannelProperties(packet)!;
    expect(properties).toEqual({
      subChannelCountMax: 0x9190,
      flags: 0x97969594,
      maxTransferBytes: 0x9b9a9998,
    });
    const target = new Uint8Array(64);
    protocol.emitChannelProperties(target, properties);
    expect([...target.keys()].filter((at) => target[at] !== 0)).toEqual([
      16, 17, 20, 21, 22, 23, 24, 25, 26, 27,
    ]);
    const offer = protocol.parseStorageOffer(packet.subarray(0, 24))!;
    expect(offer).toEqual({ pathId: 0x82, targetId: 0x83, flags: 0x8b8a8988 });
    const emitted = protocol.emitStorageOffer(offer);
    expect(emitted).toHaveLength(24);
    expect([...emitted.keys()].filter((at) => emitted[at] !== 0)).toEqual([2, 3, 8, 9, 10, 11]);
  });
  test("world-wide names lie behind three reserved bytes", () => {
    const packet = Uint8Array.from({ length: 48 }, (_, index) => index);
    expect(protocol.parseWorldWideNames(packet)).toEqual({
      primaryActive: true,
      primaryPort: 0x1011121314151617n,
      primaryNode: 0x18191a1b1c1d1e1fn,
      secondaryPort: 0x2021222324252627n,
      secondaryNode: 0x28292a2b2c2d2e2fn,
    });
  });
  test("the IDE instance names channel and device", () => {
    expect(protocol.ideInstanceId(1, 0)).toBe("00000001-0000-8899-0000-000000000000");
  });
});

describe("header status of a finished request", () => {
  const known = new Map([
    [0x01, 0x00000000],
    [0x05, 0x80000011],
    [0x20, 0xc00000c0],
    [0x21, 0xc00000c0],
    [0x08, 0xc00000c0],
    [0x11, 0xc00000c0],
    [0x0b, 0xc00000b5],
    [0x09, 0xc00000b5],
    [0x0a, 0xc000009d],
    [0x22, 0xc0000010],
    [0x15, 0xc0000010],
    [0x12, 0x80000005],
    [0x16, 0xc0000001],
    [0x02, 0xc0000120],
  ]);
  test("is by code, whatever the flags", () => {
    for (let srbStatus = 0; srbStatus < 0x100; srbStatus++)
      expect(protocol.ntStatusOfSrb(srbStatus), `srb status ${srbStatus}`).toBe(
        known.get(srbStatus & 0x3f) ?? 0xc0000185,
      );
  });
});

describe("CDBs", () => {
  const at = 3;
  const guarded = (): Uint8Array => new Uint8Array(24).fill(0xa5);
  function emitted(emit: (target: Uint8Array) => number): number[] {
    const target = guarded();
    const length = emit(target);
    expect([...target.subarray(0, at), ...target.subarray(at + 16)]).toEqual(
      new Array<number>(8).fill(0xa5),
    );
    expect([...target.subarray(at + length, at + 16)]).toEqual(
      new Array<number>(16 - length).fill(0),
    );
    return [...target.subarray(at, at + length)];
  }
  test.each([
    ["TEST UNIT READY", (t: Uint8Array) => protocol.emitTestUnitReadyCdb(t, at), "000000000000"],
    ["REQUEST SENSE", (t: Uint8Array) => protocol.emitRequestSenseCdb(t, at, 20), "030000001400"],
    ["INQUIRY", (t: Uint8Array) => protocol.emitInquiryCdb(t, at, 0x1234), "120000123400"],
    ["INQUIRY 83", (t: Uint8Array) => protocol.emitInquiryCdb(t, at, 255, 0x83), "12018300ff00"],
    ["INQUIRY 00", (t: Uint8Array) => protocol.emitInquiryCdb(t, at, 255, 0), "12010000ff00"],
    [
      "REPORT LUNS",
      (t: Uint8Array) => protocol.emitReportLunsCdb(t, at, 0x01020304),
      "a00000000000010203040000",
    ],
    [
      "READ CAPACITY(10)",
      (t: Uint8Array) => protocol.emitReadCapacity10Cdb(t, at),
      "25000000000000000000",
    ],
    [
      "READ CAPACITY(16)",
      (t: Uint8Array) => protocol.emitReadCapacity16Cdb(t, at, 32),
      "9e100000000000000000000000200000",
    ],
    [
      "MODE SENSE(6)",
      (t: Uint8Array) => protocol.emitModeSense6Cdb(t, at, protocol.PageControl.default, 0x3f, 192),
      "1a08bf00c000",
    ],
    [
      "MODE SENSE(10)",
      (t: Uint8Array) =>
        protocol.emitModeSense10Cdb(t, at, protocol.PageControl.current, 8, 0x1234),
      "5a080800000000123400",
    ],
    [
      "SYNCHRONIZE CACHE(10)",
      (t: Uint8Array) => protocol.emitSynchronizeCache10Cdb(t, at),
      "35000000000000000000",
    ],
    [
      "SYNCHRONIZE CACHE(16)",
      (t: Uint8Array) => protocol.emitSynchronizeCache16Cdb(t, at),
      "91000000000000000000000000000000",
    ],
    ["UNMAP", (t: Uint8Array) => protocol.emitUnmapCdb(t, at, 0x1018), "42000000000000101800"],
    [
      "START STOP UNIT",
      (t: Uint8Array) => protocol.emitStartStopUnitCdb(t, at, true),
      "1b0000000100",
    ],
  ])("%s", (_, emit, hex) => {
    expect(Buffer.from(emitted(emit)).toString("hex")).toBe(hex);
  });
  test.each([
    [false, 0x1fffff, 255, 6, "081fffffff00"],
    [true, 0x1fffff, 1, 6, "0a1fffff0100"],
    [false, 0x1fffff, 256, 6, "2800001fffff00010000"],
    [false, 0, 0, 6, "28000000000000000000"],
    [true, 0x200000, 1, 6, "2a000020000000000100"],
    [false, 0, 1, 10, "28000000000000000100"],
    [false, 0xffffffff, 0xffff, 6, "2800ffffffff00ffff00"],
    [true, 0xfffffffe, 0x10000, 6, "aa00fffffffe000100000000"],
    [false, 8, 8, 12, "a80000000008000000080000"],
    [false, 0x100000000, 256, 6, "88000000000100000000000001000000"],
    [true, 1, 2, 16, "8a000000000000000001000000020000"],
    [true, Number.MAX_SAFE_INTEGER, 0xffffffff, 6, "8a00001fffffffffffffffffffff0000"],
  ])(
    "transfer: write %s, block %i, %i blocks, at least %i bytes",
    (write, first, blocks, minimum, hex) => {
      const bytes = emitted((target) =>
        protocol.emitTransferCdb(target, at, write, first, blocks, minimum),
      );
      expect(Buffer.from(bytes).toString("hex")).toBe(hex);
    },
  );
  test("what a transfer asks for is what the other side reads", () => {
    fc.assert(
      fc.property(
        lba,
        u32,
        fc.boolean(),
        fc.constantFrom(6, 10, 12, 16),
        (first, blocks, write, minimum) => {
          const target = guarded();
          const length = protocol.emitTransferCdb(target, at, write, first, blocks, minimum);
          expect(length).toBeGreaterThanOrEqual(minimum);
          expect(protocol.transferLba(target, at)).toBe(first);
          expect(protocol.transferBlocks(target, at)).toBe(blocks);
        },
      ),
    );
  });
  test("an address of 2^53 and above never comes back below it", () => {
    const cdb = new Uint8Array(16).fill(0xff);
    cdb[0] = protocol.Opcode.read16;
    expect(protocol.transferLba(cdb, 0)).toBe(2 ** 64);
    cdb.set([0x00, 0x20, 0, 0, 0, 0, 0, 1], 2);
    expect(protocol.transferLba(cdb, 0)).toBeGreaterThanOrEqual(2 ** 53);
  });
});

describe("SCSI data", () => {
  test("REPORT LUNS says how much there is, and writes what fits", () => {
    const target = new Uint8Array(8 + 2 * 8 + 7).fill(0xa5);
    expect(protocol.emitReportLuns(target, [1, 2, 300])).toBe(24);
    expect(protocol.parseReportLuns(target.subarray(0, 24))).toEqual({
      listBytes: 24,
      luns: [1, 2],
    });
    expect([...target.subarray(24)]).toEqual(new Array<number>(7).fill(0xa5));
  });
  test("a list longer than the bytes that are there is not over-read", () => {
    const bytes = new Uint8Array(8 + 12);
    bytes.set([0xff, 0xff, 0xff, 0xf8], 0);
    bytes[9] = 5;
    expect(protocol.parseReportLuns(bytes)).toEqual({ listBytes: 0xfffffff8, luns: [5] });
  });
  test("READ CAPACITY(16) of 2^53 blocks and more is refused", () => {
    const bytes = new Uint8Array(32);
    bytes.set([0x00, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    expect(protocol.parseReadCapacity16(bytes)?.lastLba).toBe(Number.MAX_SAFE_INTEGER);
    bytes.set([0x00, 0x20, 0, 0, 0, 0, 0, 0]);
    expect(protocol.parseReadCapacity16(bytes)).toBeUndefined();
  });
  test("the caching page is found behind a block descriptor and another page", () => {
    const bytes = Uint8Array.from([
      ...[0x0f + 8 + 6, 0, 0x80, 8, 0, 0, 0, 0, 0, 0, 2, 0],
      ...[0x0a, 4, 1, 2, 3, 4],
      ...[0x88, 0x0a, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]);
    expect(protocol.parseModeSense6(bytes)).toEqual({
      writeProtected: true,
      dpoFua: false,
      writeCacheEnabled: true,
    });
    expect(protocol.parseModeSense6(bytes.subarray(0, 18))?.writeCacheEnabled).toBeUndefined();
  });
  test("a page with another code is no page", () => {
    const bytes = Uint8Array.from([0, 0x83, 0, 1, 7]);
    expect(protocol.vpdBody(bytes, 0x80)).toBeUndefined();
    expect(protocol.vpdBody(bytes, 0x83)).toEqual(Uint8Array.of(7));
  });
  test("sense data of another format is not guessed at", () => {
    expect(protocol.parseFixedSense(Uint8Array.of(0x72, 6, 0x2a, 9))).toBeUndefined();
    expect(protocol.parseFixedSense(Uint8Array.of(0xf1, 0, 0xe6))).toEqual({
      deferred: true,
      key: 6,
      additionalSense: 0,
    });
  });
  test("UNMAP lists survive the trip", () => {
    fc.assert(
      fc.property(fc.array(fc.record({ lba, blocks: u32 }), { maxLength: 20 }), (ranges) => {
        const target = new Uint8Array(protocol.unmapListBytes(ranges.length));
        expect(protocol.emitUnmapList(target, ranges)).toBe(target.byteLength);
        expect(protocol.parseUnmapList(target)).toEqual(ranges);
      }),
    );
  });
  test("LBA status lists have their fields where they belong, and survive the trip", () => {
    const target = new Uint8Array(8 + 16);
    const extent = { lba: 0x01020304050607, blocks: 0x08090a0b, status: 0x0c };
    expect(protocol.emitLbaStatusList(target, [extent])).toBe(24);
    expect(Buffer.from(target).toString("hex")).toBe(
      "0000001400000000000102030405060708090a0b0c000000",
    );
    const extents = fc.record({ lba, blocks: u32, status: fc.nat(15) });
    fc.assert(
      fc.property(fc.array(extents, { maxLength: 20 }), (list) => {
        const bytes = new Uint8Array(8 + 16 * list.length);
        expect(protocol.emitLbaStatusList(bytes, list)).toBe(bytes.byteLength);
        expect(protocol.parseLbaStatusList(bytes)).toEqual(list);
      }),
    );
  });
  test("sense survives the trip", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 15 }), u16, u8, (key, additionalSense, filler) => {
        const target = new Uint8Array(24).fill(filler);
        protocol.emitFixedSense(target, 3, key, additionalSense);
        expect(protocol.parseFixedSense(target.subarray(3, 21))).toEqual({
          deferred: false,
          key,
          additionalSense,
        });
        expect([...target.subarray(0, 3), ...target.subarray(21)]).toEqual(
          new Array<number>(6).fill(filler),
        );
      }),
    );
  });
});

describe("hostile bytes", () => {
  const parsers: Readonly<Record<string, (bytes: Uint8Array) => unknown>> = {
    header: protocol.parseVstorHeader,
    version: protocol.parseProtocolVersion,
    properties: protocol.parseChannelProperties,
    subChannels: protocol.parseSubChannelCount,
    names: protocol.parseWorldWideNames,
    offer: protocol.parseStorageOffer,
    request: protocol.parseScsiRequest,
    reply: protocol.parseScsiReply,
    sense: protocol.parseFixedSense,
    inquiry: protocol.parseStandardInquiry,
    supportedPages: protocol.parseSupportedPages,
    serial: protocol.parseSerialNumber,
    identification: protocol.parseDeviceIdentification,
    blockLimits: protocol.parseBlockLimits,
    rotationRate: protocol.parseRotationRate,
    provisioning: protocol.parseLogicalBlockProvisioning,
    capacity10: protocol.parseReadCapacity10,
    capacity16: protocol.parseReadCapacity16,
    modeSense6: protocol.parseModeSense6,
    modeSense10: protocol.parseModeSense10,
    reportLuns: protocol.parseReportLuns,
    unmapList: protocol.parseUnmapList,
    lbaStatusList: protocol.parseLbaStatusList,
  };
  // Random bytes seldom pass a first check, so half of the inputs are prefixes of real ones with a byte changed.
  const mutated = fc
    .tuple(fc.constantFrom(...vectorFile.vectors), fc.nat(130), fc.nat(), u8)
    .map(([{ hex }, length, at, value]) => {
      const bytes = new Uint8Array(Buffer.from(hex, "hex")).slice(0, length);
      if (bytes.byteLength > 0) bytes[at % bytes.byteLength] = value;
      return bytes;
    });
  test.each(Object.entries(parsers))(
    "%s never throws, and what it says depends on its own bytes only",
    (_, parse) => {
      fc.assert(
        fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), mutated), (bytes) => {
          const inside = (filler: number): Uint8Array => {
            const memory = new Uint8Array(bytes.byteLength + 64).fill(filler);
            memory.set(bytes, 32);
            return memory.subarray(32, 32 + bytes.byteLength);
          };
          expect(parse(inside(0xff))).toEqual(parse(inside(0x08)));
        }),
        { numRuns: 300 },
      );
    },
  );
});
