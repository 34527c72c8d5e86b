import { closeSync, openSync, readSync } from "node:fs";
import { ImageError } from "@hyperv-is/vhd";
import { openImageFile } from "@hyperv-is/vhd/node";
import { BenchmarkError, wholeNumber, type Benchmark, type OptionValues } from "../benchmark.js";
import { compare, significant, type MeasuringOptions } from "../comparison.js";
import type { BenchmarkResult } from "../report.js";
import { BenchMachine } from "./bench-machine.js";
import { DataArea } from "./data-area.js";
import type { ReadPlan } from "./read-load.js";
import { randomPattern, sequentialPattern, type ReadPattern } from "./read-pattern.js";
import { makeSampleImage } from "./sample-image.js";

const PEER = "fs.readSync loop on the file";
/** Requests that are checked to the last byte before anything is measured. */
const CHECKED_REQUESTS = 2_000;

async function run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  const depth = wholeNumber(values, "depth", 1, 256);
  const sizeMib = wholeNumber(values, "size", 1, 65_536);
  try {
    const path =
      typeof values["image"] === "string"
        ? values["image"]
        : await makeSampleImage(sizeMib * 2 ** 20, (doneBytes) =>
            measuring.progress(`making an image: ${doneBytes / 2 ** 20} of ${sizeMib} MiB`),
          );
    return await measureImage(path, depth, measuring);
  } catch (error) {
    if (error instanceof ImageError) throw new BenchmarkError(error.message, { cause: error });
    throw error;
  }
}

async function measureImage(
  path: string,
  depth: number,
  measuring: MeasuringOptions,
): Promise<BenchmarkResult[]> {
  const area = await DataArea.find(path);
  const file = openSync(path, "r");
  try {
    measuring.progress("reading the image into the page cache");
    readAll(file);
    const machine = await BenchMachine.boot(path);
    const random = new ReadComparison(machine, file, randomPattern(area, 4096), depth);
    const sequential = new ReadComparison(machine, file, sequentialPattern(area, 65_536), depth);
    await random.check(path);
    await sequential.check(path);
    const results = [
      await random.measure(`4 KiB random reads, depth ${depth}`, measuring),
      ...(await random.costs()),
      await sequential.measure(`64 KiB sequential reads, depth ${depth}`, measuring),
    ];
    await machine.shutDown();
    return results;
  } finally {
    closeSync(file);
  }
}

/** One pattern of reads: by the guest through the whole stack, and by a loop on the file. */
class ReadComparison {
  readonly #machine: BenchMachine;
  readonly #file: number;
  readonly #pattern: ReadPattern;
  readonly #depth: number;
  readonly #buffer: Uint8Array;
  /** Requests of the last round. */
  #requests = 0;

  constructor(machine: BenchMachine, file: number, pattern: ReadPattern, depth: number) {
    this.#machine = machine;
    this.#file = file;
    this.#pattern = pattern;
    this.#depth = depth;
    this.#buffer = new Uint8Array(pattern.requestBytes);
  }

  /** Compares what the guest reads, all bytes of it, with what the image holds. */
  async check(path: string): Promise<void> {
    const { requestBytes, diskPositions } = this.#pattern;
    const { sum } = await this.#machine.read(this.#plan(CHECKED_REQUESTS, "all-words"));
    const words = new Int32Array(requestBytes / 4);
    const bytes = new Uint8Array(words.buffer);
    const disk = await openImageFile(path, { readOnly: true });
    let expected = 0;
    for (let request = 0; request < CHECKED_REQUESTS; request++) {
      disk.read(diskPositions[request % diskPositions.length]!, bytes, 0, requestBytes);
      for (const word of words) expected = (expected + word) | 0;
    }
    disk.close();
    if (sum !== expected >>> 0)
      throw new BenchmarkError("the guest did not read what the image holds");
  }

  /** Reads per second of both. */
  measure(name: string, measuring: MeasuringOptions): Promise<BenchmarkResult> {
    return compare(
      {
        name,
        unit: "reads/s",
        subject: async (requests) => {
          this.#requests = requests;
          return (await this.#machine.read(this.#plan(requests, "first-words"))).seconds;
        },
        peer: PEER,
        peerRound: (requests) => Promise.resolve(this.#loop(requests)),
      },
      measuring,
    );
  }

  /** What a read costs besides time, from one more round. */
  async costs(): Promise<BenchmarkResult[]> {
    const requests = this.#requests;
    const plan = this.#plan(requests, "first-words");
    const { interrupts, signals } = await this.#machine.read(plan);
    const { heapGrowthBytes } = await this.#machine.read(plan, true);
    const cost = (name: string, value: number, unit: string): BenchmarkResult => ({
      name,
      value: significant(value),
      unit,
      peer: null,
      peerValue: null,
      ratio: null,
      runs: 1,
    });
    const perThousand = 1_000 / requests;
    return [
      cost("interrupts of the guest", interrupts * perThousand, "per 1000 reads"),
      cost("signals to the host", signals * perThousand, "per 1000 reads"),
      cost("growth of the vCPU's heap", heapGrowthBytes / requests, "bytes/read"),
    ];
  }

  #plan(requests: number, sum: ReadPlan["sum"]): ReadPlan {
    const { requestBytes, diskPositions } = this.#pattern;
    return { requestBytes, depth: this.#depth, positions: diskPositions, requests, sum };
  }

  /** The peer. @returns Seconds. */
  #loop(requests: number): number {
    const { requestBytes, filePositions } = this.#pattern;
    const file = this.#file;
    const buffer = this.#buffer;
    const from = performance.now();
    for (let request = 0; request < requests; request++) {
      const position = filePositions[request % filePositions.length]!;
      if (readSync(file, buffer, 0, requestBytes, position) !== requestBytes)
        throw new BenchmarkError("the image became shorter while it was read");
    }
    return (performance.now() - from) / 1e3;
  }
}

function readAll(file: number): void {
  const buffer = new Uint8Array(1 << 20);
  for (let position = 0; ; position += buffer.byteLength)
    if (readSync(file, buffer, 0, buffer.byteLength, position) === 0) return;
}

/** Reads of a disk through the whole stack. */
export const storage: Benchmark = {
  summary:
    "reads of a disk image through the whole stack, beside a bare readSync loop on the same file",
  help: `  --image FILE      a VHD or VHDX to read, which is not changed; a full dynamic VHDX is made unless given
  --size MIB        size of the image that is made; 1024 unless given
  --depth N         requests in flight; 32 unless given
`,
  options: {
    image: { type: "string" },
    size: { type: "string", default: "1024" },
    depth: { type: "string", default: "32" },
  },
  leftOut: [
    "a storage device; the file is in the page cache, and at most 1 GiB of its data is read.",
    "writes, flushes, and whatever a guest does with the data.",
    "what the host's worker allocates; the heap of the vCPU grows by the pump's promises too.",
  ],
  run,
};
