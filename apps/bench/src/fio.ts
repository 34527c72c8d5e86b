import { BenchmarkError } from "./benchmark.js";
import { runPeer, versionOf } from "./peer-program.js";

/** fio drops the file from the page cache otherwise, and measures the disk. */
const KEEP_PAGE_CACHE = "--invalidate=0";

/** How fio is to read, and which part of what it reads. In bytes. */
export interface FioLoad {
  readonly mode: "randread" | "read";
  readonly blockBytes: number;
  /** Requests in flight; a file has one. */
  readonly depth: number;
  readonly offset: number;
  readonly sizeBytes: number;
}

/** What fio is to read: an export over one connection, or a file by one system call after the other. */
export type FioTarget = { readonly uri: string } | { readonly path: string };

interface FioReport {
  readonly jobs: readonly [
    {
      readonly error: number;
      readonly read: { readonly total_ios: number; readonly iops: number };
    },
  ];
}

/** fio, which reads as no program of ours does. */
export class Fio {
  readonly version: string;

  private constructor(version: string) {
    this.version = version;
  }

  /** Rejects with BenchmarkError when it is not there. */
  static async find(): Promise<Fio> {
    return new Fio(await versionOf("fio", "fio"));
  }

  /** As a person would write the load. @param engine - `nbd` for exports, `psync` for files. */
  command(engine: "nbd" | "psync", { mode, blockBytes, depth }: FioLoad): string {
    const options = engine === "nbd" ? `--iodepth=${depth}` : KEEP_PAGE_CACHE;
    return `fio ${this.version} --ioengine=${engine} --rw=${mode} --bs=${blockBytes / 1024}k ${options} --norandommap`;
  }

  /** Reads so many blocks. @returns Seconds, without opening and connecting. */
  async read(target: FioTarget, load: FioLoad, requests: number): Promise<number> {
    const { mode, blockBytes, depth, offset, sizeBytes } = load;
    const from =
      "uri" in target
        ? ["--ioengine=nbd", `--uri=${target.uri}`, `--iodepth=${depth}`]
        : ["--ioengine=psync", `--filename=${target.path}`, "--readonly", KEEP_PAGE_CACHE];
    const text = await runPeer(
      "fio",
      [
        "--name=bench",
        ...from,
        `--rw=${mode}`,
        `--bs=${blockBytes}`,
        `--offset=${offset}`,
        `--size=${sizeBytes}`,
        `--io_size=${requests * blockBytes}`,
        "--norandommap",
        "--output-format=json",
      ],
      "fio",
    );
    // What the engine has to say comes first.
    const { jobs } = JSON.parse(text.slice(text.indexOf("{"))) as FioReport;
    const [{ error, read }] = jobs;
    if (error !== 0 || read.total_ios !== requests)
      throw new BenchmarkError(`fio has read ${read.total_ios} of ${requests} blocks`);
    return read.total_ios / read.iops;
  }
}
