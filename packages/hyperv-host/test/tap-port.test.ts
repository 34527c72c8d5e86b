import { afterEach, describe, expect, test } from "vitest";
import { createGuestMemory, NodeTimers, NodeClock, Tap, TapQueue } from "@hyperv-is/platform-node";
import type { NetworkConfig, TapUplink } from "../src/index.js";
import { NetworkSet, NodeHost } from "../src/node/index.js";
import type { Port } from "../src/switch/port.js";
import { frameOf } from "./frame-model.js";
import { Namespace, noTaps, transfer } from "./namespaces.js";
import { leastGarbage } from "../../../tools/garbage.js";
import { TestEnd, all, allOffloads, macOf, plainFrame } from "./switch-rig.js";

const BATCHES = 200;
/** Frames in each of them. */
const BATCH = 8;
const FRAME_AT = 16;
const FRAME_BYTES = 1400;
/** Bytes for a frame: a number on the heap for each batch is allowed, one for each frame is not. */
const GARBAGE_MAX = 8;

const timers = new NodeTimers(new NodeClock());
const cleanUps: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function namespace(): Namespace {
  const made = new Namespace();
  cleanUps.push(() => made.delete());
  return made;
}

const uplink = ({ name }: Namespace, more: Partial<TapUplink> = {}): TapUplink => ({
  kind: "tap",
  name: "up0",
  netns: name,
  ...more,
});

const lan = (...uplinks: TapUplink[]): NetworkConfig => ({
  switches: [{ name: "lan", uplinks }],
  adapters: [],
});

async function network(...uplinks: TapUplink[]): Promise<NetworkSet> {
  const set = await NetworkSet.open(lan(...uplinks), timers);
  cleanUps.push(() => set.close());
  return set;
}

const portsOf = (set: NetworkSet): readonly Port[] => set.switches.get("lan")!.ports;

/** Has a switch work, beside the events of Node, until something is done. */
async function serve<T>(set: NetworkSet, work: Promise<T>): Promise<T> {
  const serving = { isDone: false };
  const done = work.finally(() => (serving.isDone = true));
  while (!serving.isDone) {
    set.poll();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return done;
}

/** Two namespaces with a switch in between. */
async function pair(
  options: Partial<TapUplink> = {},
): Promise<[Namespace, Namespace, NetworkSet, readonly Port[]]> {
  const [left, right] = [namespace(), namespace()];
  const set = await network(uplink(left, options), uplink(right, options));
  for (const [index, side] of [left, right].entries()) {
    side.address("up0", `192.0.2.${index + 1}/24`);
    side.address("up0", `2001:db8::${index + 1}/64`);
  }
  return [left, right, set, portsOf(set)];
}

describe.skipIf(noTaps !== undefined)("a TAP at a switch", () => {
  test.each([
    ["IPv4", "192.0.2.2"],
    ["IPv6", "2001:db8::2"],
  ])("lets super-frames and partial checksums of %s through whole", async (_, address) => {
    const [left, right, set, ports] = await pair();
    const [sent, received] = await serve(set, transfer(left, right, address, 16));
    expect(sent).toHaveLength(64);
    expect(received).toBe(sent);
    const [from, to] = ports as [Port, Port];
    expect(from.counters.bytesSent / from.counters.framesSent).toBeGreaterThan(5000);
    for (const { counters } of [from, to])
      expect(counters).toMatchObject({ superFramesCut: 0, checksumsFilled: 0, droppedByEnd: 0 });
  });

  test("has frames cut and checksums completed for a guest that does neither", async () => {
    const side = namespace();
    const set = await network(uplink(side));
    side.address("up0", "192.0.2.1/24");
    const end = new TestEnd();
    const port = set.switches
      .get("lan")!
      .connect(end, { name: "guest", kind: "guest", mac: macOf(1) });
    side.run("ip", "neigh", "add", "192.0.2.2", "lladdr", "00:15:5d:0a:01:01", "dev", "up0");
    side.run("bash", "-c", "head -c 4000 /dev/zero > /dev/udp/192.0.2.2/9");
    while (set.poll());
    expect(port.counters).toMatchObject({ superFramesCut: 0, droppedByEnd: 0 });
    const fragments = end.frames.filter(({ bytes }) => bytes[12] === 8 && bytes[13] === 0);
    expect(fragments).toHaveLength(3);
    side.run("bash", "-c", "echo hello > /dev/udp/192.0.2.2/9");
    while (set.poll());
    expect(port.counters.checksumsFilled).toBe(1);
    end.offloads = allOffloads;
    side.run("bash", "-c", "echo hello > /dev/udp/192.0.2.2/9");
    while (set.poll());
    expect(end.frames.at(-1)).toMatchObject({ checksumStart: 34 });
  });

  test("follows the link of its port, and the end of its interface", async () => {
    const side = namespace();
    const set = await network(uplink(side, { mtu: 9000 }));
    const [port] = portsOf(set) as [Port];
    const link = (): string => side.run("ip", "link", "show", "up0");
    expect(link()).toMatch(/LOWER_UP.*mtu 9000/);
    port.setLink(false);
    expect(link()).toContain("NO-CARRIER");
    port.setLink(true);
    expect(link()).toContain("LOWER_UP");
    side.run("ip", "link", "delete", "up0");
    expect([set.poll(), port.isLinkUp]).toEqual([false, false]);
    expect(set.poll()).toBe(false);
    const guest = set.switches
      .get("lan")!
      .connect(new TestEnd(), { name: "guest", kind: "guest", mac: macOf(1) });
    guest.send(frameOf(plainFrame(all, macOf(1))));
    expect(port.counters.droppedLinkDown).toBe(1);
  });

  test("is served by the network's thread of a host, which sleeps when nothing comes", async () => {
    const [left, right] = [namespace(), namespace()];
    const host = await NodeHost.start({
      memory: createGuestMemory(2 ** 22),
      vps: 1,
      controllers: [],
      network: lan(uplink(left), uplink(right)),
    });
    cleanUps.push(() => host.stop());
    left.address("up0", "192.0.2.1/24");
    right.address("up0", "192.0.2.2/24");
    const ping = await left.node(
      `require("child_process").spawn("ping", ["-c", "10", "-i", "0.02", "192.0.2.2"], { stdio: "inherit" });`,
    );
    expect(ping).toContain("10 received, 0% packet loss");
  });

  test("leaves nothing on the heap for a frame from one TAP to another", async () => {
    // At the other end of each uplink's bridge: what a test sends there comes to the uplink, and the other way round.
    const ends = [namespace(), namespace()].map((side) => {
      side.run("ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0");
      side.run("ip", "link", "set", "bridge", "up");
      const tap = Tap.open({ name: "end0", netns: side.name });
      cleanUps.push(() => tap.close());
      tap.isUp = true;
      return { side, tap };
    });
    const set = await network(...ends.map(({ side }) => uplink(side)));
    for (const { side } of ends)
      for (const name of ["end0", "up0"]) side.run("ip", "link", "set", name, "master", "bridge");
    const memory = new Uint8Array(4096);
    const [from, to] = ends.map(({ tap }) => new TapQueue(tap.queues[0]!, memory)) as [
      TapQueue,
      TapQueue,
    ];
    // Of a protocol that nobody serves, to everybody: bridges pass it on.
    memory.set([...all, ...macOf(1), 0x88, 0xb5], FRAME_AT);
    while (set.poll() || to.receive(FRAME_AT, FRAME_BYTES) > 0);
    let received = 0;
    const sendBatch = (): void => {
      for (let frame = 0; frame < BATCH; frame++) from.send(FRAME_AT, FRAME_BYTES);
      while (set.poll());
      while (to.receive(FRAME_AT, FRAME_BYTES) > 0) received++;
    };
    const least = leastGarbage(
      BATCHES * BATCH,
      () => {
        for (let batch = 0; batch < BATCHES; batch++) sendBatch();
      },
      GARBAGE_MAX,
    );
    const [, port] = portsOf(set) as [Port, Port];
    expect(port.counters.droppedByEnd).toBe(0);
    expect(received).toBeGreaterThanOrEqual(BATCHES * BATCH);
    expect(least).toBeLessThan(GARBAGE_MAX);
  });

  test("is refused with what is wrong with it", async () => {
    const side = namespace();
    await network(uplink(side));
    await expect(network(uplink(side))).rejects.toMatchObject({
      name: "NetworkError",
      code: "ERR_TAP",
      message: "up0: is in use already (EBUSY)",
    });
    await expect(network({ kind: "tap", name: "up0", netns: "no-such" })).rejects.toMatchObject({
      name: "NetworkError",
      code: "ERR_NETNS",
    });
  });
});
