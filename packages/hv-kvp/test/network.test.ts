import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { KvpError } from "../src/index.js";
import { FreebsdFiles, FreebsdNetwork, LinuxNetwork, type RunProgram } from "../src/node/index.js";
import {
  editRcConf,
  editResolvConf,
  parseNetstatRouters,
  parseRcConf,
  parseResolvConf,
  rcConfHasDhcp,
} from "../src/network-files.js";
import {
  formatIpAddress,
  formatIpSettings,
  parseIpTexts,
  type IpSettings,
} from "../src/protocol/index.js";
import { temporaryDirectory } from "./temporary-directory.js";

const path = temporaryDirectory();
let count = 0;
let root: string;

beforeEach(() => {
  root = path(String(count++));
});

function write(file: string, text: string): void {
  mkdirSync(dirname(`${root}/${file}`), { recursive: true });
  writeFileSync(`${root}/${file}`, text);
}

const read = (file: string): string => readFileSync(`${root}/${file}`, "utf8");

function settingsOf(texts: Partial<Parameters<typeof parseIpTexts>[0]>, dhcp = false): IpSettings {
  const none = { addresses: "", subnets: "", gateways: "", dnsServers: "" };
  return parseIpTexts({ ...none, ...texts }, dhcp)!;
}

const several = settingsOf({
  addresses: "192.0.2.10;192.0.2.11;2001:db8::10;2001:db8::11",
  subnets: "255.255.255.0;255.255.255.0;64;64",
  gateways: "192.0.2.1;2001:db8::1",
  dnsServers: "192.0.2.53;2001:db8::53",
});

describe("rc.conf", () => {
  const before = `hostname="guest"
ifconfig_hn0="SYNCDHCP"
ifconfig_hn0_alias0="inet 198.51.100.1/24"
ifconfig_hn0_alias1="inet 198.51.100.2/24"
ifconfig_hn01="inet 203.0.113.1/24"
# defaultrouter="203.0.113.254"
defaultrouter="198.51.100.254"
sshd_enable="YES"
`;

  test("gets every address and router of the interface, and keeps the rest", () => {
    expect(editRcConf(before, "hn0", several)).toBe(`hostname="guest"
ifconfig_hn01="inet 203.0.113.1/24"
# defaultrouter="203.0.113.254"
sshd_enable="YES"
ifconfig_hn0="inet 192.0.2.10 netmask 255.255.255.0"
ifconfig_hn0_ipv6="inet6 2001:db8::10 prefixlen 64"
ifconfig_hn0_alias0="inet 192.0.2.11 netmask 255.255.255.0"
ifconfig_hn0_alias1="inet6 2001:db8::11 prefixlen 64"
defaultrouter="192.0.2.1"
ipv6_defaultrouter="2001:db8::1"
`);
  });

  test("is the same after a second time", () => {
    const once = editRcConf(before, "hn0", several);
    expect(editRcConf(once, "hn0", several)).toBe(once);
  });

  test("of DHCP has no address and no router", () => {
    const dhcp = editRcConf(before, "hn0", settingsOf({}, true));
    expect(dhcp).toContain('ifconfig_hn0="DHCP"\n');
    expect(dhcp).not.toMatch(/alias|^defaultrouter/m);
    expect(rcConfHasDhcp(dhcp, "hn0")).toBe(true);
    expect(rcConfHasDhcp(before, "hn0")).toBe(true);
    expect(rcConfHasDhcp(before, "hn01")).toBe(false);
  });

  test("loses the router of a network that the interface had, and no other", () => {
    const routers = 'defaultrouter="192.0.2.1"\nipv6_defaultrouter="2001:db8::1"\n';
    const text = `ifconfig_hn0="inet 192.0.2.10/24"\nifconfig_hn0_ipv6="inet6 2001:db8::10/64"\n${routers}`;
    const alone = { addresses: "198.51.100.7", subnets: "255.255.255.0" };
    for (const settings of [settingsOf(alone), settingsOf({}, true)]) {
      expect(editRcConf(text, "hn0", settings)).not.toContain("router");
      expect(editRcConf(text, "hn1", settings)).toContain(routers);
    }
  });

  test("makes of an interface what was kept", () => {
    const { dnsServers, ...kept } = several;
    expect(dnsServers).not.toEqual([]);
    expect(parseRcConf(editRcConf(before, "hn0", several), "hn0")).toEqual({
      ...kept,
      dnsServers: [],
    });
    const dhcp = settingsOf({}, true);
    expect(parseRcConf(editRcConf(before, "hn0", dhcp), "hn0")).toEqual(dhcp);
    const none = settingsOf({});
    expect(parseRcConf(editRcConf(before, "hn0", none), "hn0")).toEqual(none);
  });

  test("is read as an administrator writes it", () => {
    const text = `ifconfig_hn0="inet 192.0.2.7/24 mtu 9000"
ifconfig_hn0='inet 192.0.2.9 netmask 255.255.254.0 up' # the last one counts
ifconfig_hn0_alias0="inet 203.0.113.9/28"
ifconfig_hn0_alias2="inet 203.0.113.200/28"
ifconfig_hn1=up
ifconfig_hn2="inet 198.51.100.1"
ifconfig_hn3_ipv6="inet6 2001:db8:1::3"
#ifconfig_hn4="inet 198.51.100.4/24"
ifconfig_hn5="inet 198.51.100.5/33"
ifconfig_hn6="inet 198.51.100.6 netmask 255.0.255.0"
defaultrouter=203.0.113.14
ipv6_defaultrouter="2001:db8:2::1"
`;
    const formatted = (name: string) => {
      const settings = parseRcConf(text, name);
      return settings && formatIpSettings(settings);
    };
    const empty = { dhcp: false, addresses: [], gateways: [], dnsServers: [] };
    expect(formatted("hn0")).toEqual({
      ...empty,
      addresses: ["192.0.2.9/23", "203.0.113.9/28"],
      gateways: ["203.0.113.14"],
    });
    for (const name of ["hn1", "hn2", "hn5", "hn6"]) expect(formatted(name)).toEqual(empty);
    expect(formatted("hn3")).toEqual({ ...empty, addresses: ["2001:db8:1::3/64"] });
    expect(formatted("hn4")).toBeUndefined();
  });
});

test("a root directory that has nothing yet keeps addresses and name servers", () => {
  const files = new FreebsdFiles(root);
  expect(files.read("hn0")).toBeUndefined();
  files.keep("hn0", several);
  expect(new FreebsdFiles(root).read("hn0")).toEqual(several);
});

test("resolv.conf gets the servers, and keeps the rest", () => {
  const edited = editResolvConf("search example\nnameserver 198.51.100.1\n", several.dnsServers);
  expect(edited).toBe("search example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n");
  expect(parseResolvConf(edited)).toEqual(several.dnsServers);
  expect(editResolvConf("nameserver 198.51.100.1\n", [])).toBe("nameserver 198.51.100.1\n");
});

test("netstat's default routes of an interface", () => {
  const text = `Routing tables

Internet:
Destination        Gateway            Flags     Netif Expire
default            192.0.2.1          UGS         hn0
127.0.0.1          link#1             UH          lo0

Internet6:
default                           fe80::1%hn1                   UGS         hn1
default                           2001:db8::1                   UGS         hn0
`;
  const routers = parseNetstatRouters(text, "hn0").map(formatIpAddress);
  expect(routers).toEqual(["192.0.2.1", "2001:db8::1"]);
});

describe("FreeBSD", () => {
  /** The commands, and what fails of them. */
  function recorded(commands: string[], failing?: string): RunProgram {
    return (program, args) => {
      const line = [program, ...args].join(" ");
      commands.push(line);
      if (failing !== undefined && line.includes(failing))
        return Promise.reject(new KvpError("ERR_KVP_NETWORK", line));
      return Promise.resolve(line.endsWith("-l") ? "lo0 hn0 hn1\n" : "");
    };
  }

  const networks = () =>
    settingsOf({ addresses: "198.51.100.9", subnets: "255.255.255.0" }).addresses;

  test("is set by ifconfig and route, and kept", async () => {
    write("etc/rc.conf", 'ifconfig_hn0="DHCP"\n');
    const commands: string[] = [];
    const network = new FreebsdNetwork({ root, run: recorded(commands), networks });
    expect(await network.apply("hn0", several)).toBe(true);
    expect(commands).toEqual([
      "/sbin/ifconfig -l",
      "/sbin/ifconfig hn0 inet 198.51.100.9 -alias",
      "/sbin/ifconfig hn0 inet 192.0.2.10 netmask 255.255.255.0 alias",
      "/sbin/ifconfig hn0 inet 192.0.2.11 netmask 255.255.255.0 alias",
      "/sbin/ifconfig hn0 inet6 2001:db8::10 prefixlen 64 alias",
      "/sbin/ifconfig hn0 inet6 2001:db8::11 prefixlen 64 alias",
      "/sbin/ifconfig hn0 up",
      "/sbin/route -n delete -inet default",
      "/sbin/route -n add -inet default 192.0.2.1",
      "/sbin/route -n delete -inet6 default",
      "/sbin/route -n add -inet6 default 2001:db8::1",
    ]);
    expect(read("etc/rc.conf")).toContain('defaultrouter="192.0.2.1"');
    expect(read("etc/resolv.conf")).toBe("nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
  });

  test("asks for an address where the host wants DHCP", async () => {
    write("etc/rc.conf", "");
    const commands: string[] = [];
    const network = new FreebsdNetwork({ root, run: recorded(commands), networks });
    expect(await network.apply("hn1", settingsOf({}, true))).toBe(true);
    expect(commands.at(-1)).toBe("/usr/sbin/service dhclient onerestart hn1");
  });

  test.each(["hn9", "hn0 up", "-l", "../hn0", "", "{f8615163-df3e-46c5-913f-f2d2f965ed0e}"])(
    "has no interface '%s', and nothing is changed",
    async (name) => {
      const commands: string[] = [];
      const network = new FreebsdNetwork({ root, run: recorded(commands), networks });
      expect(await network.apply(name, several)).toBe(false);
      expect(commands).toEqual(["/sbin/ifconfig -l"]);
    },
  );

  test("a command that fails fails the request", async () => {
    write("etc/rc.conf", "");
    const network = new FreebsdNetwork({ root, run: recorded([], "netmask"), networks });
    await expect(network.apply("hn0", several)).rejects.toMatchObject({ code: "ERR_KVP_NETWORK" });
  });
});

const canNamespace =
  process.platform === "linux" && spawnSync("ip", ["netns", "add", "hv-kvp-probe"]).status === 0;
if (canNamespace) spawnSync("ip", ["netns", "del", "hv-kvp-probe"]);
else console.warn("skipped: 'ip netns' needs root, so Linux's network is not tested");

describe.skipIf(!canNamespace)("Linux, in a network namespace", () => {
  const guid = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}";

  test("is set by ip, read back, kept and restored", async () => {
    const namespace = `hv-kvp-${process.pid}`;
    const inside: RunProgram = (program, args) =>
      Promise.resolve(
        execFileSync("ip", ["netns", "exec", namespace, program, ...args], { encoding: "utf8" }),
      );
    execFileSync("ip", ["netns", "add", namespace]);
    try {
      execFileSync("ip", ["-n", namespace, "tuntap", "add", "dev", "eth0", "mode", "tap"]);
      execFileSync("ip", ["-n", namespace, "link", "set", "eth0", "address", "00:15:5d:01:02:03"]);
      write("sys/class/net/eth0/address", "00:15:5d:01:02:03\n");
      write("sys/class/net/eth0/device/device_id", `${guid}\n`);
      write("etc/resolv.conf", "search example\n");
      const directory = `${root}/var/lib/hyperv`;
      const network = new LinuxNetwork({ directory, run: inside, root });
      expect(await network.apply(guid.toUpperCase(), several)).toBe(true);
      expect(await network.read("00:15:5D:01:02:03")).toEqual(several);
      expect(await network.apply("{00000000-0000-0000-0000-000000000001}", several)).toBe(false);
      expect(await network.read("00:15:5D:01:02:04")).toBeUndefined();
      execFileSync("ip", ["-n", namespace, "address", "flush", "dev", "eth0"]);
      const next = new LinuxNetwork({ directory, run: inside, root });
      expect(await next.restore()).toEqual([
        "eth0: 192.0.2.10/24, 192.0.2.11/24, 2001:db8::10/64, 2001:db8::11/64",
      ]);
      expect((await next.read("00:15:5D:01:02:03"))?.addresses).toEqual(several.addresses);
    } finally {
      execFileSync("ip", ["netns", "del", namespace]);
    }
  });
});
