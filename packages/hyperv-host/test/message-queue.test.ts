import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MessageQueue } from "../src/hypervisor/message-queue.js";
import { NO_PORT, SIGNAL_PORT_WORDS, SignalPorts } from "../src/hypervisor/signal-ports.js";

function queue(capacity: number): MessageQueue {
  const made = new MessageQueue(new Int32Array(3 + MessageQueue.words(capacity)), 3, capacity);
  made.clear();
  return made;
}

const payloadWords = new Int32Array(60);

describe("queue of posted messages", () => {
  test("is a bounded queue under any order of puts and takes", () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 300 }), (operations) => {
        const tested = queue(8);
        const model: number[] = [];
        let number = 0;
        for (const isPut of operations) {
          if (isPut) {
            payloadWords[0] = ++number;
            const isTaken = tested.put(number % 3, number, 1, 4, payloadWords, 0);
            expect(isTaken).toBe(model.length < 8);
            if (isTaken) model.push(number);
          } else {
            const message = tested.take();
            const expected = model.shift();
            expect(message?.connectionId).toBe(expected);
            if (message === undefined) continue;
            expect(message.vp).toBe(expected! % 3);
            expect(new Int32Array(message.payload.buffer)[0]).toBe(expected);
          }
          expect(tested.waiting).toBe(model.length > 0);
        }
      }),
    );
  });

  test("works across the wrap of its counters", () => {
    const words = new Int32Array(MessageQueue.words(2));
    const tested = new MessageQueue(words, 0, 2);
    tested.clear();
    // Counters two messages before the largest signed integer.
    const start = 0x7fff_fffe;
    words[0] = words[16] = start;
    words[32] = start;
    words[33] = start + 1;
    for (let number = 0; number < 6; number++) {
      expect(tested.put(0, number, 1, 0, payloadWords, 0)).toBe(true);
      expect(tested.take()?.connectionId).toBe(number);
    }
    expect(tested.take()).toBeUndefined();
  });
});

describe("signal ports", () => {
  test("behave as a map", () => {
    // Ids that collide, that differ above the table's size, and the lowest and highest.
    const id = fc.constantFrom(0, 1, 2, 0x2001, 0x2002, 0x4001, 0x4002, 0xff_dfff, 0xff_ffff);
    const operation = fc.tuple(fc.constantFrom("connect", "disconnect"), id, fc.nat(0x7fff_ffff));
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 100 }), (operations) => {
        const tested = new SignalPorts(new Int32Array(SIGNAL_PORT_WORDS + 1), 1);
        const model = new Map<number, number>();
        for (const [kind, connectionId, port] of operations) {
          if (kind === "connect") {
            expect(tested.connect(connectionId, port)).toBe(!model.has(connectionId));
            if (!model.has(connectionId)) model.set(connectionId, port);
          } else {
            tested.disconnect(connectionId);
            model.delete(connectionId);
          }
          for (const known of [0, 1, 2, 0x2001, 0x2002, 0x4001, 0x4002, 0xff_dfff, 0xff_ffff])
            expect(tested.lookup(known)).toBe(model.get(known) ?? NO_PORT);
        }
      }),
    );
  });

  test("hold every relid and as many ids of the guest's choice", () => {
    const tested = new SignalPorts(new Int32Array(SIGNAL_PORT_WORDS), 0);
    const ids = Array.from({ length: 2047 }, (_, index) => [
      0x2001 + index,
      (index * 8192) % 2 ** 24,
    ]);
    const all = [...new Set(ids.flat())];
    for (const id of all) expect(tested.connect(id, id & 0xffff)).toBe(true);
    for (const id of all) expect(tested.lookup(id)).toBe(id & 0xffff);
    for (const id of all) tested.disconnect(id);
    for (const id of all) expect(tested.lookup(id)).toBe(NO_PORT);
  });

  test("monitor ids are apart", () => {
    const tested = new SignalPorts(new Int32Array(SIGNAL_PORT_WORDS), 0);
    expect(tested.monitor(127)).toBe(NO_PORT);
    tested.setMonitor(127, 0);
    expect(tested.monitor(127)).toBe(0);
    tested.setMonitor(127, NO_PORT);
    expect(tested.monitor(127)).toBe(NO_PORT);
  });
});
