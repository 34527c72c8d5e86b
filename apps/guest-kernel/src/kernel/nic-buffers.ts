const MEGABYTE = 2 ** 20;
/** FreeBSD's driver opens no more channels by itself. */
const CHANNELS_MAX = 8;
/** Rings of a channel, and what its headers and control messages take on the boot processor. */
const CHANNEL_BYTES = 1.25 * MEGABYTE;
/** What the disks and the bus need besides, of eight parts. */
const OTHERS_PART = 1 / 8;
/** Both buffers of an adapter, as the driver has them where there is room: 16 and 15 MiB. */
const USUAL_BYTES = 31 * MEGABYTE;
const STEP_BYTES = 64 * 1024;
/** The driver itself makes buffers no smaller. */
const LEAST_BYTES = MEGABYTE;

/**
 * Bytes of each of the two buffers of a network adapter, so that all adapters find room; undefined where they do
 * with the driver's own sizes.
 *
 * @param freeBytes - Of the boot processor's memory, where buffers and rings are. @param cpus - That are up.
 */
export function nicBufferBytes(freeBytes: number, nics: number, cpus: number): number | undefined {
  const channels = Math.min(cpus, CHANNELS_MAX);
  const forAll = freeBytes * (1 - OTHERS_PART) - nics * channels * CHANNEL_BYTES;
  if (forAll >= nics * USUAL_BYTES) return undefined;
  const each = Math.floor(forAll / nics / 2 / STEP_BYTES) * STEP_BYTES;
  return Math.max(LEAST_BYTES, each);
}
