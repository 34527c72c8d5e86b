// Records the session of a FreeBSD that the tests look at, its console and its trace; see docs/freebsd-guest.md:
//   HYPERV_IS_FREEBSD_ISO=... HYPERV_IS_FREEBSD_ROOT=... node packages/hyperv-pc/test/record-freebsd.mjs "14.0-STABLE, built from ..."
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { FIRST, SECOND, ram, record, writeProvenance } from "./recording.mjs";

const [version] = process.argv.slice(2);
const { HYPERV_IS_FREEBSD_ISO: cdrom, HYPERV_IS_FREEBSD_ROOT: root } = process.env;
if (version === undefined || cdrom === undefined || root === undefined)
  throw new Error(
    "give the kernel's version and origin, and name the images: docs/freebsd-guest.md",
  );

const traces = fileURLToPath(new URL("../../hyperv-host/test/traces/", import.meta.url));
const fixtures = fileURLToPath(new URL("fixtures/freebsd/", import.meta.url));
const NAME = "freebsd-storage";
const PROMPT = "hvis> ";

const directory = mkdtempSync(join(tmpdir(), "hyperv-is-freebsd-"));
const image = join(directory, root.endsWith(".vhd") ? "root.vhd" : "root.vhdx");
copyFileSync(root, image);

const firstBoot = [
  "get kern.disks",
  "get dev.storvsc.0.%pnpinfo",
  "get dev.storvsc.1.%pnpinfo",
  ...["disk /dev/da0", "disk /dev/da1", "disk /dev/da2"],
  "get kern.geom.confxml",
  "remount / rw",
  "write /mnt/a 0 100000 7",
  "hash /mnt/a 0 100000",
  "write /dev/da1 0 65536 11",
  "hash /dev/da1 0 65536",
  "trim /dev/da1 0 32768",
  "write /dev/da2 0 512 1",
  "hash /dev/da2 0 65536",
  "sync",
];
const secondBoot = [
  "hash /mnt/a 0 100000",
  "cat /etc/hvis",
  "remount / rw",
  "put /mnt/b written by the second boot",
  "cat /mnt/b",
];

const provenance = {
  guest:
    "FreeBSD/i386 with its own drivers, unmodified, in a small kernel of its own configuration",
  version,
  recorded: [
    "node packages/hyperv-pc/test/record-freebsd.mjs VERSION, with the images of docs/freebsd-guest.md",
    "boots from a CD-ROM with GRUB, its root on da0; heartbeat, KVP, shutdown, time synchronisation, VSS, two SCSI controllers and the keyboard attach",
    "mounts the root, makes it writable, writes, syncs; writes, reads and trims da1; reads da2, which refuses to be written; restarts",
    "second boot: reads what the first wrote, writes a file, and switches the machine off",
  ],
};

const log = await record({
  directory: traces,
  name: NAME,
  boot: { cdrom },
  controllers: [
    {
      instanceId: FIRST,
      disks: [{ path: 0, target: 0, lun: 0, source: { kind: "image", path: image } }],
    },
    { instanceId: SECOND, disks: [ram(0, 0x41), ram(3, 0x42, { readOnly: true })] },
  ],
  provenance,
  async play(pc) {
    /** @param {readonly string[]} commands @param {string} last - ends the boot. */
    const boot = async (commands, last) => {
      for (const command of [...commands, last]) {
        await pc.serial.waitFor(PROMPT);
        pc.serial.write(`${command}\n`);
      }
    };
    await boot(firstBoot, "reboot");
    await boot(secondBoot, "poweroff");
    await pc.ended;
  },
});
writeFileSync(join(fixtures, "boot.txt"), log);
writeProvenance(join(fixtures, "boot.json"), {
  ...provenance,
  date: new Date().toISOString().slice(0, 10),
  trace: `the same session: packages/hyperv-host/test/traces/${NAME}.trace.gz`,
});
rmSync(directory, { recursive: true });
process.exit(0);
