// A kernel thread that keeps a disk busy on its CPU: writes a pattern of its own, and reads it back by the fast path.
import { DiskOperation, Outcome } from "@hyperv-is/hv-storvsc";

/** @import { KthreadContext } from "@hyperv-is/guest-kernel" */

const BLOCK_BYTES = 4096;

/**
 * @typedef {object} Load
 * @property {string} disk
 * @property {number} first byte of the region that is this thread's
 * @property {number} blocks of 4 KiB in it
 * @property {number} depth requests in flight
 * @property {number} rounds how often the region is read
 */

/** @param {KthreadContext} context */
export async function main(context) {
  const { disk: name, first, blocks, depth, rounds } = /** @type {Load} */ (context.args);
  const disk = await context.disk(name);
  const pattern = context.allocateBuffer(blocks * BLOCK_BYTES);
  const words = new Uint32Array(pattern.bytes.buffer, pattern.bytes.byteOffset, blocks * 1024);
  for (let word = 0; word < words.length; word++) words[word] = (first + word * 4) ^ context.cpu;
  await disk.write(first, pattern.address, blocks * BLOCK_BYTES);
  await disk.flush();
  const target = context.allocateBuffer(depth * BLOCK_BYTES);
  const wrong = await readAll(context, disk, first, blocks * rounds, depth, target, words);
  return { cpu: context.cpu, reads: blocks * rounds, wrong };
}

/**
 * @param {KthreadContext} context
 * @param {import("@hyperv-is/guest-kernel").KthreadDisk} disk
 * @param {number} first
 * @param {number} reads
 * @param {number} depth
 * @param {{ address: number, bytes: Uint8Array }} target
 * @param {Uint32Array} words what the region holds
 * @returns {Promise<number>} words that are not what was written
 */
function readAll({ memory }, disk, first, reads, depth, target, words) {
  const blocks = words.length / 1024;
  let next = 0;
  let done = 0;
  let wrong = 0;
  return new Promise((resolve, reject) => {
    /** @type {number[]} */
    const blockOf = [];
    const queue = disk.openQueue(depth, {
      complete(slot, outcome) {
        if (outcome !== Outcome.ok) return reject(new Error(`outcome ${outcome}`));
        const at = (target.address + slot * BLOCK_BYTES) >>> 2;
        const block = blockOf[slot] ?? 0;
        for (let word = 0; word < 1024; word++)
          if ((memory.words[at + word] ?? 0) >>> 0 !== words[block * 1024 + word]) wrong++;
        if (++done === reads) resolve(wrong);
        else if (next < reads) submit(slot);
      },
    });
    /** @param {number} slot */
    const submit = (slot) => {
      const block = next++ % blocks;
      blockOf[slot] = block;
      const lba = (first + block * BLOCK_BYTES) / disk.blockBytes;
      const run = {
        runs: 1,
        lengthBytes: BLOCK_BYTES,
        runAddress: () => target.address + slot * BLOCK_BYTES,
        runLength: () => BLOCK_BYTES,
      };
      const count = BLOCK_BYTES / disk.blockBytes;
      if (!queue.submit(DiskOperation.read, lba, count, run, slot))
        reject(new Error("the disk is gone"));
    };
    for (let slot = 0; slot < depth && next < reads; slot++) submit(slot);
    queue.flush();
  });
}
