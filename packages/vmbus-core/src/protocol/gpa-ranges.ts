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
