import { describe, expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { parseAddress, prefixMask } from "../src/net/addresses.js";
import { addToSum, checksum, finishSum } from "../src/net/checksum.js";
import type { EchoAnswer } from "../src/net/icmp.js";
import { LoopbackDevice } from "../src/net/loopback-device.js";
import { FrameChecksum } from "../src/net/network-device.js";
import type { SendOutcome } from "../src/net/network-error.js";
import type { UdpDatagram } from "../src/net/udp.js";
import { Segment, TestDevice, bytes, hex, testHost, type TestHost } from "./network-link.js";

const A = parseAddress("192.0.2.1")!;
const B = parseAddress("192.0.2.2")!;
const MASK = prefixMask(24);

interface Network {
  readonly segment: Segment;
  readonly a: TestHost;
  readonly b: TestHost;
}

/** Two hosts with addresses on one segment, that have long announced themselves. */
async function network(): Promise<Network> {
  const segment = new Segment(new VirtualTimers());
  const [a, b] = [await testHost(segment, 1), await testHost(segment, 2)];
  a.hn0.addAddress(A, MASK);
  b.hn0.addAddress(B, MASK);
  segment.timers.advance(10_000);
  segment.frames.length = 0;
  return { segment, a, b };
}

/** An IPv4 frame for B from A with a right header checksum. */
function ipFrame(header: string, payload: string): Uint8Array {
  const frame = bytes(`00155d0a1402 00155d0a1401 0800 ${header} ${payload}`);
  const headerBytes = (frame[14]! & 15) * 4;
  const sum = checksum(frame, 14, 14 + headerBytes);
  frame[24] = sum >> 8;
  frame[25] = sum & 255;
  return frame;
}

test("checksums are those of RFC 1071", () => {
  // The example of its section 3.
  const example = bytes("0001 f203 f4f5 f6f7");
  expect(addToSum(0, example, 0, 8)).toBe(0x2ddf0);
  expect(finishSum(0x2ddf0)).toBe(~0xddf2 & 0xffff);
  expect(checksum(bytes("01"), 0, 1)).toBe(~0x0100 & 0xffff);
});

describe("echo", () => {
  test("is answered, with what was sent", async () => {
    const { segment, a } = await network();
    const answers: object[] = [];
    const echo = a.stack.openEcho((answer) => {
      if (answer.kind !== "reply") throw new Error(answer.kind);
      answers.push({ ...answer, data: hex(answer.data) });
    });
    echo.send(B, 7, bytes("0102 0304 05"));
    segment.timers.advance(10);
    expect(answers).toEqual([
      {
        kind: "reply",
        source: B,
        sequence: 7,
        timeToLive: 64,
        lengthBytes: 13,
        data: "0102030405",
      },
    ]);
    const [request, reply] = segment.frames.slice(2);
    expect(hex(request!.subarray(0, 14))).toBe("00155d0a140200155d0a14010800");
    expect(hex(reply!.subarray(0, 14))).toBe("00155d0a140100155d0a14020800");
    for (const frame of [request!, reply!]) {
      expect(checksum(frame, 14, 34)).toBe(0);
      expect(checksum(frame, 34, 47)).toBe(0);
    }
    echo.close();
    segment.carry(reply!);
    segment.timers.advance(10);
    expect(answers).toHaveLength(1);
  });

  test("to everybody is not answered", async () => {
    const { segment, a, b } = await network();
    const echo = a.stack.openEcho(() => undefined);
    for (const group of ["192.0.2.255", "255.255.255.255", "224.0.0.1"])
      expect(echo.send(parseAddress(group)!, 0, new Uint8Array(4))).toBe("sent");
    segment.timers.advance(10);
    expect(segment.frames).toHaveLength(3);
    expect(hex(segment.frames[2]!.subarray(0, 6))).toBe("01005e000001");
    expect(b.stack.icmp.counters.groupEcho).toBe(3);
  });

  test("has a way to go, or does not", async () => {
    const { segment, a } = await network();
    const echo = a.stack.openEcho(() => undefined);
    const send = (to: string, lengthBytes = 4): SendOutcome =>
      echo.send(parseAddress(to)!, 0, new Uint8Array(lengthBytes));
    expect(send("198.51.100.1")).toBe("EHOSTUNREACH");
    expect(() => a.stack.routes.addDefault(parseAddress("198.51.100.1")!)).toThrow(
      "Network is unreachable",
    );
    a.stack.routes.addDefault(B);
    expect(send("198.51.100.1")).toBe("held");
    segment.timers.advance(10);
    // B is no router.
    expect(segment.frames.at(-1)!.subarray(30, 34)).toEqual(bytes("c6336401"));
    expect(send("192.0.2.2", 1472)).toBe("sent");
    expect(send("192.0.2.2", 1473)).toBe("EMSGSIZE");
    a.device.isFull = true;
    expect(send("192.0.2.2")).toBe("ENOBUFS");
    await a.hn0.setUp(false);
    expect(send("192.0.2.2")).toBe("EHOSTUNREACH");
  });

  test("of this host's own addresses stays inside", async () => {
    const { segment, a } = await network();
    const loopback = new LoopbackDevice(segment.timers);
    const lo0 = a.stack.attach(loopback);
    loopback.connect(lo0);
    await lo0.setUp(true);
    lo0.addAddress(parseAddress("127.0.0.1")!, prefixMask(8));
    const sources: number[] = [];
    const echo = a.stack.openEcho(({ source }) => void sources.push(source));
    for (const own of ["127.0.0.1", "192.0.2.1"])
      expect(echo.send(parseAddress(own)!, 0, new Uint8Array(4))).toBe("sent");
    segment.timers.advance(10);
    expect(sources).toEqual([parseAddress("127.0.0.1"), A]);
    expect(segment.frames).toEqual([]);
  });
});

describe("UDP", () => {
  test("carries datagrams between ports", async () => {
    const { segment, a, b } = await network();
    const heard: object[] = [];
    const hear = ({ source, sourcePort, payload }: UdpDatagram): void =>
      void heard.push([source, sourcePort, hex(payload)]);
    const server = b.stack.openUdp({ port: 9, onDatagram: hear });
    const client = a.stack.openUdp({ onDatagram: hear });
    client.send(bytes("0102 03"), B, 9);
    segment.timers.advance(10);
    server.send(bytes("04"), A, client.port);
    segment.timers.advance(10);
    expect(heard).toEqual([
      [A, client.port, "010203"],
      [B, 9, "04"],
    ]);
    expect(client.port).toBeGreaterThanOrEqual(49152);
    expect(() => b.stack.openUdp({ port: 9, onDatagram: hear })).toThrow("Address already in use");
  });

  test("refuses damaged datagrams, and takes those without a checksum", async () => {
    const { segment, a, b } = await network();
    const heard: string[] = [];
    b.stack.openUdp({ port: 9, onDatagram: ({ payload }) => void heard.push(hex(payload)) });
    const client = a.stack.openUdp({ onDatagram: () => undefined });
    client.send(bytes("0102 03"), B, 9);
    segment.timers.advance(10);
    const good = segment.frames.at(-1)!;
    const changed = (at: number, ...values: number[]): void => {
      const frame = good.slice();
      frame.set(values, at);
      segment.carry(frame);
    };
    changed(42, 9);
    changed(40, 0, 0);
    changed(38, 0, 12);
    changed(38, 0, 7);
    segment.timers.advance(10);
    expect(heard).toEqual(["010203", "010203"]);
    expect(b.stack.udp.counters).toMatchObject({
      received: 2,
      badChecksum: 1,
      noChecksum: 1,
      badLength: 2,
    });
  });

  test("leaves checksums to a device that offers to fill them in", async () => {
    const segment = new Segment(new VirtualTimers());
    const [a, b] = [await testHost(segment, 1), await testHost(segment, 2)];
    a.device.checksumOffloads = FrameChecksum.ip | FrameChecksum.data;
    a.hn0.addAddress(A, MASK);
    b.hn0.addAddress(B, MASK);
    segment.timers.advance(10_000);
    const heard: string[] = [];
    b.stack.openUdp({ port: 9, onDatagram: ({ payload }) => void heard.push(hex(payload)) });
    const client = a.stack.openUdp({ onDatagram: () => undefined });
    a.device.asked.length = 0;
    // The first one waits for the address of its neighbour.
    expect([client.send(bytes("01"), B, 9), client.send(bytes("02"), B, 9)]).toEqual([
      "held",
      "held",
    ]);
    segment.timers.advance(10);
    expect(client.send(bytes("03"), B, 9)).toBe("sent");
    a.stack.openEcho(() => undefined).send(B, 0, new Uint8Array(4));
    // ARP has none, and that of ICMP is nobody's.
    const both = FrameChecksum.ip | FrameChecksum.data;
    expect(a.device.asked).toEqual([0, both, both, both, FrameChecksum.ip]);
    const frame = segment.frames.findLast(({ byteLength }) => byteLength === 43)!;
    expect(hex(frame.subarray(24, 26))).toBe("0000");
    // Addresses, protocol 17 and the length.
    const pseudo = checksum(bytes("c0000201 c0000202 0011 0009"), 0, 12);
    expect(hex(frame.subarray(40, 42))).toBe((~pseudo & 0xffff).toString(16).padStart(4, "0"));
    segment.timers.advance(10);
    // To a host that has to look at them they are wrong, to one that need not they are not.
    expect([heard, b.stack.counters.badChecksum]).toEqual([[], 4]);
    b.device.verified = FrameChecksum.ip;
    client.send(bytes("04"), B, 9);
    segment.timers.advance(10);
    expect([heard, b.stack.udp.counters.badChecksum]).toEqual([[], 1]);
    b.device.verified = both;
    client.send(bytes("05"), B, 9);
    segment.timers.advance(10);
    expect(heard).toEqual(["05"]);
  });

  test("tells who has sent to a port that nobody listens on", async () => {
    const { segment, a, b } = await network();
    const errors: number[][] = [];
    const client = a.stack.openUdp({
      onDatagram: () => undefined,
      onUnreachable: (...error) => void errors.push(error),
    });
    client.send(bytes("01"), B, 9);
    // A broadcast gets no such answer (RFC 1122).
    client.send(bytes("01"), parseAddress("192.0.2.255")!, 9);
    segment.timers.advance(10);
    expect(errors).toEqual([[B, 9, 3]]);
    expect(b.stack.icmp.counters.errorsSent).toBe(1);
    for (let datagram = 0; datagram < 300; datagram++) client.send(bytes("01"), B, 9);
    segment.timers.advance(10);
    expect(b.stack.icmp.counters).toMatchObject({ errorsSent: 200, limited: 101 });
  });
});

describe("what comes", () => {
  const icmp = "0800 f7ff 0000 0000";
  test.each<[string, string, string, object]>([
    [
      "another version",
      "65 00 001c 0000 0000 40 01 0000 c0000201 c0000202",
      icmp,
      { badVersion: 1 },
    ],
    [
      "a short header",
      "44 00 001c 0000 0000 40 01 0000 c0000201 c0000202",
      icmp,
      { badHeaderLength: 1 },
    ],
    [
      "a header that ends behind the frame",
      "4f 00 001c 0000 0000 40 01 0000 c0000201 c0000202",
      icmp,
      { tooShort: 1 },
    ],
    [
      "a length inside the header",
      "45 00 0013 0000 0000 40 01 0000 c0000201 c0000202",
      icmp,
      { badLength: 1 },
    ],
    [
      "a length behind the frame",
      "45 00 001d 0000 0000 40 01 0000 c0000201 c0000202",
      icmp,
      { tooSmall: 1 },
    ],
    [
      "the first fragment",
      "45 00 001c 0000 2000 40 01 0000 c0000201 c0000202",
      icmp,
      { fragments: 1 },
    ],
    [
      "a later fragment",
      "45 00 001c 0000 0001 40 01 0000 c0000201 c0000202",
      icmp,
      { fragments: 1 },
    ],
    [
      "a packet for others",
      "45 00 001c 0000 0000 40 01 0000 c0000201 c0000203",
      icmp,
      { notForUs: 1 },
    ],
    [
      "a packet of nobody",
      "45 00 001c 0000 0000 40 01 0000 e0000001 c0000202",
      icmp,
      { badAddress: 1 },
    ],
    [
      "a packet of ours",
      "45 00 001c 0000 0000 40 01 0000 c0000202 c0000202",
      icmp,
      { badAddress: 1 },
    ],
    [
      "a packet of the loopback",
      "45 00 001c 0000 0000 40 01 0000 7f000001 c0000202",
      icmp,
      { badAddress: 1 },
    ],
    ["TCP", "45 00 001c 0000 0000 40 06 0000 c0000201 c0000202", icmp, { tcp: 1, delivered: 1 }],
  ])("%s is counted, and not answered", async (_, header, payload, counters) => {
    const { segment, b } = await network();
    segment.carry(ipFrame(header, payload));
    segment.timers.advance(10);
    expect(b.stack.counters).toMatchObject({ received: 1, delivered: 0, ...counters });
    expect(segment.frames).toHaveLength(1);
  });

  test("a wrong header checksum is counted", async () => {
    const { segment, b } = await network();
    const frame = ipFrame("45 00 001c 0000 0000 40 01 0000 c0000201 c0000202", icmp);
    frame[24]! ^= 1;
    segment.carry(frame);
    segment.timers.advance(10);
    expect(b.stack.counters.badChecksum).toBe(1);
  });

  test("options and padding do no harm", async () => {
    const { segment, b } = await network();
    segment.carry(
      ipFrame(
        "46 00 0020 0000 0000 40 01 0000 c0000201 c0000202 01010100",
        `${icmp} ${"ff".repeat(20)}`,
      ),
    );
    segment.timers.advance(10);
    expect(b.stack.icmp.counters).toMatchObject({ received: 1, echoReplies: 1 });
  });

  test("a protocol that there is not is refused", async () => {
    const { segment, a, b } = await network();
    const frame = ipFrame("45 00 001c 0000 0000 40 70 0000 c0000201 c0000202", "0102030405060708");
    segment.carry(frame);
    segment.timers.advance(10);
    expect(b.stack.counters.unknownProtocol).toBe(1);
    const refusal = segment.frames.at(-1)!;
    // Protocol unreachable, and what was refused.
    expect(hex(refusal.subarray(34, 36))).toBe("0302");
    expect(hex(refusal.subarray(42))).toBe(hex(frame.subarray(14)));
    expect(a.stack.icmp.counters.ignored).toBe(1);
  });

  const udp = "45000024 00000000 40110000 c0000202 c0000201";
  const echo = "45000024 00000000 40010000 c0000202 c0000201";
  test.each([
    ...[1, 2, 3, 4, 5, 6, 7].map((lengthBytes) => ["an echo reply", "00".repeat(lengthBytes)]),
    ["an error without a header", "0303 0000 00000000"],
    ["an error with half a header", `0303 0000 00000000 ${udp.slice(0, 24)}`],
    ["an error whose header says that it is longer", `0303 0000 00000000 4f${udp.slice(2)}`],
    ["an error with no ports", `0303 0000 00000000 ${udp}`],
    ["an error with one port", `0303 0000 00000000 ${udp} 0009`],
    ["an error with the beginning of an echo", `0b00 0000 00000000 ${echo} 0800 0000 0001`],
  ])("%s that ends too early (%s) does no harm", async (_, message) => {
    const { b } = await network();
    const unexpected = (): never => expect.unreachable("it ends too early");
    b.stack.openUdp({ port: 9, onDatagram: unexpected, onUnreachable: unexpected });
    for (let identifier = 0; identifier < 4; identifier++) b.stack.openEcho(unexpected);
    const lengthBytes = bytes(message).byteLength;
    const total = (20 + lengthBytes).toString(16).padStart(4, "0");
    const frame = ipFrame(`45 00 ${total} 0000 0000 40 01 0000 c0000201 c0000202`, message);
    if (lengthBytes >= 4) {
      const sum = checksum(frame, 34, frame.byteLength);
      frame.set([sum >> 8, sum & 255], 36);
    }
    b.hn0.input(frame);
    const { received, tooShort, ignored, badChecksum } = b.stack.icmp.counters;
    expect(received).toBe(1);
    expect(tooShort + badChecksum).toBe(lengthBytes < 8 ? 1 : 0);
    if (lengthBytes >= 8 && !message.includes(udp)) expect(ignored).toBe(1);
  });

  test("errors about echo requests reach who has sent them", async () => {
    const { segment, a } = await network();
    const answers: EchoAnswer[] = [];
    const echo = a.stack.openEcho((answer) => {
      answers.push(answer.kind === "error" ? { ...answer, quoted: answer.quoted.slice() } : answer);
    });
    a.stack.routes.addDefault(B);
    echo.send(parseAddress("198.51.100.1")!, 3, bytes("0102"));
    segment.timers.advance(10);
    const sent = segment.frames.at(-1)!;
    const error = bytes(
      `00155d0a1401 00155d0a1402 0800
      45 00 0038 0000 0000 40 01 0000 c0000202 c0000201 0304 0000 0000 05dc ${hex(sent.subarray(14, 42))}`.replaceAll(
        "\n",
        "",
      ),
    );
    for (const [at, from, to] of [
      [24, 14, 34],
      [36, 34, 70],
    ] as const) {
      const sum = checksum(error, from, to);
      error.set([sum >> 8, sum & 255], at);
    }
    segment.carry(error);
    segment.timers.advance(10);
    expect(answers).toEqual([
      {
        kind: "error",
        source: B,
        type: 3,
        code: 4,
        nextMtu: 1500,
        lengthBytes: 36,
        sequence: 3,
        quoted: sent.subarray(14, 42),
      },
    ]);
  });
});

test("addresses and routes come and go", async () => {
  const { segment, a } = await network();
  const loopback = new LoopbackDevice(segment.timers);
  const lo0 = a.stack.attach(loopback);
  await lo0.setUp(true);
  lo0.addAddress(parseAddress("127.0.0.1")!, prefixMask(8));
  a.hn0.addAddress(parseAddress("198.51.100.9")!, prefixMask(32));
  // The longest prefix decides, whichever came first.
  const wide = a.stack.attach(new TestDevice("hn1", [2, 0, 0, 0, 0, 1], segment));
  await wide.setUp(true);
  wide.addAddress(parseAddress("192.0.3.1")!, prefixMask(16));
  expect(a.stack.routes.find(B)?.interface.name).toBe("hn0");
  expect(a.stack.routes.find(parseAddress("192.0.3.9")!)?.interface.name).toBe("hn1");
  a.stack.detach(wide);
  a.stack.routes.addDefault(B);
  expect(() => a.stack.routes.addDefault(A + 9)).toThrow("File exists");
  expect(() => a.hn0.addAddress(A, prefixMask(16))).toThrow("File exists");
  expect(() => a.hn0.removeAddress(B)).toThrow("Can't assign requested address");
  const routes = (): string[] =>
    a.stack.routes
      .list()
      .map(({ destination, gateway, flags, netif }) =>
        [destination, gateway, flags, netif].join(" "),
      );
  expect(routes()).toEqual([
    "default 192.0.2.2 UGS hn0",
    "127.0.0.1 link#2 UH lo0",
    "192.0.2.0/24 link#1 U hn0",
    "192.0.2.1 link#2 UHS lo0",
    "198.51.100.9 link#2 UHS lo0",
  ]);
  a.hn0.removeAddress(A);
  expect(routes()).toEqual(["127.0.0.1 link#2 UH lo0", "198.51.100.9 link#2 UHS lo0"]);
  a.stack.detach(a.hn0);
  expect(routes()).toEqual(["127.0.0.1 link#2 UH lo0"]);
});
