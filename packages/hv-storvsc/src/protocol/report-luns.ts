/** Byte offsets in the answer to REPORT LUNS. Big-endian. */
export const LunList = {
  length: 0, // u32: bytes of all entries, also of those that did not fit
  entries: 8, // 8 bytes each; the LUN is in the first two
  ENTRY_SIZE: 8, // bytes
} as const;

/** The LUNs of a target. */
export interface ReportedLuns {
  /** Bytes of the whole list: ask again with `LunList.entries` more than this when LUNs are missing. */
  readonly listBytes: number;
  /** Those that are in the answer. */
  readonly luns: readonly number[];
}

/** Parses the answer to REPORT LUNS; undefined when fewer than 8 bytes are there. */
export function parseReportLuns(bytes: Uint8Array): ReportedLuns | undefined {
  if (bytes.byteLength < LunList.entries) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const listBytes = view.getUint32(LunList.length);
  const end = Math.min(LunList.entries + listBytes, bytes.byteLength);
  const luns: number[] = [];
  for (let at = LunList.entries; at + LunList.ENTRY_SIZE <= end; at += LunList.ENTRY_SIZE)
    // The two bits above tell the addressing method; both methods in use put the LUN below.
    luns.push(view.getUint16(at) & 0x3fff);
  return { listBytes, luns };
}

/**
 * Writes the list of `luns`, as many entries as `target` holds.
 *
 * @param target - At least 8 bytes.
 * @returns Bytes written.
 */
export function emitReportLuns(target: Uint8Array, luns: readonly number[]): number {
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  const room = Math.floor((target.byteLength - LunList.entries) / LunList.ENTRY_SIZE);
  const count = Math.min(luns.length, room);
  const length = LunList.entries + count * LunList.ENTRY_SIZE;
  target.fill(0, 0, length);
  view.setUint32(LunList.length, luns.length * LunList.ENTRY_SIZE);
  for (let index = 0; index < count; index++)
    view.setUint16(LunList.entries + index * LunList.ENTRY_SIZE, luns[index]!);
  return length;
}
