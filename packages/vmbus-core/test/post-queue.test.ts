import { describe, expect, test } from "vitest";
import { freebsdPostRetries, linuxPostRetries } from "@hyperv-is/vmbus-core";
import {
  HypercallStatus,
  InitiateContact,
  NIL_GUID,
  ProtocolVersion,
  RelidReleased,
} from "@hyperv-is/vmbus-core/protocol";
import { VirtualTimers } from "@hyperv-is/vmbus-core/testing";
import { PostQueue, type PostFailure } from "../src/bus/post-queue.js";

const message = (relid: number): Uint8Array => RelidReleased.emit({ relid });

class Bench {
  readonly timers = new VirtualTimers();
  /** Relids of the messages that were taken. */
  readonly taken: number[] = [];
  /** Attempts, by time. */
  readonly attempts: number[] = [];
  readonly failures: PostFailure[] = [];
  statuses: HypercallStatus[] = [];
  duringPost: () => void = () => undefined;
  readonly queue: PostQueue;

  constructor(policy = linuxPostRetries) {
    this.queue = new PostQueue((_connectionId, bytes) => this.#post(bytes), this.timers, policy);
  }

  send(...relids: number[]): void {
    this.queue.send(1, relids.map(message), (failure) => this.failures.push(failure));
  }

  #post(bytes: Uint8Array): HypercallStatus {
    this.attempts.push(this.timers.now());
    const status = this.statuses.shift() ?? HypercallStatus.success;
    if (status === HypercallStatus.success) this.taken.push(bytes[8]!);
    this.duringPost();
    return status;
  }
}

const BUSY = HypercallStatus.insufficientBuffers;

describe("posting messages", () => {
  test("at once when the hypervisor takes them", () => {
    const bench = new Bench();
    bench.send(1, 2);
    bench.send(3);
    expect(bench.taken).toEqual([1, 2, 3]);
    expect(bench.timers.pending).toBe(0);
  });

  test("in order, also behind one that has to wait", () => {
    const bench = new Bench();
    bench.statuses = [HypercallStatus.success, BUSY, BUSY];
    bench.send(1, 2);
    bench.send(3);
    expect(bench.taken).toEqual([1]);
    bench.timers.advance(1);
    expect(bench.taken).toEqual([1, 2, 3]);
    expect(bench.queue.retries).toBe(2);
  });

  test("Linux: waits 1 us, doubling 21 times, and gives up after a hundred", () => {
    const bench = new Bench();
    bench.statuses = Array.from({ length: 101 }, () => BUSY);
    bench.send(1);
    bench.send(2);
    bench.timers.advance(1_000_000);
    expect(bench.attempts).toHaveLength(102);
    const waits = bench.attempts.slice(1, 101).map((at, index) => at - bench.attempts[index]!);
    expect(waits[0]).toBeCloseTo(0.001, 6);
    for (let retry = 1; retry <= 21; retry++)
      expect(waits[retry]! / waits[retry - 1]!).toBeCloseTo(2, 2);
    for (let retry = 22; retry < 100; retry++) expect(waits[retry]).toBeCloseTo(waits[21]!, 3);
    expect(bench.failures).toEqual([{ status: BUSY, sent: 0 }]);
    expect(bench.taken).toEqual([2]);
  });

  test("FreeBSD: whatever the status, 1 ms doubling up to about 2 s, twenty times", () => {
    const bench = new Bench(freebsdPostRetries);
    bench.statuses = Array.from({ length: 21 }, () => HypercallStatus.accessDenied);
    bench.send(1);
    bench.timers.advance(1_000_000);
    const waits = bench.attempts.slice(1).map((at, index) => at - bench.attempts[index]!);
    expect(waits).toHaveLength(20);
    expect(waits.slice(0, 13)).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 2048]);
    expect(bench.failures).toEqual([{ status: HypercallStatus.accessDenied, sent: 0 }]);
  });

  test("each message has its own number of tries", () => {
    const bench = new Bench(freebsdPostRetries);
    const nearly = Array.from({ length: 20 }, () => BUSY);
    bench.statuses = [...nearly, HypercallStatus.success, ...nearly, HypercallStatus.success];
    bench.send(1, 2);
    bench.timers.advance(1_000_000);
    expect([bench.taken, bench.failures]).toEqual([[1, 2], []]);
  });

  test.each([
    ["insufficientMemory", true],
    ["invalidConnectionId", true],
    ["insufficientBuffers", true],
    ["invalidHypercallCode", false],
    ["invalidAlignment", false],
    ["invalidParameter", false],
    ["accessDenied", false],
    ["invalidPortId", false],
  ] as const)("Linux: %s is tried again: %s", (name, again) => {
    const bench = new Bench();
    bench.statuses = [HypercallStatus[name]];
    bench.send(1);
    bench.timers.advance(1);
    expect(bench.taken).toEqual(again ? [1] : []);
    expect(bench.failures).toHaveLength(again ? 0 : 1);
  });

  test.each([linuxPostRetries, freebsdPostRetries])(
    "a contact on a connection that does not exist fails at once (policy %#)",
    (policy) => {
      const bench = new Bench(policy);
      bench.statuses = [HypercallStatus.invalidConnectionId];
      const contact = InitiateContact.emit({
        version: ProtocolVersion.v5_3,
        targetVp: 0,
        interruptPageGpa: 0,
        sint: 2,
        vtl: 0,
        features: 0,
        parentToChildMonitorGpa: 0,
        childToParentMonitorGpa: 0,
        clientId: NIL_GUID,
      });
      bench.queue.send(4, [contact], (failure) => bench.failures.push(failure));
      expect(bench.failures).toEqual([{ status: HypercallStatus.invalidConnectionId, sent: 0 }]);
      expect(bench.timers.pending).toBe(0);
    },
  );

  test("a failure tells how far the request came, and drops the rest of it only", () => {
    const bench = new Bench();
    bench.statuses = [
      HypercallStatus.success,
      HypercallStatus.success,
      HypercallStatus.accessDenied,
    ];
    bench.send(1, 2, 3, 4);
    bench.send(5);
    expect(bench.failures).toEqual([{ status: HypercallStatus.accessDenied, sent: 2 }]);
    expect(bench.taken).toEqual([1, 2, 5]);
  });

  test("a message that an answer brings about comes behind those that wait", () => {
    const bench = new Bench();
    let once = false;
    bench.duringPost = () => {
      if (!once) bench.send(9);
      once = true;
    };
    bench.send(1, 2);
    expect(bench.taken).toEqual([1, 2, 9]);
  });

  test("cleared, it posts nothing more and tells nobody, but takes new messages", () => {
    const bench = new Bench();
    bench.statuses = [BUSY];
    bench.send(1);
    bench.send(2);
    bench.queue.clear();
    expect(bench.timers.pending).toBe(0);
    bench.send(3);
    bench.timers.advance(1000);
    expect([bench.taken, bench.failures]).toEqual([[3], []]);
  });

  test("cleared while a message is on its way, it goes on with what came after", () => {
    const bench = new Bench();
    bench.duringPost = () => {
      bench.duringPost = () => undefined;
      bench.queue.clear();
      bench.send(7);
    };
    bench.statuses = [HypercallStatus.accessDenied];
    bench.send(1, 2);
    expect([bench.taken, bench.failures]).toEqual([[7], []]);
  });
});
