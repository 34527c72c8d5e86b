// Rings a doorbell for each cause as soon as the one before was seen, from its own thread.
import { workerData } from "node:worker_threads";
import { Doorbell } from "@hyperv-is/platform-node";

/** @type {{ bell: Int32Array, seen: Int32Array, rings: number }} */
const { bell, seen, rings } = workerData;
const doorbell = new Doorbell(bell, 0);
const rung = new Int32Array(seen.length);
for (let total = 0; total < rings;)
  for (let cause = 0; cause < seen.length && total < rings; cause++) {
    if (Atomics.load(seen, cause) !== rung[cause]) continue;
    rung[cause] = (rung[cause] ?? 0) + 1;
    doorbell.ring(1 << cause);
    total++;
  }
