import { describe, expect, test } from "vitest";
import {
  SendResult,
  type Channel,
  type ChannelClosedReason,
  type ChannelHandler,
} from "@hyperv-is/vmbus-core";
import {
  PACKET_FLAG_COMPLETION_REQUESTED,
  PAGE_SIZE,
  PacketType,
} from "@hyperv-is/vmbus-core/protocol";
import { connectedChannels } from "@hyperv-is/vmbus-core/testing";

/** Keeps what arrives. */
class Sink implements ChannelHandler {
  readonly ids: number[] = [];
  readonly closedReasons: ChannelClosedReason[] = [];
  spaces = 0;
  packet(channel: Channel): void {
    this.ids.push(channel.incoming.idLow);
  }
  batchEnd(): void {
    // Nothing to answer.
  }
  spaceArrived(): void {
    this.spaces++;
  }
  closed(_channel: Channel, reason: ChannelClosedReason): void {
    this.closedReasons.push(reason);
  }
}

/** Answers each request with a completion that carries the same payload, waiting for room when it must. */
class Echo implements ChannelHandler {
  readonly #waiting: number[] = [];
  packet(channel: Channel): void {
    if (channel.incoming.completionRequested) this.#waiting.push(channel.incoming.idLow);
    this.#answer(channel);
  }
  batchEnd(channel: Channel): void {
    channel.flush();
  }
  spaceArrived(channel: Channel): void {
    this.#answer(channel);
    channel.flush();
  }
  closed(): void {
    this.#waiting.length = 0;
  }
  #answer(channel: Channel): void {
    for (let id = this.#waiting[0]; id !== undefined; id = this.#waiting[0]) {
      const result = channel.begin(PacketType.completion, 0, 16, 64, id, 0);
      if (result === SendResult.Full && channel.waitForSpace(64)) continue;
      if (result !== SendResult.Ready) return;
      for (let word = 0; word < 12; word++) channel.outgoing.putU32(id);
      channel.outgoing.end();
      this.#waiting.shift();
    }
  }
}

function request(channel: Channel, id: number): SendResult {
  const result = channel.begin(PacketType.inBand, PACKET_FLAG_COMPLETION_REQUESTED, 16, 64, id, 0);
  if (result !== SendResult.Ready) return result;
  for (let word = 0; word < 12; word++) channel.outgoing.putU32(id);
  channel.outgoing.end();
  return result;
}

describe("a connected pair", () => {
  test("completions come back in order, with one signal per batch", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Echo() });
    pair.run();
    for (let id = 1; id <= 32; id++) expect(request(pair.left, id)).toBe(SendResult.Ready);
    pair.left.flush();
    pair.run();
    expect(left.ids).toEqual(Array.from({ length: 32 }, (_, index) => index + 1));
    expect(pair.left.counters).toMatchObject({ packetsOut: 32, packetsIn: 32, signalsSent: 1 });
    expect(pair.right.counters).toMatchObject({ packetsOut: 32, packetsIn: 32, signalsSent: 1 });
  });

  test("a writer that found the ring full goes on when room came, and nothing is lost", () => {
    const left = new Sink();
    const right = new Echo();
    const pair = connectedChannels({ left, right, ringPages: 2 });
    pair.run();
    let sent = 0;
    while (sent < 1000) {
      const result = request(pair.left, sent + 1);
      if (result === SendResult.Ready) sent++;
      else if (!pair.left.waitForSpace(64)) pair.run();
    }
    pair.left.flush();
    pair.run();
    expect(left.ids).toEqual(Array.from({ length: 1000 }, (_, index) => index + 1));
    expect(left.spaces).toBeGreaterThan(0);
    expect(pair.left.counters.outgoingFull).toBeGreaterThan(0);
    expect(pair.right.counters.spaceSignalsSent).toBeGreaterThan(0);
  });

  test("who waits for much room is told of it, though another has found little meanwhile", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Sink(), ringPages: 2 });
    pair.run();
    let id = 1;
    while (request(pair.left, id) === SendResult.Ready) id++;
    expect(pair.left.waitForSpace(1024)).toBe(false);
    pair.right.poll(2);
    // As between a full ring and the wait for it: the reader is quick.
    expect(pair.left.waitForSpace(64)).toBe(true);
    expect(request(pair.left, id)).toBe(SendResult.Ready);
    pair.left.flush();
    pair.run();
    expect(left.spaces).toBe(1);
  });

  test("one that waits for more room after another is told, too", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Sink(), ringPages: 2 });
    pair.run();
    for (let id = 1; request(pair.left, id) === SendResult.Ready;) id++;
    expect(pair.left.waitForSpace(64)).toBe(false);
    expect(pair.left.waitForSpace(2048)).toBe(false);
    pair.right.poll(20);
    expect(left.spaces).toBe(0);
    pair.run();
    expect(left.spaces).toBe(1);
  });

  test("a corrupt ring closes the channel once, with an error, and the process lives", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Echo() });
    pair.run();
    pair.memory.words[(17 * PAGE_SIZE) >>> 2] = 3;
    pair.left.interrupt();
    expect(pair.left.poll(16)).toBe(2);
    expect(pair.left.poll(16)).toBe(2);
    expect(left.closedReasons).toEqual(["corrupt"]);
    expect(pair.left.error).toMatchObject({ code: "ERR_RING_CORRUPT" });
    expect(request(pair.left, 1)).toBe(SendResult.Corrupt);
  });

  test("a rescinded channel handles nothing more", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Echo() });
    pair.run();
    request(pair.left, 1);
    pair.left.flush();
    pair.left.close("rescinded");
    pair.run();
    expect(left.ids).toEqual([]);
    expect(left.closedReasons).toEqual(["rescinded"]);
  });

  test("an end that does not optimize signals publishes every packet by itself", () => {
    const right = new Sink();
    const pair = connectedChannels({ left: new Sink(), right });
    pair.run();
    pair.left.signalOptimization = false;
    for (let id = 1; id <= 3; id++) request(pair.left, id);
    pair.run();
    expect(right.ids).toEqual([1, 2]);
    pair.left.flush();
    pair.run();
    expect(right.ids).toEqual([1, 2, 3]);
    expect(pair.left.counters.signalsSent).toBe(2);
  });

  test.each([
    [true, 1],
    [false, 2],
  ])(
    "an end that is awake wants signals only if it does not optimize: %s",
    (optimizes, signals) => {
      const left = new Sink();
      const pair = connectedChannels({ left, right: new Sink() });
      pair.run();
      pair.left.signalOptimization = optimizes;
      request(pair.right, 1);
      pair.right.flush();
      // Half a look: the ring is empty again, and this end has not gone to sleep.
      expect(pair.left.poll(1)).toBe(1);
      request(pair.right, 2);
      pair.right.flush();
      expect(pair.right.counters.signalsSent).toBe(signals);
      pair.run();
      expect(left.ids).toEqual([1, 2]);
    },
  );

  test("optimization can be switched in the middle, and nothing is lost", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Echo(), ringPages: 2 });
    pair.run();
    for (let id = 1; id <= 300; id++) {
      if (id % 7 === 0) pair.left.signalOptimization = !pair.left.signalOptimization;
      if (id % 11 === 0) pair.right.signalOptimization = !pair.right.signalOptimization;
      expect(request(pair.left, id)).toBe(SendResult.Ready);
      if (id % 3 === 0) pair.left.flush();
      if (id % 5 === 0) pair.run();
    }
    pair.left.flush();
    pair.run();
    expect(left.ids).toEqual(Array.from({ length: 300 }, (_, index) => index + 1));
  });

  test("an end that lingers wants no signal until it is polled and does not linger again", () => {
    const right = new (class extends Sink {
      wantsMore = true;
      override batchEnd(channel?: Channel): void {
        if (this.wantsMore) channel?.linger();
      }
    })();
    const pair = connectedChannels({ left: new Sink(), right });
    pair.run();
    for (let id = 1; id <= 3; id++) {
      request(pair.left, id);
      pair.left.flush();
      pair.run();
      expect([right.ids, pair.left.counters.signalsSent]).toEqual([[1], 1]);
    }
    right.wantsMore = false;
    expect(pair.right.poll(10)).toBe(0);
    expect(right.ids).toEqual([1, 2, 3]);
    request(pair.left, 4);
    pair.left.flush();
    pair.run();
    expect([right.ids, pair.left.counters.signalsSent]).toEqual([[1, 2, 3, 4], 2]);
  });

  test("a budget yields and comes back", () => {
    const left = new Sink();
    const pair = connectedChannels({ left, right: new Echo() });
    pair.run();
    for (let id = 1; id <= 10; id++) request(pair.left, id);
    pair.left.flush();
    expect(pair.right.poll(4)).toBe(1);
    expect(pair.right.poll(4)).toBe(1);
    expect(pair.right.poll(4)).toBe(0);
    expect(pair.right.counters.packetsIn).toBe(10);
  });
});
