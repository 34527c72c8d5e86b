/** Bytes of a page on the wire, whatever the guest's own page size is. */
export const PAGE_SIZE = 4096;

/** A range of guest memory by pages, in a GPADL or a GPA-direct packet: this header, then the page numbers. */
export const GpaRangeHeader = {
  byteCount: 0, // u32, not 0
  byteOffset: 4, // u32, in the first page
  SIZE: 8, // bytes; each page number behind it is a u64
} as const;

/** Bytes of one page frame number. */
export const PFN_SIZE = 8;

/** Faults of a range, as `gpaRangePages` returns them in place of a count. */
export const GpaRangeFault = {
  emptyRange: -1,
  /** The offset does not lie in the first page. */
  offsetBeyondPage: -2,
  /** Offset, count and 4095 together exceed 32 bits. */
  overflow: -3,
} as const;
export type GpaRangeFault = (typeof GpaRangeFault)[keyof typeof GpaRangeFault];

/**
 * Page numbers that a range needs, or a negative `GpaRangeFault`.
 *
 * The one place of the rule, for GPADLs and for packets: nothing is allocated. Both parameters are the
 * unsigned 32-bit fields of the header. Rule: openvmm `vmbus_ring/src/gparange.rs`.
 */
export function gpaRangePages(byteCount: number, byteOffset: number): number {
  if (byteCount === 0) return GpaRangeFault.emptyRange;
  if (byteOffset >= PAGE_SIZE) return GpaRangeFault.offsetBeyondPage;
  const rounded = byteCount + byteOffset + (PAGE_SIZE - 1);
  return rounded > 0xffff_ffff ? GpaRangeFault.overflow : Math.floor(rounded / PAGE_SIZE);
}

/** A range of guest memory, page by page. */
export interface GpaRange {
  readonly byteCount: number;
  /** Of the first byte in the first page. */
  readonly byteOffset: number;
  /**
   * Page frame numbers, each below 2^41. A plain array: readable, cloned between threads, and on any real
   * guest a packed array of small integers.
   */
  readonly pfns: readonly number[];
}

/** The first broken rule of a list of ranges. */
export type GpaRangesFault =
  | "missing-bytes"
  | "missing-range"
  | "empty-range"
  | "offset-beyond-page"
  | "overflow"
  | "missing-pfns"
  | "pfn-too-large";

/** Outcome of `parseGpaRanges`. */
export type GpaRangesOutcome =
  | { readonly kind: "ok"; readonly ranges: readonly GpaRange[] }
  | {
      readonly kind: "fault";
      readonly fault: GpaRangesFault;
      /** Index of the range at fault. */
      readonly range: number;
      /** Byte where the rule was broken. */
      readonly offset: number;
    };

const faultNames = {
  [GpaRangeFault.emptyRange]: "empty-range",
  [GpaRangeFault.offsetBeyondPage]: "offset-beyond-page",
  [GpaRangeFault.overflow]: "overflow",
} as const;

/** Above it the GPA of a page would not be an exact number; no processor has such memory. */
const PFN_LIMIT = 2 ** 41;

/**
 * Parses `count` ranges out of the first `totalBytes` of `bytes`, and checks them against each other.
 *
 * Bytes behind the last range, and a rest of `totalBytes` below 8, are ignored, as OpenVMM does; so no
 * ranges at all are in order. Whether the pages are in guest memory is for the caller to check.
 */
export function parseGpaRanges(
  bytes: Uint8Array,
  count: number,
  totalBytes: number,
): GpaRangesOutcome {
  const end = totalBytes - (totalBytes % 8);
  const ranges: GpaRange[] = [];
  let at = 0;
  const broken = (fault: GpaRangesFault): GpaRangesOutcome => ({
    kind: "fault",
    fault,
    range: ranges.length,
    offset: at,
  });
  if (bytes.byteLength < end) return broken("missing-bytes");
  const view = new DataView(bytes.buffer, bytes.byteOffset, end);
  while (ranges.length < count) {
    if (at + GpaRangeHeader.SIZE > end) return broken("missing-range");
    const byteCount = view.getUint32(at + GpaRangeHeader.byteCount, true);
    const byteOffset = view.getUint32(at + GpaRangeHeader.byteOffset, true);
    const pages = gpaRangePages(byteCount, byteOffset);
    if (pages < 0) return broken(faultNames[pages as GpaRangeFault]);
    if (pages > (end - at - GpaRangeHeader.SIZE) / PFN_SIZE) return broken("missing-pfns");
    at += GpaRangeHeader.SIZE;
    const pfns: number[] = [];
    for (; pfns.length < pages; at += PFN_SIZE) {
      const pfn = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
      if (pfn >= PFN_LIMIT) return broken("pfn-too-large");
      pfns.push(pfn);
    }
    ranges.push({ byteCount, byteOffset, pfns });
  }
  return { kind: "ok", ranges };
}

/** The bytes of ranges, one behind the other. Throws a RangeError if a range contradicts itself. */
export function emitGpaRanges(ranges: readonly GpaRange[]): Uint8Array<ArrayBuffer> {
  const pages = ranges.reduce((sum, range) => sum + range.pfns.length, 0);
  const bytes = new Uint8Array(ranges.length * GpaRangeHeader.SIZE + pages * PFN_SIZE);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { byteCount, byteOffset, pfns } of ranges) {
    if (gpaRangePages(byteCount, byteOffset) !== pfns.length)
      throw new RangeError(
        `${byteCount} bytes at offset ${byteOffset} do not take ${pfns.length} pages`,
      );
    view.setUint32(at + GpaRangeHeader.byteCount, byteCount, true);
    view.setUint32(at + GpaRangeHeader.byteOffset, byteOffset, true);
    at += GpaRangeHeader.SIZE;
    for (const pfn of pfns) {
      if (!Number.isInteger(pfn) || pfn < 0 || pfn >= PFN_LIMIT)
        throw new RangeError(`${pfn} is not a page frame number`);
      view.setUint32(at, pfn % 2 ** 32, true);
      view.setUint32(at + 4, Math.floor(pfn / 2 ** 32), true);
      at += PFN_SIZE;
    }
  }
  return bytes;
}
