/** Byte offsets in the answer to GET LBA STATUS. Big-endian. */
export const LbaStatusList = {
  length: 0, // u32: bytes after this field
  descriptors: 8,
} as const;

/** Byte offsets in one descriptor of the answer to GET LBA STATUS. Big-endian. */
export const LbaStatusDescriptor = {
  lba: 0, // u64
  blocks: 8, // u32
  status: 12, // u8: low four bits
  SIZE: 16, // bytes
} as const;

/** Whether blocks take room on the medium. */
export const LbaStatus = { mapped: 0, deallocated: 1, anchored: 2 } as const;
/** Open enumeration: any four bits may arrive. */
export type LbaStatus = (typeof LbaStatus)[keyof typeof LbaStatus] | (number & {});

/** Blocks in a row that are all mapped or all not. */
export interface LbaExtent {
  /** First block, below 2^53. */
  readonly lba: number;
  /** 1 to 2^32 - 1. */
  readonly blocks: number;
  readonly status: LbaStatus;
}

/** Writes the answer at the start of `target`; returns its length. */
export function emitLbaStatusList(target: Uint8Array, extents: readonly LbaExtent[]): number {
  const length = LbaStatusList.descriptors + extents.length * LbaStatusDescriptor.SIZE;
  target.fill(0, 0, length);
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  view.setUint32(LbaStatusList.length, length - 4);
  let at: number = LbaStatusList.descriptors;
  for (const { lba, blocks, status } of extents) {
    view.setUint32(at + LbaStatusDescriptor.lba, Math.floor(lba / 0x1_0000_0000));
    view.setUint32(at + LbaStatusDescriptor.lba + 4, lba % 0x1_0000_0000);
    view.setUint32(at + LbaStatusDescriptor.blocks, blocks);
    target[at + LbaStatusDescriptor.status] = status;
    at += LbaStatusDescriptor.SIZE;
  }
  return length;
}

/**
 * Parses the extents of an answer, as many whole descriptors as are there and as the list says; undefined when
 * fewer than 8 bytes are there. Addresses of 2^53 and above come back rounded, never below 2^53.
 */
export function parseLbaStatusList(bytes: Uint8Array): readonly LbaExtent[] | undefined {
  if (bytes.byteLength < LbaStatusList.descriptors) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = Math.min(4 + view.getUint32(LbaStatusList.length), bytes.byteLength);
  const extents: LbaExtent[] = [];
  for (
    let at: number = LbaStatusList.descriptors;
    at + LbaStatusDescriptor.SIZE <= end;
    at += LbaStatusDescriptor.SIZE
  )
    extents.push({
      lba:
        view.getUint32(at + LbaStatusDescriptor.lba) * 0x1_0000_0000 +
        view.getUint32(at + LbaStatusDescriptor.lba + 4),
      blocks: view.getUint32(at + LbaStatusDescriptor.blocks),
      status: view.getUint8(at + LbaStatusDescriptor.status) & 0x0f,
    });
  return extents;
}
