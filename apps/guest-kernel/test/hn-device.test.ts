import { describe, expect, test } from "vitest";
import {
  ChecksumVerdict,
  Offload,
  TransmitOffload,
  TransmitResult,
  type EthernetPort,
  type EthernetUser,
  type ReceivedFrame,
} from "@hyperv-is/hv-netvsc";
import { TransmitChecksum } from "@hyperv-is/hv-netvsc/protocol";
import { GuestMemory, PageAllocator, type GpaRuns } from "@hyperv-is/vmbus-core";
import { FrameRelay, type RelayedBatch } from "../src/net/hn/frame-relay.js";
import { HnDevice, type HnDriver } from "../src/net/hn/hn-device.js";
import { copyReceived, isEthernetFrame, verifiedChecksums } from "../src/net/hn/received-frame.js";
import { InterfaceOption } from "../src/net/interface-flags.js";
import { FrameChecksum } from "../src/net/network-device.js";
import { bytes, hex } from "./network-link.js";

const PAGE = 4096;
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A port that does with frames what the test says. */
class TestPort implements EthernetPort {
  user: EthernetUser | undefined;
  result: TransmitResult = TransmitResult.copied;
  readonly sent: {
    readonly frame: string;
    readonly offload: TransmitOffload;
    readonly tag: number;
  }[] = [];
  readonly released: number[] = [];
  flushes = 0;
  readonly #memory: GuestMemory;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  transmit(frame: GpaRuns, offload: TransmitOffload, tag: number): TransmitResult {
    const copy = this.#memory.copyOut(frame.runAddress(0), frame.lengthBytes);
    this.sent.push({
      frame: hex(copy),
      offload: Object.assign(new TransmitOffload(), offload),
      tag,
    });
    return this.result;
  }

  flush(): void {
    this.flushes++;
  }

  release(ticket: number): void {
    this.released.push(ticket);
  }
}

/** A frame in guest memory. @param runs - Address and bytes of each. */
function received(
  memory: GuestMemory,
  runs: readonly (readonly [address: number, hex: string])[],
  said: Partial<ReceivedFrame> = {},
): ReceivedFrame {
  const parts = runs.map(([address, text]) => ({ address, data: bytes(text) }));
  for (const { address, data } of parts) memory.bytes.set(data, address);
  return {
    runs: parts.length,
    lengthBytes: parts.reduce((sum, { data }) => sum + data.byteLength, 0),
    runAddress: (index) => parts[index]!.address,
    runLength: (index) => parts[index]!.data.byteLength,
    ticket: 7,
    verdict: 0,
    vlanTag: -1,
    hashInfo: 0,
    hashValue: 0,
    ...said,
  };
}

const header = "ffffffffffff 00155d0a0101 0800";
const udp = `${header} 45000020 00000000 40110000 c0000201 c0000202 d0000009 000c0000 01020304`;

interface Bench {
  readonly memory: GuestMemory;
  readonly allocator: PageAllocator;
  readonly port: TestPort;
  readonly device: HnDevice;
  readonly input: { readonly frame: string; readonly verified: number }[];
  readonly changes: boolean[];
}

function bench(): Bench {
  const memory = new GuestMemory(new ArrayBuffer(128 * PAGE));
  const allocator = new PageAllocator(memory, PAGE, 100 * PAGE);
  const port = new TestPort(memory);
  const transmitChecksums = Offload.ipHeader | Offload.udp4 | Offload.tcp4;
  const netvsc = {
    address: bytes("00155d0a0101"),
    mtu: 1500,
    link: { up: true, speed: 10e9 },
    parameters: {
      version: 0x6_0001,
      offloads: { transmitChecksums, largeSend4BytesMax: 0, largeSend6BytesMax: 0 },
    },
    port,
    setFilter: () => Promise.resolve(),
  } as unknown as HnDriver;
  const device = new HnDevice({
    name: "hn0",
    netvsc,
    memory,
    allocator,
    portsChanged: () => Promise.resolve(),
    log: () => undefined,
  });
  const input: { frame: string; verified: number }[] = [];
  const changes: boolean[] = [];
  device.connect({
    input: (frame, verified = 0) => void input.push({ frame: hex(frame), verified }),
    linkChanged: () => void changes.push(device.hasLink),
  });
  device.usePort(port);
  return { memory, allocator, port, device, input, changes };
}

describe("frames to send", () => {
  test("ask the host for the checksums that the stack left out", () => {
    const { device, port } = bench();
    expect(device.checksumOffloads).toBe(FrameChecksum.ip | FrameChecksum.data);
    expect(device.send(bytes(udp), FrameChecksum.ip | FrameChecksum.data)).toBe(true);
    expect(device.send(bytes(udp), FrameChecksum.ip)).toBe(true);
    expect(device.send(bytes(udp))).toBe(true);
    const { ipv4, ipHeader, udp: ofUdp } = TransmitChecksum;
    expect(port.sent.map(({ offload }) => [offload.checksum, offload.headerOffset])).toEqual([
      [ipv4 | ipHeader | ofUdp, 34],
      [ipv4 | ipHeader, 0],
      [0, 0],
    ]);
    expect(port.sent[0]!.frame).toBe(udp.replaceAll(" ", ""));
    expect(port.flushes).toBe(3);
    device.setOptions(device.options & ~InterfaceOption.txcsum);
    expect(device.checksumOffloads).toBe(0);
  });

  test("stay where they are while the host may read them", async () => {
    const { device, port, allocator } = bench();
    const free = allocator.freePages;
    port.result = TransmitResult.lent;
    for (let sent = 0; sent < 64; sent++) expect(device.send(bytes(udp))).toBe(true);
    expect(new Set(port.sent.map(({ tag }) => tag)).size).toBe(64);
    // All buffers are lent.
    expect(device.send(bytes(udp))).toBe(false);
    device.transmitted(5, true);
    expect(device.send(bytes(udp))).toBe(true);
    expect(port.sent.at(-1)!.tag).toBe(5);
    for (let tag = 0; tag < 63; tag++) device.transmitted(tag, true);
    // The host may read this one for ever.
    device.transmitted(63, false);
    expect(allocator.leakedPages).toBe(1);
    device.close();
    expect(allocator.freePages).toBe(free - 1);
    expect(device.send(bytes(udp))).toBe(false);
    await settled();
  });

  test.each([TransmitResult.full, TransmitResult.refused, TransmitResult.closed])(
    "that are not taken (%d) are lost, and their buffers are not",
    (result) => {
      const { device, port } = bench();
      port.result = result;
      for (let sent = 0; sent < 100; sent++) expect(device.send(bytes(udp))).toBe(false);
      expect(new Set(port.sent.map(({ tag }) => tag)).size).toBe(1);
    },
  );

  test("are not longer than the MTU", () => {
    const { device, port } = bench();
    expect(device.send(new Uint8Array(1514))).toBe(true);
    expect(device.send(new Uint8Array(1515))).toBe(false);
    expect(port.sent).toHaveLength(1);
  });
});

describe("received frames", () => {
  test("come with what the host says of their checksums, and go back to it", () => {
    const { device, memory, port, input } = bench();
    const { ipValid, dataValid } = ChecksumVerdict;
    device.received(received(memory, [[PAGE, udp]], { verdict: ipValid | dataValid }));
    expect(input).toEqual([
      { frame: udp.replaceAll(" ", ""), verified: FrameChecksum.ip | FrameChecksum.data },
    ]);
    expect(port.released).toEqual([7]);
    device.setOptions(device.options & ~InterfaceOption.rxcsum);
    device.received(received(memory, [[PAGE, udp]], { verdict: ipValid | dataValid }));
    expect(input.at(-1)!.verified).toBe(0);
  });

  test("that are none are dropped, and go back to the host", () => {
    const { device, memory, port, input } = bench();
    device.received(received(memory, [[PAGE, "00"]]));
    expect([input, port.released]).toEqual([[], [7]]);
  });

  test("are answered in one go", () => {
    const { device, memory, port } = bench();
    device.received(received(memory, [[PAGE, udp]]));
    device.send(bytes(udp));
    // The driver publishes it at the end of the batch.
    expect(port.flushes).toBe(0);
    device.batchEnd();
    device.send(bytes(udp));
    expect(port.flushes).toBe(1);
  });

  test("are put together of their runs, with the tag among their bytes", () => {
    const { memory } = bench();
    const frame = received(
      memory,
      [
        [PAGE, header],
        [3 * PAGE, "0102"],
        [2 * PAGE, "03"],
      ],
      { vlanTag: 0xa005 },
    );
    const copy = new Uint8Array(21);
    copyReceived(memory, frame, copy);
    expect(hex(copy)).toBe("ffffffffffff00155d0a01018100a0050800010203");
  });

  test.each([
    [13, -1, false],
    [14, -1, true],
    [14, 5, true],
    [65_553, -1, true],
    [65_553, 5, false],
    [65_554, -1, false],
    [562 * 2 ** 24, -1, false],
  ])("of %d bytes with the tag %d may be a frame: %s", (lengthBytes, vlanTag, isOne) => {
    expect(isEthernetFrame({ lengthBytes, vlanTag } as ReceivedFrame)).toBe(isOne);
  });

  test.each([
    [0, true, 0],
    [ChecksumVerdict.ipValid, true, FrameChecksum.ip],
    [ChecksumVerdict.dataValid, true, FrameChecksum.data],
    [ChecksumVerdict.ipValid | ChecksumVerdict.dataValid, false, 0],
    // Not computed by anybody: not wrong either.
    [ChecksumVerdict.ipMissing, false, FrameChecksum.ip],
    [ChecksumVerdict.dataMissing, false, FrameChecksum.data],
    [ChecksumVerdict.dataMissing | ChecksumVerdict.ipMissing, true, 3],
  ])("with the verdict %d, if that is trusted (%s), need no look at %d", (verdict, trusts, all) => {
    expect(verifiedChecksums(verdict, trusts)).toBe(all);
  });
});

test("only a change of the link is one", () => {
  const { device, changes } = bench();
  device.linkChanged({ up: true, speed: 1e9 });
  expect(device.media).toBe("Ethernet autoselect (1000baseT <full-duplex>)");
  device.linkChanged({ up: false, speed: 1e9 });
  device.linkChanged({ up: false, speed: 0 });
  expect(changes).toEqual([false]);
});

describe("frames for another CPU", () => {
  test("are copied, and handed over together", () => {
    const memory = new GuestMemory(new ArrayBuffer(16 * PAGE));
    const port = new TestPort(memory);
    const batches: RelayedBatch[] = [];
    const relay = new FrameRelay(port, memory, (batch) => {
      batches.push(batch);
      return Promise.resolve();
    });
    relay.received(received(memory, [[PAGE, udp]], { verdict: 2, ticket: 3 }));
    relay.received(received(memory, [[PAGE, header]], { ticket: 4 }));
    relay.received(received(memory, [[PAGE, "00"]], { ticket: 5 }));
    expect([port.released, batches]).toEqual([[3, 4, 5], []]);
    memory.bytes.fill(0);
    relay.batchEnd();
    relay.batchEnd();
    const frames = [
      { bytes: bytes(udp), verdict: 2 },
      { bytes: bytes(header), verdict: 0 },
    ];
    expect(batches).toEqual([{ frames, dropped: 1 }]);
  });

  test("are dropped and counted while the stack takes none", async () => {
    const memory = new GuestMemory(new ArrayBuffer(16 * PAGE));
    const port = new TestPort(memory);
    let take: () => void = () => undefined;
    const batches: RelayedBatch[] = [];
    const relay = new FrameRelay(port, memory, (batch) => {
      batches.push(batch);
      return new Promise((resolve) => (take = resolve));
    });
    const some = (count: number): void => {
      for (let index = 0; index < count; index++)
        relay.received(received(memory, [[PAGE, header]]));
      relay.batchEnd();
    };
    some(600);
    some(10);
    expect(batches.map(({ frames, dropped }) => [frames.length, dropped])).toEqual([[512, 88]]);
    expect(port.released).toHaveLength(610);
    take();
    await settled();
    some(1);
    expect(batches.map(({ frames, dropped }) => [frames.length, dropped]).at(-1)).toEqual([1, 10]);
  });
});
