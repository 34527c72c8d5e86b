import { execFileSync } from "node:child_process";
import { getHeapStatistics } from "node:v8";
import { Tap, TapQueue } from "@hyperv-is/platform-node";
import { BenchmarkError } from "../benchmark.js";
import { cost, type MeasuringOptions } from "../comparison.js";
import type { BenchmarkResult } from "../report.js";

const FRAME_BYTES = 1514;
const FRAME_AT = 16;
const ROOM_BYTES = 2048;
/** As many as wait at a TAP. */
const FRAMES = 400;
const BATCHES = 50;
const WARM_UPS = 4;
/** Of a protocol that nobody serves, to everybody: a bridge passes it on. */
const BROADCAST = [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

/**
 * What the heap grows by for a frame that is given to a TAP, and for one that is taken of a TAP. All else on the way of a
 * packet is the drivers' and the host's own, which allocates nothing: their tests hold that.
 */
export function measureTapAllocation({
  runs,
  progress,
}: Pick<MeasuringOptions, "runs" | "progress">): BenchmarkResult[] {
  progress("what TAPs allocate");
  const netns = `hvis-bench-${process.pid}-heap`;
  const ip = (...args: readonly string[]): void =>
    void execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] });
  ip("netns", "add", netns);
  const taps: Tap[] = [];
  try {
    ip("-n", netns, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0");
    ip("-n", netns, "link", "set", "bridge", "up");
    for (const name of ["from", "to"]) {
      const tap = Tap.open({ name, netns });
      taps.push(tap);
      ip("-n", netns, "link", "set", name, "master", "bridge");
      tap.isUp = true;
    }
    const memory = new Uint8Array(FRAME_AT + ROOM_BYTES);
    const [from, to] = taps.map(({ queues }) => new TapQueue(queues[0]!, memory)) as [
      TapQueue,
      TapQueue,
    ];
    memory.set(BROADCAST, FRAME_AT);
    let taken = 0;
    const give = (): void => {
      for (let frame = 0; frame < FRAMES; frame++) from.send(FRAME_AT, FRAME_BYTES);
    };
    const take = (): void => {
      while (to.receiveBehindHeader(FRAME_AT, ROOM_BYTES) > 0) taken++;
    };
    const given = bytesPerFrame(give, take, runs);
    if (taken < (BATCHES * FRAMES) / 2) throw new BenchmarkError("the bridge passes nothing on");
    return [
      cost("heap of a frame to a TAP", given.first, "bytes per packet", runs),
      cost("heap of a frame from a TAP", given.second, "bytes per packet", runs),
    ];
  } finally {
    for (const tap of taps) tap.close();
    ip("netns", "delete", netns);
  }
}

/** Of two things in turns; the least of several rounds, since others allocate too. */
function bytesPerFrame(
  first: () => void,
  second: () => void,
  runs: number,
): { readonly first: number; readonly second: number } {
  const least = { first: Infinity, second: Infinity };
  const heap = (): number => getHeapStatistics().used_heap_size;
  for (
    let round = -WARM_UPS;
    round < runs || !Number.isFinite(least.first + least.second);
    round++
  ) {
    const grown = { first: 0, second: 0 };
    for (let batch = 0; batch < BATCHES; batch++) {
      const before = heap();
      first();
      const between = heap();
      second();
      grown.first += between - before;
      grown.second += heap() - between;
    }
    if (round < 0) continue;
    for (const which of ["first", "second"] as const)
      // A round in which garbage was collected says nothing.
      if (grown[which] >= 0)
        least[which] = Math.min(least[which], grown[which] / (BATCHES * FRAMES));
  }
  return least;
}
