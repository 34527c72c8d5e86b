import { createCipheriv, createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect } from "vitest";
import { networkAdapterId, parseMac, type SwitchConfig } from "@hyperv-is/hyperv-host";
import { NetworkSet } from "@hyperv-is/hyperv-host/node";
import { NodeClock, NodeTimers } from "@hyperv-is/platform-node";
import { Namespace, noTaps } from "../../hyperv-host/test/namespaces.js";
import { StockLinux, withGuest } from "./stock-linux.js";

const MEGABYTE = 2 ** 20;
/** In each direction, for each setting of the adapter: 100 MB in all, unless `--count` says how many MB each. */
const TRANSFER_BYTES = Number(process.env["SOAK_COUNT"] ?? 10) * MEGABYTE;

const NIC = networkAdapterId(0);
const HOST = "192.0.2.1";
const GUEST = "192.0.2.2";
const TAP = "hvis0";
/** After a boot Linux does not listen to changes of the link for so long; see docs/real-guests.md. */
const DEAF_S = 300;

const directory = mkdtempSync(join(tmpdir(), "stock-linux-network-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const namespaces: Namespace[] = [];
afterEach(() => {
  for (const namespace of namespaces.splice(0)) namespace.delete();
});

function makeNamespace(): Namespace {
  const namespace = new Namespace();
  namespaces.push(namespace);
  return namespace;
}

/** Boots the guest with an adapter at the switch, and its address on it. */
async function boot(lan: SwitchConfig): Promise<StockLinux> {
  const mac = parseMac("00:15:5d:0a:01:02")!;
  const linux = await StockLinux.boot({
    modules: ["bus", "network"],
    network: {
      switches: [lan],
      adapters: [{ instanceId: NIC, switch: lan.name, mac, subChannelsMax: 3 }],
    },
  });
  await linux.output(`ip addr add ${GUEST}/24 dev eth0; ip link set eth0 up`);
  return linux;
}

/** The file that goes over: random for all that anybody cares, and the same in each program. */
const file = createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16)).update(
  Buffer.alloc(TRANSFER_BYTES),
);

/** Sends the file to whoever connects to one port, and prints the hash of what comes to the other. */
const SERVER = `
  const [net, { createCipheriv, createHash }] = [require("net"), require("crypto")];
  const bytes = createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16))
    .update(Buffer.alloc(${TRANSFER_BYTES}));
  net.createServer((socket) => socket.end(bytes)).listen(5001, "${HOST}");
  net.createServer((socket) => {
    const hash = createHash("sha256");
    socket.on("data", (data) => hash.update(data)).on("end", () => {
      socket.end();
      console.log(hash.digest("hex"));
    });
  }).listen(5002, "${HOST}", () => console.log("listening"));`;

/** What an adapter of each end leaves to the other. */
interface Setting {
  readonly offloads: "on" | "off";
  readonly mtu?: number;
}

/** Moves a file both ways by TCP, with each setting; prints how long it took. */
async function transfers(linux: StockLinux, host: Namespace, settings: readonly Setting[]) {
  const expected = createHash("sha256").update(file).digest("hex");
  const server = host.start(process.execPath, "-e", SERVER);
  let said = "";
  let heard: () => void = () => undefined;
  server.stdout!.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    heard();
  });
  /** The next line of the server. */
  const line = async (): Promise<string> => {
    while (!said.includes("\n")) await new Promise<void>((resolve) => (heard = resolve));
    const [first = "", ...rest] = said.split("\n");
    said = rest.join("\n");
    return first;
  };
  expect(await line()).toBe("listening");
  for (const { offloads, mtu = 1500 } of settings) {
    await linux.output(`ip link set eth0 mtu ${mtu}; ${offloadCommands("eth0", offloads)}`);
    // A guest that checks for itself drops frames whose checksum nobody has filled in, whatever it is told of them.
    host.run("ethtool", "-K", TAP, "tx", offloads);
    const startMs = performance.now();
    const received = await linux.output(`nc ${HOST} 5001 > /tmp/data; sha256sum < /tmp/data`);
    const receivedMs = performance.now();
    expect(received).toContain(expected);
    await linux.output(`nc -w 10 ${HOST} 5002 < /tmp/data`);
    expect(await line()).toBe(expected);
    const rate = (ms: number): string => `${((TRANSFER_BYTES / ms) * 0.001).toFixed(1)} MB/s`;
    console.log(
      `offloads ${offloads}, MTU ${mtu}: received with its hash at ${rate(receivedMs - startMs)}, sent at ${rate(performance.now() - receivedMs)}`,
    );
  }
  server.kill();
}

const offloadCommands = (name: string, state: "on" | "off"): string =>
  ["tx", "rx", "sg", "tso", "gso", "gro"]
    .map((offload) => `ethtool -K ${name} ${offload} ${state}`)
    .join("; ");

const [on, off] = [{ offloads: "on" }, { offloads: "off" }] as const;

/** A test with a TAP; it is skipped where there are none, and says why. */
function withTap(name: string, timeout: number, run: () => Promise<void>): void {
  if (noTaps === undefined) withGuest(name, { timeout, peers: ["ethtool"] }, run);
}

withTap("TCP with the kernel behind a TAP, and a link that goes and comes", 1_200_000, async () => {
  const host = makeNamespace();
  await using linux = await boot({
    name: "lan",
    uplinks: [{ kind: "tap", name: TAP, netns: host.name, mtu: 9000 }],
  });
  host.address(TAP, `${HOST}/24`);
  await linux.output(`ping -q -c 2 -i 0.2 ${HOST}`);
  // Whatever waits here holds the guest up.
  expect(await once(host.start("ping", "-c", "2", "-i", "0.2", GUEST), "close")).toEqual([0, null]);
  await transfers(linux, host, [on, off, { ...on, mtu: 9000 }]);
  const { host: machine } = linux.pc;
  const [adapter] = machine.stats().adapters!;
  // It was let use what it has: super-frames went over the ring whole, and came as coalesced segments.
  expect(adapter!.transmitLargeSends).toBeGreaterThan(0);
  expect(adapter!.receiveCoalesced).toBeGreaterThan(0);
  expect(adapter).toMatchObject({ receiveSlotsBusy: 0, transmitErrors: 0, receiveFailed: 0 });

  await linux.output(`until [ $(cut -d. -f1 /proc/uptime) -gt ${DEAF_S} ]; do sleep 1; done`);
  const carrier = (state: number): Promise<string> =>
    linux.output(`until [ $(cat /sys/class/net/eth0/carrier) = ${state} ]; do usleep 100000; done`);
  machine.changeAdapter(NIC, { isLinkUp: false });
  await carrier(0);
  machine.changeAdapter(NIC, { isLinkUp: true });
  await carrier(1);
  await linux.output(`ping -q -c 2 -i 0.2 ${HOST}`);
  await linux.kernelLog();
  expect(linux.unexplained).toEqual([]);
});

withTap(
  "TCP over a socket, where the host cuts segments and computes checksums",
  600_000,
  async () => {
    const host = makeNamespace();
    const path = join(directory, "lan");
    const far = await NetworkSet.open(
      {
        switches: [
          {
            name: "far",
            uplinks: [
              { kind: "socket", path, listen: true },
              { kind: "tap", name: TAP, netns: host.name },
            ],
          },
        ],
        adapters: [],
      },
      new NodeTimers(new NodeClock(), () => undefined),
    );
    // A TAP has to be asked for its frames.
    let isOver = false;
    const serve = (): void => {
      far.poll();
      if (!isOver) setImmediate(serve);
    };
    serve();
    try {
      host.address(TAP, `${HOST}/24`);
      await using linux = await boot({ name: "lan", uplinks: [{ kind: "socket", path }] });
      await transfers(linux, host, [on, off]);
      const port = linux.pc.host.switches
        .get("lan")!
        .ports.find(({ kind }) => kind === "external")!;
      expect(port.counters.superFramesCut).toBeGreaterThan(0);
      await linux.kernelLog();
      expect(linux.unexplained).toEqual([]);
    } finally {
      isOver = true;
      far.close();
    }
  },
);
