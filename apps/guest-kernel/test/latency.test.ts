import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const program = fileURLToPath(new URL("./latency-worker.mjs", import.meta.url));

/** What a thread of a program does that is started after `preferLatency`, or without it. */
async function observe(...args: readonly string[]): Promise<{
  readonly calls: number;
  /** Threads that collect garbage when they become idle. */
  readonly reducing: number;
}> {
  const { stdout } = await promisify(execFile)(process.execPath, [
    // What is counted must not depend on another thread, nor on the loop around it being optimized.
    ...["--no-concurrent-recompilation", "--no-use-osr"],
    ...["--allow-natives-syntax", "--expose-gc"],
    // The part of V8 that collects garbage of idle threads says with its thread that it begins, which it would do after eight seconds.
    ...["--trace-gc-verbose", "--gc-memory-reducer-start-delay-ms=1"],
    ...[program, ...args],
  ]);
  return {
    calls: Number(/^optimized after (\d+) calls$/m.exec(stdout)?.[1]),
    reducing: new Set(stdout.match(/^\[\d+:0x[\da-f]+\](?= .*Memory reducer: )/gm)).size,
  };
}

test("has V8 optimize sooner, and wait for no idle thread to collect its garbage", async () => {
  const [usual, latency] = await Promise.all([observe(), observe("prefer-latency")]);
  // The first thread goes on as it began.
  expect([usual.reducing, latency.reducing]).toEqual([2, 1]);
  expect(latency.calls).toBeGreaterThan(0);
  // A fifth, and what the engine counts before it.
  expect(latency.calls).toBeLessThan(usual.calls / 3);
});
