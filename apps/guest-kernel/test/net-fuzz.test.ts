import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { parseAddress, prefixMask } from "../src/net/addresses.js";
import { checksum } from "../src/net/checksum.js";
import { DhcpClient } from "../src/net/dhcp/dhcp-client.js";
import { parseReply } from "../src/net/dhcp/message.js";
import { Segment, SeededRandom, bytes, testHost, type TestHost } from "./network-link.js";

const B = parseAddress("192.0.2.2")!;

/** Frames that a host takes for its own up to a point, for the fuzzer to damage. */
const templates = [
  // ARP: a request and a reply.
  "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 c0000201 000000000000 c0000202",
  "00155d0a1402 00155d0a1401 0806 0001 0800 06 04 0002 00155d0a1401 c0000201 00155d0a1402 c0000202",
  // ICMP: echo, echo reply, an error that quotes UDP and one that quotes echo.
  "00155d0a1402 00155d0a1401 0800 45000024 00000000 40010000 c0000201 c0000202 08000000 00010002 0102030405060708",
  "00155d0a1402 00155d0a1401 0800 45000024 00000000 40010000 c0000201 c0000202 00000000 00010002 0102030405060708",
  "00155d0a1402 00155d0a1401 0800 45000038 00000000 40010000 c0000201 c0000202 03030000 00000000 45000024 00000000 40110000 c0000202 c0000201 00090009 00100000",
  "00155d0a1402 00155d0a1401 0800 45000038 00000000 40010000 c0000201 c0000202 0b000000 00000000 45000024 00000000 40010000 c0000202 c0000201 08000000 00010002",
  // UDP to a port that is listened on, and to one that is not; with options of IP.
  "00155d0a1402 00155d0a1401 0800 45000020 00000000 40110000 c0000201 c0000202 00090009 000c0000 01020304",
  "00155d0a1402 00155d0a1401 0800 46000024 00000000 40110000 c0000201 c0000202 01010100 00090007 000c0000 01020304",
  // TCP, a protocol that there is not, a fragment, IPv6, a tagged frame.
  "00155d0a1402 00155d0a1401 0800 45000028 00000000 40060000 c0000201 c0000202 00160016 00000001 00000000 50020000 00000000",
  "00155d0a1402 00155d0a1401 0800 4500001c 00000000 40700000 c0000201 c0000202 0102030405060708",
  "00155d0a1402 00155d0a1401 0800 4500001c 00002001 40110000 c0000201 c0000202 0102030405060708",
  "333300000001 00155d0a1401 86dd 60000000 00083aff",
  "00155d0a1402 00155d0a1401 8100 0064 0800 45000014",
].map(bytes);

/** A frame made of a template: bytes changed, its end cut off or prolonged, checksums made right or left. */
const frames = fc
  .record({
    template: fc.constantFrom(...templates),
    changes: fc.array(fc.tuple(fc.nat(80), fc.nat(255)), { maxLength: 6 }),
    lengthBytes: fc.option(fc.nat(100), { nil: undefined }),
    tail: fc.uint8Array({ maxLength: 20 }),
    isFitted: fc.boolean(),
    isMended: fc.boolean(),
  })
  .map(({ template, changes, lengthBytes, tail, isFitted, isMended }) => {
    const cut = template.subarray(0, lengthBytes ?? template.byteLength);
    const frame = new Uint8Array(cut.byteLength + tail.byteLength);
    frame.set(cut);
    frame.set(tail, cut.byteLength);
    for (const [at, value] of changes) if (at < frame.byteLength) frame[at] = value;
    // What claims to end with the frame shows who reads behind its end.
    if (isFitted && frame.byteLength >= 34) frame.set([0, frame.byteLength - 14], 16);
    if (isMended) mend(frame);
    return frame;
  });

/** Makes the checksums of IPv4 and ICMP right, as far as there is room for them. */
function mend(frame: Uint8Array): void {
  if (frame.byteLength < 34 || frame[12] !== 8 || frame[13] !== 0) return;
  const payload = 14 + (frame[14]! & 15) * 4;
  const end = Math.min(frame.byteLength, 14 + ((frame[16]! << 8) | frame[17]!));
  const put = (at: number, from: number, to: number): void => {
    frame.set([0, 0], at);
    const sum = checksum(frame, from, to);
    frame.set([sum >> 8, sum & 255], at);
  };
  if (payload > frame.byteLength) return;
  put(24, 14, payload);
  if (frame[23] === 1 && end >= payload + 4) put(payload + 2, payload, end);
}

/** A host that has everything open, and sends nothing of its own any more. */
async function openHost(): Promise<[Segment, TestHost]> {
  const segment = new Segment(new VirtualTimers());
  const host = await testHost(segment, 2);
  host.hn0.addAddress(B, prefixMask(24));
  host.stack.openUdp({ port: 9, onDatagram: () => undefined, onUnreachable: () => undefined });
  for (let echo = 0; echo < 4; echo++) host.stack.openEcho(() => undefined);
  new DhcpClient({
    stack: host.stack,
    interface: host.hn0,
    hostName: "guest",
    log: () => undefined,
  });
  return [segment, host];
}

describe("a host", () => {
  test("survives any frames, counts each of them, and answers with no more than it got", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(frames, fc.uint8Array({ maxLength: 90 })), { maxLength: 40 }),
        async (all) => {
          const [, { hn0, device, stack }] = await openHost();
          const before = device.counters.sentPackets;
          for (const frame of all) hn0.input(frame);
          // An answer to each, and a request for the address of who is to get it.
          expect(device.counters.sentPackets - before).toBeLessThanOrEqual(2 * all.length);
          const { short, notForUs, unknownProtocol } = hn0.counters;
          const { requestsReceived, repliesReceived, malformed } = hn0.arp.counters;
          const ip = stack.counters;
          expect(
            short +
              notForUs +
              unknownProtocol +
              requestsReceived +
              repliesReceived +
              malformed +
              ip.received,
          ).toBe(all.length);
          const { received, notForUs: others, delivered, ...refused } = ip;
          const dropped = Object.entries(refused)
            .filter(([name]) => name !== "tcp" && name !== "unknownProtocol")
            .reduce((sum, [, count]) => sum + count, 0);
          expect(delivered + dropped + others).toBe(received);
        },
      ),
      { numRuns: 600 },
    );
  });

  test("comes to rest when the frames end", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(frames, { maxLength: 20 }), async (all) => {
        const segment = new Segment(new VirtualTimers());
        const { hn0 } = await testHost(segment, 2);
        hn0.addAddress(B, prefixMask(24));
        for (const frame of all) hn0.input(frame);
        segment.timers.advance(3_600_000);
        expect(hn0.arp.entries()).toEqual([]);
        expect(segment.timers.pending).toBe(0);
      }),
      { numRuns: 100 },
    );
  });
});

describe("a reply of a DHCP server", () => {
  const mac = bytes("00155d0a1402");
  const random = new SeededRandom(1);
  const fixed = new Uint8Array(240);
  fixed.set([2, 1, 6]);
  fixed.set(bytes("c0000232"), 16);
  fixed.set(mac, 28);
  fixed.set(bytes("63825363"), 236);

  test("is understood or refused, whatever its options are", () => {
    let understood = 0;
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            code: fc.oneof(
              fc.constantFrom(0, 1, 3, 6, 15, 26, 51, 52, 53, 54, 56, 58, 59, 255),
              fc.nat(255),
            ),
            lengthBytes: fc.oneof(fc.constantFrom(0, 1, 2, 4, 8, 255), fc.nat(255)),
            data: fc.uint8Array({ maxLength: 20 }),
          }),
          { maxLength: 12 },
        ),
        fc.uint8Array({ minLength: 192, maxLength: 192 }),
        fc.boolean(),
        (options, names, isOffer) => {
          const tail = options.flatMap(({ code, lengthBytes, data }) => [
            code,
            lengthBytes,
            ...data,
          ]);
          const message = Uint8Array.from([
            ...fixed,
            ...(isOffer ? [53, 1, 2, 54, 4, 192, 0, 2, 1] : []),
            ...tail,
          ]);
          message.set(names, 44);
          const reply = parseReply(message, mac, 0);
          if (reply === undefined) return;
          understood++;
          expect(reply.type === "nak" || reply.address === parseAddress("192.0.2.50")).toBe(true);
          for (const text of [reply.message, reply.domainName]) expect(text).toMatch(/^[ -~]*$/);
          expect(reply.routers.length).toBeLessThanOrEqual(8);
        },
      ),
      { numRuns: 2000 },
    );
    expect(understood).toBeGreaterThan(50);
  });

  test("of any bytes is no reply", () => {
    for (let run = 0; run < 2000; run++) {
      const message = new Uint8Array(random.next() % 400);
      random.fill(message);
      expect(parseReply(message, mac, 0)).toBeUndefined();
    }
  });
});
