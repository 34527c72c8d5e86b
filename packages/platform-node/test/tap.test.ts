import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { afterEach, describe, expect, test } from "vitest";
import {
  FixedMemory,
  GatheredFrame,
  TAP_EMPTY,
  TAP_GONE,
  Tap,
  TapOffload,
  TapQueue,
  VnetFlag,
  VnetHeader,
  type TapOptions,
} from "../src/index.js";

const reason = whyNot();
if (reason !== undefined) {
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

function whyNot(): string | undefined {
  if (process.platform !== "linux") return "TAP devices are those of Linux";
  if (process.getuid?.() !== 0)
    return "TAP devices need root: sudo npx vitest run packages/platform-node/test/tap";
  const missing = ["ip", "ping"].filter((name) => spawnSync(name, ["-V"]).error !== undefined);
  return missing.length > 0
    ? `${missing.join(", ")} missing: apt-get install iproute2 iputils-ping`
    : undefined;
}

const run = (command: string, ...args: readonly string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

const namespaces: string[] = [];
const taps: Tap[] = [];
let number = 0;

function makeNamespace(): string {
  const name = `hvis-${process.pid}-${number++}`;
  run("ip", "netns", "add", name);
  namespaces.push(name);
  return name;
}

function open(options: TapOptions): Tap {
  const tap = Tap.open(options);
  taps.push(tap);
  return tap;
}

/** Runs a command in a namespace. */
const inside = (netns: string, ...command: readonly string[]): string =>
  run("ip", "netns", "exec", netns, ...command);

afterEach(() => {
  for (const tap of taps.splice(0)) tap.close();
  for (const name of namespaces.splice(0)) run("ip", "netns", "delete", name);
});

interface Link {
  readonly ifname: string;
  readonly mtu: number;
  readonly address: string;
  readonly flags: readonly string[];
  readonly gso_max_size: number;
}

function links(netns: string): Link[] {
  return JSON.parse(run("ip", "-d", "-j", "-n", netns, "link", "show")) as Link[];
}

const PEER = "02:00:00:00:00:02";

/** A TAP that is up, as 192.0.2.1, whose neighbour 192.0.2.2 is at this end. */
function openUp(options: Partial<TapOptions> = {}): [Tap, string] {
  const netns = makeNamespace();
  // Nothing but what the tests send.
  inside(netns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1");
  inside(netns, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1");
  const tap = open({ name: "tap0", netns, ...options });
  tap.isUp = true;
  run("ip", "-n", netns, "address", "add", "192.0.2.1/24", "dev", "tap0");
  run("ip", "-n", netns, "neigh", "add", "192.0.2.2", "lladdr", PEER, "dev", "tap0");
  return [tap, netns];
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe.skipIf(reason !== undefined)("a TAP", () => {
  test("is made in a namespace as it is wanted, and is gone when it is closed", () => {
    const netns = makeNamespace();
    const before = run("readlink", `/proc/${process.pid}/ns/net`);
    const tap = open({
      name: "hn%d",
      netns,
      mtu: 9000,
      macAddress: Uint8Array.of(0, 0x15, 0x5d, 1, 2, 3),
      offload: TapOffload.checksum | TapOffload.tso4 | TapOffload.tso6,
      gsoMaxBytes: 62_780,
    });
    expect(tap.name).toBe("hn0");
    expect([tap.mtu, hex(tap.macAddress), tap.isUp]).toEqual([9000, "00155d010203", false]);
    expect(links(netns).find(({ ifname }) => ifname === "hn0")).toMatchObject({
      mtu: 9000,
      address: "00:15:5d:01:02:03",
      gso_max_size: 62_780,
    });
    expect(run("readlink", `/proc/${process.pid}/ns/net`)).toBe(before);
    expect(run("ip", "-j", "link", "show")).not.toContain('"hn0"');
    tap.isUp = true;
    tap.mtu = 1500;
    expect([tap.mtu, tap.isUp]).toEqual([1500, true]);
    const flags = (): readonly string[] =>
      links(netns).find(({ ifname }) => ifname === "hn0")!.flags;
    expect(flags()).toContain("LOWER_UP");
    tap.setCarrier(false);
    // That it has no carrier any more the kernel adds within a second.
    expect(flags()).not.toContain("LOWER_UP");
    tap.setCarrier(true);
    expect(flags()).toContain("LOWER_UP");
    tap.isUp = false;
    expect(flags()).not.toContain("UP");
    tap.close();
    tap.close();
    expect(links(netns).map(({ ifname }) => ifname)).toEqual(["lo"]);
  });

  test.each([10, 12])(
    "carries frames both ways, behind a header of %d bytes",
    async (vnetHeaderBytes) => {
      const [tap, netns] = openUp({ vnetHeaderBytes });
      const memory = new Uint8Array(new SharedArrayBuffer(8192));
      const queue = new TapQueue(tap.queues[0]!, memory);
      expect(queue.receive(0, 2048)).toBe(TAP_EMPTY);
      expect(queue.wait(0)).toBe("timeout");
      const ping = spawn("ip", [
        "netns",
        "exec",
        netns,
        "ping",
        "-c",
        "3",
        "-i",
        "0.05",
        "192.0.2.2",
      ]);
      let printed = "";
      ping.stdout.setEncoding("utf8").on("data", (text: string) => (printed += text));
      const exit = once(ping, "exit") as Promise<[number]>;
      for (let echo = 0; echo < 3; echo++) {
        expect(queue.wait(10_000)).toBe("ready");
        const lengthBytes = queue.receive(4096, 2048);
        expect(lengthBytes).toBe(98);
        const frame = memory.subarray(4096, 4096 + lengthBytes);
        expect([hex(frame.subarray(0, 6)), frame[34]]).toEqual([PEER.replaceAll(":", ""), 8]);
        // The same frame the other way round is the answer, but for its type and checksum.
        const swap = (left: number, right: number, count: number): void => {
          const kept = frame.slice(left, left + count);
          frame.set(frame.slice(right, right + count), left);
          frame.set(kept, right);
        };
        swap(0, 6, 6);
        swap(26, 30, 4);
        frame[34] = 0;
        const sum = ((frame[36]! << 8) | frame[37]!) + 0x0800;
        const folded = (sum & 0xffff) + (sum >> 16);
        frame[36] = folded >> 8;
        frame[37] = folded & 255;
        expect(queue.send(4096, lengthBytes)).toBe(true);
      }
      expect(await exit).toEqual([0, null]);
      expect(printed).toContain("3 received, 0% packet loss");
      expect(queue.counters).toEqual({
        received: 3,
        receivedBytes: 294,
        sent: 3,
        sentBytes: 294,
        dropped: 0,
      });
    },
  );

  test("leaves checksums to its reader if that wants it", () => {
    const datagram = (offload: number): [Uint8Array, DataView] => {
      const [tap, netns] = openUp({ offload });
      const memory = new Uint8Array(4096);
      const queue = new TapQueue(tap.queues[0]!, memory);
      inside(netns, "bash", "-c", "echo hello > /dev/udp/192.0.2.2/9");
      expect(queue.wait(10_000)).toBe("ready");
      const lengthBytes = queue.receive(0, 2048);
      expect(lengthBytes).toBe(14 + 20 + 8 + 6);
      return [memory.subarray(0, lengthBytes), queue.receivedHeader];
    };
    const [whole, plain] = datagram(0);
    expect(plain.getUint8(VnetHeader.flags)).toBe(0);
    const [partial, wanted] = datagram(TapOffload.checksum);
    expect([
      wanted.getUint8(VnetHeader.flags),
      wanted.getUint16(VnetHeader.checksumStart, true),
      wanted.getUint16(VnetHeader.checksumOffset, true),
    ]).toEqual([VnetFlag.needsChecksum, 34, 6]);
    const sum = (frame: Uint8Array): number => {
      let total = 17 + 14;
      for (let at = 26; at < 48; at += 2) total += (frame[at]! << 8) | frame[at + 1]!;
      while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
      return total;
    };
    expect([sum(whole), sum(partial) !== 0xffff]).toEqual([0xffff, true]);
  });

  test("sends a frame that lies in pieces of several memories", () => {
    const [tap] = openUp();
    const [first, second] = [new Uint8Array(64), new Uint8Array(new SharedArrayBuffer(8192))];
    const queue = new TapQueue(tap.queues[0]!, first);
    const [head, body] = [new FixedMemory(first), new FixedMemory(second)];
    const frame = new GatheredFrame(tap.queues[0]!);
    frame.begin();
    for (const [memory, at, lengthBytes] of [
      [head, 3, 14],
      [body, 100, 30],
      [body, 130, 10],
      [body, 5000, 400],
    ] as const)
      expect(frame.addPiece(memory, at, lengthBytes)).toBe(true);
    expect(queue.sendGathered(frame)).toBe(true);
    expect(queue.counters).toMatchObject({ sent: 1, sentBytes: 454, dropped: 0 });
    expect(() => frame.addPiece(body, 8000, 193)).toThrow("outside the memory");
    frame.begin();
    for (let piece = 0; piece < TapQueue.PIECES_MAX; piece++)
      expect(frame.addPiece(body, piece * 2, 1)).toBe(true);
    // One that follows the last is a part of it.
    expect(frame.addPiece(body, TapQueue.PIECES_MAX * 2 - 1, 1)).toBe(true);
    expect(frame.addPiece(body, 4096, 1)).toBe(false);
  });

  test("refuses frames while it is down, and tells when it is gone", () => {
    const netns = makeNamespace();
    const tap = open({ name: "tap0", netns });
    const memory = new Uint8Array(4096);
    const queue = new TapQueue(tap.queues[0]!, memory);
    expect(queue.send(0, 60)).toBe(false);
    expect(queue.counters.dropped).toBe(1);
    for (const [at, lengthBytes] of [
      [-1, 60],
      [4096, 1],
      [0, 4097],
      [NaN, 60],
    ] as const) {
      expect(() => queue.send(at, lengthBytes)).toThrow("outside the memory");
      expect(() => queue.receive(at, lengthBytes)).toThrow("outside the memory");
    }
    run("ip", "-n", netns, "link", "delete", "tap0");
    expect(queue.wait(10_000)).toBe("ready");
    expect(queue.receive(0, 2048)).toBe(TAP_GONE);
    tap.stop();
    expect(queue.wait()).toBe("stopped");
  });

  test("has as many queues as it is told, and each frame comes to one of them", () => {
    const [tap, netns] = openUp({ queues: 4 });
    const memory = new Uint8Array(4096);
    const queues = tap.queues.map((queue) => new TapQueue(queue, memory));
    expect(queues).toHaveLength(4);
    for (let port = 1; port <= 40; port++)
      inside(netns, "bash", "-c", `echo hello > /dev/udp/192.0.2.2/${port}`);
    const ports: number[] = [];
    for (const queue of queues)
      while (queue.receive(0, 2048) > 0) ports.push((memory[36]! << 8) | memory[37]!);
    expect(ports.sort((left, right) => left - right)).toEqual(
      Array.from({ length: 40 }, (_, index) => index + 1),
    );
    expect(queues.filter(({ counters }) => counters.received > 0).length).toBeGreaterThan(1);
  });
});

const forwarder = new URL("workers/tap-forwarder.js", import.meta.url);

interface Forwarded {
  readonly longestBytes: number;
  readonly wanting: number;
  readonly gone: boolean;
  readonly sent: number;
  readonly dropped: number;
}

/** Sends `megabytes` by TCP from one namespace to another, and hashes what arrives. */
async function transfer(from: string, to: string, megabytes: number): Promise<[string, string]> {
  const receive = `
    const hash = require("crypto").createHash("sha256");
    require("net").createServer((socket) => {
      socket.on("data", (data) => hash.update(data)).on("end", () => {
        console.log(hash.digest("hex"));
        process.exit();
      });
    }).listen(5001, () => console.log("listening"));`;
  const send = `
    const hash = require("crypto").createHash("sha256");
    const socket = require("net").connect(5001, "192.0.2.2");
    const block = require("crypto").randomBytes(2 ** 20);
    let left = ${megabytes};
    (function more() {
      for (; left > 0; left--) {
        hash.update(block);
        if (!socket.write(block)) { left--; socket.once("drain", more); return; }
      }
      socket.end();
    })();
    socket.on("close", () => console.log(hash.digest("hex")));`;
  const start = (netns: string, script: string) =>
    spawn("ip", ["netns", "exec", netns, process.execPath, "-e", script]);
  const receiver = start(to, receive);
  let received = "";
  receiver.stdout.setEncoding("utf8").on("data", (text: string) => (received += text));
  const received0 = once(receiver, "exit");
  await once(receiver.stdout, "data");
  const sender = start(from, send);
  let sent = "";
  sender.stdout.setEncoding("utf8").on("data", (text: string) => (sent += text));
  await Promise.all([once(sender, "exit"), received0]);
  return [sent.trim(), received.replace("listening", "").trim()];
}

describe.skipIf(reason !== undefined)("workers that block at two TAPs", () => {
  test.each([
    ["whole frames", 0, 1514],
    ["frames that are segmented later", 7, 62_780],
  ])("forward TCP in %s, and end when they are told", async (_, offload, longestBytes) => {
    const ends = ["192.0.2.1", "192.0.2.2"].map((address) => {
      const netns = makeNamespace();
      const tap = open({ name: "tap0", netns, offload, gsoMaxBytes: 62_000 });
      tap.isUp = true;
      run("ip", "-n", netns, "address", "add", `${address}/24`, "dev", "tap0");
      return { netns, tap };
    });
    const [left, right] = ends as [(typeof ends)[0], (typeof ends)[0]];
    const memory = new Uint8Array(new SharedArrayBuffer(4 * 65_536));
    const workers = [
      { from: left, to: right, at: 0 },
      { from: right, to: left, at: 2 * 65_536 },
    ].map(
      ({ from, to, at }) =>
        new Worker(forwarder, {
          workerData: {
            from: from.tap.queues[0],
            to: to.tap.queues[0],
            memory,
            at,
            roomBytes: 2 * 65_536,
          },
        }),
    );
    await Promise.all(workers.map((worker) => once(worker, "online")));
    const [sent, received] = await transfer(left.netns, right.netns, 32);
    expect(sent).toHaveLength(64);
    expect(received).toBe(sent);
    const told = Promise.all(
      workers.map(async (worker) => {
        const exit = once(worker, "exit");
        const [message] = (await once(worker, "message")) as [Forwarded];
        expect(await exit).toEqual([0]);
        return message;
      }),
    );
    left.tap.stop();
    right.tap.stop();
    const [there] = await told;
    expect(there).toMatchObject({ gone: false, dropped: 0 });
    expect(there!.longestBytes).toBeLessThanOrEqual(longestBytes);
    expect(there!.longestBytes).toBeGreaterThanOrEqual(Math.min(longestBytes, 1515));
    expect(there!.wanting > 0).toBe(offload !== 0);
  });
});

const dist = fileURLToPath(new URL("../dist/index.js", import.meta.url));
const OPEN = `import { Tap } from ${JSON.stringify(dist)};
  try { Tap.open(JSON.parse(process.argv[1])); console.log("opened"); }
  catch (error) { console.log(error.code + " " + error.message); }`;

/** What becomes of an attempt to open a TAP in a program of its own. */
function attempt(
  options: TapOptions,
  around: readonly string[] = [],
  node: readonly string[] = [],
) {
  const command = [
    ...around,
    process.execPath,
    ...node,
    "--input-type=module",
    "-e",
    OPEN,
    JSON.stringify(options),
  ];
  return run(command[0]!, ...command.slice(1)).trim();
}

describe.skipIf(reason !== undefined)("a TAP that cannot be had", () => {
  test("says which right is missing", () => {
    const options = { name: "tap0", netns: makeNamespace() };
    expect(attempt({ name: "tap0" }, ["setpriv", "--bounding-set=-net_admin"])).toMatch(
      /^ERR_TAP_PERMISSION tap0: not permitted; a TAP device needs root or CAP_NET_ADMIN/,
    );
    expect(attempt(options, ["setpriv", "--bounding-set=-sys_admin"])).toMatch(
      /^ERR_TAP_PERMISSION network namespace /,
    );
  });

  test("says that koffi is missing", () => {
    const hide = `const module = require("node:module");
      const find = module._resolveFilename;
      module._resolveFilename = (name, ...rest) => {
        if (name === "koffi") throw Object.assign(new Error("no koffi"), { code: "MODULE_NOT_FOUND" });
        return find(name, ...rest);
      };`;
    const preload = `data:text/javascript,${encodeURIComponent(`import { createRequire } from "node:module"; const require = createRequire("/"); ${hide}`)}`;
    expect(attempt({ name: "tap0" }, [], ["--import", preload])).toBe(
      "ERR_KOFFI_MISSING TAP devices need the package koffi, which is optional and not installed: npm install koffi",
    );
  });

  test("says that there is no /dev/net/tun", () => {
    const hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"];
    expect(attempt({ name: "tap0" }, hidden)).toMatch(
      /^ERR_TAP_DEVICE \/dev\/net\/tun .*modprobe tun/,
    );
  });

  test("says what else is wrong", () => {
    const netns = makeNamespace();
    open({ name: "tap0", netns });
    const refused = (options: TapOptions): unknown => {
      try {
        return open(options).name;
      } catch (error) {
        const { code, message } = error as Error & { code: string };
        return `${code} ${message}`;
      }
    };
    expect(refused({ name: "tap0", netns: "no-such" })).toBe(
      "ERR_NETNS there is no network namespace no-such: ip netns add no-such",
    );
    expect(refused({ name: "tap0", netns: "../x" })).toMatch(/^ERR_NETNS/);
    expect(refused({ name: "tap0", netns })).toBe("ERR_TAP tap0: is in use already (EBUSY)");
    expect(refused({ name: "tap1", netns, offload: 1 << 20 })).toMatch(
      /^ERR_TAP tap1: .*\(EINVAL\)/,
    );
    expect(refused({ name: "tap1", netns, mtu: 100_000 })).toMatch(/^ERR_TAP tap1: .*\(EINVAL\)/);
    expect(refused({ name: "tap1", netns, gsoMaxBytes: 2 ** 31 })).toMatch(
      /^ERR_TAP tap1: .*62|EINVAL/,
    );
    for (const bad of [{ name: "" }, { name: "a/b" }, { name: "x".repeat(16) }])
      expect(refused(bad)).toMatch(/^ERR_TAP .*not a name/);
    for (const queues of [0, 1.5, 257])
      expect(refused({ name: "tap1", queues })).toMatch(/^ERR_TAP/);
    expect(refused({ name: "tap1", vnetHeaderBytes: 11 })).toMatch(/^ERR_TAP/);
    // Nothing is left of what was refused.
    expect(links(netns).map(({ ifname }) => ifname)).toEqual(["lo", "tap0"]);
  });
});
