import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

const heapBytes = (): number => getHeapStatistics().used_heap_size;

/**
 * Bytes of garbage that `run` leaves for each of the `units` that it handles: the least of some rounds, as the
 * engine makes its own until it has compiled the path for good, in its own time; a path that allocates does so
 * in every round. It ends with the first round below `enough`.
 */
export function leastGarbage(units: number, run: () => void, enough = 1): number {
  let least = Infinity;
  for (let round = 0; round < 60 && least >= enough; round++) {
    collectGarbage();
    const before = heapBytes();
    run();
    const grown = heapBytes() - before;
    // A negative difference means that garbage was collected meanwhile: that round says nothing.
    if (grown >= 0) least = Math.min(least, grown / units);
  }
  return least;
}
