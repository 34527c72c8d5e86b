import { expect, test } from "vitest";
import { NodeClock, startWorker } from "@hyperv-is/platform-node";

test("the clocks of two threads agree and never go back", async () => {
  const clock = new NodeClock();
  const entry = new URL("./workers/clock.js", import.meta.url);
  const errors: number[] = [];
  const samples = await new Promise<number>((resolve, reject) => {
    let asked = clock.now();
    let count = 0;
    const worker = startWorker<string, number>({
      entry,
      name: "clock",
      onMessage(there) {
        const now = clock.now();
        // What the other thread read lies between asking and hearing.
        errors.push(Math.max(0, asked - there, there - now));
        if (++count < 50) {
          asked = clock.now();
          worker.post("now");
        } else worker.stop().then(() => resolve(count), reject);
      },
      onError: reject,
    });
    worker.post("now");
  });
  expect(samples).toBe(50);
  expect(Math.max(...errors)).toBe(0);
  for (let before = clock.now(), looks = 0; looks < 100_000; looks++) {
    const now = clock.now();
    if (now < before) throw new Error(`${now} after ${before}`);
    before = now;
  }
});
