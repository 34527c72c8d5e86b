// The two sides of the wake-up campaign: a sleeper that takes work and says so, and ringers that hand it work
// one piece at a time, at moments that are random around the point at which the sleeper falls asleep.
import { readSync, writeSync } from "node:fs";
import { setImmediate } from "node:timers";
import { Doorbell, NodeClock, runWorker } from "@hyperv-is/platform-node";
import { Prng } from "../prng.js";

/** @import { PumpKind, WorkerBody, WorkerContext } from "@hyperv-is/platform-node" */

/**
 * @typedef {object} WakeData
 * @property {"sleeper" | "ringer"} role
 * @property {PumpKind} kind of the sleeper's pump
 * @property {Int32Array} handed pieces handed over, a word per ringer
 * @property {Int32Array} taken pieces taken, a word per ringer
 * @property {number} ringers
 * @property {number} index of this ringer
 * @property {Int32Array} bell the sleeper's
 * @property {number} cycles of this ringer
 * @property {number} seed
 * @property {boolean} byCause whether a ringer says who it is by a cause, or the sleeper looks at all
 * @property {number | undefined} file watched by the sleeper
 * @property {boolean} byFile whether a ringer writes to the file instead of ringing
 * @property {number} lingerUs longest delay in a look that found nothing
 * @property {number} burnUs longest delay before a piece is handed over
 * @property {number} patienceMs how long a piece may lie before it counts as a lost wake-up
 */

const clock = new NodeClock();

/** @param {number} us */
function burn(us) {
  const end = clock.now() + us / 1e3;
  while (clock.now() < end);
}

/** @param {number} index */
const cause = (index) => 256 << index;

await runWorker(
  (/** @type {WakeData} */ { role, kind }) => (role === "sleeper" ? kind : "blocking"),
  (context) => (context.data.role === "sleeper" ? sleeper(context) : ringer(context)),
);

/**
 * Some looks that find nothing linger, which leaves room for a ring between the last look and the sleep. Some work
 * brings events of Node's that take turns of their own.
 * @param {WorkerContext<WakeData>} context
 * @returns {WorkerBody}
 */
function sleeper({ data, watch, turnNow }) {
  const { handed, taken, ringers, byCause, file, byFile, seed, lingerUs } = data;
  const prng = new Prng(seed);
  if (file !== undefined) watch(file);
  let events = 0;
  const event = () => {
    turnNow();
    if (--events > 0) setImmediate(event);
  };
  /** @param {number} index */
  const take = (index) => {
    const now = Atomics.load(handed, index);
    if (now === taken[index]) return false;
    Atomics.store(taken, index, now);
    // A few events around the next sleep, each of which looks for itself; none once nothing comes.
    if (events === 0 && prng.below(2) === 0) {
      events = 1 + prng.below(4);
      setImmediate(event);
    }
    return true;
  };
  return {
    rung(causes) {
      for (let index = 0; index < ringers; index++) if (causes & cause(index)) take(index);
    },
    drain() {
      let worked = byFile && file !== undefined && readAll(file);
      for (let index = 0; !byCause && index < ringers; index++) worked = take(index) || worked;
      if (!worked && prng.below(2) === 0) burn(prng.below(lingerUs * 8) / 8);
      return worked;
    },
  };
}

/**
 * @param {number} file
 * @returns {boolean}
 */
function readAll(file) {
  try {
    return readSync(file, new Uint8Array(64)) > 0;
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EAGAIN") throw error;
    return false;
  }
}

/**
 * @param {WorkerContext<WakeData>} context
 * @returns {WorkerBody}
 */
function ringer({ data, starter }) {
  const { handed, taken, index, bell, cycles, seed, byCause, burnUs, patienceMs } = data;
  const { file, byFile } = data;
  const prng = new Prng(seed);
  const sleepersBell = new Doorbell(bell, 0);
  let cycle = 0;
  return {
    drain() {
      if (cycle === cycles) {
        starter.send("done");
        cycle++;
      }
      if (cycle > cycles) return false;
      cycle++;
      burn(prng.below(burnUs * 8) / 8);
      Atomics.add(handed, index, 1);
      if (byFile && file !== undefined) writeSync(file, "x");
      else sleepersBell.ring(byCause ? cause(index) : 0);
      // Now and then a second ring comes right behind the first.
      if (prng.below(4) === 0) return true;
      const deadline = clock.now() + patienceMs;
      for (let looks = 0; Atomics.load(taken, index) !== cycle; looks++)
        if (looks % 1000 === 999 && clock.now() > deadline)
          throw new Error(`lost wake-up: ringer ${index}, cycle ${cycle}`);
      return true;
    },
  };
}
