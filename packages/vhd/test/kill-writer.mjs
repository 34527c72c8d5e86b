// Writes to an image until it is killed: `node kill-writer.mjs FILE SEED FIRST UNMAPBYTES`. After each
// flush it prints the number of the last operation that the flush has made durable.
import { writeSync } from "node:fs";
import { openImageFile } from "@hyperv-is/vhd/node";
import { batchLength, fillSector, operation, SECTOR } from "./kill-plan.mjs";

const [path = "", ...numbers] = process.argv.slice(2);
const [seed = 0, first = 1, unmapBytes = 0] = numbers.map(Number);

const disk = await openImageFile(path);
const plan = { sizeBytes: disk.sizeBytes, unmapBytes };
for (let number = first; ;) {
  const end = number + batchLength(seed, number);
  for (; number < end; number++) {
    const { kind, position, length } = operation(seed, number, plan);
    if (kind === "unmap") disk.unmap(position, length);
    else {
      const bytes = new Uint8Array(length);
      const words = new Uint32Array(bytes.buffer);
      for (let at = 0; at < length; at += SECTOR)
        fillSector(words, at / 4, (position + at) / SECTOR, number);
      disk.write(position, bytes, 0, length);
    }
  }
  disk.flush();
  writeSync(1, `${number - 1}\n`);
}
