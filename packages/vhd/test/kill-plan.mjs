// What the process that is going to be killed writes, as a pure function of a seed and a number: the
// campaign knows it without being told.

export const SECTOR = 512;

/**
 * A well-mixed u32 of three numbers.
 * @param {number} seed
 * @param {number} number
 * @param {number} salt
 */
function mixed(seed, number, salt) {
  let x =
    Math.imul(seed ^ Math.imul(number + 1, 0x9e3779b1), 0x85ebca6b) ^ Math.imul(salt, 0xc2b2ae35);
  x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d);
  x = Math.imul(x ^ (x >>> 12), 0x297a2d39);
  return (x ^ (x >>> 15)) >>> 0;
}

/**
 * The operation with a number: a write, or (every sixteenth, where the image can) an unmap of a block.
 * @param {number} seed
 * @param {number} number - From 1 on; it is also the stamp that the write puts into its sectors.
 * @param {{ readonly sizeBytes: number, readonly unmapBytes: number }} disk - `unmapBytes` 0: no unmaps.
 * @returns {{ readonly kind: "write" | "unmap", readonly position: number, readonly length: number }}
 */
export function operation(seed, number, { sizeBytes, unmapBytes }) {
  if (unmapBytes > 0 && mixed(seed, number, 1) % 16 === 0) {
    const position = (mixed(seed, number, 2) % (sizeBytes / unmapBytes)) * unmapBytes;
    return { kind: "unmap", position, length: unmapBytes };
  }
  const most = [1, 8, 64, 600][mixed(seed, number, 3) % 4] ?? 1;
  const sectors = 1 + (mixed(seed, number, 4) % most);
  // A quarter goes to the first MiB, so that much is overwritten.
  const range = mixed(seed, number, 5) % 4 === 0 ? Math.min(1 << 20, sizeBytes) : sizeBytes;
  const first = mixed(seed, number, 6) % (range / SECTOR - sectors + 1);
  return { kind: "write", position: first * SECTOR, length: sectors * SECTOR };
}

/**
 * How many operations are done before the flush that follows operation `number`.
 * @param {number} seed
 * @param {number} number
 */
export function batchLength(seed, number) {
  return 1 + (mixed(seed, number, 7) % 12);
}

/**
 * Fills one sector: its number, the stamp, then words made of both.
 * @param {Uint32Array} words
 * @param {number} from - First word of the sector.
 * @param {number} sector
 * @param {number} stamp
 */
export function fillSector(words, from, sector, stamp) {
  words[from] = sector + 1;
  words[from + 1] = stamp;
  for (let at = 2; at < SECTOR / 4; at++) words[from + at] = mixed(sector, stamp, at);
}

/**
 * The stamp in a sector: 0 when it is all zeros, -1 when it holds what was never written to it.
 * @param {Uint32Array} words
 * @param {number} from
 * @param {number} sector
 */
export function stampOf(words, from, sector) {
  const stamp = words[from + 1] ?? 0;
  for (let at = 0; at < SECTOR / 4; at++) {
    const word = words[from + at];
    const expected =
      words[from] === 0 ? 0 : at === 0 ? sector + 1 : at === 1 ? stamp : mixed(sector, stamp, at);
    if (word !== expected) return -1;
  }
  return words[from] === 0 ? 0 : stamp;
}
