// What the guest that is going to be killed writes, as a pure function of a seed and a number: the
// campaign knows it without being told.

export const SECTOR = 512;

/**
 * A well-mixed u32 of three numbers.
 * @param {number} seed
 * @param {number} number
 * @param {number} salt
 */
function mixed(seed, number, salt) {
  let x = (seed ^ Math.imul(number, 0x9e3779b1) ^ Math.imul(salt, 0x85ebca6b)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * The copy with a number: `count` blocks of `blockBytes` of the source, from block `skip` on, to block
 * `seek` of the disk. At most 2 MiB, and a quarter of them into the disk's first 4 MiB, which are overwritten.
 * @param {number} seed
 * @param {number} number - From 1 on.
 * @param {{ readonly sourceBytes: number, readonly diskBytes: number }} sizes
 */
export function copyOf(seed, number, { sourceBytes, diskBytes }) {
  const blockBytes = [512, 4096, 65536][mixed(seed, number, 1) % 3] ?? SECTOR;
  const count = 1 + (mixed(seed, number, 2) % 32);
  const targetBytes = mixed(seed, number, 3) % 4 === 0 ? 1 << 22 : diskBytes;
  const skip = mixed(seed, number, 4) % (sourceBytes / blockBytes - count + 1);
  const seek = mixed(seed, number, 5) % (targetBytes / blockBytes - count + 1);
  return { blockBytes, count, skip, seek };
}
