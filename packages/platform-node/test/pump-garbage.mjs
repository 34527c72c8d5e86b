// Drives a pump that has work at each Nth look, N being the argument, as an async pump beside a timer.
// Prints the bytes of garbage of a batch of work: the least of some rounds, as the engine compiles in its own time, and other
// programs make turns of Node's event loop slow and therefore many.
// To be run with --min-semi-space-size=64, so that none of it is collected meanwhile.
import { getHeapStatistics } from "node:v8";
import { createDoorbells, Pump } from "@hyperv-is/platform-node";

const BATCHES = 20_000;
const ROUNDS = 20;

const looksPerBatch = Number(process.argv[2]);
const [doorbell] = createDoorbells(1);
if (doorbell === undefined) throw new Error("no doorbell");
const pump = new Pump("async", doorbell, { spinLimitUs: 1_000_000 });
const again = () => void pump.timers.after(5, again);
again();

const heapBytes = () => getHeapStatistics().used_heap_size;
let looks = 0;
let batches = 0;
let before = heapBytes();
let least = Infinity;
await pump.run({
  drain() {
    if (++looks % looksPerBatch !== 0) return false;
    if (++batches % BATCHES !== 0) return true;
    const heap = heapBytes();
    if (heap < before) throw new Error("garbage was collected");
    least = Math.min(least, (heap - before) / BATCHES);
    before = heapBytes();
    if (batches === BATCHES * ROUNDS) doorbell.requestStop();
    return true;
  },
});
console.log(least);
