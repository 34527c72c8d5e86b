import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import { networkAdapterId, parseMac, scsiControllerId } from "@hyperv-is/hyperv-host";
import { ControlClient } from "@hyperv-is/hyperv-host/node/control";
import { integrationUntil } from "./integration-until.js";
import { HV_KVP, nodeImage } from "./linux-programs.js";
import { StockLinux, withGuest } from "./stock-linux.js";

const directory = mkdtempSync(join(tmpdir(), "stock-linux-kvp-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const KVP = "242ff919-07db-4180-9c2e-b86cb68c8c55";

/** Its programs need seconds on an emulated processor. */
const ANSWER_TIMEOUT_MS = 60_000;

withGuest(
  "hv-kvp serves the device node of a stock Linux kernel",
  { timeout: 900_000, peers: ["mkfs.ext4", "qemu-img"] },
  async () => {
    const vm = join(directory, "control");
    const nic = networkAdapterId(0);
    const mac = "00:15:5d:0a:01:02";
    await using linux = await StockLinux.boot({
      modules: ["bus", "storage", "network", "services"],
      memoryBytes: 384 << 20,
      control: vm,
      controllers: [
        {
          instanceId: scsiControllerId(0),
          disks: [
            {
              ...{ path: 0, target: 0, lun: 0 },
              source: { kind: "image", path: nodeImage(directory) },
            },
          ],
        },
      ],
      network: {
        switches: [{ name: "lan" }],
        adapters: [{ instanceId: nic, switch: "lan", mac: parseMac(mac)! }],
      },
    });
    await linux.output(
      "mount -t ext4 /dev/sda /mnt && for d in dev proc sys; do mount -o bind /$d /mnt/$d; done",
    );
    const hvKvp = `chroot /mnt /usr/bin/node --jitless ${HV_KVP}`;
    const untilReady = async (): Promise<void> => {
      const pause = () => linux.output("sleep 1");
      await integrationUntil(linux.pc, pause, ({ kvp: { state } }) => state === "ready");
    };
    const startDaemon = async (): Promise<void> => {
      await linux.output(`${hvKvp} daemon >>/tmp/log 2>&1 & echo $! >/tmp/pid`);
      await untilReady();
    };
    using host = await ControlClient.connect(vm, ANSWER_TIMEOUT_MS);
    const green = { key: "colour", value: "green" };

    // The driver lets nobody hear of the host until it has read the answer to its registration.
    await startDaemon();
    await host.call("set-vm-kvp", green);
    await host.call("set-vm-kvp", { key: "größe", value: "42 €" });
    await host.call("remove-vm-kvp", { key: "größe" });
    expect(await host.call("get-vm-kvp", { pool: 0 })).toEqual([green]);
    const itself = await host.call("get-vm-kvp", { pool: 2 });
    expect(itself).toContainEqual({ key: "OSBuildNumber", value: await linux.output("uname -r") });

    const second = await linux.run(`${hvKvp} daemon`);
    expect(second).toMatchObject({ status: 1 });
    expect(second.output).toContain("/dev/vmbus/hv_kvp: another daemon serves it");
    await linux.output(`${hvKvp} set state ready`);
    expect(await host.call("get-vm-kvp", {})).toEqual([{ key: "state", value: "ready" }]);

    const settings = {
      dhcp: false,
      addresses: ["192.0.2.7/24", "2001:db8::7/64"],
      gateways: ["192.0.2.1"],
      dnsServers: ["192.0.2.53"],
    };
    await host.call("set-vm-ip", { adapter: nic, ...settings });
    expect(await linux.output("ip address show dev eth0")).toContain("inet 192.0.2.7/24");
    expect(await linux.output("ip route")).toContain("default via 192.0.2.1 dev eth0");
    expect(await host.call("get-vm-ip", { adapter: mac })).toEqual(settings);

    // A daemon that is killed with a request fails it at once, and the next one goes on with what there is.
    await linux.output("kill -STOP $(cat /tmp/pid)");
    const lost = expect(host.call("set-vm-kvp", { key: "lost", value: "1" })).rejects.toMatchObject(
      { code: "ERR_GUEST_REFUSED" },
    );
    await linux.output("sleep 1; kill -9 $(cat /tmp/pid)");
    await lost;
    // Nor does the next one forget the addresses, which the guest has not after a boot.
    await linux.output("ip address flush dev eth0");
    await startDaemon();
    // The host has not heard of the first one's end; the second says what it has set, before it registers.
    await linux.output(
      "n=0; until grep -q 'eth0: 192.0.2.7/24' /tmp/log; do n=$((n+1)); [ $n -lt 120 ] || exit 1; sleep 1; done",
    );
    expect(await linux.output("ip address show dev eth0")).toContain("inet 192.0.2.7/24");
    expect(await host.call("get-vm-kvp", { pool: 0 })).toEqual([green]);

    // The device goes away under the daemon, which waits for it.
    expect(linux.pc.host.rescind(KVP, 3000)).toBe(true);
    await integrationUntil(
      linux.pc,
      () => linux.output("sleep 1"),
      ({ kvp }) => kvp.state !== "ready",
    );
    await untilReady();
    expect(await host.call("get-vm-kvp", { pool: 0 })).toEqual([green]);
    expect(await linux.output("cat /tmp/log")).toContain("the driver is gone; waiting for it");
    await linux.kernelLog();
    expect(linux.unexplained).toEqual([]);
  },
);
