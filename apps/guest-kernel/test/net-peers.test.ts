import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as eventLoopTurn } from "node:timers/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NodeClock, NodeTimers, PcapngWriter, Tap, TapQueue } from "@hyperv-is/platform-node";
import { formatAddress, parseAddress, prefixMask } from "../src/net/addresses.js";
import { DhcpClient } from "../src/net/dhcp/dhcp-client.js";
import { InternetStack } from "../src/net/internet-stack.js";
import type { DeviceCounters, NetworkDevice } from "../src/net/network-device.js";
import type { NetworkInterface } from "../src/net/network-interface.js";
import { packetLine } from "../src/net/packet-line.js";
import { SeededRandom, bytes } from "./network-link.js";

/** Says why a peer cannot be had; CI has all of them. */
function lacking(reason: string | undefined): boolean {
  if (reason === undefined) return false;
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
  return true;
}

const ip4 = "00155d0a1402 00155d0a1401 0800";
const quoted = "45000020 00010000 40110000 c0000202 c0000201 00090010 000c0000";
/** Frames of all that tcpdump's lines are made for. */
const frames = [
  "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 c0000201 000000000000 c0000202",
  "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 00000000 000000000000 c0000202",
  "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 c0000201 000000000000 c0000201",
  "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 c0000201 00155d0a1402 c0000202",
  `00155d0a1401 00155d0a1402 0806 0001 0800 06 04 0002 00155d0a1402 c0000202 00155d0a1401 c0000201 ${"00".repeat(18)}`,
  `${ip4} 45000024 00000000 40010000 c0000201 c0000202 08000000 12340002 0102030405060708`,
  `${ip4} 45000024 00000000 40010000 c0000201 c0000202 00000000 12340002 0102030405060708`,
  ...["00", "01", "02", "03", "04"].map(
    (code) =>
      `${ip4} 45000038 00000000 40010000 c0000201 c0000202 03${code}0000 000005dc ${quoted}`,
  ),
  `${ip4} 45000038 00000000 40010000 c0000201 c0000202 0b000000 00000000 ${quoted}`,
  `${ip4} 45000038 00000000 40010000 c0000201 c0000202 0b010000 00000000 ${quoted}`,
  `${ip4} 45000020 00000000 40110000 c0000201 c0000202 d0000009 000c0000 01020304`,
  `${ip4} 45000148 00000000 40110000 00000000 ffffffff 00440043 01340000 01010600 01020304 ${"00".repeat(20)} 00155d0a1401 ${"00".repeat(266)}`,
  `${ip4} 45000148 00000000 40110000 c0000201 ffffffff 00430044 01340000 02010600 01020304 ${"00".repeat(20)} 00155d0a1401 ${"00".repeat(266)}`,
  // TCP: SYN with options, ACK, data, FIN, RST, with SACK.
  `${ip4} 4500003c 00000000 40060000 c0000201 c0000202 c00001bb 01020304 00000000 a002ffff 00000000 020405b4 01030306 0402080a 00000001 00000000`,
  `${ip4} 45000028 00000000 40060000 c0000201 c0000202 c00001bb 01020305 0a0b0c0d 5010ffff 00000000`,
  `${ip4} 4500002c 00000000 40060000 c0000201 c0000202 c00001bb 01020305 0a0b0c0d 5018ffff 00000000 01020304`,
  `${ip4} 45000028 00000000 40060000 c0000201 c0000202 c00001bb 01020305 0a0b0c0d 5011ffff 00000000`,
  `${ip4} 45000028 00000000 40060000 c0000201 c0000202 c00001bb 01020305 00000000 50040000 00000000`,
  `${ip4} 45000034 00000000 40060000 c0000201 c0000202 c00001bb 01020305 0a0b0c0d 8010ffff 00000000 0101050a 0a0b0c20 0a0b0c30`,
  // A later fragment, a protocol without a name, a tagged frame.
  `${ip4} 4500001c 00000001 40110000 c0000201 c0000202 0102030405060708`,
  `${ip4} 4500001c 00000000 40fd0000 c0000201 c0000202 0102030405060708`,
  "00155d0a1402 00155d0a1401 8100 a064 0800 45000020 00000000 40110000 c0000201 c0000202 d0000009 000c0000 01020304",
].map(bytes);

describe.skipIf(
  lacking(
    spawnSync("tcpdump", ["--version"]).error && "tcpdump is missing: apt-get install tcpdump",
  ),
)("tcpdump itself", () => {
  test.each([
    ["without", "", false],
    ["with", "e", true],
  ])("prints the same of our frames, %s the link", (_, letter, withLink) => {
    const directory = mkdtempSync(join(tmpdir(), "net-peers-"));
    try {
      const chunks: Buffer[] = [];
      const writer = new PcapngWriter({
        application: "test",
        interfaces: [{ name: "hn0" }],
        nowUs: () => 0,
        write: (chunk) => {
          chunks.push(Buffer.from(chunk));
          return true;
        },
      });
      for (const frame of frames) writer.packet(0, frame);
      writer.close();
      const path = join(directory, "frames.pcapng");
      writeFileSync(path, Buffer.concat(chunks));
      const printed = execFileSync("tcpdump", [`-nSt${letter}`, "-r", path], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      });
      expect(frames.map((frame) => packetLine(frame, withLink))).toEqual(
        printed.trimEnd().split("\n"),
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

test("every frame has a line, whatever is in it", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...frames),
      fc.array(fc.tuple(fc.nat(100), fc.nat(255)), { maxLength: 5 }),
      fc.nat(120),
      fc.boolean(),
      (template, changes, lengthBytes, withLink) => {
        const frame = template.slice(0, lengthBytes);
        for (const [at, value] of changes) if (at < frame.byteLength) frame[at] = value;
        expect(packetLine(frame, withLink)).toMatch(/^[ -~]+$/);
      },
    ),
    { numRuns: 2000 },
  );
});

/** A device over a TAP whose other end is the kernel's. */
class TapDevice implements NetworkDevice {
  readonly name = "hn0";
  readonly kind = "ethernet";
  readonly macAddress = Uint8Array.of(0x02, 0, 0, 0, 0, 0x02);
  readonly capabilities = 0;
  readonly options = 0;
  readonly checksumOffloads = 0;
  readonly media = "";
  readonly hasLink = true;
  readonly mtu = 1500;
  readonly counters = {
    receivedPackets: 0,
    receivedBytes: 0,
    receiveErrors: 0,
    receiveDrops: 0,
    sentPackets: 0,
    sentBytes: 0,
    sendErrors: 0,
  };
  readonly #memory = new Uint8Array(8192);
  readonly #queue: TapQueue;

  constructor(tap: Tap) {
    this.#queue = new TapQueue(tap.queues[0]!, this.#memory);
  }

  readCounters(): Promise<DeviceCounters> {
    return Promise.resolve(this.counters);
  }

  setOptions(): void {
    // There are none.
  }

  send(frame: Uint8Array): boolean {
    this.#memory.set(frame, 4096);
    return this.#queue.send(4096, frame.byteLength);
  }

  /** Hands over what waits, or waits for it for a moment. */
  pump(input: NetworkInterface): void {
    this.#queue.wait(2);
    for (
      let length = this.#queue.receive(0, 2048);
      length > 0;
      length = this.#queue.receive(0, 2048)
    )
      input.input(this.#memory.subarray(0, length));
  }

  setUp(): Promise<void> {
    return Promise.resolve();
  }

  setMtu(): Promise<void> {
    return Promise.reject(new Error("Invalid argument"));
  }

  setPromiscuous(): void {
    // A TAP passes everything on.
  }
}

const rootOnly =
  process.platform === "linux" && process.getuid?.() === 0
    ? ["ip", "ping", "dnsmasq"].some((name) => spawnSync(name, ["--version"]).error !== undefined)
      ? "ip, ping or dnsmasq is missing: apt-get install iproute2 iputils-ping dnsmasq-base"
      : undefined
    : "the Linux kernel as a neighbour needs root: sudo npx vitest run apps/guest-kernel/test/net-peers";

describe.skipIf(lacking(rootOnly))("Linux on the same link", () => {
  const netns = `hvis-inet-${process.pid}`;
  const run = (command: string, ...args: readonly string[]): string =>
    execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

  /** A namespace with a TAP as 192.0.2.1, and our stack at its other end. */
  async function linked(
    use: (world: {
      readonly stack: InternetStack;
      readonly hn0: NetworkInterface;
      /** Lets time pass until it is true. */
      readonly until: (done: () => boolean) => Promise<void>;
    }) => Promise<void>,
  ): Promise<void> {
    run("ip", "netns", "add", netns);
    const tap = Tap.open({ name: "tap0", netns });
    try {
      tap.isUp = true;
      run("ip", "-n", netns, "link", "set", "lo", "up");
      run("ip", "-n", netns, "address", "add", "192.0.2.1/24", "dev", "tap0");
      const timers = new NodeTimers(new NodeClock());
      const stack = new InternetStack({
        timers,
        random: new SeededRandom(1),
        log: () => undefined,
      });
      const device = new TapDevice(tap);
      const hn0 = stack.attach(device);
      await hn0.setUp(true);
      const until = async (done: () => boolean): Promise<void> => {
        while (!done()) {
          device.pump(hn0);
          timers.runDue();
          await eventLoopTurn();
        }
      };
      await use({ stack, hn0, until });
    } finally {
      tap.close();
      run("ip", "netns", "delete", netns);
    }
  }

  test("pings us, is pinged, and exchanges datagrams", async () => {
    await linked(async ({ stack, hn0, until }) => {
      hn0.addAddress(parseAddress("192.0.2.2")!, prefixMask(24));
      const ping = spawn("ip", [
        ..."netns exec".split(" "),
        netns,
        ..."ping -c 3 -i 0.05 -s 1400 192.0.2.2".split(" "),
      ]);
      let printed = "";
      ping.stdout.setEncoding("utf8").on("data", (text: string) => (printed += text));
      let status: number | null | undefined;
      ping.on("exit", (code) => (status = code));
      await until(() => status !== undefined);
      expect([status, printed]).toEqual([0, expect.stringContaining("3 received, 0% packet loss")]);
      const answers: object[] = [];
      const echo = stack.openEcho(({ kind, source, sequence }) =>
        answers.push([kind, formatAddress(source), sequence]),
      );
      echo.send(parseAddress("192.0.2.1")!, 7, new Uint8Array(100));
      await until(() => answers.length > 0);
      expect(answers).toEqual([["reply", "192.0.2.1", 7]]);
      // A port that nobody listens on, at either end.
      const unreachable: number[][] = [];
      const socket = stack.openUdp({
        onDatagram: () => undefined,
        onUnreachable: (...error) => void unreachable.push(error),
      });
      socket.send(bytes("01"), parseAddress("192.0.2.1")!, 9);
      await until(() => unreachable.length > 0);
      expect(unreachable).toEqual([[parseAddress("192.0.2.1"), 9, 3]]);
      expect(run("ip", "-n", netns, "neigh", "show", "192.0.2.2")).toContain("02:00:00:00:00:02");
      expect(stack.counters.badChecksum).toBe(0);
      expect(stack.icmp.counters).toMatchObject({ badChecksum: 0, echoReplies: 3 });
    });
  });

  test("gives us an address by its DHCP server, dnsmasq", async () => {
    const directory = mkdtempSync(join(tmpdir(), "net-dhcp-"));
    try {
      await linked(async ({ stack, hn0, until }) => {
        const server = spawn("ip", [
          "netns",
          "exec",
          netns,
          "dnsmasq",
          "--keep-in-foreground",
          "--log-facility=-",
          "--conf-file=/dev/null",
          "--port=0",
          "--interface=tap0",
          "--bind-interfaces",
          "--user=root",
          `--dhcp-leasefile=${join(directory, "leases")}`,
          `--pid-file=${join(directory, "pid")}`,
          "--dhcp-range=192.0.2.100,192.0.2.110,255.255.255.0,10m",
          "--dhcp-option=option:dns-server,192.0.2.53",
          "--dhcp-option=option:domain-name,example.org",
          "--dhcp-authoritative",
          // It would wait three seconds for an answer.
          "--no-ping",
        ]);
        await once(server.stderr, "data");
        try {
          const lines: string[] = [];
          const begin = (): DhcpClient =>
            new DhcpClient({
              stack,
              interface: hn0,
              hostName: "guest",
              log: (line) => void lines.push(line),
            });
          const client = begin();
          await until(() => client.lease !== undefined);
          const { address, mask, routers, nameServers, domainName, server: from } = client.lease!;
          expect(formatAddress(address)).toMatch(/^192\.0\.2\.1(0\d|10)$/);
          expect([mask, routers, nameServers, domainName, from].join()).toBe(
            [
              prefixMask(24),
              parseAddress("192.0.2.1"),
              parseAddress("192.0.2.53"),
              "example.org",
              parseAddress("192.0.2.1"),
            ].join(),
          );
          const echoed: number[] = [];
          const echo = stack.openEcho(({ sequence }) => void echoed.push(sequence));
          echo.send(parseAddress("192.0.2.1")!, 1, new Uint8Array(8));
          await until(() => echoed.length > 0);
          client.release();
          const again = begin();
          await until(() => again.lease !== undefined);
          expect(lines.filter((line) => line.startsWith("DHCPACK"))).toHaveLength(2);
        } finally {
          server.kill();
          await once(server, "exit");
        }
      });
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
