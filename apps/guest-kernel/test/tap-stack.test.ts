import { describe, expect, test } from "vitest";
import { boot, networkAdapterId } from "@hyperv-is/guest-kernel";
import { noTaps, transfer } from "../../../packages/hyperv-host/test/namespaces.js";
import { runTcpCampaign } from "./tcp-campaign.js";
import { DEVICE, TapMachine, addresses } from "./tap-machine.js";

// Much of this is waiting.
describe.skipIf(noTaps !== undefined).concurrent("a guest whose network stack is Linux's", () => {
  test("speaks TCP through the switch in super-frames, both ways", async () => {
    await using guest = await TapMachine.boot({ cpus: 2 });
    const { machine, near, far } = guest;
    await guest.ping();
    for (const [from, to, address] of [
      [near, far, addresses.far.ipv4],
      [far, near, addresses.near.ipv6],
    ] as const) {
      const [sent, received] = await transfer(from, to, address, 8);
      expect(sent).toHaveLength(64);
      expect(received).toBe(sent);
    }
    const [adapter] = (await machine.host.stats()).adapters!;
    expect(adapter!.transmitLargeSends).toBeGreaterThan(50);
    expect(adapter!.receiveCoalesced).toBeGreaterThan(50);
    expect(adapter!.transmitErrors).toBe(0);
    expect(machine.nics[0]!.channels).toBe(2);
    expect(machine.host.violations).toEqual([]);
  });

  test("has the address, the MTU and the link of its interface", async () => {
    await using guest = await TapMachine.boot({});
    const { machine, near } = guest;
    const link = (): string => near.run("ip", "link", "show", DEVICE);
    expect(link()).toContain(machine.nics[0]!.mac);
    await guest.setMtu(9000);
    expect(link()).toMatch(/LOWER_UP.* mtu 9000/);
    await guest.ping();
    await machine.exec("ifconfig hn0 ether 02:00:00:00:00:01");
    expect(link()).toContain("link/ether 02:00:00:00:00:01");
    await machine.host.changeAdapter(networkAdapterId(0), { isLinkUp: false });
    // The host tells of its link within moments, and of changes that follow each other at most every two seconds.
    while (!link().includes("NO-CARRIER")) await new Promise((resolve) => setImmediate(resolve));
    await machine.shutdown();
    expect(near.run("ip", "-o", "link")).not.toContain(DEVICE);
  });

  test("carries frames whose checksums are right as they are, and does not touch them", async () => {
    await runTcpCampaign({
      megabytes: 1,
      channels: [1],
      coalescing: [false],
      mtus: [1500],
      offloads: ["nothing"],
    });
  });

  test("is not booted without its namespace, and says what is missing", async () => {
    const machine = boot({
      nics: [{ switch: "lan", stack: { kind: "tap", name: DEVICE, netns: "no-such" } }],
      switches: [{ name: "lan" }],
    });
    await expect(machine).rejects.toMatchObject({
      code: "ERR_NETNS",
      message: "there is no network namespace no-such: ip netns add no-such",
    });
  });
});
