import {
  DataPath,
  NdisConfigCapability,
  NvspHeader,
  NvspInit,
  NvspInitComplete,
  NvspOidQueryEx,
  NvspOidQueryExComplete,
  NvspReceiveBufferSection,
  NvspRevokeReceiveBuffer,
  NvspRevokeSendBuffer,
  NvspSendIndirectionTable,
  NvspSendNdisConfig,
  NvspSendNdisVersion,
  NvspSendReceiveBuffer,
  NvspSendReceiveBufferComplete,
  NvspSendRndisPacket,
  NvspSendRndisPacketComplete,
  NvspSendSendBuffer,
  NvspSendSendBufferComplete,
  NvspSendVfAssociation,
  NvspStatus,
  NvspSubChannelComplete,
  NvspSubChannelRequest,
  NvspSwitchDataPath,
  NvspType,
  RndisChannelType,
  SECTION_INDEX_NONE,
  SubChannelOperation,
  nvspVersions,
} from "@hyperv-is/hv-netvsc/protocol";
import { formatVersion, type WireRecord } from "@hyperv-is/vmbus-core/protocol";
import type { Decoded, DecodedFields, DecodedValue } from "./decoded.js";
import { constantName, flagNames, hex } from "./protocol-names.js";

/** How the fields of a message are shown; what is not in it is shown as a number. */
type Formats = Readonly<Record<string, (value: number) => DecodedValue | undefined>>;

/** The first one is not numbered as those behind it. */
const versionName = (value: number): string =>
  nvspVersions.find((version) => version.value === value)?.name ?? formatVersion(value);
const status = (value: number): string => constantName(NvspStatus, value);
const hidden = (): undefined => undefined;
const buffer: Formats = { gpadl: hex, id: hex };

const messages: Readonly<Record<number, readonly [WireRecord<object>, Formats]>> = {
  [NvspType.init]: [NvspInit, { version: versionName, versionAgain: hidden }],
  [NvspType.initComplete]: [NvspInitComplete, { status, deprecatedVersion: hex }],
  [NvspType.sendNdisVersion]: [NvspSendNdisVersion, {}],
  [NvspType.sendNdisConfig]: [
    NvspSendNdisConfig,
    {
      capabilities: (bits) => flagNames(NdisConfigCapability, bits),
      capabilitiesHigh: (bits) => (bits === 0 ? undefined : hex(bits)),
    },
  ],
  [NvspType.sendReceiveBuffer]: [NvspSendReceiveBuffer, buffer],
  [NvspType.sendReceiveBufferComplete]: [NvspSendReceiveBufferComplete, { status }],
  [NvspType.revokeReceiveBuffer]: [NvspRevokeReceiveBuffer, buffer],
  [NvspType.sendSendBuffer]: [NvspSendSendBuffer, buffer],
  [NvspType.sendSendBufferComplete]: [NvspSendSendBufferComplete, { status }],
  [NvspType.revokeSendBuffer]: [NvspRevokeSendBuffer, buffer],
  [NvspType.sendRndisPacket]: [
    NvspSendRndisPacket,
    {
      channelType: (type) => constantName(RndisChannelType, type),
      sectionIndex: (index) => (index === SECTION_INDEX_NONE ? "none" : index),
    },
  ],
  [NvspType.sendRndisPacketComplete]: [NvspSendRndisPacketComplete, { status }],
  [NvspType.sendVfAssociation]: [NvspSendVfAssociation, {}],
  [NvspType.switchDataPath]: [
    NvspSwitchDataPath,
    { activePath: (path) => constantName(DataPath, path) },
  ],
  [NvspType.oidQueryEx]: [NvspOidQueryEx, { oid: hex }],
  [NvspType.oidQueryExComplete]: [NvspOidQueryExComplete, { status: hex }],
  [NvspType.subChannel]: [
    NvspSubChannelRequest,
    { operation: (value) => constantName(SubChannelOperation, value) },
  ],
  [NvspType.sendIndirectionTable]: [NvspSendIndirectionTable, {}],
};

/**
 * Decodes a packet of the network protocol (NVSP). RNDIS messages are not in packets, but in buffers and pages that
 * these name.
 *
 * @param payload - of the packet. @param request - payload of the packet that it completes, if it does.
 */
export function decodeNetwork(payload: Uint8Array, request: Uint8Array | undefined): Decoded {
  const header = NvspHeader.parse(payload);
  // Some guests complete what they were sent with nothing in it.
  if (header === undefined) return { name: "NVSP", fields: { payloadBytes: payload.byteLength } };
  const { type } = header;
  const name = constantName(NvspType, type);
  const isReply = type === NvspType.subChannel && request !== undefined;
  const [record, formats] = isReply
    ? [NvspSubChannelComplete, { status }]
    : (messages[type] ?? [NvspHeader, { type: hidden }]);
  const fields = fieldsOf(record, formats, payload);
  if (fields === undefined) return { name, fields: { problem: "too-short" } };
  return { name, fields: { ...fields, ...sectionFields(type, payload) } };
}

function fieldsOf(
  record: WireRecord<object>,
  formats: Formats,
  payload: Uint8Array,
): DecodedFields | undefined {
  const parsed = record.parse(payload) as Readonly<Record<string, number>> | undefined;
  if (parsed === undefined) return undefined;
  const fields: Record<string, DecodedValue> = {};
  for (const [name, value] of Object.entries(parsed)) {
    const format = formats[name];
    const shown = format === undefined ? value : format(value);
    if (shown !== undefined) fields[name] = shown;
  }
  return fields;
}

/** How the host has divided the receive buffer: the first section, and no host has sent more. */
function sectionFields(type: NvspType, payload: Uint8Array): DecodedFields {
  if (type !== NvspType.sendReceiveBufferComplete) return {};
  const section = NvspReceiveBufferSection.parse(
    payload.subarray(NvspSendReceiveBufferComplete.SIZE),
  );
  return { ...section };
}
