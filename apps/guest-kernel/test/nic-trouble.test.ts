import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { boot, networkAdapterId, type Fault, type Machine } from "@hyperv-is/guest-kernel";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { parseAddress, prefixMask } from "../src/net/addresses.js";
import { testHost } from "./network-link.js";
import { SocketBridge } from "./socket-host.js";

const directory = mkdtempSync(join(tmpdir(), "nic-trouble-"));
const nicId = networkAdapterId(0);
let machine: Machine;
let bridge: SocketBridge;

const run = async (line: string): Promise<string> => (await machine.exec(line)).stdout;

beforeAll(async () => {
  const path = join(directory, "lan.sock");
  machine = await boot({
    cpus: 2,
    nics: [{ switch: "lan" }],
    switches: [{ name: "lan", uplinks: [{ kind: "socket", path, listen: true }] }],
  });
  bridge = await SocketBridge.connect(path, new VirtualTimers());
  const { hn0 } = await testHost(bridge.segment, 1);
  hn0.addAddress(parseAddress("192.0.2.1")!, prefixMask(24));
  await run("ifconfig hn0 192.0.2.50/24");
});
afterAll(async () => {
  bridge.close();
  // Neither faults nor a device that goes away make a guest break rules.
  expect(machine.host.violations).toEqual([]);
  await machine.shutdown();
  rmSync(directory, { recursive: true });
});

/** Slots of the receive buffer that the guest has not given back. */
async function busySlots(): Promise<number> {
  return (await machine.host.stats()).adapters![0]!.receiveSlotsBusy;
}

test("frames that are lost, doubled, late or damaged do not stop the guest", async () => {
  const faults: Fault[] = [
    { kind: "dropped-frame", operation: "transmit", every: 5 },
    { kind: "duplicate-frame", operation: "receive", every: 3 },
    { kind: "late-frame", operation: "receive", every: 7, delayMs: 5 },
    { kind: "corrupt-frame", operation: "receive", every: 11 },
    { kind: "wrong-checksum-flags", every: 13 },
    { kind: "failed-completion", every: 4 },
    { kind: "stray-completion", every: 6 },
    { kind: "malformed-rndis", damage: "data-offset", every: 9 },
    { kind: "malformed-transfer", damage: "range-outside", every: 10 },
  ].map((fault) => ({ device: "network", ...fault }) as Fault);
  await machine.host.setFaults({ faults });
  const troubled = await run("ping -c 60 -i 0.01 -W 50 192.0.2.1");
  expect(troubled).toMatch(/^60 packets transmitted, [1-5]\d packets received/m);
  const { faults: counted } = await machine.host.stats();
  expect(counted.filter(({ happened }) => happened === 0)).toEqual([]);
  await machine.host.setFaults({ faults: [] });
  expect(await run("ping -c 5 -i 0.01 192.0.2.1")).toContain("5 packets received");
  await expect.poll(busySlots).toBe(0);
  expect(Number(await run("sysctl -n dev.hn.0.send_failed"))).toBeGreaterThan(0);
});

test("an adapter that the host takes away under traffic comes back as it was new", async () => {
  for (let round = 1; round <= 2; round++) {
    const stop = new AbortController();
    const traffic = machine.exec("ping -q -i 0.001 192.0.2.1", { signal: stop.signal });
    while (bridge.segment.frames.length % 50 !== 49) await machine.exec("true");
    const seen = machine.dmesg.length;
    expect(machine.host.rescind(nicId, 20)).toBe(true);
    const news = (): readonly string[] => machine.dmesg.slice(seen);
    while (!news().includes("hn0: link state changed to UP")) await machine.exec("true");
    stop.abort();
    await traffic;
    const lines = news().filter((line) => line.startsWith("hn0") && !line.includes("on cpu"));
    expect(lines).toEqual([
      expect.stringMatching(/^hn0: chan\d+ revoked$/),
      "hn0: detached",
      "hn0: the host took the adapter away",
      "hn0: <Hyper-V Network Interface> on vmbus0",
      `hn0: Ethernet address: ${machine.nics[0]!.mac}`,
      "hn0: link state changed to UP",
    ]);
    expect(await run("ifconfig hn0")).not.toContain("inet ");
    await run("ifconfig hn0 192.0.2.50/24");
    expect(await run("ping -c 5 -i 0.01 192.0.2.1")).toContain("5 packets received");
    expect(await run("sysctl -n dev.hn.0.rx_ring_inuse")).toBe("2\n");
    await expect.poll(busySlots).toBe(0);
  }
});
