import type { ReceiveBuffer, SharedBuffer } from "./parameters.js";
import {
  emitNdisQueryObject,
  ETHERNET_HEADER_BYTES,
  NDIS_MAJOR,
  NdisConfigCapability,
  NdisObjectType,
  NdisOffload,
  NdisRssCapabilities,
  NvspReceiveBufferSection,
  NvspSendNdisConfig,
  NvspSendNdisVersion,
  NvspSendReceiveBufferComplete,
  type NvspVersion,
} from "./protocol/index.js";

/**
 * What follows an accepted version and is not answered: configuration, where the version has it, and NDIS version.
 *
 * @param mtu - Largest payload of a frame.
 */
export function configurationPackets(
  { ndisConfig, ndisMinor, packetBytes, multiChannel, receiveCoalescing }: NvspVersion,
  mtu: number,
): readonly Uint8Array[] {
  let capabilities: number = NdisConfigCapability.ieee8021q;
  // Without it a host does not tell of a change of speed (Linux).
  if (multiChannel) capabilities |= NdisConfigCapability.teaming;
  // That it can be done says nothing of whether it is wanted, which may change.
  if (receiveCoalescing) capabilities |= NdisConfigCapability.rscOverVmbus;
  const config = { mtu: mtu + ETHERNET_HEADER_BYTES, capabilities, capabilitiesHigh: 0 };
  const version = NvspSendNdisVersion.packet({ major: NDIS_MAJOR, minor: ndisMinor }, packetBytes);
  return ndisConfig ? [NvspSendNdisConfig.packet(config, packetBytes), version] : [version];
}

/**
 * How the host has divided the receive buffer; undefined if that is impossible. Hosts divide all of it alike, in
 * one section.
 */
export function parseReceiveBuffer(
  packet: Uint8Array,
  memory: SharedBuffer,
): ReceiveBuffer | undefined {
  const complete = NvspSendReceiveBufferComplete.parse(packet);
  const section = NvspReceiveBufferSection.parse(
    packet.subarray(NvspSendReceiveBufferComplete.SIZE),
  );
  if (complete?.sectionCount !== 1 || section === undefined) return undefined;
  const { offset, subAllocationSize: slotBytes, subAllocationCount: slots } = section;
  if (slotBytes === 0 || slots === 0) return undefined;
  if (slots > (memory.lengthBytes - offset) / slotBytes) return undefined;
  return { ...memory, slotBytes, slots };
}

/** Revision of the offload objects that a version's guests use. */
export function offloadRevision({ ndisMinor }: NvspVersion): number {
  return ndisMinor >= 30 ? 3 : 2;
}

/** Input of the query for offload capabilities. */
export function offloadQuery(version: NvspVersion): Uint8Array {
  const revision = offloadRevision(version);
  const size = NdisOffload.sizeOf(revision);
  return emitNdisQueryObject({ type: NdisObjectType.offload, revision, size });
}

/** Input of the query for receive scaling capabilities. */
export function scalingQuery(): Uint8Array {
  const { SIZE: size } = NdisRssCapabilities;
  return emitNdisQueryObject({ type: NdisObjectType.rssCapabilities, revision: 2, size });
}
