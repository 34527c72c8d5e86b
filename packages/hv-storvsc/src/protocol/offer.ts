/** Class ids of the storage devices that a channel offer may name. */
export const StorageClassId = {
  scsi: "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f",
  /** Accelerates the emulated IDE controller; one disk per channel, no sub-channels. */
  ide: "32412632-86cb-44a2-9b5c-50d1417354f5",
  fibreChannel: "2f9bcc4a-0069-4af3-b76b-6fd0be528cda",
} as const;

/** Instance id of the disk `device` (0, 1) on the IDE channel `channel` (0, 1), as text. */
export function ideInstanceId(channel: number, device: number): string {
  return `0000000${channel}-000${device}-8899-0000-000000000000`;
}

/** User data of an open-channel message: both guests pass 24 zero bytes. */
export const STORAGE_OPEN_USER_DATA_BYTES = 24;

/** Byte offsets in the user-defined bytes of a storage offer; only the IDE accelerator sets them. */
export const StorageOffer = {
  pathId: 2, // u8
  targetId: 3, // u8
  flags: 8, // u32
  SIZE: 24, // bytes
} as const;

/** Flags of a storage offer. */
export const StorageOfferFlag = { removable: 1, ideDevice: 2 } as const;

/** What a storage offer says about its device. */
export interface StorageOfferProperties {
  readonly pathId: number;
  readonly targetId: number;
  readonly flags: number;
}

/** Parses the user-defined bytes of an offer; undefined when fewer than 24 bytes are there. */
export function parseStorageOffer(userDefined: Uint8Array): StorageOfferProperties | undefined {
  if (userDefined.byteLength < StorageOffer.SIZE) return undefined;
  const view = new DataView(userDefined.buffer, userDefined.byteOffset, userDefined.byteLength);
  return {
    pathId: view.getUint8(StorageOffer.pathId),
    targetId: view.getUint8(StorageOffer.targetId),
    flags: view.getUint32(StorageOffer.flags, true),
  };
}

/** The 24 user-defined bytes of an offer. */
export function emitStorageOffer(properties: StorageOfferProperties): Uint8Array {
  const userDefined = new Uint8Array(StorageOffer.SIZE);
  const view = new DataView(userDefined.buffer);
  view.setUint8(StorageOffer.pathId, properties.pathId);
  view.setUint8(StorageOffer.targetId, properties.targetId);
  view.setUint32(StorageOffer.flags, properties.flags, true);
  return userDefined;
}
