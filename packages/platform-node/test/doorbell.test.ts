import { Worker } from "node:worker_threads";
import { describe, expect, test } from "vitest";
import { createDoorbells, Doorbell } from "@hyperv-is/platform-node";

function bell(): Doorbell {
  return createDoorbells(1)[0]!;
}

describe("doorbell", () => {
  test("its words have to lie in its memory", () => {
    const words = new Int32Array(new SharedArrayBuffer(64));
    expect(() => new Doorbell(words, 13)).toThrow(RangeError);
    expect(() => new Doorbell(words, -1)).toThrow(RangeError);
    expect(new Doorbell(words, 12).stopRequested).toBe(false);
  });

  test("neighbours do not hear each other", () => {
    const bells = createDoorbells(3);
    bells[1]!.ring(0xff);
    bells[1]!.requestStop();
    expect(bells.map((one) => one.take())).toEqual([0, 0xff, 0]);
    expect(bells.map((one) => one.stopRequested)).toEqual([false, true, false]);
  });

  test("causes gather until they are taken, all 32", () => {
    const one = bell();
    expect(one.take()).toBe(0);
    one.ring(1);
    one.ring(1 << 31);
    one.ring();
    expect(one.take()).toBe(1 | (1 << 31));
    expect(one.take()).toBe(0);
  });

  test("a ring between arming and waiting ends the wait at once", async () => {
    const one = bell();
    const sequence = one.arm();
    one.ring();
    expect(one.wait(sequence)).toBe(true);
    await one.waitAsync(sequence);
    one.disarm();
  });

  test("a wait that nobody ends times out", () => {
    const one = bell();
    expect(one.wait(one.arm(), 1)).toBe(false);
    one.disarm();
  });

  test("a ring wakes every sleeper", async () => {
    const one = bell();
    const waits = [one.waitAsync(one.arm()), one.waitAsync(one.arm())];
    one.ring();
    await Promise.all(waits);
    one.disarm();
    // One of them is still counted, so the next ring notifies too.
    const last = one.waitAsync(one.arm());
    one.disarm();
    one.ring();
    await last;
  });

  test("a request to stop ends a wait and stays", async () => {
    const one = bell();
    const wait = one.waitAsync(one.arm());
    one.requestStop();
    await wait;
    expect(one.stopRequested).toBe(true);
  });

  test("no cause is lost between two threads", { timeout: 90_000 }, async () => {
    const one = bell();
    const seen = new Int32Array(new SharedArrayBuffer(8 * 4));
    const rings = 100_000;
    const worker = new Worker(new URL("./workers/ringer.js", import.meta.url), {
      workerData: { bell: one.words, seen, rings },
      execArgv: [],
    });
    const failed = new Promise<never>((_, reject) => worker.once("error", reject));
    const started = new Promise((resolve) => worker.once("online", resolve));
    await Promise.race([started, failed]);
    const deadline = performance.now() + 60_000;
    let total = 0;
    for (let looks = 0; total < rings && (looks & 1023 || performance.now() < deadline); looks++)
      for (let causes = one.take(); causes !== 0; causes &= causes - 1, total++)
        Atomics.add(seen, 31 - Math.clz32(causes & -causes), 1);
    expect(total).toBe(rings);
    await worker.terminate();
  });
});
