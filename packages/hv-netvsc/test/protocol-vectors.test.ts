import {
  Packet,
  PacketType,
  TransferPageRange,
  TransferPages,
} from "@hyperv-is/vmbus-core/protocol";
import { describe, expect, test } from "vitest";
import layoutFile from "./vectors/network.json" with { type: "json" };
import * as protocol from "../src/protocol/index.js";

const vectors: Readonly<Record<string, readonly number[]>> = {
  ...layoutFile.vectors,
  // Lists of frames, not one message each.
  expectLso2V4Segments: layoutFile.vectors.expectLso2V4Segments.flat(),
  expectLso2V6Segments: layoutFile.vectors.expectLso2V6Segments.flat(),
};

function vector(name: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(vectors[name]!);
}

/** A vector, what it is parsed into, and how it is written again. */
interface Case {
  readonly name: string;
  readonly parse: (bytes: Uint8Array) => unknown;
  readonly value: unknown;
  readonly emit: () => Uint8Array;
}

function nvsp<T>(name: string, message: protocol.NvspMessage<T>, value: T, packetBytes = 32): Case {
  return {
    name,
    parse(bytes) {
      expect(protocol.NvspHeader.parse(bytes)).toEqual({ type: message.type });
      return message.parse(bytes);
    },
    value,
    emit: () => message.packet(value, packetBytes),
  };
}

function rndis<T>(name: string, message: protocol.RndisMessage<T>, value: T): Case {
  return {
    name,
    parse(bytes) {
      expect(protocol.rndisMessageBytes(bytes)).toEqual(bytes);
      expect(protocol.RndisHeader.parse(bytes)).toEqual({
        type: message.type,
        length: bytes.byteLength,
      });
      return message.parse(bytes);
    },
    value,
    emit: () => message.emit(value),
  };
}

function set(name: string, requestId: number, oid: number, information: Uint8Array): Case {
  return {
    name,
    parse: (bytes) => protocol.parseRndisRequest(bytes),
    value: { requestId, oid, information },
    emit: () => protocol.emitRndisSet(requestId, oid, information),
  };
}

const sendTable = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3];
const u32 = (value: number) => Uint8Array.from([value, value >>> 8, value >>> 16, value >>> 24]);
const { NdisConfigCapability, NvspStatus } = protocol;

const messages: readonly Case[] = [
  nvsp("nvspInitV5Request", protocol.NvspInit, { version: 0x50000, versionAgain: 0x50000 }),
  nvsp(
    "nvspInitV61Request40",
    protocol.NvspInit,
    { version: 0x60001, versionAgain: 0x60001 },
    protocol.nvspVersions[0]!.packetBytes,
  ),
  nvsp("nvspInitCompleteAccept", protocol.NvspInitComplete, {
    deprecatedVersion: 0xffff_ffff,
    maxMdlChainLength: protocol.MDL_CHAIN_MAX,
    status: NvspStatus.success,
  }),
  nvsp("nvspInitCompleteV1Accept", protocol.NvspInitComplete, {
    deprecatedVersion: 2,
    maxMdlChainLength: 34,
    status: NvspStatus.success,
  }),
  nvsp("nvspInitCompleteReject", protocol.NvspInitComplete, {
    deprecatedVersion: 0xffff_ffff,
    maxMdlChainLength: 34,
    status: NvspStatus.none,
  }),
  nvsp("nvspSendNdisConfigMtu1514VlanSriov", protocol.NvspSendNdisConfig, {
    mtu: 1514,
    capabilities: NdisConfigCapability.ieee8021q | NdisConfigCapability.sriov,
    capabilitiesHigh: 0,
  }),
  nvsp("nvspSendNdisVersion630", protocol.NvspSendNdisVersion, { major: 6, minor: 30 }),
  nvsp("nvspSendReceiveBuffer", protocol.NvspSendReceiveBuffer, {
    gpadl: 0x000e_1e10,
    id: protocol.RECEIVE_BUFFER_ID,
  }),
  {
    name: "nvspSendReceiveBufferComplete",
    parse: (bytes) => [
      protocol.NvspSendReceiveBufferComplete.parse(bytes),
      protocol.NvspReceiveBufferSection.parse(
        bytes.subarray(protocol.NvspSendReceiveBufferComplete.SIZE),
      ),
    ],
    value: [
      { status: 1, sectionCount: 1 },
      { offset: 0, subAllocationSize: 1806, subAllocationCount: 9289, endOffset: 16_775_934 },
    ],
    emit() {
      const complete = protocol.NvspSendReceiveBufferComplete;
      const bytes = complete.packet({ status: 1, sectionCount: 1 }, 32);
      protocol.NvspReceiveBufferSection.write(bytes.subarray(complete.SIZE), {
        offset: 0,
        subAllocationSize: 1806,
        subAllocationCount: 9289,
        endOffset: 16_775_934,
      });
      return bytes;
    },
  },
  nvsp("nvspSendSendBuffer", protocol.NvspSendSendBuffer, {
    gpadl: 0x000e_1e11,
    id: protocol.SEND_BUFFER_ID,
  }),
  nvsp("nvspSendSendBufferComplete", protocol.NvspSendSendBufferComplete, {
    status: 1,
    sectionSize: protocol.SEND_SECTION_BYTES,
  }),
  nvsp("nvspRndisDataSection5", protocol.NvspSendRndisPacket, {
    channelType: protocol.RndisChannelType.data,
    sectionIndex: 5,
    sectionBytes: 126,
  }),
  nvsp("nvspRndisControlGpa", protocol.NvspSendRndisPacket, {
    channelType: protocol.RndisChannelType.control,
    sectionIndex: protocol.SECTION_INDEX_NONE,
    sectionBytes: 0,
  }),
  nvsp("nvspRndisCompleteSuccess", protocol.NvspSendRndisPacketComplete, { status: 1 }),
  nvsp("nvspSubchannelRequest3", protocol.NvspSubChannelRequest, {
    operation: protocol.SubChannelOperation.allocate,
    subChannels: 3,
  }),
  nvsp("nvspSubchannelComplete3", protocol.NvspSubChannelComplete, { status: 1, subChannels: 3 }),
  {
    name: "nvspIndirectionTableOffset124chan",
    parse: (bytes) => protocol.parseSendTable(bytes, 0x50000),
    value: sendTable,
    // The ring pads the 76 bytes to 80.
    emit: () => Uint8Array.from([...protocol.emitSendTable(sendTable), 0, 0, 0, 0]),
  },
  nvsp("nvspVfAssociation", protocol.NvspSendVfAssociation, { allocated: 1, serial: 7 }),
  nvsp("nvspSwitchDataPathVf", protocol.NvspSwitchDataPath, { activePath: protocol.DataPath.vf }),
  nvsp("nvspRevokeReceiveBuffer", protocol.NvspRevokeReceiveBuffer, {
    id: protocol.RECEIVE_BUFFER_ID,
  }),
  rndis("rndisInitializeRequest", protocol.RndisInitialize, {
    requestId: 0x10000,
    ...protocol.RNDIS_VERSION,
    maxTransferSize: 2048,
  }),
  {
    ...rndis("rndisInitializeComplete", protocol.RndisInitializeComplete, initialized()),
    emit() {
      const bytes = new Uint8Array(protocol.RNDIS_INITIALIZE_COMPLETE_BYTES);
      protocol.RndisInitializeComplete.write(bytes, initialized());
      return bytes;
    },
  },
  {
    name: "rndisQueryPermanentAddress",
    parse: (bytes) => protocol.parseRndisRequest(bytes),
    value: {
      requestId: 0x20000,
      oid: protocol.Oid.ethPermanentAddress,
      information: new Uint8Array(0),
    },
    emit: () => protocol.emitRndisQuery(0x20000, protocol.Oid.ethPermanentAddress),
  },
  {
    name: "rndisQueryPermanentAddressComplete",
    parse: (bytes) => protocol.parseRndisQueryComplete(bytes),
    value: {
      requestId: 0x20000,
      status: 0,
      information: Uint8Array.of(0, 0x15, 0x5d, 0x0a, 1, 1),
    },
    emit: () =>
      protocol.emitRndisQueryComplete(
        0x20000,
        protocol.RndisStatus.success,
        Uint8Array.of(0, 0x15, 0x5d, 0x0a, 1, 1),
      ),
  },
  set("rndisSetPacketFilterNormal", 0x30000, protocol.Oid.genCurrentPacketFilter, u32(0x0d)),
  set("rndisSetPacketFilterPromiscuous", 0x40000, protocol.Oid.genCurrentPacketFilter, u32(0x20)),
  rndis("rndisSetComplete", protocol.RndisSetComplete, { requestId: 0x30000, status: 0 }),
  {
    name: "rndisSetOffloadParametersRev3",
    parse(bytes) {
      const request = protocol.parseRndisRequest(bytes)!;
      return [
        request.requestId,
        request.oid,
        protocol.NdisOffloadParameters.parse(request.information),
      ];
    },
    value: [
      0x50000,
      protocol.Oid.tcpOffloadParameters,
      { ...offloadParameters(), type: 0x80, size: 28 },
    ],
    emit: () =>
      protocol.emitRndisSet(
        0x50000,
        protocol.Oid.tcpOffloadParameters,
        protocol.NdisOffloadParameters.emit(offloadParameters()),
      ),
  },
  {
    name: "rndisSetRssParametersKeyFirst",
    parse(bytes) {
      const request = protocol.parseRndisRequest(bytes)!;
      return [request.requestId, request.oid, protocol.parseRssParameters(request.information)];
    },
    value: [0x60000, protocol.Oid.genReceiveScaleParameters, rssParameters()],
    emit: () =>
      protocol.emitRndisSet(
        0x60000,
        protocol.Oid.genReceiveScaleParameters,
        protocol.emitRssParameters(rssParameters()),
      ),
  },
  {
    name: "rndisRssCapabilitiesReply",
    parse(bytes) {
      const { requestId, status, information } = protocol.parseRndisQueryComplete(bytes)!;
      return [requestId, status, protocol.NdisRssCapabilities.parse(information)];
    },
    value: [0x70000, 0, { ...rssCapabilities(), type: 0x88, size: 18 }],
    emit: () =>
      protocol.emitRndisQueryComplete(
        0x70000,
        0,
        protocol.NdisRssCapabilities.emit(rssCapabilities()),
      ),
  },
  {
    name: "rndisIndicateMediaDisconnect",
    parse: (bytes) => protocol.parseRndisStatus(bytes),
    value: { status: protocol.RndisStatus.mediaDisconnect, information: new Uint8Array(0) },
    emit: () => protocol.emitRndisStatus(protocol.RndisStatus.mediaDisconnect),
  },
  {
    name: "rndisIndicateNetworkChange",
    parse: (bytes) => protocol.parseRndisStatus(bytes),
    value: { status: protocol.RndisStatus.networkChange, information: u32(1) },
    emit: () => protocol.emitRndisStatus(protocol.RndisStatus.networkChange, u32(1)),
  },
  rndis("rndisKeepaliveRequest", protocol.RndisKeepalive, { requestId: 0x80000 }),
  rndis("rndisKeepaliveComplete", protocol.RndisKeepaliveComplete, {
    requestId: 0x80000,
    status: 0,
  }),
  rndis("rndisHalt", protocol.RndisHalt, { requestId: 0x90000 }),
  {
    name: "vmbusCompletionOfTwoRanges",
    parse: (bytes) => [
      bytes[Packet.type],
      protocol.get32(bytes, Packet.transactionIdLow),
      protocol.NvspSendRndisPacketComplete.parse(bytes.subarray(Packet.descriptorBytes)),
    ],
    value: [PacketType.completion, 16, { status: 1 }],
    emit: () =>
      ringPacket(
        PacketType.completion,
        16,
        0,
        new Uint8Array(0),
        protocol.NvspSendRndisPacketComplete.packet({ status: 1 }, 32),
      ),
  },
  {
    name: "vmbusXferPagePacketTwoRanges",
    parse(bytes) {
      const range = (index: number) => {
        const at = TransferPages.ranges + index * TransferPageRange.SIZE;
        return [
          protocol.get32(bytes, at + TransferPageRange.byteCount),
          protocol.get32(bytes, at + TransferPageRange.byteOffset),
        ];
      };
      const messageAt = bytes[Packet.dataOffset8]! * 8;
      return [
        bytes[Packet.type],
        protocol.get32(bytes, TransferPages.setId),
        protocol.get32(bytes, TransferPages.rangeCount),
        range(0),
        range(1),
        protocol.NvspSendRndisPacket.parse(bytes.subarray(messageAt)),
      ];
    },
    value: [
      PacketType.transferPages,
      protocol.RECEIVE_BUFFER_ID,
      2,
      [1806, 0],
      [1806, 1806],
      { channelType: 0, sectionIndex: protocol.SECTION_INDEX_NONE, sectionBytes: 0 },
    ],
    emit() {
      const header = new Uint8Array(24);
      const numbers = [protocol.RECEIVE_BUFFER_ID, 2, 1806, 0, 1806, 1806];
      numbers.forEach((value, index) => protocol.put32(header, index * 4, value));
      const message = protocol.NvspSendRndisPacket.packet(
        { channelType: 0, sectionIndex: protocol.SECTION_INDEX_NONE, sectionBytes: 0 },
        32,
      );
      return ringPacket(PacketType.transferPages, 16, 1, header, message);
    },
  },
];

function ringPacket(
  type: number,
  id: number,
  flags: number,
  header: Uint8Array,
  message: Uint8Array,
): Uint8Array {
  const dataOffset = Packet.descriptorBytes + header.byteLength;
  const length = dataOffset + message.byteLength;
  const descriptor = new Uint8Array(Packet.descriptorBytes);
  protocol.put32(descriptor, Packet.type, type | ((dataOffset / 8) << 16));
  protocol.put32(descriptor, Packet.length8, (length / 8) | (flags << 16));
  protocol.put32(descriptor, Packet.transactionIdLow, id);
  return Uint8Array.from([...descriptor, ...header, ...message]);
}

function initialized(): protocol.RndisInitializeComplete {
  return {
    requestId: 0x10000,
    status: 0,
    major: 1,
    minor: 0,
    deviceFlags: 1,
    medium: 0,
    ...protocol.RndisInitializeLimits,
    afListOffset: 0,
  };
}

function offloadParameters(): protocol.NdisOffloadParameters {
  return {
    revision: 3,
    ipv4Checksum: 4,
    tcp4Checksum: 4,
    udp4Checksum: 4,
    tcp6Checksum: 4,
    udp6Checksum: 4,
    lsoV1: 0,
    ipsecV1: 0,
    lsoV2Ipv4: 2,
    lsoV2Ipv6: 2,
    tcp4Connection: 0,
    tcp6Connection: 0,
    flags: 0,
    ipsecV2: 0,
    ipsecV2Ipv4: 0,
    rscIpv4: 0,
    rscIpv6: 0,
    encapsulation: 0,
    encapsulationTypes: 0,
  };
}

function rssParameters(): protocol.NdisRssParameters {
  const { RssHash } = protocol;
  return {
    flags: 0,
    hashInfo: RssHash.toeplitz | RssHash.ipv4 | RssHash.tcp4 | RssHash.ipv6 | RssHash.tcp6,
    table: Array.from({ length: protocol.RSS_TABLE_ENTRIES }, (_, index) => index % 4),
    key: Uint8Array.from(protocol.DEFAULT_RSS_KEY),
  };
}

function rssCapabilities(): protocol.NdisRssCapabilities {
  return {
    revision: 2,
    flags: 0x301,
    interruptMessages: 1,
    receiveQueues: 8,
    indirectionEntries: 128,
  };
}

/** A PACKET message of the vectors: what travels beside its frame. */
interface PacketCase {
  readonly name: string;
  /** Where the message lies in its vector, and its bytes. */
  readonly at: number;
  readonly messageBytes: number;
  readonly dataBytes: number;
  readonly info: Partial<protocol.FrameInfo>;
}

const { FrameInfoPart } = protocol;
const packets: readonly PacketCase[] = [
  {
    name: "rndisPacketTxTcp4Csum",
    at: 0,
    messageBytes: 114,
    dataBytes: 54,
    info: {
      parts: FrameInfoPart.checksum,
      checksum: protocol.transmitChecksum(
        protocol.TransmitChecksum.ipv4 | protocol.TransmitChecksum.tcp,
        34,
      ),
    },
  },
  {
    name: "rndisPacketTxLso2V4Mss8",
    at: 0,
    messageBytes: 134,
    dataBytes: 74,
    info: { parts: FrameInfoPart.largeSend, largeSend: protocol.largeSend(8, 34, false) },
  },
  {
    name: "rndisPacketTxLso2V6Mss8",
    at: 0,
    messageBytes: 154,
    dataBytes: 94,
    info: { parts: FrameInfoPart.largeSend, largeSend: protocol.largeSend(8, 54, true) },
  },
  {
    name: "rndisPacketTxVlan100Pri5",
    at: 0,
    messageBytes: 102,
    dataBytes: 42,
    info: { parts: FrameInfoPart.vlan, vlan: protocol.vlanInfoOfTag((5 << 13) | 100) },
  },
  {
    name: "rndisTwoPacketsAlign8",
    at: 0,
    messageBytes: 104,
    dataBytes: 42,
    info: { parts: FrameInfoPart.vlan, vlan: 0x645 },
  },
  { name: "rndisTwoPacketsAlign8", at: 104, messageBytes: 86, dataBytes: 42, info: { parts: 0 } },
  {
    name: "rndisPacketRxCsumOkHash",
    at: 0,
    messageBytes: 146,
    dataBytes: 54,
    info: {
      parts: FrameInfoPart.checksum | FrameInfoPart.hashInfo | FrameInfoPart.hashValue,
      checksum: protocol.ReceiveChecksum.tcpOk | protocol.ReceiveChecksum.ipOk,
      hashInfo: protocol.RssHash.toeplitz | protocol.RssHash.tcp4,
      hashValue: 0x51cc_c178,
    },
  },
];

describe("PACKET messages", () => {
  test.each(packets)(
    "$name at $at is read and written",
    ({ name, at, messageBytes, dataBytes, info }) => {
      const bytes = vector(name);
      const view = new protocol.PacketView();
      const frame = new protocol.FrameInfo();
      expect(protocol.readPacket(bytes, at, bytes.byteLength - at, view, frame)).toBe(
        protocol.PacketFault.none,
      );
      const headerBytes = protocol.packetHeaderBytes(frame.parts);
      expect(view).toMatchObject({
        messageBytes,
        dataAt: at + headerBytes,
        dataBytes,
        reserved: 0,
      });
      expect(frame).toEqual(Object.assign(new protocol.FrameInfo(), info));
      expect(protocol.RndisPacket.parse(bytes.subarray(at))).toMatchObject({
        dataOffset: headerBytes - 8,
        dataLength: dataBytes,
        perPacketInfoLength: headerBytes - 44,
      });
      const written = bytes.slice();
      written.fill(0xa5, at, at + headerBytes);
      const given = Object.assign(new protocol.FrameInfo(), info);
      protocol.writePacketHeader(written, at, given, headerBytes, dataBytes, messageBytes);
      expect(written).toEqual(bytes);
    },
  );

  test("values take their fields apart again", () => {
    const value = protocol.largeSend(0xf_fffe, 1023, true);
    expect(protocol.largeSendSegmentBytes(value)).toBe(0xf_fffe);
    expect(protocol.largeSendOffset(value)).toBe(1023);
    expect(value & protocol.LargeSendBit.ipv6).not.toBe(0);
    expect(protocol.transmitChecksumOffset(protocol.transmitChecksum(0x1f, 1023))).toBe(1023);
    expect(protocol.vlanInfoOfTag(0xa064)).toBe(0x645);
    for (const tag of [0, 0xffff, 0xa064, 0x1001, 0xe000, 0x0fff])
      expect(protocol.tagOfVlanInfo(protocol.vlanInfoOfTag(tag))).toBe(tag);
    expect(protocol.packetId(protocol.PacketIdFlag.first | protocol.PacketIdFlag.multi, 9)).toBe(
      0x0009_0301,
    );
    expect(protocol.packetIdFlags(0x0009_0301)).toBe(3);
  });
});

describe("what a TAP puts in front of a frame", () => {
  test.each([
    ["vnetHdrForLso2V4", "rndisPacketTxLso2V4Mss8", 1, 54, 34],
    ["vnetHdrForLso2V6", "rndisPacketTxLso2V6Mss8", 4, 74, 54],
  ])(
    "%s says what the large send value of %s says",
    (name, packet, segmentation, headerBytes, start) => {
      const bytes = vector(name);
      const header = protocol.VirtioNetHeader.parse(bytes)!;
      expect(header).toEqual({
        flags: protocol.VirtioNetFlag.needsChecksum,
        segmentation,
        headerBytes,
        segmentBytes: 8,
        checksumStart: start,
        checksumOffset: 16,
      });
      const written = bytes.slice();
      protocol.VirtioNetHeader.write(written, header);
      expect(written).toEqual(bytes);
      const frame = new protocol.FrameInfo();
      const message = vector(packet);
      protocol.readPacket(message, 0, message.byteLength, new protocol.PacketView(), frame);
      expect(protocol.largeSendSegmentBytes(frame.largeSend)).toBe(header.segmentBytes);
      expect(protocol.largeSendOffset(frame.largeSend)).toBe(header.checksumStart);
    },
  );
});

describe("messages", () => {
  test.each(messages)("$name is parsed and emitted", ({ name, parse, value, emit }) => {
    const bytes = vector(name);
    expect(parse(bytes)).toEqual(value);
    expect(emit()).toEqual(bytes);
  });

  test("each vector is taken here, or belongs to another layout", () => {
    const here = [...messages, ...packets].map(({ name }) => name);
    const taps = ["vnetHdrForLso2V4", "vnetHdrForLso2V6"];
    // Frames as they leave the switch, and CARP's: no layout of NVSP.
    const frames = /^(expect|carp)/u;
    const others = Object.keys(layoutFile.vectors).filter((name) => frames.test(name));
    expect(others).toHaveLength(6);
    expect([...new Set([...here, ...taps, ...others])].sort()).toEqual(
      Object.keys(layoutFile.vectors).sort(),
    );
  });
});
