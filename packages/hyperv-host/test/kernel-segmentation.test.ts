import { execFileSync, spawnSync } from "node:child_process";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TAP_EMPTY, Tap, TapQueue } from "@hyperv-is/platform-node";
import { Frame } from "../src/switch/frame.js";
import { TcpSegmenter, setSuperFrame } from "../src/switch/segmentation.js";
import { writeVirtioNetHeader } from "../src/switch/virtio-net-header.js";
import {
  build,
  bytesOf,
  expectFrames,
  frameOf,
  packets,
  transportAt,
  type Packet,
} from "./frame-model.js";

const reason = whyNot();
if (reason !== undefined) {
  if (process.env["CI"]) throw new Error(reason);
  console.log(`skipped: ${reason}`);
}

function whyNot(): string | undefined {
  if (process.platform !== "linux") return "the segmentation of Linux is compared with";
  if (process.getuid?.() !== 0)
    return "TAP devices need root: sudo npx vitest run packages/hyperv-host/test/kernel-segmentation";
  return spawnSync("ip", ["-V"]).error === undefined
    ? undefined
    : "ip is missing: apt-get install iproute2";
}

const MTU = 9000;
const ROOM_BYTES = 70_000;
/** The kernel queues no more frames for a TAP. */
const SEGMENTS_MAX = 400;
const TIMEOUT_MS = 2_000;
const run = (command: string, ...args: readonly string[]): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

/**
 * A bridge of the kernel with a TAP at each end, in a namespace of its own. The second takes nothing but finished
 * frames: what comes in at the first as a super-frame, the kernel has to cut.
 */
class KernelSegmenter {
  readonly #netns = `hvis-gso-${process.pid}`;
  readonly #taps: Tap[] = [];
  readonly #memory = new Uint8Array(new ArrayBuffer(ROOM_BYTES));
  readonly #in: TapQueue;
  readonly #out: TapQueue;

  constructor() {
    const netns = this.#netns;
    run("ip", "netns", "add", netns);
    const inside = (...command: readonly string[]): string =>
      run("ip", "netns", "exec", netns, ...command);
    // Nothing but what the test sends.
    inside("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1");
    inside("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1");
    const ip = (...args: readonly string[]): string => run("ip", "-n", netns, ...args);
    ip("link", "add", "bridge", "mtu", String(MTU), "type", "bridge", "mcast_snooping", "0");
    const open = (name: string): TapQueue => {
      const tap = Tap.open({ name, netns, mtu: MTU });
      this.#taps.push(tap);
      ip("link", "set", name, "master", "bridge");
      tap.isUp = true;
      return new TapQueue(tap.queues[0]!, this.#memory);
    };
    this.#in = open("in");
    this.#out = open("out");
    ip("link", "set", "bridge", "up");
  }

  /** What the kernel makes of a super-frame. @param count - Frames to wait for. */
  segments(frame: Frame, count: number): Uint8Array[] {
    writeVirtioNetHeader(frame, new Uint8Array(this.#in.sendHeader.buffer), 0);
    const whole = bytesOf(frame);
    this.#memory.set(whole);
    expect(this.#in.send(0, whole.length)).toBe(true);
    const list: Uint8Array[] = [];
    while (list.length < count) {
      const lengthBytes = this.#out.receive(0, ROOM_BYTES);
      if (lengthBytes === TAP_EMPTY) {
        if (this.#out.wait(TIMEOUT_MS) !== "ready") break;
        continue;
      }
      if (lengthBytes < 0) throw new Error("the TAP is gone");
      const { buffer } = this.#out.receivedHeader;
      // Neither a segment size, nor a checksum that is to be filled in.
      expect([...new Uint8Array(buffer, 0, 2)]).toEqual([0, 0]);
      list.push(this.#memory.slice(0, lengthBytes));
    }
    return list;
  }

  /** True if nothing more comes. */
  get isEmpty(): boolean {
    return this.#out.receive(0, ROOM_BYTES) === TAP_EMPTY;
  }

  close(): void {
    for (const tap of this.#taps) tap.close();
    run("ip", "netns", "delete", this.#netns);
  }
}

function ownSegments(frame: Frame): Uint8Array[] {
  const segmenter = new TcpSegmenter();
  const segment = new Frame();
  const list: Uint8Array[] = [];
  segmenter.begin(frame, false);
  while (segmenter.next(segment)) list.push(bytesOf(segment));
  return list;
}

describe.runIf(reason === undefined)("segmentation is that of the Linux kernel", () => {
  let kernel: KernelSegmenter;
  beforeAll(() => {
    kernel = new KernelSegmenter();
  });
  afterAll(() => kernel.close());

  /** Sends a packet as a guest does that leaves segmentation to the host, and compares every byte. */
  function compare(packet: Packet, segmentBytes: number): number {
    const superFrame = (): Frame => {
      const frame = frameOf(build(packet, "lso"));
      const isSet = setSuperFrame(frame, packet.ipVersion, transportAt(packet), segmentBytes);
      expect(isSet).toBe(true);
      return frame;
    };
    const own = ownSegments(superFrame());
    expectFrames(kernel.segments(superFrame(), own.length), own);
    expect(kernel.isEmpty).toBe(true);
    return own.length;
  }

  const base: Packet = {
    ipVersion: 4,
    protocol: 6,
    ipOptions: 0,
    tcpOptions: 3,
    flags: 0x10,
    sequence: 0xffff_fc00,
    identification: 0xfffe,
    payload: Array.from({ length: 10_000 }, (_, index) => (index * 7) ^ (index >>> 8)).map(
      (value) => value & 0xff,
    ),
  };

  const sizes = [1, 8, 1448, 4000, 8900] as const;
  const flags = [0x10, 0x18, 0x11, 0x19, 0x90, 0x99, 0xd9, 0x02, 0xff] as const;
  test.each([4, 6] as const)("IPv%i: sizes of segments and flags", (ipVersion) => {
    let cut = 0;
    for (const segmentBytes of sizes)
      for (const flag of flags) {
        const payload = base.payload.slice(0, Math.min(10_000, segmentBytes * SEGMENTS_MAX));
        cut += compare({ ...base, ipVersion, flags: flag, payload }, segmentBytes);
      }
    expect(cut).toBeGreaterThan(sizes.length * flags.length);
  });

  test("packets of all kinds: options, sequence numbers, identifications, lengths", () => {
    const largest = fc.integer({ min: 1, max: 8900 });
    fc.assert(
      fc.property(packets({ payload: 50_000, protocols: [6] }), largest, (packet, wanted) => {
        // A tag among the bytes is the switch's to take out first.
        const { payload } = packet;
        const segmentBytes = Math.max(wanted, Math.ceil(payload.length / SEGMENTS_MAX));
        fc.pre(payload.length > segmentBytes);
        compare({ ...packet, tag: undefined }, segmentBytes);
      }),
      { numRuns: 40 },
    );
  });
});
