import { describe, expect, test } from "vitest";
import {
  Channel,
  ChannelDispatcher,
  EventFlags,
  GuestMemory,
  IncomingRing,
  OutgoingRing,
  RingArea,
  type ChannelHandler,
} from "@hyperv-is/vmbus-core";
import { ControlPage, PAGE_SIZE } from "@hyperv-is/vmbus-core/protocol";
import { putInBand } from "./ring-ends.js";

const RING_PAGES = 3;

/** A channel whose peer is this test: `put` writes a packet into its incoming ring. */
class Probe implements ChannelHandler {
  readonly channel: Channel;
  readonly seen: string[];
  readonly #name: string;
  readonly #peer: OutgoingRing;
  readonly #mask: () => number;

  constructor(name: string, seen: string[]) {
    const memory = new GuestMemory(new ArrayBuffer(2 * RING_PAGES * PAGE_SIZE));
    const incoming = RingArea.at(memory, 0, RING_PAGES);
    const outgoing = RingArea.at(memory, RING_PAGES * PAGE_SIZE, RING_PAGES);
    this.#name = name;
    this.seen = seen;
    this.#peer = new OutgoingRing(incoming);
    this.#mask = () => memory.words[ControlPage.interruptMaskWord]!;
    const silent = { signal: (): void => undefined };
    this.channel = new Channel(
      new IncomingRing(incoming),
      new OutgoingRing(outgoing),
      silent,
      this,
    );
  }

  get masked(): boolean {
    return this.#mask() === 1;
  }

  put(...ids: number[]): void {
    for (const id of ids) putInBand(this.#peer, id, 8);
    this.#peer.publish();
  }

  packet(channel: Channel): void {
    this.seen.push(`${this.#name}${channel.incoming.idLow}`);
  }

  batchEnd(): void {
    // Nothing to answer.
  }

  spaceArrived(): void {
    // Never waits.
  }

  closed(): void {
    this.seen.push(`${this.#name} closed`);
  }
}

function setup(budget?: number): {
  dispatcher: ChannelDispatcher;
  flags: EventFlags;
  seen: string[];
  a: Probe;
  b: Probe;
} {
  const seen: string[] = [];
  const memory = new GuestMemory(new ArrayBuffer(PAGE_SIZE));
  const flags = EventFlags.at(memory, 0, 256);
  const dispatcher = new ChannelDispatcher(budget);
  const a = new Probe("a", seen);
  const b = new Probe("b", seen);
  dispatcher.bind(33, a.channel);
  dispatcher.bind(2047, b.channel);
  return { dispatcher, flags, seen, a, b };
}

describe("channel dispatcher", () => {
  test("a channel is polled once when it is bound, for signals that came earlier", () => {
    const { dispatcher, seen, a } = setup();
    a.put(1);
    expect(dispatcher.run()).toBe(false);
    expect(seen).toEqual(["a1"]);
  });

  test("a flag polls its channel and no other, and masks its interrupts at once", () => {
    const { dispatcher, flags, seen, a, b } = setup();
    dispatcher.run();
    a.put(1);
    b.put(2);
    flags.set(2047);
    dispatcher.interrupt(flags);
    expect([a.masked, b.masked, seen.length]).toEqual([false, true, 0]);
    dispatcher.run();
    expect(seen).toEqual(["b2"]);
    expect(b.masked).toBe(false);
    expect(flags.take(63)).toBe(0);
  });

  test("two signals before the poll are one poll", () => {
    const { dispatcher, flags, seen, a } = setup();
    dispatcher.run();
    a.put(1, 2);
    flags.set(33);
    dispatcher.interrupt(flags);
    flags.set(33);
    dispatcher.interrupt(flags);
    dispatcher.run();
    expect(seen).toEqual(["a1", "a2"]);
    expect(a.channel.counters.interrupts).toBe(2);
    expect(dispatcher.run()).toBe(false);
  });

  test("flags without a channel are taken and ignored", () => {
    const { dispatcher, flags, seen } = setup();
    dispatcher.run();
    for (const flag of [0, 32, 34, 2046]) flags.set(flag);
    dispatcher.interrupt(flags);
    expect(dispatcher.run()).toBe(false);
    expect(seen).toEqual([]);
    for (let word = 0; word < flags.wordCount; word++) expect(flags.take(word)).toBe(0);
  });

  test("a busy channel yields after its budget and is not forgotten", () => {
    const { dispatcher, seen, a, b } = setup(2);
    dispatcher.run();
    a.put(1, 2, 3, 4, 5);
    b.put(6);
    dispatcher.schedule(a.channel);
    dispatcher.schedule(b.channel);
    expect(dispatcher.run()).toBe(true);
    expect(seen).toEqual(["a1", "a2", "b6"]);
    expect(dispatcher.run()).toBe(true);
    expect(dispatcher.run()).toBe(false);
    expect(seen).toEqual(["a1", "a2", "b6", "a3", "a4", "a5"]);
  });

  test("an unbound channel is neither polled nor found, and its flag can be bound again", () => {
    const { dispatcher, flags, seen, a } = setup();
    dispatcher.run();
    a.put(1);
    flags.set(33);
    dispatcher.interrupt(flags);
    dispatcher.unbind(33);
    expect(dispatcher.run()).toBe(false);
    flags.set(33);
    dispatcher.interrupt(flags);
    dispatcher.run();
    expect(seen).toEqual([]);
    dispatcher.bind(33, a.channel);
    dispatcher.run();
    expect(seen).toEqual(["a1"]);
    dispatcher.unbind(100);
  });

  test("a flag has one channel", () => {
    const { dispatcher, b } = setup();
    expect(() => dispatcher.bind(33, b.channel)).toThrow("bound already");
  });

  test("a channel that has closed is not polled again", () => {
    const { dispatcher, seen, a } = setup();
    a.put(1);
    a.channel.close();
    expect(dispatcher.run()).toBe(false);
    expect(seen).toEqual(["a closed"]);
  });
});
