import { describe, expect, test } from "vitest";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { Linger } from "../src/netvsp/linger.js";
import { NicRig } from "./nic-rig.js";

describe("a ring is left unwatched", () => {
  /** Packets of each look, and whether signals are wanted after it. */
  test.each<[string, readonly (readonly [number, boolean])[]]>([
    ["not without packets", [[0, true]]],
    [
      "not for single packets with pauses",
      [
        [1, true],
        [1, true],
        [1, true],
      ],
    ],
    [
      "while packets come in a stream, until a look that finds none",
      [
        [2, false],
        [1, false],
        [5, false],
        [0, true],
        [1, true],
      ],
    ],
  ])("%s", (_name, looks) => {
    const linger = new Linger(new VirtualTimers(), () => undefined);
    for (const [packets, wantsSignals] of looks) {
      for (let packet = 0; packet < packets; packet++) linger.taken();
      expect(linger.lookEnded()).toBe(!wantsSignals);
    }
  });

  test("for a moment, after each look anew, and never once it has ended", () => {
    const timers = new VirtualTimers();
    let looks = 0;
    const linger = new Linger(timers, () => looks++);
    for (let round = 1; round <= 3; round++) {
      linger.taken();
      linger.taken();
      expect(linger.lookEnded()).toBe(true);
      expect(timers.pending).toBe(1);
      timers.advance(1);
      expect(looks).toBe(round);
    }
    linger.taken();
    linger.taken();
    linger.lookEnded();
    linger.end();
    timers.advance(1);
    expect(looks).toBe(3);
  });
});

describe("a guest that sends", () => {
  function sending(): {
    readonly rig: NicRig;
    /** Puts packets, and lets both ends do what they were signalled for. */
    readonly send: (count: number) => void;
    /** Signals of the guest, and packets that the host has taken. */
    readonly counts: () => { signals: number; taken: number };
  } {
    const rig = new NicRig();
    rig.attach();
    rig.timers.advance(1);
    const { left, right } = rig.pairs[0]!;
    const address = 300 * 4096;
    const message = rig.message(new Uint8Array(60));
    rig.memory.bytes.set(message, address);
    const before = { signals: left.counters.signalsSent, taken: right.counters.packetsIn };
    return {
      rig,
      send: (count) => {
        for (let packet = 0; packet < count; packet++) rig.queueSend([[address, message.length]]);
        rig.run();
      },
      counts: () => ({
        signals: left.counters.signalsSent - before.signals,
        taken: right.counters.packetsIn - before.taken,
      }),
    };
  }

  test("signals the first packet of a stream and then none until it has paused, and none waits longer than for a look", () => {
    const { rig, send, counts } = sending();
    send(2);
    for (let taken = 2; taken < 100;) {
      expect(counts()).toEqual({ signals: 1, taken });
      const count = taken % 3 === 0 ? 1 : 4;
      send(count);
      expect(counts()).toEqual({ signals: 1, taken });
      taken += count;
      rig.timers.advance(0.02);
    }
    const { taken } = counts();
    rig.timers.advance(0.02);
    send(3);
    expect(counts()).toEqual({ signals: 2, taken: taken + 3 });
    expect(rig.violations).toEqual([]);
  });

  test("signals each of single packets", () => {
    const { rig, send, counts } = sending();
    for (let packet = 1; packet <= 20; packet++) {
      send(1);
      expect(counts()).toEqual({ signals: packet, taken: packet });
    }
    expect(rig.violations).toEqual([]);
  });

  test("is not looked at any more once its channel is closed", () => {
    const { rig, send } = sending();
    send(2);
    expect(rig.timers.pending).toBe(1);
    rig.pairs[0]!.right.close();
    expect(rig.timers.pending).toBe(0);
  });
});
