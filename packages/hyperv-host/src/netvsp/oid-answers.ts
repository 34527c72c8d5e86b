import {
  ENCAPSULATION_802_3,
  ETHERNET_HEADER_BYTES,
  LINK_SPEED_UNIT,
  MAC_OPTIONS,
  MediaConnectStatus,
  NDIS_MAJOR,
  NdisLinkSpeed,
  NdisLinkState,
  NdisObjectHeader,
  NdisObjectType,
  NdisOffloadEncapsulation,
  NdisOffloadParameters,
  Oid,
  RndisStatus,
  parseRndisConfigParameter,
} from "@hyperv-is/hv-netvsc/protocol";
import { MAC_BYTES } from "../switch/mac-address.js";
import type { OffloadSettings } from "./offload-settings.js";
import { ReceiveScaling } from "./receive-scaling.js";

/** What the objects of an adapter are answered from. */
export interface OidSource {
  readonly mac: Uint8Array<ArrayBuffer>;
  /** Largest frame, Ethernet header included. */
  readonly mtu: number;
  readonly ndisVersion: { readonly major: number; readonly minor: number };
  /** Bits per second. */
  readonly linkSpeed: number;
  readonly isLinkUp: boolean;
  /** Channels that there may be. */
  readonly queues: number;
  readonly offloads: OffloadSettings;
  readonly scaling: ReceiveScaling;
  /** `PacketFilter` bits. */
  set packetFilter(filter: number);
  /** Addresses of six bytes each, one behind the other. */
  set multicastList(list: Uint8Array);
  /** The guest is to be told what offloads are on now. */
  offloadsChanged(): void;
}

const TRANSMIT_BUFFER_BYTES = 256 * 1024;
const VENDOR_ID = 0x0000_155d;
const VENDOR = "Microsoft Corporation";
const DRIVER_VERSION = 0x0100;
const FRIENDLY_NAME = "Network Device";
const FRIENDLY_NAME_BYTES = 512;
const MULTICAST_LIST_MAX = 32;

const common: readonly number[] = [
  Oid.genSupportedList,
  Oid.genHardwareStatus,
  Oid.genMediaSupported,
  Oid.genMediaInUse,
  Oid.genMaximumLookahead,
  Oid.genCurrentLookahead,
  Oid.genMaximumFrameSize,
  Oid.genMaximumTotalSize,
  Oid.genTransmitBlockSize,
  Oid.genReceiveBlockSize,
  Oid.genLinkSpeed,
  Oid.genTransmitBufferSpace,
  Oid.genReceiveBufferSpace,
  Oid.genVendorId,
  Oid.genVendorDescription,
  Oid.genVendorDriverVersion,
  Oid.genDriverVersion,
  Oid.genCurrentPacketFilter,
  // In the list, and yet not answered, as by OpenVMM.
  Oid.genProtocolOptions,
  Oid.genMacOptions,
  Oid.genMediaConnectStatus,
  Oid.genMaximumSendPackets,
  Oid.genNetworkLayerAddresses,
  Oid.genFriendlyName,
  Oid.ethPermanentAddress,
  Oid.ethCurrentAddress,
  Oid.ethMulticastList,
  Oid.ethMaximumListSize,
  Oid.ethRcvErrorAlignment,
  Oid.ethXmitOneCollision,
  Oid.ethXmitMoreCollisions,
  Oid.genRndisConfigParameter,
];
const ofNdis6: readonly number[] = [
  Oid.genLinkParameters,
  Oid.genLinkState,
  Oid.genMaxLinkSpeed,
  Oid.genBytesRcv,
  Oid.genBytesXmit,
  Oid.tcpOffloadParameters,
  Oid.offloadEncapsulation,
  Oid.tcpOffloadHardwareCapabilities,
  Oid.tcpOffloadCurrentConfig,
];
const ofNdis630: readonly number[] = [
  Oid.genReceiveScaleCapabilities,
  Oid.genReceiveScaleParameters,
];

/** Answers a QUERY. @returns The value, or why there is none. Source: OpenVMM. */
export function queryOid(source: OidSource, oid: Oid): Uint8Array<ArrayBuffer> | RndisStatus {
  const { mtu, linkSpeed } = source;
  switch (oid) {
    case Oid.genSupportedList:
      return supportedList(source.ndisVersion);
    case Oid.genMaximumLookahead:
    case Oid.genCurrentLookahead:
    case Oid.genMaximumFrameSize:
      return words(mtu - ETHERNET_HEADER_BYTES);
    case Oid.genMaximumTotalSize:
    case Oid.genTransmitBlockSize:
    case Oid.genReceiveBlockSize:
      return words(mtu);
    case Oid.genLinkSpeed:
      return words(Math.min(Math.floor(linkSpeed / LINK_SPEED_UNIT), 0xffff_ffff));
    case Oid.genTransmitBufferSpace:
    case Oid.genReceiveBufferSpace:
      return words(TRANSMIT_BUFFER_BYTES);
    case Oid.genVendorId:
      return words(VENDOR_ID);
    case Oid.genVendorDescription:
      return Uint8Array.from(VENDOR, (letter) => letter.charCodeAt(0));
    case Oid.genVendorDriverVersion:
    case Oid.genDriverVersion:
      return Uint8Array.of(DRIVER_VERSION & 0xff, DRIVER_VERSION >>> 8);
    case Oid.genMacOptions:
      return words(MAC_OPTIONS);
    case Oid.genMediaConnectStatus:
      return words(
        source.isLinkUp ? MediaConnectStatus.connected : MediaConnectStatus.disconnected,
      );
    case Oid.genMaximumSendPackets:
      return words(0xffff_ffff);
    case Oid.genFriendlyName:
      return friendlyName();
    case Oid.ethPermanentAddress:
    case Oid.ethCurrentAddress:
      return source.mac;
    case Oid.genCurrentPacketFilter:
    case Oid.genHardwareStatus:
    case Oid.genMediaSupported:
    case Oid.genMediaInUse:
    case Oid.ethMaximumListSize:
    case Oid.ethRcvErrorAlignment:
    case Oid.ethXmitOneCollision:
    case Oid.ethXmitMoreCollisions:
      return words(0);
    case Oid.genLinkState:
      return linkState(source);
    case Oid.genMaxLinkSpeed:
      return NdisLinkSpeed.emit({ transmit: BigInt(linkSpeed), receive: BigInt(linkSpeed) });
    case Oid.tcpOffloadHardwareCapabilities:
      return source.offloads.capabilities();
    case Oid.tcpOffloadCurrentConfig:
      return source.offloads.current();
    case Oid.offloadEncapsulation:
      return encapsulation();
    case Oid.genReceiveScaleCapabilities:
      return ReceiveScaling.capabilities(source.queues);
    default:
      return RndisStatus.notSupported;
  }
}

/** Carries out a SET. Source: OpenVMM, but for the multicast list, which it does not take. */
export function setOid(source: OidSource, oid: Oid, value: Uint8Array): RndisStatus {
  switch (oid) {
    case Oid.genCurrentPacketFilter: {
      if (value.byteLength < 4) return RndisStatus.failure;
      source.packetFilter = new DataView(value.buffer, value.byteOffset).getUint32(0, true);
      return RndisStatus.success;
    }
    case Oid.genNetworkLayerAddresses:
      return RndisStatus.success;
    case Oid.ethMulticastList:
      if (value.byteLength % MAC_BYTES !== 0) return RndisStatus.invalidLength;
      if (value.byteLength > MULTICAST_LIST_MAX * MAC_BYTES) return RndisStatus.resources;
      source.multicastList = value.slice();
      return RndisStatus.success;
    case Oid.tcpOffloadParameters: {
      if (!isObject(value, NdisObjectType.default, LEAST_PARAMETERS))
        return RndisStatus.invalidData;
      const parameters = NdisOffloadParameters.parse(value);
      if (parameters === undefined) return RndisStatus.invalidData;
      if (!source.offloads.apply(parameters)) return RndisStatus.notSupported;
      source.offloadsChanged();
      return RndisStatus.success;
    }
    case Oid.offloadEncapsulation:
      return checkEncapsulation(value);
    case Oid.genRndisConfigParameter: {
      const parameter = parseRndisConfigParameter(value);
      if (parameter === undefined || !source.offloads.configure(parameter))
        return RndisStatus.invalidData;
      return RndisStatus.success;
    }
    case Oid.genReceiveScaleParameters:
      return source.scaling.apply(value, source.queues);
    default:
      return RndisStatus.notSupported;
  }
}

/** Bytes of the first revision of the offload parameters. */
const LEAST_PARAMETERS = 20;

const SUPPORTED = 1;

/** True if the header of an NDIS object is in order. */
function isObject(value: Uint8Array, type: number, leastBytes: number): boolean {
  const header = NdisObjectHeader.parse(value);
  return (
    header?.type === type &&
    header.revision >= 1 &&
    header.size >= leastBytes &&
    header.size <= value.byteLength
  );
}

function checkEncapsulation(value: Uint8Array): RndisStatus {
  const { SIZE } = NdisOffloadEncapsulation;
  if (!isObject(value, NdisObjectType.offloadEncapsulation, SIZE)) return RndisStatus.invalidData;
  const wanted = NdisOffloadEncapsulation.parse(value)!;
  const isUsual = (enabled: number, encapsulated: number, headerBytes: number): boolean =>
    enabled !== SUPPORTED ||
    (encapsulated === ENCAPSULATION_802_3 && headerBytes === ETHERNET_HEADER_BYTES);
  const is4 = isUsual(wanted.ipv4Enabled, wanted.ipv4Encapsulation, wanted.ipv4HeaderBytes);
  const is6 = isUsual(wanted.ipv6Enabled, wanted.ipv6Encapsulation, wanted.ipv6HeaderBytes);
  return is4 && is6 ? RndisStatus.success : RndisStatus.notSupported;
}

function encapsulation(): Uint8Array<ArrayBuffer> {
  return NdisOffloadEncapsulation.emit({
    type: NdisObjectType.offloadEncapsulation,
    revision: 1,
    size: NdisOffloadEncapsulation.SIZE,
    ipv4Enabled: SUPPORTED,
    ipv4Encapsulation: ENCAPSULATION_802_3,
    ipv4HeaderBytes: ETHERNET_HEADER_BYTES,
    ipv6Enabled: SUPPORTED,
    ipv6Encapsulation: ENCAPSULATION_802_3,
    ipv6HeaderBytes: ETHERNET_HEADER_BYTES,
  });
}

function supportedList({
  major,
  minor,
}: OidSource["ndisVersion"]): Uint8Array<ArrayBuffer> | RndisStatus {
  if (major === 5) return words(...common);
  if (major !== NDIS_MAJOR) return RndisStatus.badVersion;
  return words(...common, ...ofNdis6, ...(minor >= 30 ? ofNdis630 : []));
}

/** Values of `connectState` in a link state. */
const ConnectState = { connected: 1, disconnected: 2 } as const;

function linkState({ isLinkUp, linkSpeed }: OidSource): Uint8Array<ArrayBuffer> {
  return NdisLinkState.emit({
    type: NdisObjectType.default,
    revision: 1,
    size: NdisLinkState.SIZE,
    connectState: isLinkUp ? ConnectState.connected : ConnectState.disconnected,
    duplexState: 0,
    transmitSpeed: BigInt(linkSpeed),
    receiveSpeed: BigInt(linkSpeed),
    pause: 0,
    autoNegotiation: 0,
  });
}

function friendlyName(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(FRIENDLY_NAME_BYTES);
  for (let index = 0; index < FRIENDLY_NAME.length; index++)
    bytes[index * 2] = FRIENDLY_NAME.charCodeAt(index);
  return bytes;
}

function words(...values: readonly number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, index) => {
    view.setUint32(index * 4, value, true);
  });
  return bytes;
}
