import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterAll, expect } from "vitest";
import {
  networkAdapterId,
  parseMac,
  scsiControllerId,
  standardDevices,
} from "@hyperv-is/hyperv-host";
import { ControlClient } from "@hyperv-is/hyperv-host/node/control";
import { hostCommand } from "./host-command.js";
import { beatAndKeepTime, exchangeKeyValuePairs } from "./linux-services.js";
import { GUEST_ADDRESS, LINUX_NETWORK_UP, NetworkPeer, PEER_ADDRESS } from "./network-peer.mjs";
import { StockLinux, withGuest } from "./stock-linux.js";

const directory = mkdtempSync(join(tmpdir(), "stock-linux-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const bootedOnce = join(directory, "booted");
/** Control socket of the machine. */
const vm = join(directory, "control");

/** Its daemon runs scripts for its addresses, on an emulated processor: longer than any machine that is busy takes. */
const ANSWER_TIMEOUT_MS = 60_000;

/** All that the other campaigns `stock-linux-*` go into, in one boot. */
withGuest(
  "a stock Linux guest finds what the host offers, uses its disk, its network adapter and its integration components, and is shut down",
  { timeout: 240_000 },
  async () => {
    const instanceId = scsiControllerId(0);
    const disk = {
      ...{ path: 0, target: 0, lun: 0 },
      source: { kind: "ram", sizeBytes: 2 << 20, identity: new Uint8Array(16).fill(0x5a) },
    } as const;
    const nic = networkAdapterId(0);
    const mac = "00:15:5d:0a:01:02";
    await using linux = await StockLinux.boot({
      modules: ["bus", "storage", "network", "services"],
      bootedOnce,
      control: vm,
      controllers: [{ instanceId, disks: [disk] }],
      network: {
        switches: [{ name: "lan" }],
        adapters: [{ instanceId: nic, switch: "lan", mac: parseMac(mac)! }],
      },
    });
    const devices = await linux.devices();
    const offered = [instanceId, nic, ...standardDevices(0).map((device) => device.instanceId)];
    expect(devices.map((device) => device.instanceId)).toEqual(offered.sort());
    expect(devices.find((device) => device.instanceId === instanceId)?.driver).toBe("hv_storvsc");
    expect(devices.find((device) => device.instanceId === nic)?.driver).toBe("hv_netvsc");
    expect(await linux.kernelLog()).toContain("hv_vmbus: Vmbus version:5.3");

    const hash = "dd if=/dev/sda bs=64k iflag=direct 2>/dev/null | sha256sum";
    const before = await linux.output(hash);
    await linux.output("dd if=/dev/urandom of=/dev/sda bs=64k count=16 conv=fsync");
    const written = await linux.output(hash);
    expect(written).not.toBe(before);
    expect(await linux.output(hash)).toBe(written);

    const { host } = linux.pc;
    const peer = new NetworkPeer(host.switches.get("lan")!);
    const ping = `ping -q -c 2 -i 0.1 -s 1400 ${PEER_ADDRESS}`;
    const answered = "2 packets transmitted, 2 packets received";
    expect(await linux.output(LINUX_NETWORK_UP)).toContain(`lease of ${GUEST_ADDRESS} obtained`);
    expect(await linux.output("cat /sys/class/net/eth0/address")).toBe(mac);
    expect(await linux.output(ping)).toContain(answered);
    await peer.ping(1);
    // A driver that asks finds the link down; one that is told does not listen in its first five minutes.
    host.changeAdapter(nic, { isLinkUp: false });
    await linux.output("ip link set eth0 mtu 9000");
    expect(await linux.output("cat /sys/class/net/eth0/carrier")).toBe("0");
    host.changeAdapter(nic, { isLinkUp: true });
    host.rescind(nic, 100);
    await linux.output("while [ -e /sys/class/net/eth0 ]; do usleep 10000; done");
    await linux.output(LINUX_NETWORK_UP);
    expect(await linux.output(ping)).toContain(answered);
    await peer.ping(2, 1400);
    expect(host.stats().adapters).toMatchObject([{ version: "6.1", receiveSlotsBusy: 0 }]);
    await expect(linux.pc.save()).rejects.toMatchObject({ code: "ERR_BUSY" });

    await linux.output(`ip route add default via ${PEER_ADDRESS}`);
    using client = await ControlClient.connect(vm, ANSWER_TIMEOUT_MS);
    await beatAndKeepTime(linux, client);
    const ip = { mac, address: GUEST_ADDRESS, gateway: PEER_ADDRESS };
    await exchangeKeyValuePairs(linux, client, ip);

    const log = await linux.kernelLog();
    expect(log).not.toMatch(/hv_netvsc.*(invalid|error|fail)/i);
    await hostCommand("vm", "shutdown", vm);
    expect(await linux.pc.ended).toBe("powered-off");
    expect(linux.pc.serial.transcript).toContain("reboot: Power down");
    expect(linux.unexplained).toEqual([]);
  },
);

withGuest("a stock Linux guest restarts when the host asks", { timeout: 240_000 }, async () => {
  await using linux = await StockLinux.boot({
    modules: ["bus", "services"],
    bootedOnce,
    control: vm,
  });
  await linux.untilIntegration(({ shutdown }) => shutdown.state === "ready");
  await hostCommand("vm", "restart", vm);
  await linux.pc.serial.waitFor("reboot: Restarting system");
  // That it boots is for the campaign `stock-linux-restarts`.
  while (linux.pc.resets === 0) await setImmediate();
  expect(linux.unexplained).toEqual([]);
});
