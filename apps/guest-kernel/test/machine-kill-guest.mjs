// Boots a guest that copies until it is killed: `node machine-kill-guest.mjs IMAGE SOURCE SEED FIRST`.
// dd flushes the disk before it ends; after each copy its number goes to standard output.
import { writeSync } from "node:fs";
import { boot } from "@hyperv-is/guest-kernel";
import { copyOf } from "./machine-kill-plan.mjs";

const [path = "", source = "", ...numbers] = process.argv.slice(2);
const [seed = 0, first = 1] = numbers.map(Number);

const machine = await boot({ disks: [path, { kind: "image", path: source, readOnly: true }] });
const sizes = {
  diskBytes: machine.disks[0]?.sizeBytes ?? 0,
  sourceBytes: machine.disks[1]?.sizeBytes ?? 0,
};
for (let number = first; ; number++) {
  const { blockBytes, count, skip, seek } = copyOf(seed, number, sizes);
  const operands = `bs=${blockBytes} count=${count} skip=${skip} seek=${seek} status=none`;
  const { status, stderr } = await machine.exec(`dd if=/dev/da1 of=/dev/da0 ${operands}`);
  if (status !== 0) throw new Error(`copy ${number} ended with ${status}: ${stderr}`);
  writeSync(1, `${number}\n`);
}
