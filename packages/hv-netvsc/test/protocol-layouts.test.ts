import { describe, expect, test } from "vitest";
import layoutFile from "./vectors/network.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";

interface Structure {
  readonly size: number;
  readonly fields: Readonly<Record<string, readonly number[]>>;
}
interface AnyRecord {
  readonly SIZE: number;
  readonly fields: Readonly<Record<string, { readonly offset: number; readonly width: number }>>;
}

const structures: Readonly<Record<string, Structure>> = layoutFile.structs;

/** Our records by the reference's name, and where a field has another name there, or is nested in another. */
const records: readonly {
  readonly name: string;
  readonly record: AnyRecord;
  readonly names?: Readonly<Record<string, string>>;
}[] = [
  { name: "nvspHeader", record: protocol.NvspHeader },
  { name: "nvspInit", record: protocol.NvspInit },
  { name: "nvspInitComplete", record: protocol.NvspInitComplete },
  { name: "nvspSendNdisConfig", record: protocol.NvspSendNdisConfig },
  { name: "nvspSendNdisVersion", record: protocol.NvspSendNdisVersion },
  { name: "nvspSwitchDataPath", record: protocol.NvspSwitchDataPath },
  { name: "nvspSendReceiveBuffer", record: protocol.NvspSendReceiveBuffer },
  { name: "nvspReceiveBufferSection", record: protocol.NvspReceiveBufferSection },
  { name: "nvspSendReceiveBufferComplete", record: protocol.NvspSendReceiveBufferComplete },
  { name: "nvspRevokeReceiveBuffer", record: protocol.NvspRevokeReceiveBuffer },
  { name: "nvspSendSendBuffer", record: protocol.NvspSendSendBuffer },
  { name: "nvspSendSendBufferComplete", record: protocol.NvspSendSendBufferComplete },
  { name: "nvspRevokeSendBuffer", record: protocol.NvspRevokeSendBuffer },
  { name: "nvspSubChannelRequest", record: protocol.NvspSubChannelRequest },
  { name: "nvspSubChannelComplete", record: protocol.NvspSubChannelComplete },
  { name: "nvspSendRndisPacket", record: protocol.NvspSendRndisPacket },
  { name: "nvspSendRndisPacketComplete", record: protocol.NvspSendRndisPacketComplete },
  { name: "nvspSendVfAssociation", record: protocol.NvspSendVfAssociation },
  { name: "nvspSendIndirectionTable", record: protocol.NvspSendIndirectionTable },
  { name: "nvspOidQueryEx", record: protocol.NvspOidQueryEx },
  { name: "nvspOidQueryExComplete", record: protocol.NvspOidQueryExComplete },
  { name: "ndisObjectHeader", record: protocol.NdisObjectHeader },
  { name: "ndisOffloadParameters", record: protocol.NdisOffloadParameters },
  { name: "ndisRssParameters", record: protocol.NdisRssParametersFields },
  {
    name: "ndisOffloadEncapsulation",
    record: protocol.NdisOffloadEncapsulation,
    names: encapsulationNames(),
  },
  { name: "ndisLinkState", record: protocol.NdisLinkState },
  { name: "rndisHeader", record: protocol.RndisHeader },
  { name: "rndisPacket", record: protocol.RndisPacket, names: packetNames() },
  { name: "rndisPerPacketInfo", record: protocol.PerPacketInfo },
  { name: "rndisInitialize", record: protocol.RndisInitialize },
  { name: "rndisHalt", record: protocol.RndisHalt },
  { name: "rndisQuery", record: protocol.RndisQuery },
  { name: "rndisQueryComplete", record: protocol.RndisQueryComplete },
  { name: "rndisSet", record: protocol.RndisSet },
  { name: "rndisSetComplete", record: protocol.RndisSetComplete },
  {
    name: "rndisConfigParameter",
    record: protocol.RndisConfigParameterFields,
    names: configNames(),
  },
  { name: "rndisReset", record: protocol.RndisReset },
  { name: "rndisResetComplete", record: protocol.RndisResetComplete },
  { name: "rndisIndicateStatus", record: protocol.RndisIndicateStatus },
  { name: "rndisKeepalive", record: protocol.RndisKeepalive },
  { name: "rndisKeepaliveComplete", record: protocol.RndisKeepaliveComplete },
  { name: "virtioNetHeader", record: protocol.VirtioNetHeader, names: virtioNames() },
];

function encapsulationNames(): Readonly<Record<string, string>> {
  return {
    ipv4Encapsulation: "ipv4Type",
    ipv4HeaderBytes: "ipv4HeaderSize",
    ipv6Encapsulation: "ipv6Type",
    ipv6HeaderBytes: "ipv6HeaderSize",
  };
}

function packetNames(): Readonly<Record<string, string>> {
  return {
    outOfBandOffset: "oobOffset",
    outOfBandLength: "oobLength",
    outOfBandCount: "oobCount",
    perPacketInfoOffset: "ppiOffset",
    perPacketInfoLength: "ppiLength",
  };
}

function configNames(): Readonly<Record<string, string>> {
  return { nameBytes: "nameLength", valueBytes: "valueLength" };
}

function virtioNames(): Readonly<Record<string, string>> {
  return { segmentation: "gsoType", headerBytes: "headerLength", segmentBytes: "gsoSize" };
}

/** What the reference has and our records leave out: reserved fields, and what another record has. */
const unnamed =
  /^(type|length|header|reserved\d?|pad|vcHandle|afListSize|sections|data|capabilities)$/u;

describe("structures", () => {
  test.each(records)(
    "$name has its fields where the reference has them",
    ({ name, record, names = {} }) => {
      const { size, fields } = structures[name]!;
      const seen = new Set<string>();
      for (const [own, { offset, width }] of Object.entries(record.fields)) {
        if (own === "capabilitiesHigh") continue;
        const theirs = names[own] ?? own;
        seen.add(theirs);
        if (fields[theirs] === undefined) {
          expect(["revision", "size", "type"], own).toContain(own); // of the NDIS header
          expect(offset + width).toBeLessThanOrEqual(4);
        } else if (own === "capabilities") expect([offset, width * 2]).toEqual(fields[theirs]);
        else expect([offset, width], own).toEqual(fields[theirs]);
      }
      for (const theirs of Object.keys(fields))
        if (!seen.has(theirs)) expect(theirs).toMatch(unnamed);
      // A message's own size leaves out what only pads it.
      const padding = Object.entries(fields)
        .filter(([theirs]) => theirs.startsWith("reserved") && name.startsWith("nvsp"))
        .filter(([, [offset = 0]]) => offset >= record.SIZE)
        .reduce((sum, [, [, width = 0]]) => sum + width, 0);
      expect(record.SIZE + padding).toBe(size);
    },
  );

  test("each structure of the reference is laid out here, or elsewhere", () => {
    const below = [
      ...["ndisOffload", "ndisChecksumOffload", "ndisLsoV2Offload", "ndisRscOffload"],
      ...["rndisInitializeComplete", "ndisRssCapabilities", "ndisRssParametersKeyFirst"],
      "rndisPacketId", // a value of per-packet information
    ];
    // Of offloads that no peer has; of an error report that no host sends; of the bus; of CARP.
    const elsewhere =
      /^(ndisIpsecV2Offload|ndisEncapOffload|rndisDiagnosticInfo|vmbus.*|carpHeader)$/u;
    const here = new Set([...records.map(({ name }) => name), ...below]);
    for (const name of Object.keys(structures))
      if (!here.has(name)) expect(name).toMatch(elsewhere);
  });

  test("offload capabilities have their fields where the reference's nested blocks have them", () => {
    const { ndisOffload, ndisChecksumOffload, ndisLsoV2Offload, ndisRscOffload } =
      layoutFile.structs;
    const { fields } = protocol.NdisOffload;
    const offsets = (names: Readonly<Record<string, keyof typeof fields>>, at: number) =>
      Object.entries(names).map(([theirs, own]) => [
        theirs,
        [fields[own].offset - at, fields[own].width],
      ]);
    expect(protocol.NdisOffload.SIZE).toBe(ndisOffload.size);
    expect(
      offsets(
        {
          ipv4TxEncapsulation: "ipv4TxEncapsulation",
          ipv4TxFlags: "ipv4TxChecksum",
          ipv4RxEncapsulation: "ipv4RxEncapsulation",
          ipv4RxFlags: "ipv4RxChecksum",
          ipv6TxEncapsulation: "ipv6TxEncapsulation",
          ipv6TxFlags: "ipv6TxChecksum",
          ipv6RxEncapsulation: "ipv6RxEncapsulation",
          ipv6RxFlags: "ipv6RxChecksum",
        },
        ndisOffload.fields.checksum[0]!,
      ),
    ).toEqual(Object.entries(ndisChecksumOffload.fields));
    expect(
      offsets(
        {
          ipv4Encapsulation: "lsoV2Ipv4Encapsulation",
          ipv4MaxSize: "lsoV2Ipv4MaxBytes",
          ipv4MinSegments: "lsoV2Ipv4MinSegments",
          ipv6Encapsulation: "lsoV2Ipv6Encapsulation",
          ipv6MaxSize: "lsoV2Ipv6MaxBytes",
          ipv6MinSegments: "lsoV2Ipv6MinSegments",
          ipv6Options: "lsoV2Ipv6Options",
        },
        ndisOffload.fields.lsoV2[0]!,
      ),
    ).toEqual(Object.entries(ndisLsoV2Offload.fields));
    expect(offsets({ ipv4: "rscIpv4", ipv6: "rscIpv6" }, ndisOffload.fields.rsc[0]!)).toEqual(
      Object.entries(ndisRscOffload.fields),
    );
    expect(fields.flags.offset).toBe(ndisOffload.fields.flags[0]);
  });

  test("INITIALIZE_CMPLT has its fields, and may end before the last reserved one", () => {
    const { size, fields } = layoutFile.structs.rndisInitializeComplete;
    const { afListSize, ...rest } = fields;
    for (const [name, { offset, width }] of Object.entries(protocol.RndisInitializeComplete.fields))
      expect([offset, width], name).toEqual(rest[name as keyof typeof rest]);
    expect(protocol.RndisInitializeComplete.SIZE).toBe(afListSize[0]);
    expect(protocol.RNDIS_INITIALIZE_COMPLETE_BYTES).toBe(size);
  });

  test("RSS capabilities have their fields, without the padding of the C structure", () => {
    const { fields } = layoutFile.structs.ndisRssCapabilities;
    const own = protocol.NdisRssCapabilities.fields;
    for (const name of [
      "flags",
      "interruptMessages",
      "receiveQueues",
      "indirectionEntries",
    ] as const)
      expect([own[name].offset, own[name].width], name).toEqual(fields[name]);
    expect(protocol.NdisRssCapabilities.SIZE).toBe(fields.pad[0]);
  });

  test("RSS parameters come with the key first", () => {
    const { parameters, key, table } = layoutFile.structs.ndisRssParametersKeyFirst.fields;
    const bytes = protocol.emitRssParameters({
      flags: 0,
      hashInfo: 0,
      table: Array.from({ length: table[1]! / 4 }, () => 0),
      key: new Uint8Array(key[1]!),
    });
    expect(bytes.byteLength).toBe(layoutFile.structs.ndisRssParametersKeyFirst.size);
    expect(protocol.NdisRssParametersFields.parse(bytes)).toMatchObject({
      size: bytes.byteLength,
      keyOffset: parameters[1],
      tableOffset: table[0],
    });
  });
});

describe("constants", () => {
  const { constants } = layoutFile;
  const bits = (positions: Readonly<Record<string, number>>): number[] =>
    Object.values(positions).map((bit) => 1 << bit);
  test.each<[string, Readonly<Record<string, number>>, Readonly<Record<string, number>>]>([
    ["nvspType", protocol.NvspType, constants.nvspType],
    ["nvspStatus", protocol.NvspStatus, constants.nvspStatus],
    ["channelType", protocol.RndisChannelType, constants.channelType],
    ["dataPath", protocol.DataPath, constants.dataPath],
    ["subChannelOperation", protocol.SubChannelOperation, constants.subChannelOperation],
    ["rndisType", protocol.RndisType, constants.rndisType],
    ["rndisStatus", protocol.RndisStatus, constants.rndisStatus],
    ["rndisInit", protocol.RndisInitializeLimits, constants.rndisInit],
    ["oid", protocol.Oid, constants.oid],
    ["packetFilter", protocol.PacketFilter, constants.packetFilter],
    ["ndisObjectType", protocol.NdisObjectType, constants.ndisObjectType],
    ["rssFlag", protocol.RssFlag, constants.rssFlag],
    ["packetIdFlag", protocol.PacketIdFlag, constants.packetIdFlag],
    ["mtuField", protocol.NdisConfigMtu, constants.mtuField],
  ])("%s are the reference's", (_, ours, theirs) => {
    expect(ours).toEqual(theirs);
  });
  test.each<[string, Readonly<Record<string, number>>, readonly number[]]>([
    ["capabilities", protocol.NdisConfigCapability, bits(constants.ndisConfigCapabilityBit)],
    ["checksum flags, IPv4", protocol.ChecksumFlag4, checksumFlags("4")],
    ["checksum flags, IPv6", protocol.ChecksumFlag6, checksumFlags("6")],
    ["RSS capabilities", protocol.RssCapability, Object.values(constants.rssCapability)],
    ["RSS hashes", protocol.RssHash, Object.values(constants.rssHash)],
    ["receive checksum bits", protocol.ReceiveChecksum, bits(constants.rxChecksumBit)],
    [
      "transmit checksum bits",
      protocol.TransmitChecksum,
      bits(constants.txChecksumBit).slice(0, 5),
    ],
    [
      "large send bits",
      protocol.LargeSendBit,
      [1 << constants.lsoBits.v2Bit, 1 << constants.lsoBits.ipv6Bit],
    ],
    ["offload parameters", protocol.OffloadParameter, [0, 1, 2, 3, 4]],
    ["large send parameters", protocol.LargeSendParameter, [0, 1, 2]],
    ["virtio flags", protocol.VirtioNetFlag, [constants.tap.needsCsum, constants.tap.dataValid]],
    [
      "virtio segmentation",
      protocol.VirtioNetSegmentation,
      [
        constants.tap.gsoNone,
        constants.tap.gsoTcp4,
        constants.tap.gsoUdp,
        constants.tap.gsoTcp6,
        constants.tap.gsoUdpL4,
        constants.tap.gsoEcn,
      ],
    ],
  ])("%s have the reference's values, in its order", (_, ours, theirs) => {
    expect(Object.values(ours)).toEqual(theirs);
  });
  test("single numbers are the reference's", () => {
    expect({
      sectionIndexNone: protocol.SECTION_INDEX_NONE,
      receiveBufferId: protocol.RECEIVE_BUFFER_ID,
      sendBufferIdFreebsd: protocol.SEND_BUFFER_ID,
      sendSectionSize: protocol.SEND_SECTION_BYTES,
      receiveSectionSizeWindows: protocol.RECEIVE_SLOT_BYTES_WINDOWS,
      receiveHeaderRoom: protocol.ReceiveSlot.headerBytes,
      receiveFooterRoom: protocol.ReceiveSlot.footerBytes,
      reservedControlBuffers: protocol.RESERVED_CONTROL_SLOTS,
      maxRangesPerPacket: protocol.RANGES_PER_PACKET_MAX,
      maxRangesPerPacketRsc: protocol.RANGES_PER_PACKET_MAX_RSC,
      maxSubChannels: protocol.SUB_CHANNELS_MAX,
      maxMdlChain: protocol.MDL_CHAIN_MAX,
      rndisOffsetBase: protocol.RNDIS_OFFSET_BASE,
      macOptions: protocol.MAC_OPTIONS,
      encapsulation8023: protocol.ENCAPSULATION_802_3,
      rssTableEntries: protocol.RSS_TABLE_ENTRIES,
      rssKeyBytes: protocol.RSS_KEY_BYTES,
      sendTableEntries: protocol.SEND_TABLE_ENTRIES,
      toeplitzKey: [...protocol.DEFAULT_RSS_KEY],
      receiveBufferSize: {
        freebsd: protocol.RECEIVE_BUFFER_BYTES.later,
        freebsdV2: protocol.RECEIVE_BUFFER_BYTES.v2,
        linuxMax: protocol.RECEIVE_BUFFER_BYTES.max,
        linuxDefault: protocol.RECEIVE_BUFFER_BYTES.later,
      },
      sendBufferSize: {
        freebsd: protocol.SEND_BUFFER_BYTES.freebsd,
        linuxMax: protocol.SEND_BUFFER_BYTES.max,
        linuxDefault: protocol.SEND_BUFFER_BYTES.linux,
      },
      lso: {
        maxOffloadSize: protocol.LARGE_SEND_BYTES_MAX,
        minSegments: protocol.LARGE_SEND_SEGMENTS_MIN,
        v6ExtensionHeaders: protocol.LargeSend6Option.ipExtensions,
        v6TcpOptions: protocol.LargeSend6Option.tcpOptions,
      },
    }).toEqual(
      expect.objectContaining(
        Object.fromEntries(
          Object.entries(constants).filter(([name]) =>
            /^(sectionIndexNone|receiveBufferId|sendBufferIdFreebsd|sendSectionSize|receive.*|reserved.*|max.*|rndisOffsetBase|macOptions|encapsulation8023|rssTable.*|rssKey.*|sendTable.*|toeplitzKey|sendBufferSize|lso)$/u.test(
              name,
            ),
          ),
        ),
      ),
    );
    const [low, high] = constants.transactionIdLowHigh.vfAssociation;
    expect(protocol.HostTransactionId.vfAssociation).toEqual({ low, high });
    const [pathLow, pathHigh] = constants.transactionIdLowHigh.switchDataPath;
    expect(protocol.HostTransactionId.switchDataPath).toEqual({ low: pathLow, high: pathHigh });
  });
  test("versions run from newest to oldest, each found by its value", () => {
    const { nvspVersion, nvspTypeMax, nvspMessageSize } = constants;
    expect(protocol.nvspVersions.map(({ value }) => value)).toEqual([
      nvspVersion.v61,
      nvspVersion.v6,
      nvspVersion.v5,
      nvspVersion.v4,
      nvspVersion.v2,
      nvspVersion.v1,
    ]);
    for (const version of protocol.nvspVersions) {
      expect(protocol.findNvspVersion(version.value)).toBe(version);
      const key = `v${version.name.replace(".", "")}` as keyof typeof nvspTypeMax;
      expect(version.typeMax).toBe(nvspTypeMax[key]);
      const wide = version.value === nvspVersion.v61;
      expect(version.messageBytes).toBe(wide ? nvspMessageSize.v61 : nvspMessageSize.legacy);
      expect(version.packetBytes).toBe(wide ? nvspMessageSize.ringV61 : nvspMessageSize.ringLegacy);
      expect((protocol.NDIS_MAJOR << 16) | version.ndisMinor).toBe(
        version.value <= nvspVersion.v4 ? constants.ndisVersion.v61 : constants.ndisVersion.v630,
      );
    }
    expect(protocol.findNvspVersion(0x0003_0000)).toBeUndefined();
  });
  function checksumFlags(family: "4" | "6"): number[] {
    return Object.entries(constants.checksumFlag)
      .filter(([name]) => name.includes(`p${family}`) || name.startsWith(`udp${family}`))
      .map(([, value]) => value)
      .sort((left, right) => left - right);
  }
});
