// Drives a pump that has work at each Nth look, N being the argument, as an async pump beside a timer.
// Prints the bytes of garbage of a batch of work: the median of some rounds.
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
let before = NaN;
/** @type {number[]} */
const rounds = [];
await pump.run({
  drain() {
    if (++looks % looksPerBatch !== 0) return false;
    if (++batches % BATCHES !== 0) return true;
    const heap = heapBytes();
    // A negative difference means that garbage was collected meanwhile: that round says nothing.
    if (heap >= before) rounds.push((heap - before) / BATCHES);
    before = heapBytes();
    if (batches >= BATCHES * ROUNDS && rounds.length > 0) doorbell.requestStop();
    return true;
  },
});
rounds.sort((one, other) => one - other);
console.log(rounds[rounds.length >> 1]);
