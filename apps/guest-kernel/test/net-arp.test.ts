import { describe, expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { testTable } from "../../../packages/vmbus-core/test/state-table.js";
import {
  CLAIM_TIMES,
  stepClaim,
  type ClaimInput,
  type ClaimState,
} from "../src/net/address-claim.js";
import { formatMac, parseAddress, prefixMask } from "../src/net/addresses.js";
import { stepArpEntry, type ArpEntryInput, type ArpEntryState } from "../src/net/arp-entry.js";
import type { Tick } from "@hyperv-is/vmbus-core";
import { Segment, bytes, hex, testHost, type TestHost } from "./network-link.js";

const NOW = 1000;
const tick: Tick = { kind: "tick" };

describe("an entry of the ARP cache", () => {
  const states = {
    absent: { name: "absent" },
    "incomplete, first": { name: "incomplete", deadline: NOW, requests: 1 },
    "incomplete, last": { name: "incomplete", deadline: NOW, requests: 5 },
    reachable: { name: "reachable", deadline: NOW, mac: "a" },
    down: { name: "down", deadline: NOW },
  } as const satisfies Record<string, ArpEntryState>;
  const inputs = {
    wanted: { kind: "wanted" },
    "told us": { kind: "told", mac: "a", forUs: true },
    "told others": { kind: "told", mac: "a", forUs: false },
    "told another": { kind: "told", mac: "b", forUs: false },
    delete: { kind: "delete" },
    tick,
  } as const satisfies Record<string, ArpEntryInput | Tick>;
  const reachable = (mac: string): string => `reachable deadline=1201000 mac="${mac}"`;
  testTable<ArpEntryState, ArpEntryInput | Tick, keyof typeof states, keyof typeof inputs>(
    states,
    inputs,
    (state, input) => stepArpEntry(state, input, NOW),
    {
      absent: {
        wanted: "request → incomplete deadline=2000 requests=1",
        "told us": `→ ${reachable("a")}`,
        "told others": "→ absent",
        "told another": "→ absent",
        delete: "→ absent",
        tick: "→ absent",
      },
      "incomplete, first": {
        wanted: "→ incomplete deadline=1000 requests=1",
        "told us": `deliver → ${reachable("a")}`,
        "told others": `deliver → ${reachable("a")}`,
        "told another": `deliver → ${reachable("b")}`,
        delete: "drop, forget → absent",
        tick: "request → incomplete deadline=2000 requests=2",
      },
      "incomplete, last": {
        wanted: "→ incomplete deadline=1000 requests=5",
        "told us": `deliver → ${reachable("a")}`,
        "told others": `deliver → ${reachable("a")}`,
        "told another": `deliver → ${reachable("b")}`,
        delete: "drop, forget → absent",
        tick: "drop → down deadline=21000",
      },
      reachable: {
        wanted: '→ reachable deadline=1000 mac="a"',
        "told us": `→ ${reachable("a")}`,
        "told others": `→ ${reachable("a")}`,
        "told another": `moved from="a" to="b" → ${reachable("b")}`,
        delete: "drop, forget → absent",
        tick: "forget → absent",
      },
      down: {
        wanted: "drop → down deadline=1000",
        "told us": `→ ${reachable("a")}`,
        "told others": `→ ${reachable("a")}`,
        "told another": `→ ${reachable("b")}`,
        delete: "drop, forget → absent",
        tick: "forget → absent",
      },
    },
  );
});

describe("the claim to an address", () => {
  const states = {
    idle: { name: "idle" },
    "before the first probe": { name: "probing", deadline: NOW, sent: 0 },
    "before the last probe": { name: "probing", deadline: NOW, sent: 2 },
    "after the last probe": { name: "probing", deadline: NOW, sent: 3 },
    announcing: { name: "announcing", deadline: NOW, sent: 1 },
    held: { name: "held", defendedMs: NOW - CLAIM_TIMES.defendIntervalMs },
    "held, just defended": { name: "held", defendedMs: NOW - 1 },
    lost: { name: "lost" },
  } as const satisfies Record<string, ClaimState>;
  const inputs = {
    probe: { kind: "probe" },
    take: { kind: "take" },
    used: { kind: "used", mac: "b" },
    probed: { kind: "probed", mac: "b" },
    tick,
  } as const satisfies Record<string, ClaimInput | Tick>;
  const begun = {
    // Half of the longest wait: the jitter of this table.
    probe: "→ probing deadline=1500 sent=0",
    take: "usable, announce → announcing deadline=3000 sent=1",
  };
  const probing = {
    ...begun,
    used: 'in-use mac="b" → lost',
    probed: 'in-use mac="b" → lost',
  };
  testTable<ClaimState, ClaimInput | Tick, keyof typeof states, keyof typeof inputs>(
    states,
    inputs,
    (state, input) => stepClaim(state, input, NOW, 0.5),
    {
      idle: { ...begun, used: "→ idle", probed: "→ idle", tick: "→ idle" },
      "before the first probe": {
        ...probing,
        tick: "send-probe → probing deadline=2500 sent=1",
      },
      "before the last probe": { ...probing, tick: "send-probe → probing deadline=3000 sent=3" },
      "after the last probe": {
        ...probing,
        tick: "usable, announce → announcing deadline=3000 sent=1",
      },
      announcing: {
        ...begun,
        used: 'conflict mac="b", announce → held defendedMs=1000',
        probed: "→ announcing deadline=1000 sent=1",
        tick: "announce → held defendedMs=null",
      },
      held: {
        ...begun,
        used: 'conflict mac="b", announce → held defendedMs=1000',
        probed: "→ held defendedMs=-9000",
        tick: "→ held defendedMs=-9000",
      },
      "held, just defended": {
        ...begun,
        used: 'conflict mac="b" → held defendedMs=999',
        probed: "→ held defendedMs=999",
        tick: "→ held defendedMs=999",
      },
      lost: { ...begun, used: "→ lost", probed: "→ lost", tick: "→ lost" },
    },
  );
});

const A = parseAddress("192.0.2.1")!;
const B = parseAddress("192.0.2.2")!;
const MASK = prefixMask(24);

async function pair(): Promise<[Segment, TestHost, TestHost]> {
  const segment = new Segment(new VirtualTimers());
  return [segment, await testHost(segment, 1), await testHost(segment, 2)];
}

const announcementOfA =
  "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 c0000201 000000000000 c0000201";

describe("ARP on a segment", () => {
  test("announces an address twice, and again when the link is back", async () => {
    const [segment, { hn0, device }] = await pair();
    hn0.addAddress(A, MASK);
    segment.timers.advance(60_000);
    expect(segment.frames.map(hex)).toEqual(Array(2).fill(hex(bytes(announcementOfA))));
    device.setLink(false);
    device.setLink(true);
    segment.timers.advance(60_000);
    expect(segment.frames).toHaveLength(4);
  });

  test("asks, answers, and keeps what it has learned for 20 minutes", async () => {
    const [segment, a, b] = await pair();
    a.hn0.addAddress(A, MASK);
    b.hn0.addAddress(B, MASK);
    segment.timers.advance(10_000);
    segment.frames.length = 0;
    const echo = a.stack.openEcho(() => undefined);
    expect(echo.send(B, 0, new Uint8Array(4))).toBe("held");
    segment.timers.advance(10);
    expect(segment.frames.slice(0, 2).map(hex)).toEqual([
      hex(
        bytes(
          "ffffffffffff 00155d0a1401 0806 0001 0800 06 04 0001 00155d0a1401 c0000201 000000000000 c0000202",
        ),
      ),
      hex(
        bytes(
          "00155d0a1401 00155d0a1402 0806 0001 0800 06 04 0002 00155d0a1402 c0000202 00155d0a1401 c0000201",
        ),
      ),
    ]);
    // The packet that waited, and its answer, for which B has learned A from the request.
    expect(segment.frames).toHaveLength(4);
    expect(echo.send(B, 1, new Uint8Array(4))).toBe("sent");
    for (const { hn0 } of [a, b]) expect(hn0.arp.entries()).toHaveLength(1);
    segment.timers.advance(1_200_000);
    for (const { hn0 } of [a, b]) expect(hn0.arp.entries()).toEqual([]);
  });

  test("gives a neighbour up that does not answer, and tries again later", async () => {
    const [segment, { hn0, stack }] = await pair();
    hn0.addAddress(A, MASK);
    segment.timers.advance(10_000);
    segment.frames.length = 0;
    const echo = stack.openEcho(() => undefined);
    for (let sequence = 0; sequence < 20; sequence++)
      expect(echo.send(B, sequence, new Uint8Array(4))).toBe("held");
    segment.timers.advance(5_000);
    expect(segment.frames).toHaveLength(5);
    expect(hn0.arp.counters.dropped).toBe(20);
    expect(echo.send(B, 0, new Uint8Array(4))).toBe("EHOSTDOWN");
    segment.timers.advance(20_000);
    expect(echo.send(B, 0, new Uint8Array(4))).toBe("held");
    expect(segment.frames).toHaveLength(6);
  });

  test("keeps the last 16 packets for a neighbour that answers late", async () => {
    const [segment, a, b] = await pair();
    a.hn0.addAddress(A, MASK);
    const sequences: number[] = [];
    const echo = a.stack.openEcho((answer) => void sequences.push(answer.sequence));
    for (let sequence = 0; sequence < 20; sequence++) echo.send(B, sequence, new Uint8Array(4));
    segment.timers.advance(100);
    b.hn0.addAddress(B, MASK);
    segment.timers.advance(2_000);
    expect(sequences).toEqual(Array.from({ length: 16 }, (_, index) => index + 4));
    expect(a.hn0.arp.counters.dropped).toBe(4);
  });

  test("learns from requests for others only what it knows already", async () => {
    const [segment, a, b] = await pair();
    a.hn0.addAddress(A, MASK);
    b.hn0.addAddress(B, MASK);
    segment.timers.advance(10_000);
    expect(a.hn0.arp.entries()).toEqual([]);
    a.stack.openEcho(() => undefined).send(B, 0, new Uint8Array(4));
    segment.timers.advance(1_000_000);
    b.device.setLink(true);
    segment.timers.advance(1_000_000);
    expect(a.hn0.arp.entries()).toMatchObject([{ address: B, mac: "00:15:5d:0a:14:02" }]);
  });

  test("says so when a neighbour moves, or has our address", async () => {
    const [segment, a] = await pair();
    a.hn0.addAddress(A, MASK);
    segment.timers.advance(10_000);
    const from = (mac: string, sender: string): void =>
      segment.carry(
        bytes(
          `ffffffffffff ${mac} 0806 0001 0800 06 04 0001 ${mac} ${sender} 000000000000 c0000201`,
        ),
      );
    from("020000000001", "c0000202");
    from("020000000002", "c0000202");
    segment.timers.advance(10);
    segment.frames.length = 0;
    from("020000000003", "c0000201");
    from("020000000003", "c0000201");
    segment.timers.advance(10);
    expect(a.log).toEqual([
      "arp: 192.0.2.2 moved from 02:00:00:00:00:01 to 02:00:00:00:00:02 on hn0",
      ...Array<string>(2).fill("arp: 02:00:00:00:00:03 is using my IP address 192.0.2.1 on hn0!"),
    ]);
    // It is defended once in ten seconds; and both requests are answered, as any.
    const announcements = segment.frames.filter(
      (frame) => hex(frame) === hex(bytes(announcementOfA)),
    );
    expect(announcements).toHaveLength(1);
  });

  test("finds out whether an address is in use before it is used", async () => {
    const [segment, a, b] = await pair();
    a.hn0.addAddress(A, MASK);
    segment.timers.advance(10_000);
    const answers: (string | undefined)[] = [];
    b.hn0.probeAddress(A, CLAIM_TIMES, (usedBy) => void answers.push(usedBy));
    segment.timers.advance(60_000);
    expect(answers).toEqual([formatMac(a.device.macAddress)]);
    segment.frames.length = 0;
    b.hn0.probeAddress(B, CLAIM_TIMES, (usedBy) => void answers.push(usedBy));
    segment.timers.advance(60_000);
    expect(answers.slice(1)).toEqual([undefined]);
    const probe =
      "ffffffffffff 00155d0a1402 0806 0001 0800 06 04 0001 00155d0a1402 00000000 000000000000 c0000202";
    // Nobody announces an address that was only asked about.
    expect(segment.frames.map(hex)).toEqual(Array(3).fill(hex(bytes(probe))));
  });

  test("gives an address that two want at the same time to one of them at most", async () => {
    const got = { one: 0, none: 0 };
    for (let seed = 1; seed <= 40; seed++) {
      // The probes of slow networks cross.
      const segment = new Segment(new VirtualTimers(), 200);
      const answers: (string | undefined)[] = [];
      for (const number of [seed, seed + 100]) {
        const { hn0 } = await testHost(segment, number);
        hn0.probeAddress(B, CLAIM_TIMES, (usedBy) => {
          answers.push(usedBy);
          if (usedBy === undefined) hn0.addAddress(B, MASK);
        });
      }
      segment.timers.advance(60_000);
      expect(answers).toHaveLength(2);
      expect(answers).not.toEqual([undefined, undefined]);
      got[answers.includes(undefined) ? "one" : "none"]++;
    }
    expect(got.one).toBeGreaterThan(0);
    expect(got.none).toBeGreaterThan(0);
  });

  test("does not grow without end, whoever asks", async () => {
    const [segment, a] = await pair();
    a.hn0.addAddress(A, MASK);
    for (let number = 0; number < 1500; number++) {
      const sender = (0xc000_0300 + number).toString(16);
      segment.carry(
        bytes(
          `ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 ${sender} 000000000000 c0000201`,
        ),
      );
    }
    segment.timers.advance(10);
    expect(a.hn0.arp.entries()).toHaveLength(1024);
  });
});
