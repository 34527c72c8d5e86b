// Records the traces of the stock Linux guest that the host's tests replay:
//   node packages/hyperv-pc/test/record-traces.mjs packages/hyperv-host/test/traces
import { composeCommand, stockGuest } from "../../../tools/stock-guest/location.mjs";
import { addGuestItem } from "./linux-commands.mjs";
import { GUEST_ADDRESS, LINUX_NETWORK_UP, NetworkPeer, PEER_ADDRESS } from "./network-peer.mjs";
import { FIRST, NIC, SECOND, network, ram, record } from "./recording.mjs";

const [directory = ".", only] = process.argv.slice(2);
/** Ends the output of a command, before its exit status; see tools/stock-guest/init.sh. */
const OUTPUT_END = "\x1e";
const KERNEL_LINE = "nokaslr cryptomgr.notests noisapnp panic=1 stock.console=commands";

const guest = stockGuest();
if (guest === undefined) throw new Error(`there is no stock guest: ${composeCommand}`);

/** The guest's name of a disk, as a word for its shell. @param {string} instanceId @param {number} lun */
const nameOf = (instanceId, lun) =>
  `/dev/$(ls /sys/bus/vmbus/devices/${instanceId}/host*/target*/*:${lun}/block)`;

const [a, b, readOnly] = [nameOf(FIRST, 0), nameOf(FIRST, 5), nameOf(SECOND, 0)];

/** What a command of the guest's console ends with. */
const commandEnd = new RegExp(`${OUTPUT_END}\\d+\\n`);

/**
 * @typedef {(command: string) => Promise<void>} Run
 * @typedef {import("@hyperv-is/hyperv-pc/node").PcMachine} Pc
 */

const sessions = [
  {
    name: "linux-storage",
    controllers: [
      { instanceId: FIRST, disks: [ram(0, 0x41), ram(5, 0x42, { logicalSectorBytes: 4096 })] },
      { instanceId: SECOND, disks: [ram(0, 0x43, { readOnly: true })] },
    ],
    says: [
      "boots with hv_vmbus and hv_storvsc: two controllers, three disks, one with sectors of 4 KiB, one read-only",
      "writes, reads with and without the page cache, on two disks at once; sync, blkdiscard, sg_inq, sg_vpd, sg_modes",
      "unloads hv_storvsc and hv_vmbus (no UNLOAD) and loads them again, reads once more, and is restarted (no UNLOAD either)",
    ],
    /** @param {Run} run @param {Pc} pc */
    async play(run, pc) {
      await run("cat /proc/partitions");
      await run(`dd if=/dev/urandom of=${a} bs=4k count=3 seek=7 conv=fsync`);
      await run(
        `dd if=/dev/zero of=${b} bs=64k count=4 oflag=direct & ` +
          `dd if=${a} of=/dev/null bs=64k iflag=direct count=8; wait`,
      );
      await run(`sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum ${a}`);
      await run(`blkdiscard -o 0 -l 1048576 ${a}; dd if=${a} of=/dev/null bs=64k count=1`);
      await run(`sg_inq ${a}; sg_vpd -p di ${b}; sg_modes ${readOnly}`);
      // Neither a write to a read-only disk nor a read behind the end gets far.
      await run(`sg_raw -s 512 -i /dev/zero ${readOnly} 2a 00 00 00 00 00 00 00 01 00`);
      await run(`sg_raw -r 512 ${a} 28 00 7f ff ff ff 00 00 01 00`);
      await run("modprobe -r sd_mod sg hv_storvsc; modprobe -a hv_storvsc sd_mod; sleep 1");
      await run(`dd if=${a} of=/dev/null bs=64k count=4`);
      pc.serial.write("reboot -f\n");
      await pc.serial.waitFor(commandEnd);
    },
  },
  {
    name: "linux-rescind",
    controllers: [{ instanceId: FIRST, disks: [ram(0, 0x44)] }],
    says: [
      "boots with hv_vmbus and hv_storvsc; the disk is deleted in the guest while dd reads it for ever",
      "its controller is rescinded, offered again after a second, found, and its disk written and read",
    ],
    /** @param {Run} run @param {Pc} pc */
    async play(run, pc) {
      await run(
        `(while dd if=${a} of=/dev/null bs=16k iflag=direct count=8; do :; done; touch /tmp/ended) >/dev/null 2>&1 &`,
      );
      await run("sleep 1; echo 1 > /sys/block/sda/device/delete");
      await run("until [ -e /tmp/ended ]; do usleep 100000; done");
      const device = `/sys/bus/vmbus/devices/${FIRST}`;
      pc.host.rescind(FIRST, 1000);
      await run(`while [ -e ${device} ]; do usleep 100000; done`);
      await run("until [ -b /dev/sda ]; do usleep 100000; done");
      await run(`dd if=/dev/urandom of=${a} bs=4k count=2 conv=fsync; sha256sum ${a}`);
    },
  },
  {
    name: "linux-panic",
    controllers: [{ instanceId: FIRST, disks: [ram(0, 0x45)] }],
    says: [
      "boots with hv_vmbus and hv_storvsc, and panics while dd writes to the disk",
      "the dying kernel sends UNLOAD, waits for the answer, and restarts the machine",
    ],
    /** @param {Run} run @param {Pc} pc */
    async play(run, pc) {
      await run(`(dd if=/dev/zero of=${a} bs=16k oflag=direct) >/dev/null 2>&1 &`);
      pc.serial.write("usleep 100000; echo c > /proc/sysrq-trigger\n");
      await pc.serial.waitFor("Linux version");
    },
  },
  {
    name: "linux-network",
    modules: "bus,network",
    network,
    controllers: [],
    says: [
      "boots with hv_vmbus and hv_netvsc; udhcpc gets an address, pings go both ways, with and without offloads",
      "MTU of 9000 and pings of 8000 bytes; RSS hashing of UDP; multicast and promiscuous filters",
      "the link goes down and comes back; the adapter is rescinded, offered again after a second, and used again",
    ],
    /** @param {Run} run @param {Pc} pc */
    async play(run, pc) {
      const lan = pc.host.switches.get("lan");
      if (lan === undefined) throw new Error("there is no switch");
      const peer = new NetworkPeer(lan);
      await run(LINUX_NETWORK_UP);
      await run(`ping -c 3 -i 0.1 ${PEER_ADDRESS}; ping -c 1 -s 1400 ${PEER_ADDRESS}`);
      for (let number = 1; number <= 3; number++) await peer.ping(number, 56 + 400 * number);
      await run("ethtool -k eth0; ethtool -K eth0 tx off rx off sg off; ethtool -x eth0");
      await run(`ping -c 1 ${PEER_ADDRESS}; ethtool -K eth0 tx on rx on sg on`);
      await run("ip link set eth0 promisc on; ip link set eth0 promisc off");
      await run("ip link set eth0 allmulticast on; ip link set eth0 allmulticast off");
      await run("ethtool -N eth0 rx-flow-hash udp4 sd; ethtool -N eth0 rx-flow-hash udp4 sdfn");
      await run(`ip link set eth0 mtu 9000; ping -c 2 -i 0.1 -s 8000 ${PEER_ADDRESS}`);
      await peer.ping(4, 8000);
      for (const isLinkUp of [false, true]) {
        pc.host.changeAdapter(NIC, { isLinkUp });
        await run("sleep 6");
      }
      pc.host.rescind(NIC, 1000);
      await run("while [ -e /sys/class/net/eth0 ]; do usleep 10000; done");
      await run(LINUX_NETWORK_UP);
      await run(`ping -c 2 -i 0.1 ${PEER_ADDRESS}; dmesg | tail -3; ip link set eth0 down`);
    },
  },
  {
    name: "linux-services",
    modules: "bus,network,services",
    network,
    controllers: [],
    says: [
      "boots with hv_vmbus, hv_netvsc and hv_utils; heartbeat; hv_kvp_daemon comes late, and key-value pairs with it",
      "the host enumerates what the guest says of itself, sets, reads, enumerates and deletes keys, some of which are not there",
      "the host reads the addresses of the adapter, and of one that does not exist; the guest refuses to set them (it has no hv_set_ifconfig)",
      "the guest's clock is put wrong, and set by the host; the host restarts the guest, and once it is up again has it shut down",
    ],
    /** @param {Run} run @param {Pc} pc */
    async play(run, pc) {
      /** Asks the guest, which may refuse. @param {Parameters<Pc["host"]["request"]>[0]} request */
      const ask = async (request) => {
        const answer = await pc.host.request(request).catch((error) => error);
        process.stderr.write(`${JSON.stringify(request)}: ${JSON.stringify(answer)}\n`);
      };
      /** @param {0 | 1 | 2} operation @param {string} key */
      const askItem = (operation, key, value = "") =>
        ask({ kind: "kvp", request: { operation, pool: 0, key, value } });
      const daemonUp = async () => {
        await run("hv_kvp_daemon");
        while (pc.host.stats().integration?.kvp.state !== "ready") await run("usleep 100000");
      };
      await run(`sleep 2; ip addr add ${GUEST_ADDRESS}/24 dev eth0; ip link set eth0 up`);
      await run(
        `ip route add default via ${PEER_ADDRESS}; echo nameserver 192.0.2.53 > /etc/resolv.conf`,
      );
      await daemonUp();
      await run(addGuestItem("service", "up since the morning"));
      await askItem(1, "colour", "blue");
      await askItem(1, "größe", "42 €");
      await askItem(1, "colour", "green");
      await askItem(0, "colour");
      await askItem(0, "absent");
      await askItem(2, "größe");
      await askItem(2, "größe");
      for (const pool of [0, 1, 2, 3]) await ask({ kind: "kvp-enumerate", pool });
      const [adapter] = pc.host.stats().adapters ?? [];
      const mac = adapter?.mac.toUpperCase() ?? "";
      await ask({ kind: "kvp", request: { operation: 4, adapterId: mac } });
      await ask({ kind: "kvp", request: { operation: 4, adapterId: "02:00:00:00:00:01" } });
      const settings = { dhcp: true, addresses: [], gateways: [], dnsServers: [] };
      await ask({ kind: "kvp", request: { operation: 5, adapterId: `{${NIC}}`, settings } });
      await run("date -s '2020-01-01 00:00:00'");
      await ask({ kind: "time", sync: true });
      await run("sleep 6; date");
      await ask({ kind: "shutdown", action: "restart", force: false, message: "for an update" });
      await pc.serial.waitFor(commandEnd);
      await daemonUp();
      await run("sleep 3");
      await ask({ kind: "shutdown", action: "power-off", force: true, message: "" });
      await pc.ended;
    },
  },
].filter(({ name }) => only === undefined || name === only);

for (const { name, controllers, says, play, ...session } of sessions)
  await record({
    directory,
    name,
    boot: {
      ...{ kernel: guest.kernel, initrd: guest.initrd, bios: guest.directory },
      append:
        session.modules === undefined
          ? KERNEL_LINE
          : `${KERNEL_LINE} stock.modules=${session.modules}`,
      ...(session.network && { network: session.network }),
    },
    controllers,
    provenance: {
      guest: "Linux, Debian's 32-bit kernel, unmodified",
      version: guest.manifest.kernelRelease,
      recorded: ["node packages/hyperv-pc/test/record-traces.mjs DIRECTORY", ...says],
    },
    async play(pc) {
      await pc.serial.waitFor(commandEnd);
      await play(async (command) => {
        pc.serial.write(`${command}\n`);
        await pc.serial.waitFor(commandEnd);
      }, pc);
    },
  });
process.exit(0);
