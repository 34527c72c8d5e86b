import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { boot, networkAdapterId, type Machine, type NicOptions } from "@hyperv-is/guest-kernel";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { TestDhcpServer } from "./dhcp-server.js";
import { testHost } from "./network-link.js";
import { SocketBridge } from "./socket-host.js";

const directory = mkdtempSync(join(tmpdir(), "nic-"));
afterAll(() => rmSync(directory, { recursive: true }));

const nicId = networkAdapterId(0);

async function run(machine: Machine, line: string): Promise<string> {
  const { stdout, stderr } = await machine.exec(line);
  return stdout + stderr;
}

/** Shuts down; the guest must have kept to the protocol. */
async function end(machine: Machine): Promise<void> {
  expect(machine.host.violations).toEqual([]);
  await machine.shutdown();
}

// Much of this is waiting.
describe.concurrent("one network beside another", () => {
  describe("a guest with four CPUs and one with two, over a socket", () => {
    describe("one after the other", { concurrent: false }, () => {
      let a: Machine;
      let b: Machine;
      const path = join(directory, "lan.sock");

      beforeAll(async () => {
        a = await boot({
          cpus: 4,
          nics: [{ switch: "lan", mac: "00:15:5d:0a:01:01" }],
          switches: [{ name: "lan", uplinks: [{ kind: "socket", path, listen: true }] }],
        });
        b = await boot({
          cpus: 2,
          nics: [{ switch: "net" }],
          switches: [{ name: "net", uplinks: [{ kind: "socket", path }] }],
        });
        await run(a, "ifconfig hn0 192.0.2.1/24");
        await run(b, "ifconfig hn0 192.0.2.2/24");
      });
      afterAll(async () => {
        await end(b);
        await end(a);
      });

      test("announce their interfaces", () => {
        const lines = a.dmesg.filter((line) => line.startsWith("hn0"));
        expect(lines).toEqual([
          "hn0: <Hyper-V Network Interface> on vmbus0",
          "hn0: Ethernet address: 00:15:5d:0a:01:01",
          "hn0: link state changed to UP",
        ]);
        expect(a.nics).toEqual([
          { name: "hn0", instanceId: nicId, mac: "00:15:5d:0a:01:01", mtu: 1500, channels: 4 },
        ]);
        expect(b.nics[0]).toMatchObject({ name: "hn0", channels: 2 });
        expect(b.nics[0]!.mac).toMatch(/^00:15:5d:/);
      });

      test("show them as FreeBSD does", async () => {
        expect(await run(a, "ifconfig hn0")).toBe(
          "hn0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> metric 0 mtu 1500\n" +
            "\toptions=8011b<RXCSUM,TXCSUM,VLAN_MTU,VLAN_HWTAGGING,TSO4,LINKSTATE>\n" +
            "\tether 00:15:5d:0a:01:01\n" +
            "\tinet 192.0.2.1 netmask 0xffffff00 broadcast 192.0.2.255\n" +
            "\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)\n" +
            "\tstatus: active\n" +
            "\tnd6 options=29<PERFORMNUD,IFDISABLED,AUTO_LINKLOCAL>\n",
        );
        expect(
          await run(a, "sysctl dev.hn.0.nvs_version dev.hn.0.ndis_version dev.hn.0.caps"),
        ).toBe(
          "dev.hn.0.nvs_version: 393217\ndev.hn.0.ndis_version: 6.30\n" +
            "dev.hn.0.caps: 3ff<VLAN,MTU,IPCS,TCP4CS,TCP6CS,UDP4CS,UDP6CS,TSO4,TSO6,HASHVAL>\n",
        );
        expect(
          await run(a, "sysctl -n dev.hn.0.rx_ring_inuse dev.hn.0.rxfilter hw.hn.chan_cnt"),
        ).toBe("4\nd<DIRECT,ALLMULTI,BROADCAST>\n0\n");
        const channels = (await run(a, "sysctl dev.hn.0.channel")).match(/\.cpu: \d/g);
        expect(channels).toEqual([0, 1, 2, 3].map((cpu) => `.cpu: ${cpu}`));
      });

      test("ping each other, on all their channels", async () => {
        expect(await run(a, "ping -c 2 -i 0.01 -s 1472 192.0.2.2")).toContain("2 packets received");
        // Each pair of addresses is a flow of its own.
        for (let host = 10; host < 26; host++)
          await run(b, `ifconfig hn0 192.0.2.${host}/24; ping -c 1 192.0.2.1 | grep received`);
        const received = (await run(a, "sysctl -n dev.hn.0.rx | head -n 1000"))
          .split("\n")
          .map(Number);
        const perRing = received.filter((_, index) => index % 4 === 0).slice(0, 4);
        expect(perRing.filter((packets) => packets === 0)).toEqual([]);
        expect(await run(b, "ping -c 1 192.0.2.1")).toContain("1 packets received");
        await run(b, "ifconfig hn0 192.0.2.2/24");
        const table = await run(a, "netstat -I hn0");
        const [, , , , packets, errors, drops] = table.split("\n")[1]!.split(/ +/).map(Number);
        // Each ping came, and each address was announced.
        expect([packets! >= 36, errors, drops]).toEqual([true, 0, 0]);
      });

      test("count anew what is set to 0, also after another MTU", async () => {
        const count = async (): Promise<number> =>
          Number(await run(a, "sysctl -n dev.hn.0.tx_chimney"));
        const before = await count();
        expect(before).toBeGreaterThan(0);
        await run(a, "ifconfig hn0 mtu 4000; ifconfig hn0 mtu 1500");
        expect(await count()).toBeGreaterThanOrEqual(before);
        expect(await run(a, "sysctl dev.hn.0.tx_chimney=0")).toMatch(
          /^dev\.hn\.0\.tx_chimney: \d+ -> 0\n$/,
        );
        const refused = await a.exec("sysctl dev.hn.0.tx_chimney=x");
        expect(refused).toMatchObject({
          status: 1,
          stderr: "sysctl: dev.hn.0.tx_chimney: invalid integer 'x'\n",
        });
        // Each ring by itself.
        const rings = async (): Promise<number[]> =>
          (
            await run(
              a,
              "sysctl -n dev.hn.0.rx.0.packets dev.hn.0.rx.1.packets dev.hn.0.tx.0.sends",
            )
          )
            .trim()
            .split("\n")
            .map(Number);
        const [first, second, sends] = await rings();
        expect(Math.min(first!, second!, sends!)).toBeGreaterThan(0);
        expect(await run(a, "sysctl dev.hn.0.rx.0.packets=0")).toBe(
          `dev.hn.0.rx.0.packets: ${first} -> 0\n`,
        );
        const grown = expect.toSatisfy((now: number) => now >= sends!) as number;
        expect(await rings()).toEqual([0, second, grown]);
        await run(a, "ifconfig hn0 mtu 4000; ifconfig hn0 mtu 1500");
        const later = await rings();
        expect(later[0]).toBeLessThan(first!);
        expect(later.slice(1)).toEqual([second, grown]);
        expect((await a.exec("sysctl dev.hn.0.rx.9.packets=0")).status).toBe(1);
      });

      test("are tuned while they run, also for another MTU", async () => {
        const set = (text: string): Promise<string> => run(a, `sysctl dev.hn.0.${text}`);
        expect(await run(a, "sysctl -n dev.hn.0.agg_szmax dev.hn.0.agg_pktmax")).toBe("6144\n8\n");
        expect(await set("agg_size=2000")).toBe("dev.hn.0.agg_size: -1 -> 2000\n");
        expect(await set("agg_pkts=4")).toBe("dev.hn.0.agg_pkts: -1 -> 4\n");
        expect(await set("trust_hosttcp=0")).toBe("dev.hn.0.trust_hosttcp: 1 -> 0\n");
        expect(await set("tx_chimney_size=60")).toBe("dev.hn.0.tx_chimney_size: 6144 -> 60\n");
        for (const bytes of [0, 6145])
          expect(await set(`tx_chimney_size=${bytes}`)).toBe(
            "sysctl: dev.hn.0.tx_chimney_size: Invalid argument\n",
          );
        expect(await set("agg_pkts=many")).toBe(
          "sysctl: dev.hn.0.agg_pkts: invalid integer 'many'\n",
        );
        // What is too long is sent from where it lies.
        await set("tx_chimney=0");
        expect(await run(a, "ping -c 1 192.0.2.2")).toContain("1 packets received");
        expect(await run(a, "sysctl -n dev.hn.0.tx_chimney")).toBe("0\n");
        await run(a, "ifconfig hn0 mtu 4000; ifconfig hn0 mtu 1500");
        const names = ["agg_szmax", "agg_pktmax", "agg_align", "trust_hosttcp", "trust_hostudp"];
        const line = `sysctl -n ${names.map((name) => `dev.hn.0.${name}`).join(" ")}`;
        expect(await run(a, line)).toBe("2000\n4\n8\n0\n1\n");
        expect(await run(a, "sysctl dev.hn.0.agg_size=-1 dev.hn.0.agg_pkts=0")).toContain("-> -1");
        expect(await run(a, "sysctl -n dev.hn.0.agg_szmax dev.hn.0.agg_pktmax")).toBe("0\n0\n");
        await run(
          a,
          "sysctl dev.hn.0.agg_pkts=-1 dev.hn.0.tx_chimney_size=6144 dev.hn.0.trust_hosttcp=1",
        );
      });

      test("spread what they receive as they are told", async () => {
        const received = async (): Promise<number[]> =>
          (
            await run(
              a,
              `sysctl -n ${[0, 1, 2, 3].map((ring) => `dev.hn.0.rx.${ring}.rss_pkts`).join(" ")}`,
            )
          )
            .trim()
            .split("\n")
            .map(Number);
        const clear = "sysctl dev.hn.0.rx.0.rss_pkts=0 dev.hn.0.rx.1.rss_pkts=0";
        await run(a, `sysctl dev.hn.0.rss_ind=2; ${clear}`);
        await run(a, "ifconfig hn0 mtu 4000; ifconfig hn0 mtu 1500");
        const [, , before] = await received();
        for (let host = 30; host < 34; host++)
          await run(b, `ifconfig hn0 192.0.2.${host}/24; ping -c 1 192.0.2.1`);
        await run(b, "ifconfig hn0 192.0.2.2/24");
        const [first, second, third] = await received();
        expect([first, second, third! - before! >= 4]).toEqual([0, 0, true]);
        const key = "00112233".repeat(10);
        expect(await run(a, `sysctl dev.hn.0.rss_key=${key}`)).toMatch(new RegExp(`-> ${key}\\n$`));
        expect(await run(a, "sysctl dev.hn.0.rss_ind=0,1,2,3")).toMatch(/-> 0,1,2,3,0,1,/);
        expect(await run(a, "sysctl dev.hn.0.rss_ind=4")).toBe(
          "sysctl: dev.hn.0.rss_ind: Invalid argument\n",
        );
        expect(await run(a, "sysctl dev.hn.0.rss_key=00")).toBe(
          "sysctl: dev.hn.0.rss_key: Invalid argument\n",
        );
        expect(await run(a, "sysctl dev.hn.0.rsc_switch=0")).toBe("dev.hn.0.rsc_switch: 1 -> 0\n");
        await run(a, "ifconfig hn0 mtu 4000; ifconfig hn0 mtu 1500");
        expect(await run(a, "sysctl dev.hn.0.rsc_switch=1")).toBe("dev.hn.0.rsc_switch: 0 -> 1\n");
        expect(a.host.violations).toEqual([]);
      });

      test("change their MTU, and go on", async () => {
        for (const machine of [a, b]) expect(await run(machine, "ifconfig hn0 mtu 9000")).toBe("");
        expect(await run(a, "ping -c 2 -i 0.01 -s 8972 192.0.2.2")).toContain("2 packets received");
        expect(await run(b, "ping -c 1 -s 8972 192.0.2.1")).toContain("1 packets received");
        expect(await run(a, "ifconfig hn0")).toContain("mtu 9000\n");
        expect(await run(a, "ifconfig hn0 mtu 65530")).toBe(
          "ifconfig: ioctl (set mtu): Invalid argument\n",
        );
        expect(await run(a, "netstat -I hn0")).toMatch(/^hn0 +9000 +\S+ +\S+ +[1-9]\d+ +0 +0 +/m);
        expect(await run(a, "ping -c 1 192.0.2.2")).toContain("1 packets received");
      });

      test("notice when the cable is pulled", async () => {
        await a.host.changeAdapter(nicId, { isLinkUp: false });
        while (!a.dmesg.includes("hn0: link state changed to DOWN")) await a.exec("true");
        expect(await run(a, "ifconfig hn0")).toContain(
          "\tmedia: Ethernet autoselect (none)\n\tstatus: no carrier\n",
        );
        expect(await run(b, "ping -c 1 -W 10 192.0.2.1")).toContain(" 0 packets received");
      });
    });
  });

  test("two adapters of a guest share a switch, and VLANs part them", async () => {
    const machine = await boot({
      nics: [
        { switch: "lan" },
        { switch: "lan" },
        { switch: "lan", vlan: { mode: "access", id: 5 } },
      ],
      switches: [{ name: "lan" }],
    });
    const [first, second] = machine.nics;
    await run(machine, "ifconfig hn1 up; ifconfig hn2 up");
    // An interface announces its address to everybody.
    const heard = run(machine, "tcpdump -t -e -c 1 -i hn1");
    const notHeard = new AbortController();
    const other = machine.exec("tcpdump -i hn2", { signal: notHeard.signal });
    await run(machine, "ifconfig hn0 192.0.2.1/24");
    expect(await heard).toContain(`${first!.mac} > ff:ff:ff:ff:ff:ff`);
    notHeard.abort();
    expect((await other).stderr).toContain("0 packets captured");
    expect(await run(machine, "ifconfig hn1")).not.toContain("PROMISC");
    expect(second!.mac).not.toBe(first!.mac);
    await end(machine);
  });

  test("another address of an interface passes where the host lets it", async () => {
    const machine = await boot({
      nics: [{ switch: "lan", allowMacSpoofing: true }, { switch: "lan" }],
      switches: [{ name: "lan" }],
    });
    await run(machine, "ifconfig hn1 up");
    const heard = run(machine, "tcpdump -t -e -c 1 -i hn1");
    await run(machine, "ifconfig hn0 ether 02:00:00:00:00:01; ifconfig hn0 192.0.2.1/24");
    expect(await heard).toContain("02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff");
    const { mac } = machine.nics[0]!;
    expect(await run(machine, "ifconfig hn0 mtu 4000; ifconfig hn0")).toContain(
      `\tether 02:00:00:00:00:01\n\thwaddr ${mac}\n`,
    );
    const dropped = async (): Promise<number> =>
      (await machine.host.stats()).adapters![1]!.port.droppedSpoofed;
    expect(await dropped()).toBe(0);
    await run(machine, "ifconfig hn1 ether 02:00:00:00:00:02; ifconfig hn1 198.51.100.1/24");
    while ((await dropped()) === 0) await machine.exec("true");
    await end(machine);
  });

  test("a guest is given an address by DHCP, and its checksums are right on the wire", async () => {
    const path = join(directory, "dhcp.sock");
    const machine = await boot({
      nics: [{ switch: "lan" }],
      switches: [{ name: "lan", uplinks: [{ kind: "socket", path, listen: true }] }],
    });
    const bridge = await SocketBridge.connect(path, new VirtualTimers());
    const server = await testHost(bridge.segment, 1);
    const mac = Buffer.from(machine.nics[0]!.mac.replaceAll(":", ""), "hex");
    const dhcp = new TestDhcpServer(server, { device: { macAddress: mac } });
    const { stderr, status } = await machine.exec("dhclient hn0");
    expect([status, stderr]).toEqual([0, expect.stringContaining("bound to 192.0.2.50")]);
    expect(dhcp.heard).toEqual(["discover", "request 192.0.2.50 to 192.0.2.1"]);
    expect(await run(machine, "ping -c 1 192.0.2.1")).toContain("1 packets received");
    // The driver left them to the host, which left them to its switch.
    expect(server.stack.udp.counters).toMatchObject({ received: 2, badChecksum: 0, noChecksum: 0 });
    expect(server.stack.counters.badChecksum).toBe(0);
    expect(await run(machine, "sysctl -n dev.hn.0.hwassist")).toContain("CSUM_IP,CSUM_IP_UDP");
    expect(Number(await run(machine, "sysctl -n dev.hn.0.csum_ip"))).toBeGreaterThanOrEqual(3);
    // They may be computed by the stack, too.
    await run(machine, "ifconfig hn0 -txcsum -rxcsum -tso4");
    expect(await run(machine, "ifconfig hn0")).toContain(
      "options=80018<VLAN_MTU,VLAN_HWTAGGING,LINKSTATE>",
    );
    expect(await run(machine, "sysctl -n dev.hn.0.hwassist")).toBe("0\n");
    expect((await machine.exec("dhclient hn0")).status).toBe(0);
    expect(server.stack.udp.counters).toMatchObject({ badChecksum: 0, noChecksum: 0 });
    expect(await run(machine, "ifconfig -m hn0")).toContain(
      "\tcapabilities=48031b<RXCSUM,TXCSUM,VLAN_MTU,VLAN_HWTAGGING,TSO4,TSO6,LINKSTATE,TXCSUM_IPV6>\n",
    );
    bridge.close();
    await end(machine);
  });

  test("an adapter without memory says what to do", async () => {
    const machine = await boot({
      memoryBytes: 48 * 2 ** 20,
      cpus: 2,
      nics: Array<NicOptions>(4).fill({ switch: "lan" }),
      switches: [{ name: "lan" }],
    });
    // The others have found room for smaller buffers.
    expect(machine.nics.map(({ name }) => name)).toEqual(["hn0", "hn1"]);
    expect(machine.dmesg).toContain(
      "hn2: the machine has not enough memory for it: boot with more (--memory)",
    );
    expect(await run(machine, "ifconfig -l")).toBe("lo0 hn0 hn1\n");
    await end(machine);
  });
});
