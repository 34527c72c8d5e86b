// A guest on a disk whose image cannot grow: `node full-file-system-guest.mjs DIRECTORY FORMAT`, where
// DIRECTORY is an empty file system of 24 MiB. Prints one line of JSON with what happened.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { boot } from "@hyperv-is/guest-kernel";
import { checkImageFile, createImageFile, openImageFile } from "@hyperv-is/vhd/node";

const MIB = 1 << 20;
const [directory = "", format = ""] = process.argv.slice(2);
const path = join(directory, `image.${format.slice(0, format.indexOf("-"))}`);
const ballast = join(directory, "ballast");
writeFileSync(ballast, new Uint8Array(8 * MIB));
const image = await createImageFile(path, {
  format: /** @type {import("@hyperv-is/vhd").ImageFormat} */ (format),
  sizeBytes: 64 * MIB,
});
image.close();

const machine = await boot({ disks: [path] });
const flushed = await machine.exec("dd if=/dev/random of=/dev/da0 bs=64k count=64 status=none");
const hash = await machine.exec("dd if=/dev/da0 bs=64k count=64 status=none | sha256");
const overflowing = await machine.exec("dd if=/dev/random of=/dev/da0 bs=64k seek=64 status=none");
const kept = await machine.exec("dd if=/dev/da0 bs=64k count=64 status=none | sha256");
const { controllers } = await machine.host.stats();
rmSync(ballast);
const afterwards = await machine.exec(
  "dd if=/dev/random of=/dev/da0 bs=64k seek=512 count=32 status=none && dd if=/dev/da0 bs=64k skip=512 count=32 status=none | sha256",
);
const messages = await machine.exec("dmesg | grep '(da0:storvsc0'");
await machine.shutdown();

const findings = await checkImageFile(path);
const again = await openImageFile(path, { readOnly: true });
/** @param {number} position @param {number} length */
const hashOf = (position, length) => {
  const bytes = new Uint8Array(length);
  again.read(position, bytes, 0, length);
  return `${createHash("sha256").update(bytes).digest("hex")}\n`;
};
const stored = [hashOf(0, 4 * MIB), hashOf(32 * MIB, 2 * MIB)];
again.close();
const judge =
  format.startsWith("vhdx") && spawnSync("qemu-img", ["--version"]).status === 0
    ? spawnSync("qemu-img", ["check", path], { encoding: "utf8" }).stdout
    : "No errors (not asked)";
console.log(
  JSON.stringify({
    flushed: flushed.status,
    overflowing: [overflowing.status, overflowing.stderr],
    hashes: [hash.stdout, kept.stdout, stored[0]],
    afterwards: [afterwards.status, afterwards.stderr],
    later: [afterwards.stdout, stored[1]],
    messages: messages.stdout.split("\n"),
    lastError: controllers[0]?.disks[0]?.lastError,
    violations: machine.host.violations,
    findings,
    judge,
  }),
);
