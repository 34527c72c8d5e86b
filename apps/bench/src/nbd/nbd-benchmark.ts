import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { boot, type HostThreads } from "@hyperv-is/guest-kernel";
import { ImageError } from "@hyperv-is/vhd";
import { openImageFile } from "@hyperv-is/vhd/node";
import { BenchmarkError, wholeNumber, type Benchmark, type OptionValues } from "../benchmark.js";
import { compare, type MeasuringOptions } from "../comparison.js";
import { Fio, type FioLoad } from "../fio.js";
import type { BenchmarkResult } from "../report.js";
import { hostThreadsMeasured, placements, type Placement } from "../placement.js";
import { BenchMachine } from "../storage/bench-machine.js";
import { DataArea } from "../storage/data-area.js";
import { randomPattern } from "../storage/read-pattern.js";
import { makeSampleImage } from "../storage/sample-image.js";
import { PeerServer } from "./peer-server.js";

const UNIT = "reads/s";
const SMALL_BYTES = 4096;
const LARGE_BYTES = 65_536;

async function run(values: OptionValues, measuring: MeasuringOptions): Promise<BenchmarkResult[]> {
  const depth = wholeNumber(values, "depth", 1, 256);
  const sizeMib = wholeNumber(values, "size", 1, 65_536);
  const fio = await Fio.find();
  const directory = mkdtempSync(join(tmpdir(), "hyperv-is-bench-"));
  const remove = (): void => rmSync(directory, { recursive: true, force: true });
  process.once("exit", remove);
  try {
    const path =
      typeof values["image"] === "string"
        ? resolve(values["image"])
        : await makeSampleImage(sizeMib * 2 ** 20, (doneBytes) =>
            measuring.progress(`making an image: ${doneBytes / 2 ** 20} of ${sizeMib} MiB`),
          );
    const area = await DataArea.find(path);
    const session = new Session(fio, directory, path, area, depth, measuring);
    return [...(await session.measureExport()), ...(await session.measureStack())];
  } catch (error) {
    if (error instanceof ImageError) throw new BenchmarkError(error.message, { cause: error });
    throw error;
  } finally {
    remove();
  }
}

/** One image, read by fio from servers of it, and by a guest. */
class Session {
  readonly #fio: Fio;
  readonly #directory: string;
  readonly #path: string;
  readonly #area: DataArea;
  readonly #depth: number;
  readonly #measuring: MeasuringOptions;
  #servers = 0;

  constructor(
    fio: Fio,
    directory: string,
    path: string,
    area: DataArea,
    depth: number,
    measuring: MeasuringOptions,
  ) {
    this.#fio = fio;
    this.#directory = directory;
    this.#path = path;
    this.#area = area;
    this.#depth = depth;
    this.#measuring = measuring;
  }

  /** A guest's export beside nbdkit on the same file, both read by fio. */
  async measureExport(): Promise<BenchmarkResult[]> {
    await using nbdkit = await this.#nbdkit();
    this.#measuring.processorTime.include(nbdkit.pid);
    const results: BenchmarkResult[] = [];
    for (const [hostThreads, suffix] of hostThreadsMeasured)
      results.push(...(await this.#measureExport(nbdkit, hostThreads, suffix)));
    return results;
  }

  async #measureExport(
    nbdkit: PeerServer,
    hostThreads: HostThreads,
    suffix: string,
  ): Promise<BenchmarkResult[]> {
    await using machine = await boot({
      disks: [{ kind: "image", path: this.#path, readOnly: true }],
      nbd: [{ disk: "da0", unix: join(this.#directory, "da0.sock") }],
      hostThreads,
    });
    const { uri } = machine.nbd[0]!;
    const depth = this.#depth;
    const results: BenchmarkResult[] = [];
    for (const [name, mode, blockBytes, loadDepth] of [
      [`4 KiB random reads, depth ${depth}`, "randread", SMALL_BYTES, depth],
      ["4 KiB random reads, depth 1", "randread", SMALL_BYTES, 1],
      [`64 KiB sequential reads, depth ${depth}`, "read", LARGE_BYTES, depth],
    ] as const) {
      const load = { mode, blockBytes, depth: loadDepth };
      const onDisk = this.#onDisk(load);
      const inFile = this.#inFile(load);
      const result = await compare(
        {
          name: `NBD export: ${name}${suffix}`,
          unit: UNIT,
          subject: (requests) => this.#fio.read({ uri }, onDisk, requests),
          peer: `${this.#fio.command("nbd", inFile)} on ${nbdkit.title}`,
          peerRound: (requests) => this.#fio.read(nbdkit, inFile, requests),
        },
        this.#measuring,
      );
      results.push(result);
    }
    const [violation] = machine.host.violations;
    if (violation !== undefined)
      throw new Error(`the guest broke the rule ${violation.rule}: ${violation.detail}`);
    return results;
  }

  /** The guest itself, through the whole stack, beside servers of the same image that fio reads. */
  async measureStack(): Promise<BenchmarkResult[]> {
    const results: BenchmarkResult[] = [];
    for (const placement of placements(this.#measuring.progress))
      results.push(...(await this.#measureStack(placement)));
    return results;
  }

  async #measureStack({ suffix, pin }: Placement): Promise<BenchmarkResult[]> {
    const image = { kind: "image", path: this.#path, readOnly: true } as const;
    await using machine = await BenchMachine.boot(image, 1, 1, pin);
    const load = { mode: "randread", blockBytes: SMALL_BYTES, depth: this.#depth } as const;
    const { requestBytes, diskPositions: positions } = randomPattern(this.#area, SMALL_BYTES);
    const results: BenchmarkResult[] = [];
    for (const [start, place] of [
      [() => this.#qemuNbd(), this.#onDisk(load)],
      [() => this.#nbdkit(), this.#inFile(load)],
    ] as const) {
      await using server = await start();
      this.#measuring.processorTime.include(server.pid);
      const result = await compare(
        {
          name: `whole stack: 4 KiB random reads, depth ${this.#depth}${suffix}`,
          unit: UNIT,
          subject: async (requests) => {
            const plan = { requestBytes, depth: this.#depth, positions, requests };
            return (await machine.read({ ...plan, sum: "first-words" })).seconds;
          },
          peer: `${this.#fio.command("nbd", place)} on ${server.title}`,
          peerRound: (requests) => this.#fio.read(server, place, requests),
        },
        this.#measuring,
      );
      results.push(result);
    }
    await machine.shutDown();
    return results;
  }

  /** The first data of the image without a gap, where it lies on the disk. */
  #onDisk(load: Pick<FioLoad, "mode" | "blockBytes" | "depth">): FioLoad {
    return { ...load, offset: this.#area.place(0, SMALL_BYTES).diskPosition, ...this.#size() };
  }

  /** As much of it, where it lies in the file. */
  #inFile(load: Pick<FioLoad, "mode" | "blockBytes" | "depth">): FioLoad {
    return { ...load, offset: this.#area.place(0, SMALL_BYTES).filePosition, ...this.#size() };
  }

  #size(): { sizeBytes: number } {
    const first = this.#area.place(0, LARGE_BYTES).diskPosition;
    let sizeBytes = 0;
    while (
      sizeBytes < this.#area.sizeBytes &&
      this.#area.place(sizeBytes / LARGE_BYTES, LARGE_BYTES).diskPosition === first + sizeBytes
    )
      sizeBytes += LARGE_BYTES;
    return { sizeBytes };
  }

  /** A path that no server has had: they leave their sockets behind. */
  #socket(): string {
    return join(this.#directory, `peer${this.#servers++}.sock`);
  }

  #nbdkit(): Promise<PeerServer> {
    const socket = this.#socket();
    return PeerServer.start(
      "nbdkit",
      ["--foreground", "--readonly", "--unix", socket, "file", this.#path],
      "--readonly file IMAGE",
      socket,
      "nbdkit",
    );
  }

  async #qemuNbd(): Promise<PeerServer> {
    const disk = await openImageFile(this.#path, { readOnly: true });
    const format = disk.format.startsWith("vhdx") ? "vhdx" : "vpc";
    disk.close();
    const socket = this.#socket();
    return PeerServer.start(
      "qemu-nbd",
      [
        "--read-only",
        "--persistent",
        "--shared=4",
        `--format=${format}`,
        `--socket=${socket}`,
        this.#path,
      ],
      `--read-only --format=${format} IMAGE`,
      socket,
      "qemu-utils",
    );
  }
}

/** A guest's disk as NBD clients see it. */
export const nbd: Benchmark = {
  summary:
    "a guest's disk exported by NBD and read by fio, beside nbdkit and qemu-nbd on the same file",
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
    "writes, several connections, TCP: all is read over one unix socket.",
    "nbdkit knows no VHDX: it serves the bytes of the file, and fio reads the part of it that holds the data.",
  ],
  run,
};
