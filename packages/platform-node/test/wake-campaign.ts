import { closeSync } from "node:fs";
import {
  createDoorbells,
  startWorker,
  type PumpKind,
  type WorkerHandle,
} from "@hyperv-is/platform-node";
import { openFifo } from "./fifo.js";
import { Prng } from "./prng.js";

export interface WakeCampaignOptions {
  readonly seed: number;
  /** Pieces of work to hand over. */
  readonly count: number;
  readonly kinds?: readonly PumpKind[];
  /** Whether the pumps watch a file, and so sleep in another way; both unless told. */
  readonly watches?: boolean;
  /** One line per round. */
  readonly report?: (line: string) => void;
}

const MAX_ROUND = 20_000;
/** So long that a busy machine is no lost wake-up. */
const PATIENCE_MS = 20_000;

/**
 * Hands work to sleeping pumps at random moments, in rounds with a random pump, number of ringers, spin limit
 * and timing. A wake-up that is lost leaves a piece of work lying, and rejects with the seed of its round.
 */
export async function run({
  seed,
  count,
  kinds = ["blocking", "async"],
  watches,
  report = () => undefined,
}: WakeCampaignOptions): Promise<void> {
  const prng = new Prng(seed);
  const size = Math.min(MAX_ROUND, Math.ceil(count / 8));
  for (let done = 0; done < count; done += size) {
    const cycles = Math.min(size, count - done);
    const roundSeed = prng.next();
    const watching = watches ?? prng.below(2) === 0;
    const line = await round(roundSeed, cycles, kinds, watching && process.platform === "linux");
    report(`${done + cycles} of ${count}: ${line}`);
  }
}

async function round(
  seed: number,
  count: number,
  kinds: readonly PumpKind[],
  watches: boolean,
): Promise<string> {
  const prng = new Prng(seed);
  const kind = kinds[prng.below(kinds.length)]!;
  const ringers = 1 + prng.below(2);
  const spinLimitUs = [0, 0, 5, 20][prng.below(4)]!;
  const burnUs = [4, 8, 30][prng.below(3)]!;
  const lingerUs = [1, 2, 8][prng.below(3)]!;
  const byCause = prng.below(2) === 0;
  // Work may also be announced at the file.
  const byFile = watches && !byCause && prng.below(3) > 0;
  const file = watches ? openFifo() : undefined;
  const name =
    `seed ${seed}, ${kind} pump${watches ? " with a file" : ""}, ` +
    `${ringers} ringers${byCause ? " with causes" : ""}${byFile ? " at the file" : ""}, ` +
    `spin ${spinLimitUs} us, delay ${burnUs} us, linger ${lingerUs} us`;
  const doorbell = createDoorbells(1)[0]!;
  const shared = new Int32Array(new SharedArrayBuffer(4 * 32));
  const data = {
    kind,
    handed: shared.subarray(0, ringers),
    taken: shared.subarray(16, 16 + ringers),
    ringers,
    bell: doorbell.words,
    cycles: Math.ceil(count / ringers),
    byCause,
    file,
    byFile,
    burnUs,
    lingerUs,
    patienceMs: PATIENCE_MS,
  };
  const entry = new URL("./workers/wake.js", import.meta.url);
  const workers: WorkerHandle[] = [];
  try {
    await new Promise<void>((resolve, reject) => {
      const onError = (error: Error): void => reject(new Error(name, { cause: error }));
      const sleeper = { ...data, role: "sleeper", index: 0, seed };
      workers.push(
        startWorker({ entry, name: "sleeper", doorbell, spinLimitUs, data: sleeper, onError }),
      );
      let left = ringers;
      for (let index = 0; index < ringers; index++)
        workers.push(
          startWorker({
            entry,
            name: `ringer ${index}`,
            spinLimitUs: 0,
            data: { ...data, role: "ringer", index, seed: prng.next() },
            onMessage() {
              if (--left === 0) resolve();
            },
            onError,
          }),
        );
    });
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()));
    if (file !== undefined) closeSync(file);
  }
  return name;
}
