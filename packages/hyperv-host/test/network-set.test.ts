import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, linkSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { PcapngFlag } from "@hyperv-is/platform-node";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { networkAdapterId, type NetworkConfig } from "../src/index.js";
import { NetworkSet } from "../src/node/index.js";
import type { Port } from "../src/switch/port.js";
import { setPartialChecksum } from "../src/switch/checksum-offload.js";
import { setSuperFrame } from "../src/switch/segmentation.js";
import { readCapture } from "../../platform-node/test/pcapng-reader.js";
import {
  build,
  expectFrames,
  frameOf,
  hex,
  segments,
  type ChecksumForm,
  type Packet,
} from "./frame-model.js";
import { TestEnd, all, allOffloads, macOf, plainFrame } from "./switch-rig.js";

let directory = "";
let timers = new VirtualTimers();
let log: string[] = [];
const open: { close(): void }[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "hyperv-network-"));
  timers = new VirtualTimers();
  log = [];
});
afterEach(() => {
  for (const each of open.splice(0)) each.close();
  rmSync(directory, { recursive: true });
});

async function network(config: Partial<NetworkConfig> = {}): Promise<NetworkSet> {
  const set = await NetworkSet.open(
    { switches: [{ name: "lan" }], adapters: [], ...config },
    timers,
    undefined,
    (line) => log.push(line),
  );
  open.push(set);
  return set;
}

/** A guest's end at the switch `lan`. */
function plug(
  set: NetworkSet,
  number = 1,
): { end: TestEnd; send: (...frames: Uint8Array[]) => void } {
  const end = new TestEnd();
  const lan = set.switches.get("lan")!;
  const port = lan.connect(end, { name: `guest${number}`, kind: "guest", mac: macOf(number) });
  return {
    end,
    send(...frames) {
      for (const frame of frames) port.send(frameOf(frame));
      lan.flush();
    },
  };
}

const framed = (frame: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(4 + frame.length);
  new DataView(bytes.buffer).setUint32(0, frame.length);
  bytes.set(frame, 4);
  return bytes;
};

/** A program at the other side of a socket. */
class Peer {
  readonly socket: Socket;
  received = Buffer.alloc(0);

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk) => (this.received = Buffer.concat([this.received, chunk])));
    socket.on("error", () => undefined);
  }

  static async connect(path: string): Promise<Peer> {
    const socket = connect(path);
    await once(socket, "connect");
    const peer = new Peer(socket);
    open.push({ close: () => socket.destroy() });
    return peer;
  }

  /** Waits until so many bytes are there. */
  async bytes(count: number): Promise<Uint8Array> {
    while (this.received.length < count) await once(this.socket, "data");
    return this.received;
  }
}

/** Waits, turn by turn of the event loop, until it is so. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
}

describe("a socket at a switch", () => {
  const uplinked = async (): Promise<{ set: NetworkSet; path: string }> => {
    const path = join(directory, "lan.sock");
    const uplinks = [{ kind: "socket" as const, path, listen: true }];
    return { set: await network({ switches: [{ name: "lan", uplinks }] }), path };
  };

  test("carries frames with their lengths before them, both ways", async () => {
    const { set, path } = await uplinked();
    const { end, send } = plug(set);
    const peer = await Peer.connect(path);
    const port = set.switches.get("lan")!.ports[0]!;
    await until(() => port.isLinkUp);
    const [out, back] = [
      plainFrame(macOf(9), macOf(1)),
      plainFrame(macOf(1), macOf(9), undefined, 1514),
    ];
    send(out, out);
    expectFrames([await peer.bytes(128)], [Uint8Array.of(...framed(out), ...framed(out))]);
    peer.socket.write(framed(back));
    await until(() => end.frames.length > 0);
    expectFrames(
      end.frames.map(({ bytes }) => bytes),
      [back],
    );
  });

  test("takes frames in pieces of any length", async () => {
    const { set, path } = await uplinked();
    const { end } = plug(set);
    const peer = await Peer.connect(path);
    const frames = Array.from({ length: 300 }, (_, index) => {
      const frame = plainFrame(macOf(1), macOf(9), undefined, 60 + ((index * 97) % 1455));
      frame.fill(index, 20);
      return frame;
    });
    const stream = Buffer.concat(frames.map(framed));
    peer.socket.setNoDelay(true);
    for (let at = 0, piece = 1; at < stream.length; at += piece, piece = (piece * 31) % 4099) {
      peer.socket.write(stream.subarray(at, at + piece));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => end.frames.length === frames.length);
    expectFrames(
      end.frames.map(({ bytes }) => bytes),
      frames,
    );
  });

  test.each([
    ["no length", "00000000"],
    ["a length that no frame has", "00011001"],
    ["text", "47455420"],
  ])("lets a program go that says %s, and waits for the next", async (_name, bytes) => {
    const { set, path } = await uplinked();
    const { end } = plug(set);
    const wrong = await Peer.connect(path);
    const frame = plainFrame(macOf(1), macOf(9));
    wrong.socket.write(Uint8Array.of(...framed(frame), ...hex(bytes)));
    await once(wrong.socket, "close");
    expect(end.frames).toHaveLength(1);
    const port = set.switches.get("lan")!.ports[0]!;
    expect(port.isLinkUp).toBe(false);
    const peer = await Peer.connect(path);
    await until(() => port.isLinkUp);
    const another = plainFrame(macOf(1), macOf(9), undefined, 100);
    peer.socket.write(framed(another));
    await until(() => end.frames.length === 2);
    expectFrames(
      end.frames.map(({ bytes: arrived }) => arrived),
      [frame, another],
    );
  });

  test("serves one program at a time, and drops frames while there is none", async () => {
    const { set, path } = await uplinked();
    const { send } = plug(set);
    const port = set.switches.get("lan")!.ports[0]!;
    send(plainFrame(all, macOf(1)));
    expect(port.counters.droppedLinkDown).toBe(1);
    await Peer.connect(path);
    await until(() => port.isLinkUp);
    const second = await Peer.connect(path);
    await once(second.socket, "close");
    expect(port.isLinkUp).toBe(true);
  });

  test("does not wait for a program that does not read: it drops", async () => {
    const { set, path } = await uplinked();
    const { send } = plug(set);
    const port = set.switches.get("lan")!.ports[0]!;
    const peer = await Peer.connect(path);
    await until(() => port.isLinkUp);
    peer.socket.pause();
    const frame = plainFrame(macOf(9), macOf(1), undefined, 1514);
    const batch = Array.from({ length: 80 }, () => frame);
    for (let round = 0; round < 40; round++) send(...batch);
    expect(port.counters.droppedByEnd).toBeGreaterThan(1000);
    const kept = port.counters.framesDelivered;
    peer.socket.resume();
    await peer.bytes(kept * 1518);
    await until(() => {
      send(frame);
      return port.counters.framesDelivered > kept;
    });
  });

  test("connects two switches", async () => {
    const { set, path } = await uplinked();
    const other = await network({
      switches: [{ name: "lan", uplinks: [{ kind: "socket", path }] }],
    });
    await until(() => set.switches.get("lan")!.ports[0]!.isLinkUp);
    const [one, two] = [plug(set, 1), plug(other, 2)];
    one.send(plainFrame(macOf(2), macOf(1)));
    await until(() => two.end.frames.length === 1);
    two.send(plainFrame(macOf(1), macOf(2)));
    await until(() => one.end.frames.length === 1);
  });
});

describe("an uplink that has connected", () => {
  /** A program that listens, and what it does with those who come. */
  async function listening(path: string, taken: (socket: Socket) => void): Promise<Server> {
    const server = createServer(taken).listen(path);
    await once(server, "listening");
    open.push({ close: () => server.close() });
    return server;
  }

  async function connectedTo(path: string): Promise<{ set: NetworkSet; port: Port }> {
    const uplinks = [{ kind: "socket" as const, path }];
    const set = await network({ switches: [{ name: "lan", uplinks }] });
    return { set, port: set.switches.get("lan")!.ports[0]! };
  }

  /** Lets the next attempt begin. @returns How long it was waited for. */
  async function attempt(): Promise<number> {
    await until(() => timers.nextMs !== Infinity);
    const waitMs = timers.nextMs - timers.now();
    timers.advance(waitMs);
    return waitMs;
  }

  test("connects again when the other side is back, and counts what it could not send", async () => {
    const path = join(directory, "peer.sock");
    const peers: Socket[] = [];
    const first = await listening(path, (socket) => peers.push(socket));
    const { set, port } = await connectedTo(path);
    await until(() => peers.length === 1);
    const guest = plug(set);
    first.close();
    peers[0]!.destroy();
    await until(() => !port.isLinkUp);
    expect(log).toEqual([`${path}: the other side went away; trying to connect again`]);
    const frame = plainFrame(macOf(9), macOf(1));
    guest.send(frame, frame);
    expect(port.counters).toMatchObject({ droppedLinkDown: 2, framesDelivered: 0 });
    const waits: number[] = [];
    for (let count = 0; count < 8; count++) waits.push(await attempt());
    expect(waits).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    await until(() => timers.nextMs !== Infinity);
    await listening(path, (socket) => peers.push(socket));
    await attempt();
    await until(() => port.isLinkUp && peers.length === 2);
    expect(log.slice(1)).toEqual([`${path}: connected again`]);
    const bytes = once(peers[1]!, "data");
    guest.send(frame);
    expect((await bytes)[0]).toEqual(Buffer.from(framed(frame)));
    peers[1]!.write(framed(plainFrame(macOf(1), macOf(9))));
    await until(() => guest.end.frames.length === 1);
    // Whoever has spoken is looked for at once.
    peers[1]!.destroy();
    await until(() => !port.isLinkUp);
    expect(await attempt()).toBe(100);
  });

  test("does not besiege who lets it go at once", async () => {
    const path = join(directory, "peer.sock");
    let taken = 0;
    await listening(path, (socket) => {
      taken++;
      socket.destroy();
    });
    await connectedTo(path);
    const waits: number[] = [];
    for (let count = 0; count < 4; count++) waits.push(await attempt());
    expect(waits).toEqual([100, 200, 400, 800]);
    await until(() => taken === 5);
  });

  test("is forgotten when the network is closed meanwhile", async () => {
    const path = join(directory, "peer.sock");
    const peers: Socket[] = [];
    await listening(path, (socket) => peers.push(socket));
    const { set, port } = await connectedTo(path);
    await until(() => peers.length === 1);
    peers[0]!.destroy();
    await until(() => !port.isLinkUp);
    set.close();
    expect(timers.nextMs).toBe(Infinity);
    // While it is connecting, too.
    const other = await connectedTo(path);
    await until(() => peers.length === 2);
    peers[1]!.destroy();
    await until(() => !other.port.isLinkUp);
    await attempt();
    other.set.close();
    await until(() => peers.length === 3);
    await once(peers[2]!.resume(), "close");
    expect(timers.nextMs).toBe(Infinity);
  });
});

describe("a network that cannot be", () => {
  const adapter = { instanceId: networkAdapterId(0), mac: macOf(1), switch: "lan" };
  test.each<[string, Partial<NetworkConfig>, string]>([
    ["two switches of one name", { switches: [{ name: "a" }, { name: "a" }] }, "ERR_NETWORK"],
    ["no such switch", { adapters: [{ ...adapter, switch: "wan" }] }, "ERR_NETWORK"],
    [
      "an address twice",
      { adapters: [adapter, { ...adapter, instanceId: networkAdapterId(1) }] },
      "ERR_NETWORK",
    ],
    [
      "a VLAN that is none",
      { adapters: [{ ...adapter, vlan: { mode: "access", id: 4095 } }] },
      "ERR_NETWORK",
    ],
    [
      "nobody at the socket",
      { switches: [{ name: "lan", uplinks: [{ kind: "socket", path: "/nobody.sock" }] }] },
      "ENOENT",
    ],
    [
      "no room for the file",
      { adapters: [adapter], captures: [{ instanceId: adapter.instanceId, path: "/no/where" }] },
      "ENOENT",
    ],
    [
      "a capture of nothing",
      { captures: [{ instanceId: adapter.instanceId, path: "/tmp/x" }] },
      "ERR_NETWORK",
    ],
  ])("%s", async (_name, config, code) => {
    await expect(network(config)).rejects.toMatchObject({ name: "NetworkError", code });
  });

  test("says who is missing at a socket, and what to do", async () => {
    const dead = createServer().listen(join(directory, "dead.sock"));
    await once(dead, "listening");
    linkSync(join(directory, "dead.sock"), join(directory, "left.sock"));
    dead.close();
    for (const name of ["none.sock", "left.sock"]) {
      const path = join(directory, name);
      const uplinks = [{ kind: "socket", path }] as const;
      await expect(network({ switches: [{ name: "lan", uplinks }] })).rejects.toThrow(
        `${path}: nobody listens there; start the other side first, or add ,listen and have it connect`,
      );
    }
  });

  test("a path where somebody listens", async () => {
    const path = join(directory, "lan.sock");
    const switches = [{ name: "lan", uplinks: [{ kind: "socket" as const, path, listen: true }] }];
    await network({ switches });
    await expect(network({ switches })).rejects.toMatchObject({ code: "ERR_SOCKET_IN_USE" });
    open.pop()!.close();
    expect(existsSync(path)).toBe(false);
    await network({ switches });
  });
});

describe("a capture", () => {
  const instanceId = networkAdapterId(0);
  const packet: Packet = {
    ipVersion: 4,
    protocol: 6,
    ipOptions: 0,
    tcpOptions: 0,
    flags: 0x18,
    sequence: 9,
    identification: 1,
    payload: Array.from({ length: 700 }, (_, index) => index & 0xff),
  };

  /** A frame with a tag among its bytes. */
  const tagged = (tag: number, bytes: Uint8Array): Uint8Array =>
    Uint8Array.of(...bytes.subarray(0, 12), 0x81, 0, 0, tag, ...bytes.subarray(12));

  /** What the adapter sends. */
  const sentBytes = (form: ChecksumForm): Uint8Array => {
    const bytes = build(packet, form);
    bytes.set(macOf(9));
    bytes.set(macOf(2), 6);
    return bytes;
  };

  /** A capture of frames to and from an adapter at a trunk port. */
  const captured = async (limits: { snapBytes?: number; count?: number } = {}): Promise<string> => {
    const path = join(directory, "hn0.pcapng");
    const adapter = {
      instanceId,
      mac: macOf(2),
      switch: "lan",
      vlan: { mode: "trunk", nativeId: 0, allowedIds: [7] } as const,
    };
    const captures = [{ instanceId, path, ...limits }];
    const set = await network({ adapters: [adapter], captures });
    const lan = set.switches.get("lan")!;
    const end = new TestEnd();
    end.offloads = allOffloads;
    const { port } = set.adapters.get(instanceId)!;
    const peer = lan.connect(end, { name: "peer", kind: "external" });
    timers.advance(1234.567);
    const large = frameOf(build(packet, "lso"));
    setSuperFrame(large, 4, 34, 300);
    peer.send(large);
    const partial = frameOf(build({ ...packet, ipVersion: 6, tag: 7 }, "partial"));
    setPartialChecksum(partial, 58, 16);
    peer.send(partial);
    const sent = frameOf(sentBytes("partial"));
    setPartialChecksum(sent, 34, 16);
    port.send(sent);
    const sentLarge = frameOf(sentBytes("lso"));
    setSuperFrame(sentLarge, 4, 34, 300);
    sentLarge.vlanTag = 7;
    port.send(sentLarge);
    port.send(frameOf(sentBytes("full")));
    // What the peer gets is not changed by the capture.
    expect(end.frames.map(({ vlanTag, segmentBytes }) => [vlanTag, segmentBytes])).toEqual([
      [-1, 0],
      [7, 300],
      [-1, 0],
    ]);
    timers.advance(200);
    const before = readFileSync(path).length;
    expect(before).toBeGreaterThan(0);
    set.stopCapture(instanceId);
    set.stopCapture(instanceId);
    return path;
  };

  test("has the frames as they cross the port, and says what is left to do to them", async () => {
    const { application, interfaces, packets, statistics } = readCapture(
      readFileSync(await captured()),
    );
    expect(application).toBe("hyperv-host");
    expect(interfaces.map(({ options }) => [options.get(2)!.toString(), options.get(6)])).toEqual([
      ["hn0", Buffer.from(macOf(2))],
    ]);
    for (const { microseconds } of packets)
      // The clock of the test was made a moment ago, and is 1.2 s on.
      expect(Math.abs(microseconds / 1000 - 1234.567 - Date.now())).toBeLessThan(60_000);
    expectFrames(
      packets.map(({ data }) => data),
      [
        ...segments(packet, 300),
        build({ ...packet, ipVersion: 6, tag: 7 }, "full"),
        sentBytes("partial"),
        tagged(7, sentBytes("partial")),
        sentBytes("full"),
      ],
    );
    const { inbound, outbound, checksumNotReady, checksumValid, segmentationOffloaded } =
      PcapngFlag;
    expect(packets.map(({ flags }) => flags)).toEqual([
      ...Array<number>(3).fill(inbound | checksumValid),
      inbound | checksumValid,
      outbound | checksumNotReady,
      outbound | checksumNotReady | segmentationOffloaded,
      outbound,
    ]);
    expect(statistics).toEqual([[0, 7n, 0n]]);
  });

  test("has as many frames as were asked for, and the beginning of each", async () => {
    const { packets } = readCapture(readFileSync(await captured({ snapBytes: 15, count: 6 })));
    expect(packets.map(({ data }) => data.length)).toEqual(Array(6).fill(15));
    expect(packets.map(({ originalBytes }) => originalBytes)).toEqual([
      354, 354, 154, 778, 754, 758,
    ]);
    expect(packets[5]!.data.subarray(12).toString("hex")).toBe("810000");
  });

  test("that is begun anew leaves the first file whole", async () => {
    const [first, second] = [join(directory, "1.pcapng"), join(directory, "2.pcapng")];
    const set = await network({ adapters: [{ instanceId, mac: macOf(2), switch: "lan" }] });
    const { port } = set.adapters.get(instanceId)!;
    const lengths = [first, second].map((path) => {
      set.startCapture({ instanceId, path });
      port.send(frameOf(plainFrame(all, macOf(2))));
      return path;
    });
    set.stopCapture(instanceId);
    const kept = lengths.map((path) => readCapture(readFileSync(path)).packets.length);
    expect(kept).toEqual([1, 1]);
  });

  test("says when it could not be written", async ({ skip }) => {
    if (!existsSync("/dev/full")) skip("there is no /dev/full");
    const path = "/dev/full";
    const set = await network({ adapters: [{ instanceId, mac: macOf(2), switch: "lan" }] });
    set.startCapture({ instanceId, path });
    expect(() => set.stopCapture(instanceId)).toThrow(
      expect.objectContaining({ name: "NetworkError", code: "ENOSPC" }) as Error,
    );
  });

  test("is read by tshark", async ({ skip }) => {
    try {
      execFileSync("tshark", ["--version"], { stdio: "ignore" });
    } catch {
      skip("tshark is not installed");
    }
    const fields = [
      "frame.interface_name",
      "frame.packet_flags",
      "frame.len",
      "frame.cap_len",
      "ip.checksum.status",
      "tcp.checksum.status",
      "tcp.len",
      "vlan.id",
    ];
    const read = (path: string): string[] =>
      execFileSync(
        "tshark",
        [
          ...["-r", path, "-T", "fields", "-E", "separator=,"],
          ...["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"],
          ...fields.flatMap((field) => ["-e", field]),
        ],
        { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] },
      )
        .trimEnd()
        .split("\n");
    // Of a checksum: 1 is right, 0 is not, as one that is not computed yet.
    expect(read(await captured())).toEqual([
      "hn0,0x00000401,354,354,1,1,300,",
      "hn0,0x00000401,354,354,1,1,300,",
      "hn0,0x00000401,154,154,1,1,100,",
      "hn0,0x00000401,778,778,,1,700,7",
      "hn0,0x00000202,754,754,1,0,700,",
      "hn0,0x00000a02,758,758,1,0,700,7",
      "hn0,0x00000002,754,754,1,1,700,",
    ]);
    expect(read(await captured({ snapBytes: 100 })).map((line) => line.split(",")[3])).toEqual(
      Array(7).fill("100"),
    );
  });
});
