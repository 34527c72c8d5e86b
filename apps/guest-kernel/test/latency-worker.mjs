// A program with one thread, which says after how many calls V8 optimized a function of its, and makes V8 collect garbage.
// Told "prefer-latency", it has V8 favour latency before it starts the thread.
import { setTimeout } from "node:timers";
import { isMainThread, Worker } from "node:worker_threads";
import { preferLatency } from "@hyperv-is/guest-kernel";

if (isMainThread) {
  if (process.argv[2] === "prefer-latency") preferLatency();
  new Worker(new URL(import.meta.url));
} else {
  const work = new Function("number", "return (number * 31) ^ (number >>> 3)");
  // V8's own functions, which only code that is made from text here may name: nobody else could read this file.
  const isOptimized = new Function("work", "return (%GetOptimizationStatus(work) & 16) !== 0");
  let calls = 0;
  for (; calls < 1_000_000 && !isOptimized(work); calls++) work(calls);
  console.log(`optimized after ${calls} calls`);
  globalThis.gc?.();
  // What V8 plans then is due a tenth of a second later, in this event loop: so before this is, however late both are.
  setTimeout(() => undefined, 300);
}
