import { closeSync } from "node:fs";
import { createRequire } from "node:module";
import { afterEach, describe, expect, test } from "vitest";
import {
  ChecksumVerdict,
  TransmitResult,
  type EthernetPort,
  type EthernetUser,
  type ReceivedFrame,
} from "@hyperv-is/hv-netvsc";
import { TAP_EMPTY, TapQueue, VnetFlag, VnetHeader } from "@hyperv-is/platform-node";
import { GuestMemory, PageAllocator } from "@hyperv-is/vmbus-core";
import { leastGarbage } from "../../../tools/garbage.js";
import { TapBridge } from "../src/net/hn/tap-bridge.js";

const reason = process.platform === "linux" ? undefined : "TAP devices are those of Linux";
if (reason !== undefined) console.log(`skipped: ${reason}`);

const [AF_UNIX, SOCK_SEQPACKET, SOCK_NONBLOCK] = [1, 5, 0o4_000];
const BATCH = 8;
const BATCHES = 500;
const MTU = 1500;
/** Bytes for a frame each way: less than one number on the heap for each. */
const GARBAGE_MAX = 8;
/** Where received frames are in guest memory, and from where the bridge has its own pages. */
const RECEIVED = 0;
const ARENA = 0x1_0000;
const ROOM_BYTES = 2048;

const cleanUps: (() => void)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp();
});

/** Two files that carry frames as a TAP does, and need no root: each read takes what one write gave. */
function framePair(): [number, number] {
  const ofPlatform = createRequire(
    createRequire(import.meta.url).resolve("@hyperv-is/platform-node"),
  );
  const koffi = ofPlatform("koffi") as {
    load(library: string): { func(definition: string): (...values: unknown[]) => number };
  };
  const socketpair = koffi
    .load("libc.so.6")
    .func("int socketpair(int domain, int type, int protocol, void *pair)");
  const pair = new Int32Array(2);
  expect(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair)).toBe(0);
  const [kernel, guest] = pair as unknown as [number, number];
  cleanUps.push(
    () => closeSync(kernel),
    () => closeSync(guest),
  );
  return [kernel, guest];
}

/** A channel whose host takes every frame, and gives all back when it is asked to. */
class LendingPort implements EthernetPort {
  user: EthernetUser | undefined;
  released = 0;
  sent = 0;
  readonly #lent: number[] = [];
  #lentCount = 0;

  transmit(_frame: unknown, _offload: unknown, tag: number): TransmitResult {
    this.#lent[this.#lentCount++] = tag;
    this.sent++;
    return TransmitResult.lent;
  }

  flush(): void {
    // All is public at once.
  }

  release(): void {
    this.released++;
  }

  giveBack(): void {
    while (this.#lentCount > 0) this.user!.transmitted(this.#lent[--this.#lentCount]!, true);
  }
}

/** A frame in guest memory, in two pieces. */
class TestFrame implements ReceivedFrame {
  readonly ticket = 1;
  readonly hashInfo = 0;
  readonly hashValue = 0;
  readonly runs = 2;
  verdict = 0;
  vlanTag = -1;
  readonly lengthBytes: number;
  readonly #firstBytes: number;

  constructor(lengthBytes: number, firstBytes: number) {
    this.lengthBytes = lengthBytes;
    this.#firstBytes = firstBytes;
  }

  runAddress(run: number): number {
    // The second is somewhere else.
    return RECEIVED + (run === 0 ? 0 : 0x1000);
  }

  runLength(run: number): number {
    return run === 0 ? this.#firstBytes : this.lengthBytes - this.#firstBytes;
  }
}

/** A bridge, and the kernel's side of its TAP. */
function rig() {
  const memory = new GuestMemory(new SharedArrayBuffer(2 ** 22));
  const port = new LendingPort();
  const [kernelFd, fd] = framePair();
  const queue = { stopFd: kernelFd, vnetHeaderBytes: VnetHeader.SIZE };
  const bridge = new TapBridge({
    port,
    queue: { ...queue, fd },
    memory,
    allocator: new PageAllocator(memory, ARENA, 2 ** 22 - ARENA),
    mtu: MTU,
    wake: () => undefined,
    closed: () => undefined,
  });
  port.user = bridge;
  const room = new Uint8Array(ROOM_BYTES);
  const kernel = new TapQueue({ ...queue, fd: kernelFd }, room);
  return { memory, port, bridge, kernel, room };
}

/** An IPv4 frame of TCP whose bytes behind the Ethernet header are counted up. */
function tcpFrame(lengthBytes: number): Uint8Array {
  const frame = Uint8Array.from({ length: lengthBytes }, (_, index) => index & 0xff);
  frame.set([0x08, 0x00, 0x45, 0x00, (lengthBytes - 14) >>> 8, (lengthBytes - 14) & 0xff], 12);
  frame.set([0, 0], 20);
  frame[23] = 6;
  return frame;
}

describe.skipIf(reason !== undefined)("a bridge between a channel and a TAP", () => {
  /** Puts a frame into guest memory as two pieces and has the bridge give it to the kernel. */
  function receive(
    { memory, bridge, kernel, room }: ReturnType<typeof rig>,
    bytes: Uint8Array,
    frame: TestFrame,
  ): Uint8Array {
    const firstBytes = frame.runLength(0);
    memory.bytes.set(bytes.subarray(0, firstBytes), frame.runAddress(0));
    memory.bytes.set(bytes.subarray(firstBytes), frame.runAddress(1));
    bridge.received(frame);
    bridge.batchEnd();
    return room.slice(0, kernel.receive(0, ROOM_BYTES));
  }

  test("puts the tag that the host has taken out back among the bytes", () => {
    const made = rig();
    const bytes = tcpFrame(200);
    const frame = new TestFrame(bytes.length, 80);
    frame.vlanTag = 0x6abc;
    expect([...receive(made, bytes, frame)]).toEqual([
      ...bytes.subarray(0, 12),
      ...[0x81, 0x00, 0x6a, 0xbc],
      ...bytes.subarray(12),
    ]);
    expect(made.kernel.receive(0, ROOM_BYTES)).toBe(TAP_EMPTY);
    expect(made.port.released).toBe(1);
  });

  test("tells where a checksum is to be completed behind the tag that it puts back", () => {
    const made = rig();
    const bytes = tcpFrame(200);
    for (const [vlanTag, transportAt] of [
      [-1, 34],
      [5, 38],
    ] as const) {
      const frame = new TestFrame(bytes.length, 80);
      frame.verdict = ChecksumVerdict.dataMissing;
      frame.vlanTag = vlanTag;
      receive(made, bytes, frame);
      const { receivedHeader: header } = made.kernel;
      expect(header.getUint8(VnetHeader.flags)).toBe(VnetFlag.needsChecksum);
      expect(header.getUint16(VnetHeader.checksumStart, true)).toBe(transportAt);
      expect(header.getUint16(VnetHeader.checksumOffset, true)).toBe(16);
    }
  });

  /** Has frames cross both ways. It gets all as parameters: what the engine knows to be constant makes garbage. */
  function exchange(
    { port, bridge, kernel }: ReturnType<typeof rig>,
    frame: TestFrame,
    batches: number,
  ): number {
    let given = 0;
    for (let batch = 0; batch < batches; batch++) {
      for (let count = 0; count < BATCH; count++) {
        bridge.received(frame);
        kernel.send(0, frame.lengthBytes);
      }
      bridge.batchEnd();
      while (kernel.receive(0, ROOM_BYTES) !== TAP_EMPTY) given++;
      while (bridge.drain());
      port.giveBack();
    }
    return given;
  }

  test.each([
    ["untagged", -1],
    ["tagged", 7],
  ])("leaves nothing on the heap for a frame each way: %s", (_, vlanTag) => {
    const made = rig();
    const { memory, port, bridge, room } = made;
    const bytes = tcpFrame(1400);
    const frame = new TestFrame(bytes.length, 700);
    frame.verdict = ChecksumVerdict.dataValid;
    frame.vlanTag = vlanTag;
    memory.bytes.set(bytes, frame.runAddress(0));
    room.set(bytes);
    let given = 0;
    const run = (): void => void (given += exchange(made, frame, BATCHES));
    const least = leastGarbage(BATCHES * BATCH, run, GARBAGE_MAX);
    expect(given).toBeGreaterThan(0);
    expect([port.sent, port.released]).toEqual([given, given]);
    expect(bridge.counters).toEqual({ refused: 0, dropped: 0 });
    expect(least).toBeLessThan(GARBAGE_MAX);
  });
});
