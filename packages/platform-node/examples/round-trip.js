// Measures how long two threads take to wake each other, on each kind of pump, spinning and sleeping, and what
// they cost while idle:  node examples/round-trip.js [--json]
import { performance } from "node:perf_hooks";
import { setTimeout } from "node:timers/promises";
import { isMainThread } from "node:worker_threads";
import { Doorbell, NodeClock, runWorker, startWorker } from "@hyperv-is/platform-node";

/** @import { PumpKind, WorkerHandle } from "@hyperv-is/platform-node" */

const WARM_UP = 2_000;
const ROUNDS = 20_000;
/** The engine tidies up for a while after work. */
const SETTLE_MS = 10_000;
const IDLE_MS = 2_000;

/**
 * @typedef {object} Ball
 * @property {PumpKind} kind
 * @property {Int32Array} words of both doorbells, and behind them the ball: who has it is its parity
 * @property {0 | 1} side
 */
const AT_BALL = 2 * Doorbell.STRIDE;

if (isMainThread) await main();
else await play();

/** A player: sends the ball back as soon as it comes. The first one measures. */
function play() {
  return runWorker(
    (/** @type {Ball} */ { kind }) => kind,
    ({ data: { words, side }, starter }) => {
      const other = new Doorbell(words, (1 - side) * Doorbell.STRIDE);
      const clock = new NodeClock();
      const times = new Float64Array(ROUNDS);
      let served = 0;
      let rounds = 0;
      return {
        message() {
          served = clock.now();
          Atomics.add(words, AT_BALL, 1);
          other.ring();
        },
        drain() {
          if (Atomics.load(words, AT_BALL) % 2 !== side || (side === 0 && served === 0))
            return false;
          if (side === 0) {
            const now = clock.now();
            if (++rounds > WARM_UP) times[rounds - WARM_UP - 1] = (now - served) * 1e3;
            if (rounds === WARM_UP + ROUNDS) {
              served = 0;
              starter.send(times.sort());
              return true;
            }
            served = now;
          }
          Atomics.add(words, AT_BALL, 1);
          other.ring();
          return true;
        },
      };
    },
  );
}

async function main() {
  const results = [];
  for (const kind of /** @type {const} */ (["blocking", "async"]))
    for (const spinLimitUs of [100, 0]) results.push(await measure(kind, spinLimitUs));
  if (process.argv.includes("--json")) console.log(JSON.stringify(results));
  else console.table(results);
}

/** @param {PumpKind} kind @param {number} spinLimitUs */
async function measure(kind, spinLimitUs) {
  const words = new Int32Array(new SharedArrayBuffer(4 * (AT_BALL + 1)));
  /** @type {WorkerHandle<string>[]} */
  const players = [];
  const times = await new Promise(
    (/** @type {(times: Float64Array) => void} */ resolve, reject) => {
      for (const side of /** @type {const} */ ([1, 0]))
        players.push(
          startWorker({
            entry: new URL(import.meta.url),
            name: `player ${side}`,
            data: { kind, words, side },
            doorbell: new Doorbell(words, side * Doorbell.STRIDE),
            spinLimitUs,
            onMessage: resolve,
            onError: reject,
          }),
        );
      players[1]?.post("serve");
    },
  );
  await setTimeout(SETTLE_MS);
  const before = process.cpuUsage();
  const start = performance.now();
  await setTimeout(IDLE_MS);
  const { user, system } = process.cpuUsage(before);
  const idle = (user + system) / 1e3 / (performance.now() - start);
  await Promise.all(players.map((player) => player.stop()));
  return {
    pump: kind,
    "spin limit us": spinLimitUs,
    "median us": round(times[ROUNDS / 2]),
    "p99 us": round(times[(ROUNDS * 99) / 100]),
    "idle % of a core": round(idle * 100),
  };
}

/** @param {number | undefined} value */
function round(value = NaN) {
  return Math.round(value * 100) / 100;
}
