import { VstorPacket } from "./vstor.js";

/**
 * Byte offsets, from the start of the packet, of the world-wide names in the reply to FCHBA_DATA.
 *
 * The names are big-endian u64, unlike all other fields of a vstor packet.
 */
export const WorldWideNamesPacket = {
  primaryActive: VstorPacket.payload, // u8
  primaryPort: VstorPacket.payload + 4,
  primaryNode: VstorPacket.payload + 12,
  secondaryPort: VstorPacket.payload + 20,
  secondaryNode: VstorPacket.payload + 28,
  END: VstorPacket.payload + 36,
} as const;

/** The names of a virtual Fibre Channel adapter. */
export interface WorldWideNames {
  readonly primaryActive: boolean;
  readonly primaryPort: bigint;
  readonly primaryNode: bigint;
  readonly secondaryPort: bigint;
  readonly secondaryNode: bigint;
}

/** Parses the names of a reply; undefined when the packet is too short. */
export function parseWorldWideNames(packet: Uint8Array): WorldWideNames | undefined {
  if (packet.byteLength < WorldWideNamesPacket.END) return undefined;
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  return {
    primaryActive: view.getUint8(WorldWideNamesPacket.primaryActive) !== 0,
    primaryPort: view.getBigUint64(WorldWideNamesPacket.primaryPort),
    primaryNode: view.getBigUint64(WorldWideNamesPacket.primaryNode),
    secondaryPort: view.getBigUint64(WorldWideNamesPacket.secondaryPort),
    secondaryNode: view.getBigUint64(WorldWideNamesPacket.secondaryNode),
  };
}

/** Writes the names into a packet whose header is already there. */
export function emitWorldWideNames(packet: Uint8Array, names: WorldWideNames): void {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  view.setUint8(WorldWideNamesPacket.primaryActive, names.primaryActive ? 1 : 0);
  view.setBigUint64(WorldWideNamesPacket.primaryPort, names.primaryPort);
  view.setBigUint64(WorldWideNamesPacket.primaryNode, names.primaryNode);
  view.setBigUint64(WorldWideNamesPacket.secondaryPort, names.secondaryPort);
  view.setBigUint64(WorldWideNamesPacket.secondaryNode, names.secondaryNode);
}
