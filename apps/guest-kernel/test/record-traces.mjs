// Records the traces of this guest that the host's tests replay:
//   node apps/guest-kernel/test/record-traces.mjs packages/hyperv-host/test/traces
import { Buffer } from "node:buffer";
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { boot } from "@hyperv-is/guest-kernel";
import manifest from "../package.json" with { type: "json" };

const [directory = "."] = process.argv.slice(2);
const MEGABYTE = 2 ** 20;

/** @param {number} fill @param {number} sizeBytes */
const ram = (fill, sizeBytes) => ({
  kind: /** @type {const} */ ("ram"),
  sizeBytes,
  identity: new Uint8Array(16).fill(fill),
});

/**
 * @typedef {object} Session
 * @property {string} name
 * @property {readonly ReturnType<typeof ram>[]} disks
 * @property {readonly string[]} says - what the guest is made to do, in words
 * @property {(machine: import("@hyperv-is/guest-kernel").Machine) => Promise<void>} play
 */

/** @type {readonly Session[]} */
const sessions = [
  {
    name: "guest-kernel-scsi",
    disks: [ram(0x11, 2 * MEGABYTE), ram(0x22, MEGABYTE)],
    says: [
      "two disks on one controller: attach, camcontrol devlist, readcap and inquiry",
      "dd writes 2 blocks of 4 KiB and copies one disk to the other in pieces of 64 KiB; sha256 reads both",
      "sub-sector and end-of-device errors, then power off (CLOSECHANNEL, GPADL_TEARDOWN, UNLOAD)",
    ],
    async play(machine) {
      await machine.exec("camcontrol devlist; camcontrol readcap da0; camcontrol inquiry da1");
      await machine.exec("dd if=/dev/random of=/dev/da0 bs=4k count=2 seek=5");
      await machine.exec("dd if=/dev/da0 of=/dev/da1 bs=64k count=8; sha256 /dev/da0 /dev/da1");
      await machine.exec("dd if=/dev/zero of=/dev/da1 bs=64k; camcontrol tur da0");
    },
  },
  {
    name: "guest-kernel-rescind",
    disks: [ram(0x33, MEGABYTE)],
    says: [
      "one disk: attach and reads, then the controller is rescinded while a dd reads it",
      "it is offered again after 50 ms, found again, written and read; power off",
    ],
    async play(machine) {
      await machine.exec("dd if=/dev/da0 of=/dev/null bs=4k count=8");
      const reading = machine.exec("dd if=/dev/da0 of=/dev/null bs=4k");
      machine.host.rescind("5c51c000-0000-4000-8000-000000000000", 50);
      await reading;
      const attached = (/** @type {string} */ line) => line.includes("da0: 1MB");
      const before = machine.dmesg.filter(attached).length;
      while (machine.dmesg.filter(attached).length === before) await machine.exec("true");
      await machine.exec("dd if=/dev/random of=/dev/da0 bs=4k count=1; sha256 /dev/da0");
    },
  },
];

for (const { name, disks, says, play } of sessions) {
  const path = join(directory, `${name}.trace`);
  const machine = await boot({
    disks,
    memoryBytes: 32 * MEGABYTE,
    trace: { path, dataLimitBytes: 2 ** 18 },
  });
  await play(machine);
  await machine.shutdown();
  const { violations } = machine.host;
  if (violations.length > 0) throw new Error(`${name}: ${JSON.stringify(violations)}`);
  writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
  rmSync(path);
  const commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], { encoding: "utf8" });
  const provenance = {
    guest: "guest-kernel of this repository",
    version: `${manifest.version}, commit ${commit.trim()}`,
    recorded: ["node apps/guest-kernel/test/record-traces.mjs DIRECTORY", ...says],
    date: new Date().toISOString().slice(0, 10),
    host: {
      controllers: [
        {
          instanceId: "5c51c000-0000-4000-8000-000000000000",
          disks: disks.map(({ sizeBytes, identity }, lun) => ({
            path: 0,
            target: 0,
            lun,
            sizeBytes,
            identity: Buffer.from(identity).toString("hex"),
          })),
        },
      ],
    },
    violations: {},
  };
  writeFileSync(join(directory, `${name}.json`), `${JSON.stringify(provenance, null, 2)}\n`);
}
