/** Byte offsets in the parameter list of UNMAP. Big-endian. */
export const UnmapList = {
  dataLength: 0, // u16: bytes after this field
  descriptorsLength: 2, // u16: bytes of all descriptors
  descriptors: 8,
} as const;

/** Byte offsets in one descriptor of the parameter list of UNMAP. Big-endian. */
export const UnmapDescriptor = {
  lba: 0, // u64
  blocks: 8, // u32
  SIZE: 16, // bytes
} as const;

/** Blocks that are no longer needed. */
export interface UnmapRange {
  /** First block, below 2^53. */
  readonly lba: number;
  /** 0 to 2^32 - 1. */
  readonly blocks: number;
}

/** Bytes of the parameter list for `count` ranges. */
export function unmapListBytes(count: number): number {
  return UnmapList.descriptors + count * UnmapDescriptor.SIZE;
}

/** Writes the parameter list at the start of `target`; returns its length. */
export function emitUnmapList(target: Uint8Array, ranges: readonly UnmapRange[]): number {
  const length = unmapListBytes(ranges.length);
  target.fill(0, 0, length);
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  view.setUint16(UnmapList.dataLength, length - 2);
  view.setUint16(UnmapList.descriptorsLength, length - UnmapList.descriptors);
  let at: number = UnmapList.descriptors;
  for (const { lba, blocks } of ranges) {
    view.setUint32(at + UnmapDescriptor.lba, Math.floor(lba / 0x1_0000_0000));
    view.setUint32(at + UnmapDescriptor.lba + 4, lba % 0x1_0000_0000);
    view.setUint32(at + UnmapDescriptor.blocks, blocks);
    at += UnmapDescriptor.SIZE;
  }
  return length;
}

/**
 * Parses the ranges of a parameter list, as many whole descriptors as are there and as the list says.
 * Addresses of 2^53 and above come back rounded, never below 2^53. Undefined when fewer than 8 bytes are there.
 */
export function parseUnmapList(bytes: Uint8Array): readonly UnmapRange[] | undefined {
  if (bytes.byteLength < UnmapList.descriptors) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = Math.min(
    UnmapList.descriptors + view.getUint16(UnmapList.descriptorsLength),
    bytes.byteLength,
  );
  const ranges: UnmapRange[] = [];
  for (let at = UnmapList.descriptors; at + UnmapDescriptor.SIZE <= end; at += UnmapDescriptor.SIZE)
    ranges.push({
      lba:
        view.getUint32(at + UnmapDescriptor.lba) * 0x1_0000_0000 +
        view.getUint32(at + UnmapDescriptor.lba + 4),
      blocks: view.getUint32(at + UnmapDescriptor.blocks),
    });
  return ranges;
}
