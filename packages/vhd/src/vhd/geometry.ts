/** Cylinders, heads and sectors per track, as BIOSes and some readers of VHD count a disk. */
export interface Geometry {
  /** 0 to 65535. */
  readonly cylinders: number;
  /** 1 to 16; some writers store 255. */
  readonly heads: number;
  /** 1 to 255. */
  readonly sectorsPerTrack: number;
}

const MAX_CYLINDERS = 65535;

/**
 * The geometry that a VHD footer gives for a disk of `sizeBytes`.
 *
 * It covers the disk only up to a remainder, and at most 127.5 GiB: the footer's current size is what
 * counts. Source: the appendix "CHS calculation" of the Virtual Hard Disk Image Format Specification.
 */
export function chsGeometry(sizeBytes: number): Geometry {
  const sectors = Math.min(Math.floor(sizeBytes / 512), MAX_CYLINDERS * 16 * 255);
  let sectorsPerTrack = 255;
  let heads = 16;
  let tracks = Math.floor(sectors / sectorsPerTrack);
  if (sectors < MAX_CYLINDERS * 16 * 63) {
    sectorsPerTrack = 17;
    tracks = Math.floor(sectors / sectorsPerTrack);
    heads = Math.max(4, Math.floor((tracks + 1023) / 1024));
    for (const next of [31, 63]) {
      if (tracks < heads * 1024 && heads <= 16) break;
      sectorsPerTrack = next;
      heads = 16;
      tracks = Math.floor(sectors / sectorsPerTrack);
    }
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectorsPerTrack };
}
