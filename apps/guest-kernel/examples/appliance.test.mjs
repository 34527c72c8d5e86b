// How a vendor tests an appliance's disk in CI: with node's own test runner, and nothing but this package.
// Run it with: node --test apps/guest-kernel/examples
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { boot } from "@hyperv-is/guest-kernel";
import { createImageFile } from "@hyperv-is/vhd/node";

/** @type {string} */
let directory;
/** @type {string} */
let image;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "appliance-"));
  image = join(directory, "appliance.vhdx");
  // A vendor has an image; this one is empty.
  const disk = await createImageFile(image, { format: "vhdx-dynamic", sizeBytes: 64 * 2 ** 20 });
  disk.close();
});

after(() => rm(directory, { recursive: true, force: true }));

test("the disk works through the protocol, and the guest keeps to its rules", async () => {
  const machine = await boot({ disks: [image] });
  try {
    assert.equal(machine.disks[0]?.name, "da0");
    const copied = await machine.exec("dd if=/dev/random of=/dev/da0 bs=1m count=8 status=none");
    assert.equal(copied.status, 0, copied.stderr);
    assert.match(
      (await machine.exec("sha256 /dev/da0")).stdout,
      /^SHA256 \(\/dev\/da0\) = [\da-f]{64}$/m,
    );
    assert.deepEqual(machine.host.violations, []);
  } finally {
    await machine.shutdown();
  }
});

test("reads that come late are still right", async () => {
  const machine = await boot({
    disks: [image],
    faults: { faults: [{ kind: "late-completion", operation: "read", every: 7, delayMs: 5 }] },
  });
  try {
    const whole = await machine.exec("sha256 -q /dev/da0");
    const pieces = await machine.exec("dd if=/dev/da0 bs=64k status=none | sha256");
    assert.equal(pieces.stdout, whole.stdout);
  } finally {
    await machine.shutdown();
  }
});
