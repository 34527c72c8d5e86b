import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as eventLoopTurn } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { boot } from "@hyperv-is/guest-kernel";
import { PcapngFlag } from "@hyperv-is/platform-node";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { readCapture } from "../../../packages/platform-node/test/pcapng-reader.js";
import { Shell } from "../src/console/shell.js";
import { FileTree } from "../src/kernel/file-tree.js";
import type { GuestSystem } from "../src/kernel/guest-system.js";
import { MessageBuffer } from "../src/kernel/message-buffer.js";
import { parseAddress, prefixMask } from "../src/net/addresses.js";
import { GuestNetwork } from "../src/net/guest-network.js";
import type { PacketWay } from "../src/net/ipv4-output.js";
import { FrameChecksum } from "../src/net/network-device.js";
import { TestDhcpServer } from "./dhcp-server.js";
import {
  Segment,
  SeededRandom,
  TestDevice,
  bytes,
  hex,
  testHost,
  type TestHost,
} from "./network-link.js";

const B = parseAddress("192.0.2.1")!;

interface Result {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A guest whose `hn0` is on a segment with another host, 192.0.2.1 if it is told so. */
class Guest {
  readonly segment = new Segment(new VirtualTimers());
  readonly network: GuestNetwork;
  readonly device: TestDevice;
  readonly log: string[] = [];
  readonly #shell: Shell;
  readonly #files: FileTree;

  constructor() {
    const { timers } = this.segment;
    this.network = new GuestNetwork({
      timers,
      random: new SeededRandom(2),
      // 2026-02-03 04:05:06 UTC, when the clock began.
      realTimeMs: () => Date.UTC(2026, 1, 3, 4, 5, 6) + timers.now(),
      hostName: "guest",
      log: (line) => void this.log.push(line),
    });
    this.device = new TestDevice("hn0", [0x00, 0x15, 0x5d, 0x0a, 0x14, 0x07], this.segment);
    this.device.connect(this.network.stack.attach(this.device));
    const system: Partial<GuestSystem> = {
      network: this.network,
      disks: [],
      dmesg: new MessageBuffer(() => undefined),
      identity: { type: "FreeBSD", hostName: "guest", release: "", version: "", machine: "" },
    };
    this.#files = new FileTree(system as GuestSystem);
    this.#shell = new Shell(system as GuestSystem, this.#files, () => undefined);
  }

  /** Runs a line while virtual time passes. @param interruptMs - Time after which Ctrl-C comes. */
  async exec(line: string, interruptMs = Infinity): Promise<Result> {
    const { timers } = this.segment;
    const abort = new AbortController();
    let [stdout, stderr, ended] = ["", "", false];
    const running = this.#shell
      .run(line, {
        stdout: {
          write: (chunk) => {
            abort.signal.throwIfAborted();
            stdout += Buffer.from(chunk).toString("latin1");
            return Promise.resolve();
          },
        },
        stderr: (text) => void (stderr += text),
        listBegins: () => undefined,
        signal: abort.signal,
        interactive: false,
      })
      .finally(() => (ended = true));
    const interruptAt = timers.now() + interruptMs;
    for (;;) {
      for (let turn = 0; turn < 3; turn++) await eventLoopTurn();
      if (ended) break;
      if (timers.now() >= interruptAt) abort.abort(new Error("interrupted"));
      else {
        // Without any timer it waits for a file.
        const nextMs = Math.min(interruptAt, timers.nextMs);
        if (nextMs < Infinity) timers.advance(nextMs - timers.now());
      }
    }
    const results = await running;
    return { status: results.at(-1)!.status, stdout, stderr };
  }

  async cat(path: string): Promise<string> {
    const node = await this.#files.find(path);
    return node?.kind === "text" ? node.text : "";
  }

  async neighbour(): Promise<TestHost> {
    const host = await testHost(this.segment, 1);
    host.hn0.addAddress(B, prefixMask(24));
    this.segment.timers.advance(10_000);
    return host;
  }
}

const lines = (...all: readonly string[]): string => all.map((line) => `${line}\n`).join("");

describe("ifconfig", () => {
  test("shows interfaces as FreeBSD does", async () => {
    const guest = new Guest();
    await guest.neighbour();
    expect((await guest.exec("ifconfig")).stdout).toBe(
      lines(
        "lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> metric 0 mtu 16384",
        "\toptions=80003<RXCSUM,TXCSUM,LINKSTATE>",
        "\tinet 127.0.0.1 netmask 0xff000000",
        "\tgroups: lo",
        "\tnd6 options=29<PERFORMNUD,IFDISABLED,AUTO_LINKLOCAL>",
        "hn0: flags=8802<BROADCAST,SIMPLEX,MULTICAST> metric 0 mtu 1500",
        "\toptions=8051b<RXCSUM,TXCSUM,VLAN_MTU,VLAN_HWTAGGING,TSO4,LRO,LINKSTATE>",
        "\tether 00:15:5d:0a:14:07",
        "\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)",
        "\tstatus: no carrier",
        "\tnd6 options=29<PERFORMNUD,IFDISABLED,AUTO_LINKLOCAL>",
      ),
    );
    expect(await guest.exec("ifconfig hn0 inet 192.0.2.10/24")).toEqual({
      status: 0,
      stdout: "",
      stderr: "",
    });
    const { stdout } = await guest.exec("ifconfig hn0");
    expect(stdout.split("\n").slice(0, 6)).toEqual([
      "hn0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> metric 0 mtu 1500",
      "\toptions=8051b<RXCSUM,TXCSUM,VLAN_MTU,VLAN_HWTAGGING,TSO4,LRO,LINKSTATE>",
      "\tether 00:15:5d:0a:14:07",
      "\tinet 192.0.2.10 netmask 0xffffff00 broadcast 192.0.2.255",
      "\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)",
      "\tstatus: active",
    ]);
    expect((await guest.exec("ifconfig -l")).stdout).toBe("lo0 hn0\n");
  });

  test("sets addresses, aliases, the MTU and whether it is up", async () => {
    const guest = new Guest();
    const inet = async (): Promise<string[]> =>
      (await guest.exec("ifconfig hn0")).stdout
        .split("\n")
        .flatMap((line) => /inet (\S+)/.exec(line)?.[1] ?? []);
    await guest.exec("ifconfig hn0 192.0.2.10 netmask 255.255.255.0 mtu 9000");
    expect([await inet(), guest.device.mtu]).toEqual([["192.0.2.10"], 9000]);
    await guest.exec("ifconfig hn0 inet 198.51.100.1/24 alias");
    await guest.exec("ifconfig hn0 inet 192.0.2.11/24");
    expect(await inet()).toEqual(["198.51.100.1", "192.0.2.11"]);
    await guest.exec("ifconfig hn0 inet 198.51.100.1 -alias");
    await guest.exec("ifconfig hn0 down");
    expect(await inet()).toEqual(["192.0.2.11"]);
    expect((await guest.exec("ifconfig hn0")).stdout).toContain("flags=8802<");
  });

  test("gives an interface another address, and tells the others", async () => {
    const [guest, host] = await configured();
    await guest.exec("ping -c 1 192.0.2.1; ifconfig hn0 ether 2:0:0:0:14:aB promisc");
    guest.segment.timers.advance(10_000);
    expect(guest.network.stack.find("hn0")!.macAddress).toEqual(bytes("0200000014ab"));
    expect((await guest.exec("ifconfig hn0")).stdout).toContain(
      "\tether 02:00:00:00:14:ab\n\thwaddr 00:15:5d:0a:14:07\n\tinet 192.0.2.10 ",
    );
    expect(host.log).toEqual([
      "arp: 192.0.2.10 moved from 00:15:5d:0a:14:07 to 02:00:00:00:14:ab on hn0",
    ]);
    guest.segment.frames.length = 0;
    expect((await guest.exec("ping -c 1 192.0.2.1")).stdout).toContain("1 packets received");
    const stations = guest.segment.frames.map((frame) => hex(frame.subarray(0, 12)));
    expect(stations).toEqual(["00155d0a14010200000014ab", "0200000014ab00155d0a1401"]);
    expect(
      (await guest.exec("netstat -i; arp -an")).stdout.match(/02:00:00:00:14:ab/g),
    ).toHaveLength(2);
    // Frames to the address from before are no longer its own.
    await guest.exec("ifconfig hn0 lladdr 00:15:5d:0a:14:07");
    expect((await guest.exec("ifconfig hn0")).stdout).not.toContain("hwaddr");
    await guest.exec("ifconfig hn0 link random");
    const random = guest.network.stack.find("hn0")!.macAddress;
    expect([random[0]! & 3, random.slice(1).some((byte) => byte !== 0)]).toEqual([2, true]);
  });

  test.each([
    ["ifconfig hn0 ether 00:15:5d:0a:14", "ifconfig: malformed link-level address"],
    ["ifconfig hn0 ether 00:15:5d:0a:14:100", "ifconfig: malformed link-level address"],
    ["ifconfig hn0 ether", "ifconfig: 'ether' requires argument"],
    ["ifconfig hn0 ether 01:00:5e:00:00:01", "ifconfig: ioctl (SIOCAIFADDR): Invalid argument"],
    [
      "ifconfig lo0 ether 02:00:00:00:00:01",
      "ifconfig: ioctl (SIOCAIFADDR): Operation not supported by device",
    ],
    ["ifconfig hn9", "ifconfig: interface hn9 does not exist"],
    ["ifconfig hn0 inet 1.2.3", "ifconfig: 1.2.3: bad value"],
    ["ifconfig hn0 inet 10.0.0.1/33", "ifconfig: 10.0.0.1/33: bad value (width too large)"],
    ["ifconfig hn0 inet", "ifconfig: 'inet' requires argument"],
    ["ifconfig hn0 nonsense", "ifconfig: nonsense: bad value"],
    ["ifconfig hn0 mtu 20", "ifconfig: ioctl (set mtu): Invalid argument"],
    ["ifconfig hn0 mtu 65536", "ifconfig: ioctl (set mtu): Invalid argument"],
    [
      "ifconfig hn0 inet 192.0.2.9 -alias",
      "ifconfig: ioctl (SIOCDIFADDR): Can't assign requested address",
    ],
  ])("%s is refused", async (line, message) => {
    expect(await new Guest().exec(line)).toEqual({ status: 1, stdout: "", stderr: `${message}\n` });
  });
});

/** A guest as 192.0.2.10 beside 192.0.2.1. */
async function configured(): Promise<[Guest, TestHost]> {
  const guest = new Guest();
  const host = await guest.neighbour();
  await guest.exec("ifconfig hn0 inet 192.0.2.10/24");
  guest.segment.timers.advance(10_000);
  guest.segment.frames.length = 0;
  return [guest, host];
}

describe("ping", () => {
  test("prints what FreeBSD prints", async () => {
    const [guest] = await configured();
    const before = guest.segment.timers.now();
    expect(await guest.exec("ping -c 3 192.0.2.1")).toEqual({
      status: 0,
      stdout: lines(
        "PING 192.0.2.1 (192.0.2.1): 56 data bytes",
        // The first one waits for ARP.
        "64 bytes from 192.0.2.1: icmp_seq=0 ttl=64 time=4.000 ms",
        "64 bytes from 192.0.2.1: icmp_seq=1 ttl=64 time=2.000 ms",
        "64 bytes from 192.0.2.1: icmp_seq=2 ttl=64 time=2.000 ms",
        "",
        "--- 192.0.2.1 ping statistics ---",
        "3 packets transmitted, 3 packets received, 0.0% packet loss",
        "round-trip min/avg/max/stddev = 2.000/2.667/4.000/0.943 ms",
      ),
      stderr: "",
    });
    expect(guest.segment.timers.now() - before).toBe(2002);
    expect((await guest.exec("ping -c 1 localhost")).stdout).toContain(
      "64 bytes from 127.0.0.1: icmp_seq=0 ttl=64 time=0.000 ms",
    );
  });

  test("sends the size and at the pace that it is told", async () => {
    const [guest] = await configured();
    const { stdout } = await guest.exec("ping -q -c 2 -i 0.1 -s 4 192.0.2.1");
    expect(stdout).toBe(
      lines(
        "PING 192.0.2.1 (192.0.2.1): 4 data bytes",
        "",
        "--- 192.0.2.1 ping statistics ---",
        "2 packets transmitted, 2 packets received, 0.0% packet loss",
      ),
    );
    expect(guest.segment.frames.at(-1)).toHaveLength(14 + 20 + 8 + 4);
    expect((await guest.exec("ping -c 1 -s 1473 192.0.2.1")).stderr).toBe(
      "ping: sendto: Message too long\n",
    );
  });

  test("counts what is lost, late or doubled", async () => {
    const [guest] = await configured();
    guest.segment.loses = (frame) => frame[34] === 8 && frame[41] === 1;
    const lost = await guest.exec("ping -c 3 -i 1 192.0.2.1");
    expect([lost.status, lost.stdout]).toEqual([
      0,
      expect.stringContaining("3 packets transmitted, 2 packets received, 33.3% packet loss\n"),
    ]);
    const late = await guest.exec("ping -c 1 -W 1 192.0.2.1");
    expect(late.stdout).not.toContain("icmp_seq");
    expect(late.stdout).toContain("0.0% packet loss, 1 packets out of wait time");
    guest.segment.loses = (frame) => {
      if (frame[34] === 0 && frame.byteLength === 98) guest.device.receive(frame);
      return false;
    };
    const doubled = await guest.exec("ping -c 2 192.0.2.1");
    expect(doubled.stdout).toContain(" (DUP!)\n");
    expect(doubled.stdout).toContain("2 packets received, +1 duplicates, 0.0% packet loss\n");
  });

  test("says why nothing comes back", async () => {
    const [guest, host] = await configured();
    const silent = await guest.exec("ping -c 1 -W 2000 192.0.2.99");
    expect([silent.status, silent.stdout]).toEqual([
      2,
      expect.stringContaining("1 packets transmitted, 0 packets received, 100.0% packet loss\n"),
    ]);
    expect((await guest.exec("ping -c 7 -W 1000 192.0.2.99")).stderr).toContain(
      "ping: sendto: Host is down\n",
    );
    expect((await guest.exec("ping -c 1 -W 100 198.51.100.1")).stderr).toBe(
      "ping: sendto: No route to host\n",
    );
    expect(await guest.exec("ping nowhere.example")).toEqual({
      status: 68,
      stdout: "",
      stderr: "ping: cannot resolve nowhere.example: Unknown host\n",
    });
    guest.network.stack.routes.addDefault(B);
    const sent = guest.exec("ping -c 1 -W 1000 198.51.100.1");
    // The router answers for the host that is not there.
    guest.segment.loses = (frame) => {
      if (frame[34] !== 8) return false;
      const quoted = hex(frame.subarray(14, 42));
      const error = Buffer.from(
        `00155d0a1407 00155d0a1401 0800 4500003800000000400100 00c0000201c000020a 0301 fcfe 00000000 ${quoted}`.replaceAll(
          " ",
          "",
        ),
        "hex",
      );
      for (const [at, from, to] of [
        [24, 14, 34],
        [36, 34, 70],
      ] as const) {
        error.set([0, 0], at);
        let sum = 0;
        for (let word = from; word < to; word += 2) sum += error.readUInt16BE(word);
        error.writeUInt16BE(~((sum & 0xffff) + (sum >> 16)) & 0xffff, at);
      }
      guest.segment.carry(error);
      return false;
    };
    const { stdout } = await sent;
    expect(stdout.split("\n").slice(1, 5)).toEqual([
      "36 bytes from 192.0.2.1: Destination Host Unreachable",
      "Vr HL TOS  Len   ID Flg  off TTL Pro  cks      Src      Dst",
      expect.stringMatching(
        /^ 4 {2}5 {2}00 0054 [0-9a-f]{4} {3}0 0000 {2}40 {2}01 [0-9a-f]{4} 192\.0\.2\.10 {2}198\.51\.100\.1 $/,
      ),
      "",
    ]);
    expect(host.stack.counters.notForUs).toBe(1);
  });

  test("ends with what it has when it is interrupted", async () => {
    const [guest] = await configured();
    const { status, stderr } = await guest.exec("ping 192.0.2.1", 2500);
    expect(status).toBe(0);
    expect(stderr).toContain("3 packets transmitted, 3 packets received, 0.0% packet loss\n");
  });
});

describe("arp and netstat", () => {
  test("show neighbours", async () => {
    const [guest] = await configured();
    await guest.exec("ping -c 1 192.0.2.1; ping -c 1 -W 1 192.0.2.99");
    guest.segment.timers.advance(400);
    expect((await guest.exec("arp -an")).stdout).toBe(
      lines(
        "? (192.0.2.1) at 00:15:5d:0a:14:01 on hn0 expires in 1198 seconds [ethernet]",
        "? (192.0.2.10) at 00:15:5d:0a:14:07 on hn0 permanent [ethernet]",
        "? (192.0.2.99) at (incomplete) on hn0 expired [ethernet]",
      ),
    );
    expect(await guest.exec("arp 192.0.2.77")).toMatchObject({
      status: 1,
      stdout: "192.0.2.77 (192.0.2.77) -- no entry\n",
    });
    expect((await guest.exec("arp -d 192.0.2.1")).stdout).toBe("192.0.2.1 (192.0.2.1) deleted\n");
    expect(await guest.exec("arp -d 192.0.2.1")).toMatchObject({ status: 1 });
    expect((await guest.exec("arp -da; arp -an")).stdout).toBe(
      lines(
        "192.0.2.99 (192.0.2.99) deleted",
        "? (192.0.2.10) at 00:15:5d:0a:14:07 on hn0 permanent [ethernet]",
      ),
    );
  });

  test("count what the protocols do", async () => {
    const [guest, host] = await configured();
    await guest.exec("ping -c 2 192.0.2.1");
    host.hn0.arp.clear();
    const socket = host.stack.openUdp({ onDatagram: () => undefined });
    socket.send(bytes("00"), parseAddress("192.0.2.10")!, 9);
    socket.send(bytes("00"), parseAddress("192.0.2.255")!, 9);
    host.stack.openEcho(() => undefined).send(parseAddress("192.0.2.10")!, 1, bytes("00"));
    const routers = parseAddress("224.0.0.5")!;
    const { output } = host.stack;
    output.send(output.prepare(routers, 4, B, host.hn0) as PacketWay, 89, routers, 4);
    guest.segment.timers.advance(1_000);
    await guest.exec("ping -c 1 203.0.113.1");
    expect((await guest.exec("netstat -s")).stdout).toBe(
      lines(
        "udp:",
        "\t2 datagrams received",
        "\t0 with incomplete header",
        "\t0 with bad data length field",
        "\t0 with bad checksum",
        "\t0 with no checksum",
        "\t1 dropped due to no socket",
        "\t1 broadcast/multicast datagram undelivered",
        "\t0 delivered",
        "\t0 datagrams output",
        "ip:",
        "\t6 total packets received",
        "\t0 bad header checksums",
        "\t0 with size smaller than minimum",
        "\t0 with data size < data length",
        "\t0 with header length < data size",
        "\t0 with data length < header length",
        "\t0 with incorrect version number",
        "\t0 fragments received",
        "\t5 packets for this host",
        "\t0 packets for unknown/unsupported protocol",
        "\t0 packets not forwardable",
        "\t1 packet received for unknown multicast group",
        "\t4 packets sent from this host",
        "\t0 output packets dropped due to no bufs, etc.",
        "\t1 output packet discarded due to no route",
        "\t0 datagrams that can't be fragmented",
        "\t0 datagrams with bad address in header",
        "icmp:",
        "\t1 call to icmp_error",
        "\tOutput histogram:",
        "\t\techo reply: 1",
        "\t\tdestination unreachable: 1",
        "\t\techo: 2",
        "\t0 messages less than the minimum length",
        "\t0 messages with bad checksum",
        "\t0 multicast echo requests ignored",
        "\tInput histogram:",
        "\t\techo reply: 2",
        "\t\techo: 1",
        "\t1 message response generated",
        "\t0 no return routes",
        "arp:",
        "\t3 ARP requests sent",
        "\t1 ARP reply sent",
        "\t1 ARP request received",
        "\t1 ARP reply received",
        "\t2 ARP packets received",
        "\t0 total packets dropped due to no ARP entry",
        "\t0 Duplicate IPs seen",
      ),
    );
    const udp = (await guest.exec("netstat -s -p udp")).stdout;
    expect(udp.match(/^\S+$/gm)).toEqual(["udp:"]);
    expect(await guest.exec("netstat -sp tcp")).toEqual({
      status: 1,
      stdout: "",
      stderr: "netstat: tcp: unknown or uninstrumented protocol\n",
    });
  });

  test("show interfaces and routes", async () => {
    const [guest] = await configured();
    guest.network.stack.routes.addDefault(B);
    await guest.exec("ping -c 2 192.0.2.1; ping -c 1 localhost");
    expect((await guest.exec("netstat -i")).stdout).toBe(
      lines(
        "Name    Mtu Network       Address              Ipkts Ierrs Idrop    Opkts Oerrs  Coll",
        "lo0   16384 <Link#1>      lo0                      2     0     0        2     0     0",
        "lo0       - 127.0.0.0/8   127.0.0.1                2     -     -        2     -     -",
        "hn0    1500 <Link#2>      00:15:5d:0a:14:07        3     0     0        5     0     0",
        "hn0       - 192.0.2.0/24  192.0.2.10               2     -     -        2     -     -",
      ),
    );
    expect((await guest.exec("netstat -bI hn0")).stdout).toContain("Ibytes");
    expect((await guest.exec("netstat -rn")).stdout).toBe(
      lines(
        "Routing tables",
        "",
        "Internet:",
        "Destination        Gateway            Flags         Netif Expire",
        "default            192.0.2.1          UGS             hn0",
        "127.0.0.1          link#1             UH              lo0",
        "192.0.2.0/24       link#2             U               hn0",
        "192.0.2.10         link#1             UHS             lo0",
      ),
    );
    expect(await guest.exec("netstat")).toMatchObject({ status: 1 });
    expect(await guest.exec("netstat -rs")).toMatchObject({ status: 1 });
    expect(await guest.exec("netstat -i -p udp")).toMatchObject({ status: 1 });
  });
});

describe("dhclient", () => {
  test("configures an interface, keeps it so, and gives it back", async () => {
    const guest = new Guest();
    const server = new TestDhcpServer(await testHost(guest.segment, 1), { device: guest.device });
    guest.segment.timers.advance(10_000);
    expect(await guest.exec("dhclient hn0")).toEqual({
      status: 0,
      stdout: "",
      stderr: lines(
        "DHCPDISCOVER on hn0 to 255.255.255.255 port 67 interval 4",
        "DHCPOFFER from 192.0.2.1",
        "DHCPREQUEST on hn0 to 255.255.255.255 port 67",
        "DHCPACK from 192.0.2.1",
        "bound to 192.0.2.50 -- renewal in 1798 seconds.",
      ),
    });
    expect((await guest.exec("ping -c 1 192.0.2.1")).status).toBe(0);
    expect(await guest.cat("/etc/resolv.conf")).toBe(
      "search example.org\nnameserver 192.0.2.1\nnameserver 192.0.2.3\n",
    );
    expect((await guest.exec("netstat -rn")).stdout).toContain("default            192.0.2.1");
    guest.segment.timers.advance(5_000_000);
    expect(server.heard.slice(2)).toEqual(["request by 192.0.2.50", "request by 192.0.2.50"]);
    // Once more: the lease is asked for again.
    expect((await guest.exec("dhclient hn0")).stderr).toMatch(
      /^DHCPREQUEST on hn0 to 255.255.255.255 port 67\nDHCPACK from 192.0.2.1\nbound to 192.0.2.50/,
    );
    expect((await guest.exec("dhclient -r hn0")).stderr).toBe(
      "DHCPRELEASE on hn0 to 192.0.2.1 port 67\n",
    );
    expect((await guest.exec("ifconfig hn0")).stdout).not.toContain("inet");
    expect((await guest.exec("dhclient -r hn0")).status).toBe(1);
  });

  test("gives up when nobody answers, and can be interrupted", async () => {
    const guest = new Guest();
    const { status, stderr } = await guest.exec("dhclient hn0");
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/No DHCPOFFERS received\.\nNo working leases .* - sleeping\.\n$/),
    ]);
    expect((await guest.exec("dhclient hn0", 1000)).status).toBe(1);
    expect((await guest.exec("dhclient hn9")).stderr).toContain("interface hn9 does not exist");
  });
});

describe("tcpdump", () => {
  test("prints a line for each packet", async () => {
    const [guest] = await configured();
    const pinging = guest.exec("ping -c 1 192.0.2.1");
    const { status, stdout, stderr } = await guest.exec("tcpdump -n -i hn0 -c 4");
    await pinging;
    expect([status, stdout.replaceAll(/id \d+/g, "id N")]).toEqual([
      0,
      lines(
        "04:05:26.000000 ARP, Request who-has 192.0.2.1 tell 192.0.2.10, length 28",
        "04:05:26.002000 ARP, Reply 192.0.2.1 is-at 00:15:5d:0a:14:01, length 28",
        "04:05:26.002000 IP 192.0.2.10 > 192.0.2.1: ICMP echo request, id N, seq 0, length 64",
        "04:05:26.004000 IP 192.0.2.1 > 192.0.2.10: ICMP echo reply, id N, seq 0, length 64",
      ),
    ]);
    expect(stderr).toBe(
      lines(
        "tcpdump: listening on hn0, link-type EN10MB (Ethernet), snapshot length 262144 bytes",
        "4 packets captured",
        "4 packets received by filter",
        "0 packets dropped by kernel",
      ),
    );
    expect(guest.device.isPromiscuous).toBe(false);
  });

  test("shows that the interface is promiscuous meanwhile, and ends when it is interrupted", async () => {
    const [guest] = await configured();
    const capturing = guest.exec("tcpdump -i hn0", 50);
    await eventLoopTurn();
    expect((await guest.exec("ifconfig hn0")).stdout).toContain(
      "flags=8943<UP,BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST>",
    );
    expect((await capturing).status).toBe(0);
    expect((await capturing).stderr).toContain("0 packets captured\n");
    expect((await guest.exec("ifconfig hn0")).stdout).toContain("flags=8843<");
  });

  test("leaves an interface promiscuous that was to be", async () => {
    const [guest] = await configured();
    const flags = async (): Promise<string> =>
      (await guest.exec("ifconfig hn0 | head -n 1")).stdout.replace(/ metric.*\n/, "");
    await guest.exec("ifconfig hn0 promisc");
    expect(await flags()).toBe("hn0: flags=8943<UP,BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST>");
    expect((await guest.exec("tcpdump -i hn0", 50)).status).toBe(0);
    expect([guest.device.isPromiscuous, await flags()]).toEqual([
      true,
      "hn0: flags=8943<UP,BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST>",
    ]);
    await guest.exec("ifconfig hn0 -promisc");
    expect([guest.device.isPromiscuous, await flags()]).toEqual([
      false,
      "hn0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>",
    ]);
  });

  test("writes pcapng to a file, and to a pipe", async () => {
    const directory = mkdtempSync(join(tmpdir(), "tcpdump-"));
    try {
      const [guest, neighbour] = await configured();
      const path = join(directory, "a.pcapng");
      const capture = async (line: string): Promise<Result> => {
        const capturing = guest.exec(line);
        while (!guest.device.isPromiscuous) await eventLoopTurn();
        // However much time has passed: it asks for the address first.
        await guest.exec("arp -d 192.0.2.1; ping -c 1 192.0.2.1");
        return capturing;
      };
      const { stderr } = await capture(`tcpdump -i hn0 -c 4 -w ${path}`);
      expect(stderr).toContain("4 packets captured\n");
      const { application, interfaces, packets, statistics } = readCapture(readFileSync(path));
      expect([application, interfaces[0]!.options.get(2)?.toString()]).toEqual(["tcpdump", "hn0"]);
      expect(packets.map(({ flags, data }) => [flags, data])).toEqual(
        guest.segment.frames
          .slice(-4)
          .map((frame, index) => [[2, 1, 2, 1][index], Buffer.from(frame)]),
      );
      expect(packets[0]!.microseconds).toBe(Date.UTC(2026, 1, 3, 4, 5, 26) * 1_000);
      expect(statistics).toEqual([[0, 4n, 0n]]);
      // What the device fills in is not there yet; what it has verified may be anything.
      guest.device.checksumOffloads = FrameChecksum.ip;
      for (const { device } of [guest, neighbour]) device.verified = FrameChecksum.ip;
      await capture(`tcpdump -i hn0 -c 4 -w ${path}`);
      const { inbound, outbound, checksumNotReady, checksumValid } = PcapngFlag;
      expect(readCapture(readFileSync(path)).packets.map(({ flags }) => flags)).toEqual([
        outbound,
        inbound | checksumValid,
        outbound | checksumNotReady,
        inbound | checksumValid,
      ]);
      const piped = await capture("tcpdump -i hn0 -c 2 -w -");
      expect(readCapture(Buffer.from(piped.stdout, "latin1")).packets).toHaveLength(2);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test.each([
    ["tcpdump -i hn9", "tcpdump: hn9: No such device exists (no such device)"],
    ["tcpdump -c 0", "tcpdump: invalid packet count 0"],
    [
      "tcpdump -v",
      "tcpdump: -v: packets are not decoded further; -w file writes them for Wireshark",
    ],
    ["tcpdump icmp", "tcpdump: filter expressions are not supported; pipe into grep instead"],
  ])("%s is refused", async (line, message) => {
    expect(await new Guest().exec(line)).toEqual({ status: 1, stdout: "", stderr: `${message}\n` });
  });
});

test("a booted machine has lo0", async () => {
  await using machine = await boot();
  const { status, stdout } = await machine.exec("ping -c 2 -i 0.01 localhost && netstat -I lo0");
  expect(status).toBe(0);
  expect(stdout).toContain("2 packets transmitted, 2 packets received, 0.0% packet loss\n");
  expect(stdout).toMatch(/^lo0 +16384 <Link#1> +lo0 +4 +0 +0 +4 +0 +0$/m);
  expect(machine.host.violations).toEqual([]);
});
