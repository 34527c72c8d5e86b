import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { ProcessorTime, readTicks, type Ticks } from "../src/processor-time.js";

/** Counters that move on by one step each time they are read. */
function counters(...steps: Ticks[]): () => Ticks {
  const sum = { busy: 0, total: 0, own: 0 };
  return () => {
    const now = { ...sum };
    const step = steps.shift() ?? { busy: 0, total: 1, own: 0 };
    sum.busy += step.busy;
    sum.total += step.total;
    sum.own += step.own;
    return now;
  };
}

const sleepless = (): Promise<void> => Promise.resolve();

describe("the share of others", () => {
  test("is what is neither ours nor idle", () => {
    const time = new ProcessorTime(60_000, counters({ busy: 60, total: 100, own: 50 }), sleepless);
    expect(time.watch()()).toBe(0.1);
  });

  test("is nothing where nothing can be counted", () => {
    const time = new ProcessorTime(60_000, () => undefined, sleepless);
    expect(time.isKnown).toBe(false);
    expect(time.watch()()).toBe(0);
  });

  test("makes a measurement noisy above 6 %", () => {
    expect(ProcessorTime.isNoisy(0.06)).toBe(false);
    expect(ProcessorTime.isNoisy(0.07)).toBe(true);
  });
});

describe("waiting for an idle machine", () => {
  const busy = { busy: 50, total: 100, own: 0 };
  const idle = { busy: 1, total: 100, own: 0 };
  const between = { busy: 0, total: 0, own: 0 };

  test("ends when others have rested", async () => {
    const read = counters(busy, between, busy, between, idle, between);
    expect(await new ProcessorTime(60_000, read, sleepless).untilIdle()).toBe(true);
  });

  const always = (): (() => Ticks) => counters(...Array.from({ length: 100 }, () => busy));

  test("ends without rest when it takes too long", async () => {
    expect(await new ProcessorTime(60_000, always(), sleepless).untilIdle()).toBe(false);
  });

  test("is not even tried when all patience is used up", async () => {
    let waits = 0;
    const sleep = (): Promise<unknown> => Promise.resolve(waits++);
    const time = new ProcessorTime(1_000, always(), sleep);
    expect(await time.untilIdle()).toBe(false);
    expect(waits).toBe(3);
    expect(await time.untilIdle()).toBe(false);
    expect(waits).toBe(3);
  });
});

test.runIf(process.platform === "linux")("a child that is still running is ours", async () => {
  const work = `
    const from = process.cpuUsage().user;
    while (process.cpuUsage().user - from < 200_000);
    process.send("worked");
    process.on("message", () => process.exit());
  `;
  const child = spawn(process.execPath, ["-e", work], {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  await once(child, "message");
  const without = readTicks([])!.own;
  const withChild = readTicks([child.pid!])!.own;
  child.send("end");
  await once(child, "exit");
  // 200 ms are 20 ticks of the usual 10 ms; the two readings are a moment apart.
  expect(withChild - without).toBeGreaterThanOrEqual(15);
  expect(() => readTicks([child.pid!])).not.toThrow();
});
