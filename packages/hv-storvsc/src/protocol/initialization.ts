import { VstorPacket } from "./vstor.js";

/** Byte offsets, from the start of the packet, of the version in QUERY_PROTOCOL_VERSION and its reply. */
export const VersionPacket = {
  majorMinor: VstorPacket.payload, // u16
  revision: VstorPacket.payload + 2, // u16
  END: VstorPacket.payload + 4,
} as const;

/** A proposed or accepted protocol version. */
export interface ProtocolVersion {
  /** major << 8 | minor. */
  readonly majorMinor: number;
  /** 0; only Windows guests use it. */
  readonly revision: number;
}

/** Parses the version of a packet; undefined when the packet is too short. */
export function parseProtocolVersion(packet: Uint8Array): ProtocolVersion | undefined {
  if (packet.byteLength < VersionPacket.END) return undefined;
  const view = viewOf(packet);
  return {
    majorMinor: view.getUint16(VersionPacket.majorMinor, true),
    revision: view.getUint16(VersionPacket.revision, true),
  };
}

/** Writes the version into a packet whose header is already there. */
export function emitProtocolVersion(packet: Uint8Array, version: ProtocolVersion): void {
  const view = viewOf(packet);
  view.setUint16(VersionPacket.majorMinor, version.majorMinor, true);
  view.setUint16(VersionPacket.revision, version.revision, true);
}

/**
 * Byte offsets, from the start of the packet, of the channel properties in the reply to QUERY_PROPERTIES.
 *
 * The names are Linux's and OpenVMM's: FreeBSD's header has older names for the reserved bytes, which carry
 * nothing from 4.2 on.
 */
export const PropertiesPacket = {
  subChannelCountMax: VstorPacket.payload + 4, // u16
  flags: VstorPacket.payload + 8, // u32
  maxTransferBytes: VstorPacket.payload + 12, // u32
  END: VstorPacket.payload + 24,
} as const;

/** Flags of the channel properties. */
export const PropertiesFlag = { multiChannel: 1 } as const;

/** What the host allows on a controller. */
export interface ChannelProperties {
  /** Sub-channels the guest may ask for; the primary channel is not counted. */
  readonly subChannelCountMax: number;
  readonly flags: number;
  /** Largest transfer of one request; FreeBSD ignores it, Linux obeys it. */
  readonly maxTransferBytes: number;
}

/** Parses the properties of a reply; undefined when the packet is too short. */
export function parseChannelProperties(packet: Uint8Array): ChannelProperties | undefined {
  if (packet.byteLength < PropertiesPacket.END) return undefined;
  const view = viewOf(packet);
  return {
    subChannelCountMax: view.getUint16(PropertiesPacket.subChannelCountMax, true),
    flags: view.getUint32(PropertiesPacket.flags, true),
    maxTransferBytes: view.getUint32(PropertiesPacket.maxTransferBytes, true),
  };
}

/** Writes the properties into a packet whose header is already there. */
export function emitChannelProperties(packet: Uint8Array, properties: ChannelProperties): void {
  const view = viewOf(packet);
  view.setUint16(PropertiesPacket.subChannelCountMax, properties.subChannelCountMax, true);
  view.setUint32(PropertiesPacket.flags, properties.flags, true);
  view.setUint32(PropertiesPacket.maxTransferBytes, properties.maxTransferBytes, true);
}

/** Byte offset, from the start of the packet, of the u16 count of CREATE_SUB_CHANNELS. */
export const SubChannelsPacket = {
  count: VstorPacket.payload, // u16
  END: VstorPacket.payload + 2,
} as const;

/** Parses how many sub-channels a guest wants; undefined when the packet is too short. */
export function parseSubChannelCount(packet: Uint8Array): number | undefined {
  if (packet.byteLength < SubChannelsPacket.END) return undefined;
  return viewOf(packet).getUint16(SubChannelsPacket.count, true);
}

/** Writes the number of wanted sub-channels into a packet whose header is already there. */
export function emitSubChannelCount(packet: Uint8Array, count: number): void {
  viewOf(packet).setUint16(SubChannelsPacket.count, count, true);
}

/** Byte offset, from the start of the packet, of the u8 bus of RESET_BUS (Linux sets it, hosts ignore it). */
export const RESET_BUS_PATH_ID = VstorPacket.payload + 5;

/** Byte offsets, from the start of the packet, of the four u8 of EVENT_NOTIFICATION (OpenVMM only). */
export const NotificationPacket = {
  lun: VstorPacket.payload,
  targetId: VstorPacket.payload + 1,
  pathId: VstorPacket.payload + 2,
  flags: VstorPacket.payload + 3,
  END: VstorPacket.payload + 4,
} as const;

function viewOf(packet: Uint8Array): DataView {
  return new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
}
