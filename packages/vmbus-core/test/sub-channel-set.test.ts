import { expect, test } from "vitest";
import { SubChannelSet, type OpenSubChannel, type SubChannel } from "../src/index.js";
import { VirtualTimers } from "../src/testing/index.js";

interface Opened extends OpenSubChannel {
  readonly index: number;
  readonly lose: (reason: Error) => void;
}

/** A set on some CPUs, whose channels open when the test says so. */
class Rig {
  readonly timers = new VirtualTimers();
  readonly log: string[] = [];
  readonly opening: {
    index: number;
    cpu: number;
    readonly done: () => void;
    fail(why: string): void;
  }[] = [];
  readonly closed: [index: number, reason: string | undefined][] = [];
  readonly ended: number[] = [];
  readonly set: SubChannelSet<Opened>;

  constructor(wanted: number, cpus: number[], primaryCpu = 0) {
    const { timers } = this;
    const context = { cpus, timers, log: (line: string) => void this.log.push(line) };
    this.set = new SubChannelSet<Opened>(context, primaryCpu, {
      open: ({ index }, cpu) =>
        new Promise((resolve, reject) => {
          this.opening.push({
            index,
            cpu,
            done: () => resolve(this.#channel(index, cpu)),
            fail: (why) => reject(new Error(why)),
          });
        }),
      ended: ({ index }) => void this.ended.push(index),
    });
    this.set.wanted = wanted;
  }

  /** Has the host offer a channel; returns how it takes it back. */
  offer(index: number): () => void {
    let rescind = (): void => undefined;
    const rescinded = new Promise<void>((resolve) => (rescind = resolve));
    this.set.take({ index, rescinded } as unknown as SubChannel);
    return rescind;
  }

  /** Opens what is being opened, and waits for it. */
  async openAll(): Promise<void> {
    for (const { done } of this.opening.splice(0)) done();
    await this.set.opened();
  }

  indices(): number[] {
    return this.set.list.map(({ index }) => index);
  }

  #channel(index: number, cpu: number): Opened {
    let lose: (reason: Error) => void = () => undefined;
    const lost = new Promise<Error>((resolve) => (lose = resolve));
    const close = (reason?: "rescinded"): Promise<void> => {
      this.closed.push([index, reason]);
      return Promise.resolve();
    };
    return { index, relid: 100 + index, cpu, handle: { lost }, lose, close };
  }
}

test("channels are spread over the CPUs, whatever their order, and no more are opened than wanted", async () => {
  const rig = new Rig(5, [0, 1, 2], 1);
  for (const index of [4, 1, 3, 2, 5, 6]) rig.offer(index);
  expect(rig.opening.map(({ index, cpu }) => [index, cpu])).toEqual([
    [4, 0],
    [1, 2],
    [3, 0],
    [2, 1],
    [5, 2],
  ]);
  await rig.openAll();
  expect(rig.indices()).toEqual([4, 1, 3, 2, 5]);
});

test("who waits for them hears when all are open or have failed", async () => {
  const rig = new Rig(2, [0, 1]);
  let isOver = false;
  const collected = rig.set
    .collect(1000, () => [1, 2].map((index) => rig.offer(index)))
    .then(() => (isOver = true));
  rig.opening[0]!.done();
  await Promise.resolve();
  expect(isOver).toBe(false);
  rig.opening[1]!.fail("no room");
  await collected;
  expect(rig.indices()).toEqual([1]);
  expect(rig.log).toEqual(["sub-channel 2 on cpu0: no room"]);
  expect(rig.timers.pending).toBe(0);
  // Its place is free again.
  rig.offer(3);
  expect(rig.opening.at(-1)).toMatchObject({ index: 3, cpu: 0 });
});

test("who waits for them waits no longer than told, and what comes later is opened", async () => {
  const rig = new Rig(2, [0, 1]);
  const collected = rig.set.collect(1000, () => rig.offer(1));
  await rig.openAll();
  rig.timers.advance(1000);
  await collected;
  expect(rig.log).toEqual(["1 of 2 sub-channels came"]);
  rig.offer(2);
  await rig.openAll();
  expect(rig.indices()).toEqual([1, 2]);
});

test("nobody waits for what the host has not", async () => {
  const rig = new Rig(2, [0]);
  await rig.set.collect(1000, () => rig.set.giveUp());
  await new Rig(0, [0]).set.collect(1000, () => undefined);
  expect(rig.timers.pending).toBe(0);
});

test("a channel that is taken back is let go of as such, and its place is free", async () => {
  const rig = new Rig(1, [0, 1]);
  const rescind = rig.offer(1);
  await rig.openAll();
  rescind();
  await Promise.resolve();
  await rig.set.ended();
  expect([rig.indices(), rig.closed, rig.ended]).toEqual([[], [[1, "rescinded"]], [1]]);
  expect(rig.log).toEqual(["chan101 on cpu1: revoked"]);
  rig.offer(2);
  expect(rig.opening[0]).toMatchObject({ index: 2, cpu: 1 });
});

test("a CPU that is gone gets no channel any more", async () => {
  const rig = new Rig(3, [0, 1]);
  rig.offer(1);
  await rig.openAll();
  rig.set.list[0]!.lose(new Error("cpu1 is gone"));
  await Promise.resolve();
  expect([rig.indices(), rig.closed]).toEqual([[], [[1, undefined]]]);
  rig.offer(2);
  rig.offer(3);
  expect(rig.opening.map(({ cpu }) => cpu)).toEqual([0, 0]);
});

test("a channel that opens while all are being closed is closed, too", async () => {
  const rig = new Rig(2, [0, 1]);
  rig.offer(1);
  await rig.openAll();
  rig.offer(2);
  const closed = rig.set.close();
  rig.offer(3);
  expect(rig.opening.map(({ index }) => index)).toEqual([2]);
  rig.opening[0]!.done();
  await closed;
  expect(rig.closed).toEqual([
    [1, undefined],
    [2, undefined],
  ]);
  expect([rig.indices(), rig.ended, rig.log]).toEqual([[], [], []]);
});
