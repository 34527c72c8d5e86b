import { record, u16, u32, type RecordOf } from "@hyperv-is/vmbus-core/protocol";
import { NvspType, nvspMessage } from "./nvsp.js";

// Sources: FreeBSD `if_hnreg.h`, OpenVMM `netvsp/src/protocol.rs`, Linux `hyperv_net.h`.

/** INIT (1), guest to host; a host looks at the first number only. */
export const NvspInit = nvspMessage(NvspType.init, {
  version: u32(4),
  /** The same again: once the newest of a span. */
  versionAgain: u32(8),
});
export type NvspInit = RecordOf<typeof NvspInit.fields>;

/** INIT_COMPLETE (2). */
export const NvspInitComplete = nvspMessage(NvspType.initComplete, {
  /** 2 if version 1 was accepted, else 0xffffffff. */
  deprecatedVersion: u32(4),
  maxMdlChainLength: u32(8),
  status: u32(12),
});
export type NvspInitComplete = RecordOf<typeof NvspInitComplete.fields>;

/** SEND_NDIS_VERSION (100), guest to host, not answered. */
export const NvspSendNdisVersion = nvspMessage(NvspType.sendNdisVersion, {
  major: u32(4),
  minor: u32(8),
});
export type NvspSendNdisVersion = RecordOf<typeof NvspSendNdisVersion.fields>;

/** SEND_NDIS_CONFIG (125), guest to host, not answered; from version 2 on. */
export const NvspSendNdisConfig = nvspMessage(NvspType.sendNdisConfig, {
  /** Largest frame in bytes, Ethernet header included: the MTU of the interface and 14. */
  mtu: u32(4),
  /** `NdisConfigCapability` bits: the low half of a u64 that is not aligned. */
  capabilities: u32(12),
  capabilitiesHigh: u32(16),
});
export type NvspSendNdisConfig = RecordOf<typeof NvspSendNdisConfig.fields>;

/** What a guest says it can do. */
export const NdisConfigCapability = {
  vmq: 1 << 0,
  chimney: 1 << 1,
  sriov: 1 << 2,
  ieee8021q: 1 << 3,
  correlationId: 1 << 4,
  teaming: 1 << 5,
  virtualSubnetId: 1 << 6,
  /** Receive segment coalescing; 6.1 only. */
  rscOverVmbus: 1 << 7,
} as const;

/** Range of `mtu` that a host accepts; it takes the default for any other. Source: OpenVMM. */
export const NdisConfigMtu = { min: 1514, max: 9216, default: 1514 } as const;

/** Id of the receive buffer, in these messages and as set id of transfer-page packets. */
export const RECEIVE_BUFFER_ID = 0xcafe;
/** Id of the send buffer; Linux says 0, and hosts do not look. */
export const SEND_BUFFER_ID = 0xface;

/** SEND_RECEIVE_BUFFER (101), guest to host. */
export const NvspSendReceiveBuffer = nvspMessage(NvspType.sendReceiveBuffer, {
  gpadl: u32(4),
  id: u16(8),
});
export type NvspSendReceiveBuffer = RecordOf<typeof NvspSendReceiveBuffer.fields>;

/** A section of the receive buffer: how the host has divided it. */
export const NvspReceiveBufferSection = record({
  offset: u32(0),
  subAllocationSize: u32(4),
  subAllocationCount: u32(8),
  endOffset: u32(12),
});
export type NvspReceiveBufferSection = RecordOf<typeof NvspReceiveBufferSection.fields>;

/** SEND_RECEIVE_BUFFER_COMPLETE (102); the sections follow, and no host has sent more than one. */
export const NvspSendReceiveBufferComplete = nvspMessage(NvspType.sendReceiveBufferComplete, {
  status: u32(4),
  sectionCount: u32(8),
});
export type NvspSendReceiveBufferComplete = RecordOf<typeof NvspSendReceiveBufferComplete.fields>;

/** REVOKE_RECEIVE_BUFFER (103), guest to host, not answered. */
export const NvspRevokeReceiveBuffer = nvspMessage(NvspType.revokeReceiveBuffer, { id: u16(4) });
export type NvspRevokeReceiveBuffer = RecordOf<typeof NvspRevokeReceiveBuffer.fields>;

/** SEND_SEND_BUFFER (104), guest to host. */
export const NvspSendSendBuffer = nvspMessage(NvspType.sendSendBuffer, {
  gpadl: u32(4),
  id: u16(8),
});
export type NvspSendSendBuffer = RecordOf<typeof NvspSendSendBuffer.fields>;

/** SEND_SEND_BUFFER_COMPLETE (105). */
export const NvspSendSendBufferComplete = nvspMessage(NvspType.sendSendBufferComplete, {
  status: u32(4),
  /** 6144 in practice; 0 or no multiple of 4: there is no send buffer. */
  sectionSize: u32(8),
});
export type NvspSendSendBufferComplete = RecordOf<typeof NvspSendSendBufferComplete.fields>;

/** REVOKE_SEND_BUFFER (106), guest to host, not answered. */
export const NvspRevokeSendBuffer = nvspMessage(NvspType.revokeSendBuffer, { id: u16(4) });
export type NvspRevokeSendBuffer = RecordOf<typeof NvspRevokeSendBuffer.fields>;

/** Channel types of SEND_RNDIS_PACKET. */
export const RndisChannelType = { data: 0, control: 1 } as const;
/** Open enumeration: any u32 may arrive. */
export type RndisChannelType =
  (typeof RndisChannelType)[keyof typeof RndisChannelType] | (number & {});

/** `sectionIndex` of a message that is not in the send buffer. */
export const SECTION_INDEX_NONE = 0xffff_ffff;

/** SEND_RNDIS_PACKET (107), both directions: the RNDIS message is in a section or in the packet's pages. */
export const NvspSendRndisPacket = nvspMessage(NvspType.sendRndisPacket, {
  channelType: u32(4),
  sectionIndex: u32(8),
  /** Bytes used of that section; 0 without one. */
  sectionBytes: u32(12),
});
export type NvspSendRndisPacket = RecordOf<typeof NvspSendRndisPacket.fields>;

/** SEND_RNDIS_PACKET_COMPLETE (108), both directions. Linux sends its 8 bytes without padding. */
export const NvspSendRndisPacketComplete = nvspMessage(NvspType.sendRndisPacketComplete, {
  status: u32(4),
});
export type NvspSendRndisPacketComplete = RecordOf<typeof NvspSendRndisPacketComplete.fields>;

/** SEND_VF_ASSOCIATION (128), host to guest. */
export const NvspSendVfAssociation = nvspMessage(NvspType.sendVfAssociation, {
  allocated: u32(4),
  serial: u32(8),
});
export type NvspSendVfAssociation = RecordOf<typeof NvspSendVfAssociation.fields>;

/** Values of `activePath`. */
export const DataPath = { synthetic: 0, vf: 1 } as const;

/** SWITCH_DATA_PATH (129), both directions. */
export const NvspSwitchDataPath = nvspMessage(NvspType.switchDataPath, { activePath: u32(4) });
export type NvspSwitchDataPath = RecordOf<typeof NvspSwitchDataPath.fields>;

/** Transaction ids, as high and low half, of the messages that a host sends unasked with a completion. */
export const HostTransactionId = {
  vfAssociation: { high: 0x8000_0000, low: 0 },
  switchDataPath: { high: 0x8000_0000, low: 1 },
} as const;

/** OID_QUERY_EX (131), guest to host; an NDIS object header lies at offset 4. */
export const NvspOidQueryEx = nvspMessage(NvspType.oidQueryEx, { oid: u32(8) });
export type NvspOidQueryEx = RecordOf<typeof NvspOidQueryEx.fields>;

/** OID_QUERY_EX_COMPLETE (132). */
export const NvspOidQueryExComplete = nvspMessage(NvspType.oidQueryExComplete, {
  /** An NDIS status. */
  status: u32(4),
  /** Bytes of the answer. */
  bytes: u32(8),
});
export type NvspOidQueryExComplete = RecordOf<typeof NvspOidQueryExComplete.fields>;

/** Values of `operation`. */
export const SubChannelOperation = { none: 0, allocate: 1 } as const;

/** SUB_CHANNEL (133), guest to host: the request. */
export const NvspSubChannelRequest = nvspMessage(NvspType.subChannel, {
  operation: u32(4),
  /** Channels wanted beside the primary one. */
  subChannels: u32(8),
});
export type NvspSubChannelRequest = RecordOf<typeof NvspSubChannelRequest.fields>;

/** SUB_CHANNEL (133) as completion: request and answer have the same number. */
export const NvspSubChannelComplete = nvspMessage(NvspType.subChannel, {
  status: u32(4),
  /** Channels granted; their offers follow. */
  subChannels: u32(8),
});
export type NvspSubChannelComplete = RecordOf<typeof NvspSubChannelComplete.fields>;

/** SEND_INDIRECTION_TABLE (134), host to guest, not answered. */
export const NvspSendIndirectionTable = nvspMessage(NvspType.sendIndirectionTable, {
  count: u32(4),
  /** From the start of the message; hosts up to version 6 may say less than they mean. */
  tableOffset: u32(8),
});
export type NvspSendIndirectionTable = RecordOf<typeof NvspSendIndirectionTable.fields>;

/** Entries of a send indirection table: u32, each the index of a channel. */
export const SEND_TABLE_ENTRIES = 16;
const ENTRY_BYTES = 4;

/**
 * The entries of a SEND_INDIRECTION_TABLE; undefined if there are not 16, or they do not lie in `message`.
 *
 * A host up to version 6 that uses the 40-byte message internally says a table offset that is too small: a
 * message long enough for a table behind 40 bytes has it there (Linux `netvsc_send_table`).
 */
export function parseSendTable(
  message: Uint8Array,
  versionValue: number,
): readonly number[] | undefined {
  const header = NvspSendIndirectionTable.parse(message);
  if (header?.count !== SEND_TABLE_ENTRIES) return undefined;
  const tableBytes = SEND_TABLE_ENTRIES * ENTRY_BYTES;
  const behindWideMessage =
    versionValue <= 0x0006_0000 && message.byteLength >= 40 + tableBytes ? 40 : undefined;
  const at = behindWideMessage ?? header.tableOffset;
  if (at > message.byteLength || tableBytes > message.byteLength - at) return undefined;
  const view = new DataView(message.buffer, message.byteOffset + at, tableBytes);
  return Array.from({ length: SEND_TABLE_ENTRIES }, (_, index) =>
    view.getUint32(index * ENTRY_BYTES, true),
  );
}

/** The message with its table right behind its fields: 76 bytes. */
export function emitSendTable(entries: readonly number[]): Uint8Array<ArrayBuffer> {
  const tableOffset = NvspSendIndirectionTable.SIZE;
  const message = NvspSendIndirectionTable.packet(
    { count: entries.length, tableOffset },
    tableOffset + entries.length * ENTRY_BYTES,
  );
  const view = new DataView(message.buffer);
  entries.forEach((entry, index) => {
    view.setUint32(tableOffset + index * ENTRY_BYTES, entry, true);
  });
  return message;
}
