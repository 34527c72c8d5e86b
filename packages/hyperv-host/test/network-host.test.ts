import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { createGuestMemory } from "@hyperv-is/platform-node";
import { networkAdapterId, type NetworkConfig } from "../src/index.js";
import { NodeHost } from "../src/node/index.js";
import { macOf } from "./switch-rig.js";

const instanceId = networkAdapterId(0);
const hosts: NodeHost[] = [];
const directories: string[] = [];
afterEach(async () => {
  for (const host of hosts.splice(0)) await host.stop();
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true });
});

async function start(network?: NetworkConfig): Promise<NodeHost> {
  const memory = createGuestMemory(2 ** 22);
  const host = await NodeHost.start({
    memory,
    vps: 1,
    controllers: [],
    ...(network && { network }),
    faults: { faults: [{ kind: "dropped-frame" }] },
  });
  hosts.push(host);
  return host;
}

const lan: NetworkConfig = {
  switches: [{ name: "lan" }],
  adapters: [{ instanceId, mac: macOf(1), switch: "lan" }],
};

test("a host has its network on a thread of its own", async () => {
  const directory = mkdtempSync(join(tmpdir(), "hyperv-network-"));
  directories.push(directory);
  const path = join(directory, "hn0.pcapng");
  const host = await start(lan);
  const stats = await host.stats();
  expect(stats.workers).toEqual([[], []]);
  expect(stats.channels.map((channel) => channel.instanceId)).toContain(instanceId);
  expect(stats.adapters).toMatchObject([
    { instanceId, mac: "00:15:5d:0a:01:01", version: null, isLinkUp: true },
  ]);
  await host.changeAdapter(instanceId, { isLinkUp: false, allowMacSpoofing: true });
  expect((await host.stats()).adapters).toMatchObject([{ isLinkUp: false }]);
  await host.startCapture({ instanceId, path });
  await host.stopCapture(instanceId);
  expect(readFileSync(path).readUInt32LE(0)).toBe(0x0a0d_0d0a);
  await host.setFaults({ faults: [{ kind: "duplicate-frame" }] });
  expect((await host.stats()).faults).toEqual([{ kind: "duplicate-frame", happened: 0 }]);
});

test("says what cannot be done, and goes on", async () => {
  const host = await start(lan);
  const other = networkAdapterId(1);
  const failure = { name: "NetworkError", code: "ERR_NETWORK" };
  await expect(host.changeAdapter(other, { isLinkUp: true })).rejects.toMatchObject(failure);
  await expect(
    host.changeAdapter(instanceId, { vlan: { mode: "access", id: 5000 } }),
  ).rejects.toMatchObject(failure);
  await expect(host.startCapture({ instanceId, path: "/no/where" })).rejects.toMatchObject({
    code: "ENOENT",
  });
  await host.changeAdapter(instanceId, { isLinkUp: false });
  await host.stop();
  await expect(host.changeAdapter(instanceId, { isLinkUp: true })).rejects.toMatchObject({
    code: "ERR_WORKER_ENDED",
  });
  expect((await host.stats()).adapters).toEqual([]);
});

test("does not start with a network that cannot be, nor without one is there any", async () => {
  await expect(start({ ...lan, switches: [] })).rejects.toMatchObject({
    name: "NetworkError",
    message: "there is no switch lan",
  });
  const host = await start();
  expect((await host.stats()).adapters).toEqual([]);
  await expect(host.stopCapture(instanceId)).rejects.toMatchObject({
    message: "the machine has no network",
  });
});
