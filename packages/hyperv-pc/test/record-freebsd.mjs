// Records the sessions of a FreeBSD that the tests look at, their consoles and their traces; see docs/freebsd-guest.md:
//   HYPERV_IS_FREEBSD_ISO=... HYPERV_IS_FREEBSD_ROOT=... node packages/hyperv-pc/test/record-freebsd.mjs "14.0-STABLE, built from ..." [NAME]
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { GUEST_ADDRESS, NetworkPeer, PEER_ADDRESS } from "./network-peer.mjs";
import { FIRST, NIC, SECOND, network, ram, record, writeProvenance } from "./recording.mjs";

/** @typedef {import("@hyperv-is/hyperv-pc/node").PcMachine} Pc */

const [version, only] = process.argv.slice(2);
const { HYPERV_IS_FREEBSD_ISO: cdrom, HYPERV_IS_FREEBSD_ROOT: root } = process.env;
if (version === undefined || cdrom === undefined || root === undefined)
  throw new Error(
    "give the kernel's version and origin, and name the images: docs/freebsd-guest.md",
  );

const traces = fileURLToPath(new URL("../../hyperv-host/test/traces/", import.meta.url));
const fixtures = fileURLToPath(new URL("fixtures/freebsd/", import.meta.url));
const PROMPT = "hvis> ";

const directory = mkdtempSync(join(tmpdir(), "hyperv-is-freebsd-"));

/** A disk with the root, and its own copy of the user's image. @param {string} image */
const rootDisk = (image) => ({
  instanceId: FIRST,
  disks: [
    { path: 0, target: 0, lun: 0, source: { kind: /** @type {const} */ ("image"), path: image } },
  ],
});

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

/** Has the guest, which takes commands, carry them out. @param {Pc} pc @param {readonly string[]} commands */
async function type(pc, commands) {
  for (const command of commands) {
    pc.serial.write(`${command}\n`);
    await pc.serial.waitFor(PROMPT);
  }
}

const sessions = [
  {
    name: "freebsd-storage",
    console: "boot",
    more: [{ instanceId: SECOND, disks: [ram(0, 0x41), ram(3, 0x42, { readOnly: true })] }],
    network: undefined,
    says: [
      "boots from a CD-ROM with GRUB, its root on da0; heartbeat, KVP, shutdown, time synchronisation, VSS, two SCSI controllers and the keyboard attach",
      "mounts the root, makes it writable, writes, syncs; writes, reads and trims da1; reads da2, which refuses to be written; restarts",
      "second boot: reads what the first wrote, writes a file, and switches the machine off",
    ],
    /** @param {Pc} pc */
    async play(pc) {
      await type(pc, [...firstBoot, "reboot"]);
      await type(pc, secondBoot);
      pc.serial.write("poweroff\n");
      await pc.ended;
    },
  },
  {
    name: "freebsd-network",
    console: "network",
    more: [],
    network,
    says: [
      "boots from a CD-ROM with GRUB, its root on da0; hn0 attaches, gets link and address, and pings go both ways",
      "the link goes down and comes back; MTU of 9000 and pings of 8000 bytes",
      "the adapter is rescinded, offered again after a second, and used again; the machine is switched off",
    ],
    /** @param {Pc} pc */
    async play(pc) {
      const lan = pc.host.switches.get("lan");
      if (lan === undefined) throw new Error("there is no switch");
      const peer = new NetworkPeer(lan);
      const up = `address hn0 ${GUEST_ADDRESS} 255.255.255.0`;
      const ping = `ping ${PEER_ADDRESS} 2 56`;
      await type(pc, ["get dev.hn.0.%pnpinfo", "get dev.hn.0.nvs_version", up, "interface hn0"]);
      await type(pc, [ping, `ping ${PEER_ADDRESS} 1 1400`]);
      await peer.ping(1);
      await peer.ping(2, 1400);
      for (const isLinkUp of [false, true]) {
        pc.host.changeAdapter(NIC, { isLinkUp });
        await pc.serial.waitFor(`hn0: link state changed to ${isLinkUp ? "UP" : "DOWN"}`);
      }
      await type(pc, ["mtu hn0 9000", `ping ${PEER_ADDRESS} 1 8000`]);
      await peer.ping(3, 8000);
      pc.host.rescind(NIC, 1000);
      await pc.serial.waitFor("hn0: detached");
      await pc.serial.waitFor("hn0: link state changed to UP");
      await type(pc, [up, ping, "interface hn0"]);
      pc.serial.write("poweroff\n");
      await pc.ended;
    },
  },
  {
    name: "freebsd-services",
    console: "services",
    more: [],
    network: undefined,
    says: [
      "boots from a CD-ROM with GRUB, its root on da0; heartbeat; the host has the guest set its clock, and tells it the time",
      "KVP and VSS agree on versions when their devices are opened; nobody reads a key that the host sets, and the guest gives up after 5 s",
      "the guest refuses to be restarted, which its version of shutdown does not know, and is shut down by the host",
    ],
    /** @param {Pc} pc */
    async play(pc) {
      /** Asks the guest, which may refuse. @param {Parameters<Pc["host"]["request"]>[0]} request */
      const ask = async (request) => {
        const answer = await pc.host.request(request).catch((error) => error);
        process.stderr.write(`\n${JSON.stringify(request)}: ${JSON.stringify(answer)}\n`);
      };
      /** @param {"power-off" | "restart"} action */
      const end = (action) => ask({ kind: "shutdown", action, force: false, message: "" });
      await type(pc, ["sleep 3000", "date"]);
      await ask({ kind: "time", offsetMs: 86_400_000, sync: true });
      await type(pc, ["sleep 100", "date"]);
      await ask({ kind: "time", offsetMs: 0, sync: false });
      await type(pc, ["sleep 6000", "date"]);
      await type(pc, ["hold /dev/hv_kvp_dev 4", "hold /dev/hv_fsvss_dev", "sleep 500"]);
      await ask({ kind: "kvp", request: { operation: 1, pool: 0, key: "colour", value: "blue" } });
      await end("restart");
      await end("power-off");
      await pc.ended;
    },
  },
].filter(({ name }) => only === undefined || name === only);

for (const { name, console: log, more, network: lan, says, play } of sessions) {
  const image = join(directory, `${name}${root.endsWith(".vhd") ? ".vhd" : ".vhdx"}`);
  copyFileSync(root, image);
  const provenance = {
    guest:
      "FreeBSD/i386 with its own drivers, unmodified, in a small kernel of its own configuration",
    version,
    recorded: [
      "node packages/hyperv-pc/test/record-freebsd.mjs VERSION, with the images of docs/freebsd-guest.md",
      ...says,
    ],
  };
  const written = await record({
    directory: traces,
    name,
    boot: { cdrom, ...(lan && { network: lan }) },
    controllers: [rootDisk(image), ...more],
    provenance,
    async play(pc) {
      await pc.serial.waitFor(PROMPT);
      await play(pc);
    },
  });
  writeFileSync(join(fixtures, `${log}.txt`), written);
  writeProvenance(join(fixtures, `${log}.json`), {
    ...provenance,
    date: new Date().toISOString().slice(0, 10),
    trace: `the same session: packages/hyperv-host/test/traces/${name}.trace.gz`,
  });
}
rmSync(directory, { recursive: true });
process.exit(0);
