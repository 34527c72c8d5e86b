import { closeSync, openSync, readSync } from "node:fs";
import type { ImageSource } from "@hyperv-is/hyperv-host";
import { ImageError } from "@hyperv-is/vhd";
import { openImageFile } from "@hyperv-is/vhd/node";
import {
  BenchmarkError,
  UsageError,
  wholeNumber,
  type Benchmark,
  type OptionValues,
} from "../benchmark.js";
import { compare, cost, median, type MeasuringOptions, type Round } from "../comparison.js";
import { Fio, type FioLoad } from "../fio.js";
import type { BenchmarkResult } from "../report.js";
import { placements } from "../placement.js";
import { BenchMachine } from "./bench-machine.js";
import { DataArea } from "./data-area.js";
import { measureHostAllocation } from "./host-allocation.js";
import type { ReadPlan } from "./read-load.js";
import { randomPattern, sequentialPattern, type ReadPattern } from "./read-pattern.js";
import { makeSampleImage } from "./sample-image.js";

/** Requests that are checked to the last byte before anything is measured. */
const CHECKED_REQUESTS = 2_000;
/** Requests in flight to the disk with a latency, on each of so many channels. */
const LATENCY_DEPTH = 8;
const LATENCY_CHANNELS = 4;
const LATENCY_DISK_BYTES = 64 * 2 ** 20;

async function run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  const depth = wholeNumber(values, "depth", 1, 256);
  const sizeMib = wholeNumber(values, "size", 1, 65_536);
  const latencyUs = wholeNumber(values, "latency-us", 1, 1_000_000);
  const io = values["io"];
  if (io !== "sync" && io !== "async") throw new UsageError(`--io ${String(io)}: sync or async`);
  const fio = await Fio.find();
  try {
    const path =
      typeof values["image"] === "string"
        ? values["image"]
        : await makeSampleImage(sizeMib * 2 ** 20, (doneBytes) =>
            measuring.progress(`making an image: ${doneBytes / 2 ** 20} of ${sizeMib} MiB`),
          );
    return [
      ...(await measureImage({ kind: "image", path, readOnly: true, io }, fio, depth, measuring)),
      ...(await measureLatency(latencyUs, measuring)),
      ...(await measureHostAllocation(measuring)),
    ];
  } catch (error) {
    if (error instanceof ImageError) throw new BenchmarkError(error.message, { cause: error });
    throw error;
  }
}

async function measureImage(
  image: ImageSource,
  fio: Fio,
  depth: number,
  measuring: MeasuringOptions,
): Promise<BenchmarkResult[]> {
  const { path } = image;
  const area = await DataArea.find(path);
  const file = openSync(path, "r");
  try {
    measuring.progress("reading the image into the page cache");
    readAll(file);
    const results: BenchmarkResult[] = [];
    for (const { suffix, pin } of placements(measuring.progress)) {
      await using machine = await BenchMachine.boot(image, 1, 1, pin);
      results.push(...(await measureReads(machine, suffix)));
      await machine.shutDown();
    }
    return results;
  } finally {
    closeSync(file);
  }

  async function measureReads(machine: BenchMachine, suffix: string): Promise<BenchmarkResult[]> {
    const random = new ReadComparison(machine, randomPattern(area, 4096), depth);
    const sequential = new ReadComparison(machine, sequentialPattern(area, 65_536), depth);
    await random.check(path);
    await sequential.check(path);
    const small = `4 KiB random reads, depth ${depth}${suffix}`;
    const large = `64 KiB sequential reads, depth ${depth}${suffix}`;
    return [
      await random.measure(small, fioOn(fio, area), measuring),
      ...(suffix === "" ? await random.costs(measuring.runs) : []),
      await random.measure(small, loopOn(file, random.pattern), measuring),
      await sequential.measure(large, loopOn(file, sequential.pattern), measuring),
    ];
  }
}

/**
 * Reads of a disk that takes its time for each, over one channel beside what its latency allows, and over several
 * beside one.
 */
async function measureLatency(
  latencyUs: number,
  measuring: MeasuringOptions,
): Promise<BenchmarkResult[]> {
  const identity = new Uint8Array(16).fill(0x1a);
  const source = { kind: "ram", sizeBytes: LATENCY_DISK_BYTES, identity, latencyUs } as const;
  const blocks = LATENCY_DISK_BYTES / 4096;
  const positions = new Float64Array(new SharedArrayBuffer(blocks * 8));
  for (let block = 0; block < blocks; block++) positions[block] = block * 4096;
  const readsOf =
    (machine: BenchMachine): Round =>
    async (requests) => {
      const plan = { requestBytes: 4096, depth: LATENCY_DEPTH, positions, requests };
      return (await machine.read({ ...plan, sum: "first-words" })).seconds;
    };
  const nameOf = (channels: string): string =>
    `4 KiB reads of ${latencyUs} us each, ${channels}, depth ${LATENCY_DEPTH} each`;
  const results: BenchmarkResult[] = [];
  for (const { suffix, pin } of placements(measuring.progress)) {
    await using one = await BenchMachine.boot(source, 1, 1, pin);
    await using several = await BenchMachine.boot(source, LATENCY_CHANNELS, 1, pin);
    for (const [channels, subject, peer, peerRound] of [
      [
        "1 channel",
        readsOf(one),
        `${LATENCY_DEPTH} every ${latencyUs} us, which is all that there can be`,
        (requests: number) => Promise.resolve((requests / LATENCY_DEPTH) * latencyUs * 1e-6),
      ],
      [`${LATENCY_CHANNELS} channels on 1 vCPU`, readsOf(several), "1 channel", readsOf(one)],
    ] as const) {
      const name = nameOf(channels) + suffix;
      results.push(await compare({ name, unit: "reads/s", subject, peer, peerRound }, measuring));
    }
    if (suffix === "") {
      await using spread = await BenchMachine.boot(source, LATENCY_CHANNELS, LATENCY_CHANNELS);
      const name = nameOf(`${LATENCY_CHANNELS} channels on as many vCPUs`);
      const sides = { subject: readsOf(spread), peer: "1 channel", peerRound: readsOf(one) };
      results.push(await compare({ name, unit: "reads/s", ...sides }, measuring));
      await spread.shutDown();
    }
    await one.shutDown();
    await several.shutDown();
  }
  return results;
}

/** What reads the same data in another way. */
interface Peer {
  readonly name: string;
  readonly round: Round;
}

function fioOn(fio: Fio, area: DataArea): Peer {
  const load: FioLoad = {
    mode: "randread",
    blockBytes: 4096,
    depth: 1,
    offset: area.place(0, 4096).filePosition,
    sizeBytes: area.sizeBytes,
  };
  return {
    name: `${fio.command("psync", load)} on the file`,
    round: (requests) => fio.read({ path: area.path }, load, requests),
  };
}

function loopOn(file: number, { requestBytes, filePositions }: ReadPattern): Peer {
  const buffer = new Uint8Array(requestBytes);
  return {
    name: "fs.readSync loop on the file",
    round: (requests) => {
      const from = performance.now();
      for (let request = 0; request < requests; request++) {
        const position = filePositions[request % filePositions.length]!;
        if (readSync(file, buffer, 0, requestBytes, position) !== requestBytes)
          throw new BenchmarkError("the image became shorter while it was read");
      }
      return Promise.resolve((performance.now() - from) / 1e3);
    },
  };
}

/** One pattern of reads by the guest, through the whole stack. */
class ReadComparison {
  readonly pattern: ReadPattern;
  readonly #machine: BenchMachine;
  readonly #depth: number;
  /** Requests of the last round. */
  #requests = 0;

  constructor(machine: BenchMachine, pattern: ReadPattern, depth: number) {
    this.pattern = pattern;
    this.#machine = machine;
    this.#depth = depth;
  }

  /** Compares what the guest reads, all bytes of it, with what the image holds. */
  async check(path: string): Promise<void> {
    const { requestBytes, diskPositions } = this.pattern;
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

  /** Reads per second of the guest and of a peer. */
  measure(name: string, peer: Peer, measuring: MeasuringOptions): Promise<BenchmarkResult> {
    return compare(
      {
        name,
        unit: "reads/s",
        subject: async (requests) => {
          this.#requests = requests;
          return (await this.#machine.read(this.#plan(requests, "first-words"))).seconds;
        },
        peer: peer.name,
        peerRound: peer.round,
      },
      measuring,
    );
  }

  /** What a read costs besides time, from one more round each; of the heap from `runs`, since the engine compiles in its own time. */
  async costs(runs: number): Promise<BenchmarkResult[]> {
    const requests = this.#requests;
    const plan = this.#plan(requests, "first-words");
    const { interrupts, signals } = await this.#machine.read(plan);
    const unoptimized = await this.#machine.read(plan, { signalOptimizationOff: true });
    const growths: number[] = [];
    while (growths.length < runs)
      growths.push((await this.#machine.read(plan, { sampleHeap: true })).heapGrowthBytes);
    const perThousand = 1_000 / requests;
    const unit = "per 1000 reads";
    const off = "signal optimization off";
    return [
      cost("interrupts of the guest", interrupts * perThousand, unit),
      cost("signals to the host", signals * perThousand, unit),
      cost(`interrupts of the guest, ${off}`, unoptimized.interrupts * perThousand, unit),
      cost(`signals to the host, ${off}`, unoptimized.signals * perThousand, unit),
      cost("growth of the vCPU's heap", median(growths) / requests, "bytes/read", runs),
    ];
  }

  #plan(requests: number, sum: ReadPlan["sum"]): ReadPlan {
    const { requestBytes, diskPositions } = this.pattern;
    return { requestBytes, depth: this.#depth, positions: diskPositions, requests, sum };
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
    "reads of a disk image through the whole stack, beside fio and a readSync loop on the same file",
  help: `  --image FILE      a VHD or VHDX to read, which is not changed; a full dynamic VHDX is made unless given
  --size MIB        size of the image that is made; 1024 unless given
  --depth N         requests in flight; 32 unless given
  --io KIND         how the host reads the image: sync (as long as given nothing else) or async
  --latency-us N    what each read of a slow disk takes; 500 unless given
`,
  options: {
    image: { type: "string" },
    size: { type: "string", default: "1024" },
    depth: { type: "string", default: "32" },
    io: { type: "string", default: "sync" },
    "latency-us": { type: "string", default: "500" },
  },
  leftOut: [
    "a storage device; the file is in the page cache, and at most 1 GiB of its data is read.",
    "writes, flushes, and whatever a guest does with the data.",
    "what the pumps allocate in 'heap of the host', which is measured in one thread, on a sparse image; the heap of the vCPU grows by turns of Node's event loop too.",
  ],
  run,
};
