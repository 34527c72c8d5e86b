import fc from "fast-check";
import { describe, expect, test } from "vitest";
import layoutFile from "./vectors/network.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });

describe("messages that are too short", () => {
  test.each([
    ["header", protocol.NvspHeader, 4],
    ["INIT", protocol.NvspInit, 12],
    ["INIT_COMPLETE", protocol.NvspInitComplete, 16],
    ["SEND_NDIS_CONFIG", protocol.NvspSendNdisConfig, 20],
    ["SEND_RECEIVE_BUFFER", protocol.NvspSendReceiveBuffer, 10],
    ["REVOKE_RECEIVE_BUFFER", protocol.NvspRevokeReceiveBuffer, 6],
    ["SEND_RNDIS_PACKET", protocol.NvspSendRndisPacket, 16],
    ["SEND_RNDIS_PACKET_COMPLETE", protocol.NvspSendRndisPacketComplete, 8],
    ["SUB_CHANNEL", protocol.NvspSubChannelRequest, 12],
    ["offload parameters", protocol.NdisOffloadParameters, 20],
    ["offload capabilities", protocol.NdisOffload, 112],
    ["RSS capabilities", protocol.NdisRssCapabilities, 16],
    ["RSS parameters", { parse: protocol.parseRssParameters }, 28],
    ["INITIALIZE_CMPLT", protocol.RndisInitializeComplete, 48],
    ["QUERY", { parse: protocol.parseRndisRequest }, 28],
    ["QUERY_CMPLT", { parse: protocol.parseRndisQueryComplete }, 24],
    ["INDICATE_STATUS", { parse: protocol.parseRndisStatus }, 20],
    ["CONFIG_PARAMETER", protocol.RndisConfigParameterFields, 20],
  ])("%s", (_, message, minimumBytes) => {
    expect(message.parse(new Uint8Array(minimumBytes - 1))).toBeUndefined();
    expect(message.parse(new Uint8Array(minimumBytes))).toBeDefined();
  });
});

test("a message is padded to the size of its version", () => {
  for (const { packetBytes } of protocol.nvspVersions) {
    const packet = protocol.NvspSwitchDataPath.packet({ activePath: 1 }, packetBytes);
    expect(packet.byteLength).toBe(packetBytes);
    expect(packet.subarray(8)).toEqual(new Uint8Array(packetBytes - 8));
  }
  expect(protocol.NvspSwitchDataPath.emit({ activePath: 1 })).toHaveLength(8);
});

describe("the send indirection table", () => {
  const entries = Array.from({ length: 16 }, (_, index) => index + 1);
  const withOffset = (tableOffset: number, length: number): Uint8Array => {
    const message = new Uint8Array(length);
    protocol.NvspSendIndirectionTable.write(message, { count: 16, tableOffset });
    entries.forEach((entry, index) => protocol.put32(message, length - 64 + index * 4, entry));
    return message;
  };
  test.each([
    ["right behind the fields", 12, 76, 0x5_0000],
    ["padded by the ring", 16, 80, 0x5_0000],
    ["behind 40 bytes, as it says", 40, 104, 0x6_0001],
    ["behind 40 bytes, though it says 28", 28, 104, 0x6_0000],
    ["behind 40 bytes, though it says 12", 12, 104, 0x5_0000],
  ])("%s", (_, offset, length, version) => {
    expect(protocol.parseSendTable(withOffset(offset, length), version)).toEqual(entries);
  });
  test("is where 6.1 says, whatever the length", () => {
    const message = withOffset(12, 104);
    const table = protocol.parseSendTable(message, 0x6_0001)!;
    expect(table.slice(0, 7)).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });
  test.each([
    ["one byte short", withOffset(13, 76)],
    ["far outside", withOffset(0xffff_fff0, 76)],
  ])("%s is refused", (_, message) => {
    expect(protocol.parseSendTable(message, 0x5_0000)).toBeUndefined();
  });
  test("of another size is refused", () => {
    expect(protocol.parseSendTable(protocol.emitSendTable([1, 2]), 0x5_0000)).toBeUndefined();
  });
});

describe("information buffers", () => {
  test("of a request are followed by their offset", () => {
    const message = new Uint8Array(44);
    protocol.RndisSet.write(message, { requestId: 1, oid: 2, infoLength: 4, infoOffset: 28 });
    message.set([9, 8, 7, 6], 36);
    expect(protocol.parseRndisRequest(message)?.information).toEqual(Uint8Array.of(9, 8, 7, 6));
  });
  test.each([
    ["in the header", 19, 4],
    ["past the end", 21, 4],
    ["far past the end", 0xffff_fffc, 4],
    ["longer than the message", 20, 5],
    ["of every length", 20, 0xffff_ffff],
  ])("%s are refused", (_, infoOffset, infoLength) => {
    const message = new Uint8Array(32);
    protocol.RndisQuery.write(message, { requestId: 1, oid: 2, infoLength, infoOffset });
    expect(protocol.parseRndisRequest(message)).toBeUndefined();
  });
  test("of no bytes may lie anywhere", () => {
    for (const infoOffset of [0, 20, 0xffff_ffff]) {
      const message = protocol.RndisQuery.emit({ requestId: 1, oid: 2, infoLength: 0, infoOffset });
      expect(protocol.parseRndisRequest(message)?.information).toEqual(new Uint8Array(0));
    }
  });
  test("of a completion whose offset is 0 are empty", () => {
    const message = protocol.RndisQueryComplete.emit({
      requestId: 1,
      status: 0,
      infoLength: 6,
      infoOffset: 0,
    });
    expect(protocol.parseRndisQueryComplete(message)?.information).toEqual(new Uint8Array(0));
  });
  test("a message is as long as its header says, not as the range that brought it", () => {
    const range = Uint8Array.from([...protocol.RndisHalt.emit({ requestId: 1 }), 1, 2, 3]);
    expect(protocol.rndisMessageBytes(range)).toHaveLength(12);
    for (const length of [0, 7, 16, 0xffff_ffff]) {
      protocol.put32(range, 4, length);
      expect(protocol.rndisMessageBytes(range)).toBeUndefined();
    }
    expect(protocol.rndisMessageBytes(range.subarray(0, 7))).toBeUndefined();
  });
});

describe("NDIS objects", () => {
  test.each([
    [1, 20],
    [2, 22],
    [3, 28],
  ])("offload parameters of revision %i have %i bytes", (revision, size) => {
    const value = {
      revision,
      ipv4Checksum: 1,
      tcp4Checksum: 2,
      udp4Checksum: 3,
      tcp6Checksum: 4,
      udp6Checksum: 5,
      lsoV1: 6,
      ipsecV1: 7,
      lsoV2Ipv4: 8,
      lsoV2Ipv6: 9,
      tcp4Connection: 10,
      tcp6Connection: 11,
      flags: 0x1234_5678,
      ipsecV2: revision > 1 ? 12 : 0,
      ipsecV2Ipv4: revision > 1 ? 13 : 0,
      rscIpv4: revision > 2 ? 14 : 0,
      rscIpv6: revision > 2 ? 15 : 0,
      encapsulation: revision > 2 ? 16 : 0,
      encapsulationTypes: revision > 2 ? 17 : 0,
    };
    const bytes = protocol.NdisOffloadParameters.emit(value);
    expect(bytes.byteLength).toBe(size);
    expect(protocol.NdisOffloadParameters.parse(bytes)).toEqual({ ...value, type: 0x80, size });
  });
  test.each([
    [1, 112],
    [2, 144],
    [3, 156],
  ])("offload capabilities of revision %i have %i bytes", (revision, size) => {
    const names = Object.keys(protocol.NdisOffload.fields).slice(3);
    const value = {
      ...Object.fromEntries(names.map((name, index) => [name, index + 1])),
      revision,
      rscIpv4: revision > 2 ? 1 : 0,
      rscIpv6: revision > 2 ? 2 : 0,
    } as unknown as protocol.NdisOffload;
    const bytes = protocol.NdisOffload.emit(value);
    expect(bytes.byteLength).toBe(size);
    expect(protocol.NdisOffload.parse(bytes)).toEqual({ ...value, type: 0xa7, size });
    expect(protocol.NdisOffload.sizeOf(revision)).toBe(size);
    const wide = new Uint8Array(protocol.NdisOffload.WIDE_SIZE);
    wide.set(bytes);
    expect(protocol.NdisOffload.parse(wide)).toEqual({ ...value, type: 0xa7, size });
  });
  test("of a revision that does not exist are a mistake", () => {
    expect(() => protocol.NdisOffload.sizeOf(4)).toThrow("4 is no revision");
  });
  test("RSS parameters follow their offsets: the table may come first", () => {
    const bytes = new Uint8Array(28 + 8 + 40);
    protocol.NdisRssParametersFields.write(new Uint8Array(40), emptyRss());
    const head = protocol.NdisRssParametersFields.emit({
      ...emptyRss(),
      hashInfo: 0x201,
      tableBytes: 8,
      tableOffset: 28,
      keyBytes: 40,
      keyOffset: 36,
    });
    bytes.set(head.subarray(0, 28));
    protocol.put32(bytes, 28, 3);
    protocol.put32(bytes, 32, 1);
    bytes.set(protocol.DEFAULT_RSS_KEY, 36);
    expect(protocol.parseRssParameters(bytes)).toEqual({
      flags: 0,
      hashInfo: 0x201,
      table: [3, 1],
      key: Uint8Array.from(protocol.DEFAULT_RSS_KEY),
    });
  });
  test.each([
    ["part of an entry", { tableBytes: 6, tableOffset: 40 }],
    ["a table outside", { tableBytes: 8, tableOffset: 76 }],
    ["a key outside", { keyBytes: 40, keyOffset: 41 }],
    ["a key far outside", { keyBytes: 40, keyOffset: 0xffff_ffff }],
  ])("RSS parameters with %s are refused", (_, wrong) => {
    const bytes = new Uint8Array(80);
    protocol.NdisRssParametersFields.write(bytes, { ...emptyRss(), ...wrong });
    expect(protocol.parseRssParameters(bytes)).toBeUndefined();
  });
  function emptyRss() {
    return {
      type: 0x89,
      revision: 2,
      size: 40,
      flags: 0,
      baseCpu: 0,
      hashInfo: 0,
      tableBytes: 0,
      tableOffset: 0,
      keyBytes: 0,
      keyOffset: 0,
      cpuMaskOffset: 0,
      cpuMaskCount: 0,
      cpuMaskEntrySize: 0,
    };
  }
});

describe("configuration parameters", () => {
  test.each([
    ["NetworkAddress", "00155D0A0102"],
    ["*LsoV2IPv4", 1],
    ["", ""],
  ])("%s comes back", (name, value) => {
    const bytes = protocol.emitRndisConfigParameter({ name, value });
    expect(protocol.parseRndisConfigParameter(bytes)).toEqual({ name, value });
  });
  test.each([
    ["a name of half a character", { nameBytes: 3 }],
    ["a name that is too long", { nameBytes: 256 }],
    ["a name outside", { nameOffset: 0xffff_ffff }],
    ["a value outside", { valueOffset: 400 }],
    ["an unknown type", { type: 1 }],
  ])("with %s are refused", (_, wrong) => {
    const bytes = new Uint8Array(400);
    const fields = { nameOffset: 20, nameBytes: 2, type: 2, valueOffset: 24, valueBytes: 4 };
    protocol.RndisConfigParameterFields.write(bytes, { ...fields, ...wrong });
    expect(protocol.parseRndisConfigParameter(bytes)).toBeUndefined();
  });
  test("with a number of another size or outside are refused", () => {
    const bytes = new Uint8Array(26);
    const fields = { nameOffset: 20, nameBytes: 2, type: 0, valueOffset: 22, valueBytes: 4 };
    protocol.RndisConfigParameterFields.write(bytes, fields);
    expect(protocol.parseRndisConfigParameter(bytes)).toBeDefined();
    protocol.RndisConfigParameterFields.write(bytes, { ...fields, valueBytes: 2 });
    expect(protocol.parseRndisConfigParameter(bytes)).toBeUndefined();
    protocol.RndisConfigParameterFields.write(bytes, { ...fields, valueOffset: 23 });
    expect(protocol.parseRndisConfigParameter(bytes)).toBeUndefined();
  });
});

describe("a PACKET message that is not one", () => {
  const { PacketFault, FrameInfoPart } = protocol;
  const DATA_BYTES = 60;
  const valid = (): Uint8Array => {
    const info = new protocol.FrameInfo();
    info.parts = FrameInfoPart.checksum | FrameInfoPart.vlan;
    info.vlan = 0x645;
    const bytes = new Uint8Array(76 + DATA_BYTES);
    protocol.writePacketHeader(bytes, 0, info, 76, DATA_BYTES, bytes.byteLength);
    return bytes;
  };
  const read = (bytes: Uint8Array, limit = bytes.byteLength): number =>
    protocol.readPacket(bytes, 0, limit, new protocol.PacketView(), new protocol.FrameInfo());

  test("has faults; a valid one has none", () => {
    expect(read(valid())).toBe(PacketFault.none);
    expect(read(valid(), 43)).toBe(PacketFault.short);
    expect(read(valid(), valid().byteLength - 1)).toBe(PacketFault.length);
  });
  test.each([
    ["another type", 0, 2, PacketFault.type],
    ["a completion's type", 0, 0x8000_0001, PacketFault.type],
    ["a length below the header", 4, 43, PacketFault.length],
    ["a length beyond all", 4, 0xffff_ffff, PacketFault.length],
    ["no data", 12, 0, PacketFault.data],
    ["data in the header", 8, 35, PacketFault.data],
    ["data outside", 8, 0xffff_ffff, PacketFault.data],
    ["data that wraps around", 8, 0xffff_fff8, PacketFault.data],
    ["data one byte too long", 12, DATA_BYTES + 1, PacketFault.data],
    ["data beyond all", 12, 0xffff_ffff, PacketFault.data],
    ["information in the header", 28, 32, PacketFault.perPacketInfo],
    ["information outside", 28, 0xffff_fff0, PacketFault.perPacketInfo],
    ["information beyond all", 32, 0xffff_ffff, PacketFault.perPacketInfo],
    ["information over the data", 32, 36, PacketFault.perPacketInfo],
    ["information that ends in a header", 32, 20, PacketFault.perPacketInfo],
    ["information of size 0", 44, 0, PacketFault.perPacketInfo],
    ["information of size 8", 44, 8, PacketFault.perPacketInfo],
    ["information of size 13", 44, 13, PacketFault.perPacketInfo],
    ["information larger than the rest", 44, 36, PacketFault.perPacketInfo],
    ["information whose data is in its header", 52, 11, PacketFault.perPacketInfo],
    ["information whose data is outside", 52, 17, PacketFault.perPacketInfo],
  ])("%s", (_, at, value, fault) => {
    const bytes = valid();
    protocol.put32(bytes, at, value);
    expect(read(bytes)).toBe(fault);
  });
  test("has its information aligned", () => {
    for (const [shift, fault] of [
      [2, PacketFault.perPacketInfo],
      [4, PacketFault.none],
    ] as const) {
      const bytes = new Uint8Array(200);
      const info = new protocol.FrameInfo();
      info.parts = FrameInfoPart.vlan;
      protocol.writePacketHeader(bytes, 0, info, 100, DATA_BYTES, bytes.byteLength);
      bytes.copyWithin(44 + shift, 44, 60);
      protocol.put32(bytes, 28, 36 + shift);
      expect(read(bytes)).toBe(fault);
    }
  });
  test("may hold information of other types and sizes", () => {
    const bytes = valid();
    protocol.put32(bytes, 48, protocol.PerPacketInfoType.cachedNetBufferList);
    protocol.put32(bytes, 52, 16);
    const info = new protocol.FrameInfo();
    const view = new protocol.PacketView();
    expect(protocol.readPacket(bytes, 0, bytes.byteLength, view, info)).toBe(PacketFault.none);
    expect(info.parts).toBe(FrameInfoPart.vlan);
    expect(info.vlan).toBe(0x645);
  });
  test.each([16, 20, 24, 36])("tells of a reserved field at %i", (at) => {
    const bytes = valid();
    bytes[at] = 1;
    const view = new protocol.PacketView();
    protocol.readPacket(bytes, 0, bytes.byteLength, view, new protocol.FrameInfo());
    expect(view.reserved).not.toBe(0);
  });
  test("is never read past its limit, whatever a peer writes", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 24 }), u32), { maxLength: 4 }),
        fc.integer({ min: 0, max: 136 }),
        (changes, limit) => {
          const bytes = valid();
          for (const [word, value] of changes) protocol.put32(bytes, word * 4, value);
          // Reading past the end gives undefined, and NaN in what is computed of it.
          const guarded = new Proxy(bytes.subarray(0, limit), {
            get(target, key) {
              if (typeof key === "string" && /^\d+$/u.test(key) && Number(key) >= limit)
                throw new Error(`byte ${key} of ${limit}`);
              return Reflect.get(target, key, target) as unknown;
            },
          });
          const view = new protocol.PacketView();
          const fault = protocol.readPacket(guarded, 0, limit, view, new protocol.FrameInfo());
          if (fault !== PacketFault.none) return;
          expect(view.dataAt).toBeGreaterThanOrEqual(44);
          expect(view.dataAt + view.dataBytes).toBeLessThanOrEqual(limit);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

test("the Toeplitz hash is that of the verification suite", () => {
  const hash = new protocol.ToeplitzHash(Uint8Array.from(layoutFile.constants.toeplitzKey));
  for (const check of layoutFile.constants.toeplitzCheck) {
    const ports = [check.srcPort >>> 8, check.srcPort, check.dstPort >>> 8, check.dstPort];
    const addresses = Uint8Array.from([...check.src, ...check.dst]);
    const ipOnly = hash.add(0, 0, addresses, 0, 8);
    expect(ipOnly >>> 0).toBe(check.hashIp);
    expect(hash.add(ipOnly, 8, Uint8Array.from([7, ...ports]), 1, 4) >>> 0).toBe(check.hashTcp);
  }
});
